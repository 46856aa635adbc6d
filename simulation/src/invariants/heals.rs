//! When the faults stop, the pair is mirrored within a bound of virtual time, its clients are served, and both trees
//! become what the log says.

use crate::world::World;
use node::simulation::Observed;
use pair::{PairMode, RoleName};
use std::sync::Arc;
use std::time::Duration;

/// From the last fault until the pair is mirrored: a start's grace, the longest pauses of witness and resync, a resync.
const HEAL_LIMIT: Duration = Duration::from_secs(90);
/// Until clients, who wait a while for a lease or for room, have seen that they are served.
const CLIENTS_LIMIT: Duration = Duration::from_secs(60);
/// Until both nodes have applied what there is.
const QUIET_LIMIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// Runs the world until it is whole and at rest.
pub fn check(world: &Arc<World>, clients: Vec<scheduler::JoinHandle<()>>) {
    wait(world, HEAL_LIMIT, "the pair is mirrored", is_mirrored);
    world.stop_clients();
    let deadline = scheduler::virtual_now() + CLIENTS_LIMIT;
    while !clients.iter().all(scheduler::JoinHandle::is_finished) {
        let stuck = || format!("clients wait for ever: {}", describe(world));
        assert!(scheduler::virtual_now() < deadline, "{}", stuck());
        scheduler::sleep(LOOK);
    }
    for client in clients {
        client.join().expect("a client has found something");
    }
    wait(world, HEAL_LIMIT, "the pair is mirrored again", is_mirrored);
    let deadline = scheduler::virtual_now() + QUIET_LIMIT;
    while !world.is_at_rest() {
        assert!(scheduler::virtual_now() < deadline, "not everything is applied: {}", describe(world));
        scheduler::sleep(LOOK);
    }
    world.assert_equal_at_the_end();
}

/// Waits until both nodes are so.
pub fn wait(world: &Arc<World>, limit: Duration, what: &str, reached: fn(&[Observed; 2]) -> bool) {
    let deadline = scheduler::virtual_now() + limit;
    while !world.observe().is_some_and(|both| reached(&both)) {
        assert!(scheduler::virtual_now() < deadline, "not within {limit:?}: {what}: {}", describe(world));
        scheduler::sleep(LOOK);
    }
}

/// One primary that serves, one partner, both mirrored.
pub fn is_mirrored(both: &[Observed; 2]) -> bool {
    let primaries = both
        .iter()
        .filter(|node| node.pair.as_ref().is_some_and(|pair| pair.role == RoleName::Primary && pair.serving));
    let mirrored = |node: &Observed| node.pair.as_ref().is_some_and(|pair| pair.mode == PairMode::Mirrored);
    primaries.count() == 1 && both.iter().all(mirrored)
}

fn describe(world: &Arc<World>) -> String {
    match world.observe() {
        Some(both) => both
            .iter()
            .map(|node| {
                let mode = node.pair.as_ref().map(|pair| (pair.role, pair.mode, pair.detail.clone()));
                format!("\n  {mode:?}, {:?}, end {}, faults {:?}", node.cursors, node.end, node.faults)
            })
            .collect(),
        None => "a process is not there".to_owned(),
    }
}
