//! A node that may claim the next epoch holds everything acknowledged, whether it ever does claim or not.

use crate::world::World;
use pair::DurableState;
use pair::witness::Mode;

pub fn check(world: &World) {
    // One that was brought back may name whom it likes; that it decides nothing is what the others show.
    let Some(register) = world.register.as_ref().filter(|_| !world.oracle.forced && !world.restored) else {
        return;
    };
    for node in &world.nodes {
        if world.oracle.is_in(&node.disk.log) {
            continue;
        }
        let named = register.mode == Mode::Mirrored || register.primary == node.name;
        let state = DurableState::decode(&node.disk.state).unwrap();
        let eligible = state.in_sync && node.disk.survived;
        assert!(!named || !eligible, "{} may claim and lacks what was acknowledged", node.name);
    }
}
