//! At the end, every record that was ever acknowledged is in a log; also those of both sides of a split.

use crate::world::World;
use std::collections::BTreeSet;

pub fn check(world: &World) {
    let held: BTreeSet<u64> =
        world.nodes.iter().flat_map(|node| &node.disk.log).map(|record| record.id).collect();
    for record in world.oracle.acknowledged.iter().chain(&world.oracle.set_aside) {
        assert!(held.contains(&record.id), "{record:?} was acknowledged and is in no log");
    }
}
