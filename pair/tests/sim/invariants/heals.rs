//! When the faults stop, the pair is mirrored and equal within a bound of simulated time, and acknowledges.
//!
//! What an operator forced may end in a split that is shown; a lost log in a node that shows that it needs a
//! resync. Then the other node must serve, or be shown to be one side of the split.

use crate::world::World;
use pair::{PairMode, PairStatus, RoleName};

/// From the last fault until the pair is mirrored: a start's grace, the witness's longest pause, a takeover, a join.
pub const HEAL_LIMIT_MS: u64 = 12_000;
const PROGRESS_MS: u64 = 1_000;

pub fn check(world: &mut World) {
    world.heal();
    // Who was told to stop and found no one to hand over to serves nothing until it has stopped.
    world.run_until(world.time_ms.max(world.stops_by_ms) + HEAL_LIMIT_MS);
    let statuses: Vec<PairStatus> = world.statuses().into_iter().flatten().collect();
    let lost = world.nodes.iter().any(|node| !node.disk.survived);
    let split = statuses.iter().any(|status| status.mode == PairMode::Split);
    if world.oracle.forced && split {
        return assert!(
            statuses.iter().all(|status| status.split.is_some() || status.needs_resync.is_some()),
            "both sides of a split show it: {statuses:?}"
        );
    }
    if lost || world.oracle.forced && statuses.iter().any(|status| status.needs_resync.is_some()) {
        let serves = |status: &PairStatus| status.role == RoleName::Primary && status.mode == PairMode::Solo;
        let waits = |status: &PairStatus| status.needs_resync.is_some();
        assert!(
            statuses.iter().any(waits) && (statuses.iter().any(serves) || world.may_wait_for_operator()),
            "a node that needs a resync shows it, and the other serves: {statuses:?}"
        );
        return;
    }
    world.assert_mirrored();
    progresses(world);
    let (a, b) = (&world.nodes[0].disk.log, &world.nodes[1].disk.log);
    assert!(a.starts_with(b) || b.starts_with(a), "mirrored, and the logs differ");
}

fn progresses(world: &mut World) {
    let acknowledged = world.oracle.acknowledged.len();
    world.run_for(PROGRESS_MS);
    assert!(world.oracle.acknowledged.len() > acknowledged, "nothing is acknowledged although all is well");
}
