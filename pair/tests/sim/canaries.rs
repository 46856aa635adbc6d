//! Each planted bug is found within a bounded number of seeds, and its schedule is shortened.

use crate::canary::Canary;
use crate::{fails, plan, shortened};

/// The rarest of the bugs is found in about a tenth of this.
const MAX_SEEDS: u64 = 300;

#[test]
fn every_canary_is_found() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = Canary::ALL.map(|canary| {
        let found = (0..MAX_SEEDS).map(plan).find(|plan| fails(plan, &plan.schedule, Some(canary)))?;
        let (short, command) = shortened(&found, Some(canary));
        let needed = (0..short.len()).all(|left_out| {
            let mut without = short.clone();
            without.remove(left_out);
            !fails(&found, &without, Some(canary))
        });
        let healthy = !fails(&found, &short, None);
        Some((found.seed, found.schedule.len(), short, command, needed && healthy))
    });
    std::panic::set_hook(hook);
    for (canary, found) in Canary::ALL.into_iter().zip(found) {
        let Some((seed, whole, short, command, minimal)) = found else {
            panic!("{canary:?} was not found in {MAX_SEEDS} seeds");
        };
        println!("{canary:?}: seed {seed}, {whole} faults shortened to {short:?}\n    {command}");
        assert!(
            minimal,
            "{canary:?}: each fault that is left is needed, and without the bug they do no harm"
        );
    }
}
