//! Each planted bug is found within a bounded number of seeds, and its schedule is shortened.

use ids::AnswerFrom;
use runtime::canary::Canary;
use simulation::finding::{self, Finding};
use simulation::plan::Plan;

/// Of seeds that a bug concerns. Most are found in a tenth of this; the rarest, an fsync that is answered too early, in one
/// of about 150, for both nodes have to lose their memory within the moment before it is written.
const MAX_SEEDS: usize = 300;

fn find(canary: Canary) -> Finding {
    // The others never come where the bug is.
    let concerns = |plan: &Plan| match canary {
        Canary::FsyncBeforeDurable => plan.answer() == AnswerFrom::Memory,
        Canary::OldRegisterBelieved => plan.is_forgetful(),
        _ => true,
    };
    let failure = |seed| {
        let plan = Plan::of(seed);
        finding::run(&plan, &plan.faults, Some(canary), false).failure.map(|why| (seed, why))
    };
    let mut concerned = (0..).filter(|seed| concerns(&Plan::of(*seed))).take(MAX_SEEDS);
    let Some((seed, why)) = concerned.find_map(failure) else {
        panic!("{canary:?} was not found in {MAX_SEEDS} seeds");
    };
    let found = finding::shorten(seed, Some(canary), why);
    println!("{found}");
    let plan = Plan::of(seed);
    let healthy = finding::run(&plan, &found.faults, None, false);
    assert_eq!(healthy.failure, None, "without the bug the same faults do no harm");
    found
}

macro_rules! canaries {
    ($($name:ident: $canary:ident)*) => {
        $(
            #[test]
            fn $name() {
                find(Canary::$canary);
            }
        )*
    };
}

canaries! {
    an_acknowledgement_before_the_partner_is_durable_is_found: AckBeforePeerDurable
    applying_before_the_commit_is_found: ApplyBeforeCommit
    a_takeover_that_does_not_revoke_is_found: TakeoverWithoutRevoke
    a_read_without_a_lease_is_found: LeaseIgnored
    a_rejoin_that_does_not_truncate_is_found: RejoinWithoutTruncation
    a_resync_that_stops_a_byte_early_is_found: ResyncCursorOffByOne
    a_tail_that_moves_before_the_flush_is_found: TailBeforeFlush
    an_old_register_that_is_believed_is_found: OldRegisterBelieved
    an_fsync_before_both_devices_have_it_is_found: FsyncBeforeDurable
}

#[test]
fn every_canary_has_its_test() {
    assert_eq!(Canary::ALL.len(), 9, "a new canary needs a test above");
}
