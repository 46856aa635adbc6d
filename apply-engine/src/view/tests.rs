//! Merged reads against the model: any base, any seal points, any end.

use super::*;
use crate::oracle::{Generator, MemoryLog, Model, Step, difference, exact_difference};
use proptest::prelude::*;

/// A base at `cut`, and one Delta per part of the rest that `seals` (positions in it) make.
struct Stack {
    generator: Generator,
    layers: Layers,
}

fn model_after(steps: &[Step]) -> Model {
    let mut model = Model::new();
    steps.iter().for_each(|step| model.apply(&step.operation(), &step.data));
    model
}

/// Deltas over `steps[first..]`, sealed before each index in `seals`, over the base that `steps[..base]` make.
fn stack(seed: u64, count: usize, base: usize, first: usize, seals: &[usize], vanished: Vanished) -> Stack {
    let mut generator = Generator::new(seed);
    let steps = generator.steps(count);
    let base: Arc<dyn BaseReader> = Arc::new(model_after(&steps[..base]));
    let log = Arc::new(MemoryLog::default());
    let mut positions = steps.iter().map(|step| log.append(step)).collect::<Vec<_>>().into_iter().enumerate();
    let start = positions.clone().nth(first).map_or(Lsn::ZERO, |(_, at)| at.lsn);
    let mut layers = Layers::new(Delta::new(start, vanished), Vec::new(), base, log.clone());
    for (index, at) in positions.by_ref().skip(first) {
        if seals.contains(&index) {
            layers = layers.seal();
        }
        layers.absorb(at, &steps[index].operation());
    }
    Stack { generator, layers }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn deltas_over_a_base_read_as_if_all_had_been_applied(
        seed: u64, count in 1usize..260, cut in 0.0..1.0f64, seals in prop::collection::vec(0usize..260, 0..5),
    ) {
        let cut = (count as f64 * cut) as usize;
        let Stack { generator, layers } = stack(seed, count, cut, cut, &seals, Vanished::Forget);
        let found = exact_difference(&layers, generator.model(), generator.first_unused());
        prop_assert_eq!(found, None);
    }

    /// Recovery: the base may hold any prefix of the run.
    #[test]
    fn a_recovery_delta_hides_a_base_that_is_ahead(
        seed: u64, count in 1usize..200, first in 0.0..1.0f64, base in 0.0..1.0f64,
    ) {
        let first = (count as f64 * first) as usize;
        let base = first + ((count - first) as f64 * base) as usize;
        let Stack { generator, layers } = stack(seed, count, base, first, &[], Vanished::Keep);
        prop_assert_eq!(difference(&layers, generator.model()), None);
    }

    /// A consistency point has been applied but its Delta is not dropped yet, and then it is.
    #[test]
    fn an_applied_delta_may_stay_or_go(
        seed: u64, count in 1usize..200, seal in 0.0..1.0f64, later in prop::collection::vec(0usize..200, 0..3),
    ) {
        let seal = (count as f64 * seal) as usize;
        let mut seals = vec![seal];
        seals.extend(later.iter().filter(|at| **at > seal));
        let Stack { generator, layers } = stack(seed, count, seal, 0, &seals, Vanished::Forget);
        let (model, first_unused) = (generator.model(), generator.first_unused());
        prop_assert_eq!(exact_difference(&layers, model, first_unused), None);
        if !layers.sealed.is_empty() {
            prop_assert_eq!(exact_difference(&layers.without_oldest(), model, first_unused), None);
        }
    }
}
