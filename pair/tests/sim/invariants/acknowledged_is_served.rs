//! Who answers reads holds everything that was acknowledged anywhere: nothing that was read is ever undone.

use crate::canary::Canary;
use crate::world::World;

pub fn check(world: &World) {
    let ignored = world.canary == Some(Canary::LeaseIgnored);
    for node in &world.nodes {
        let reads = node.serving
            && node.paused_until_ms <= world.time_ms
            && (ignored || node.lease_valid(world.time_ms));
        assert!(
            !reads || world.oracle.forced || world.oracle.is_in(&node.disk.log),
            "{} would answer a read without what was acknowledged elsewhere",
            node.name
        );
    }
}
