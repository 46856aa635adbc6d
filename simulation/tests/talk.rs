//! Partners whose talk of trees is spoilt on the way: a resync, and everything else, is refused, tried again, and comes
//! to its end when the talk is sound again.

use runtime::marks::Marks;
use simulation::plan::{Plan, Theme};
use simulation::schedule::{Fault, Kind};
use simulation::world;

/// Runs in which nodes are away for longer than their logs reach back.
const RUNS: usize = 24;

#[test]
fn spoilt_talk_is_refused_and_nothing_is_lost() {
    let absences = (0..).map(Plan::of).filter(|plan| plan.theme == Theme::Absence).take(RUNS);
    let mut marks = Marks::new();
    for (number, mut plan) in absences.enumerate() {
        // From hardly ever to nearly always.
        let one_in = [3, 20, 100][number % 3];
        plan.faults.insert(0, Fault { at_ms: 0, kind: Kind::BadTalk { one_in, for_ms: plan.until_ms } });
        let report = world::run(&plan, &plan.faults, None, false);
        assert_eq!(report.failure, None, "seed {}", plan.seed);
        for (what, count) in report.marks {
            *marks.entry(what).or_default() += count;
        }
    }
    for what in ["talk of trees spoilt", "resync began", "resync refused", "resync finished"] {
        assert!(marks.contains_key(what), "{what}: never happened; happened: {marks:#?}");
    }
}
