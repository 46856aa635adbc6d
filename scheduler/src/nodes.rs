//! Nodes: machines on which tasks run, each with a clock, each of which may stand still or die.

use crate::core::{self, NODE};
use std::time::Duration;

const MILLION: i128 = 1_000_000;

/// One machine, for one life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// Where the program itself runs: its clock is the virtual time.
    pub const WORLD: NodeId = NodeId(0);
}

pub(crate) struct Node {
    pub name: String,
    /// Tasks that have not ended.
    pub alive: usize,
    pub dead: bool,
    pub stalled_until_ns: u64,
    pub unix_offset: Duration,
    rate_ppm: i64,
    base_virtual_ns: u64,
    base_local_ns: u64,
}

impl Node {
    pub fn new(name: &str, now_ns: u64, local_ns: u64) -> Node {
        Node {
            name: name.to_owned(),
            alive: 0,
            dead: false,
            stalled_until_ns: 0,
            unix_offset: Duration::ZERO,
            rate_ppm: 0,
            base_virtual_ns: now_ns,
            base_local_ns: local_ns,
        }
    }

    pub fn local(&self, now_ns: u64) -> Duration {
        let passed =
            i128::from(now_ns - self.base_virtual_ns) * (MILLION + i128::from(self.rate_ppm)) / MILLION;
        Duration::from_nanos(self.base_local_ns + passed as u64)
    }

    /// The first virtual time at which the clock has reached `local`.
    pub fn virtual_ns(&self, local: Duration) -> u64 {
        let wait = i128::try_from(local.as_nanos()).unwrap_or(i128::MAX / (4 * MILLION))
            - i128::from(self.base_local_ns);
        let rate = MILLION + i128::from(self.rate_ppm);
        let passed = (wait.max(0) * MILLION + rate - 1) / rate;
        self.base_virtual_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// A new machine, or the next life of one. Its clock shows some time that has nothing to do with any other's.
pub fn add_node(name: &str) -> NodeId {
    core::with(|state| {
        let since_boot_ns = 1_000_000_000 + state.random.below(1 << 40);
        let node = Node::new(name, state.now_ns, since_boot_ns);
        state.nodes.push(node);
        NodeId(state.nodes.len() - 1)
    })
}

/// Lets a node's clock run so many millionths faster (or slower) from now on, and its time of day be so much later.
pub fn set_clock(node: NodeId, rate_ppm: i64, unix_offset: Duration) {
    core::with(|state| {
        let now_ns = state.now_ns;
        let node = &mut state.nodes[node.0];
        node.base_local_ns = node.local(now_ns).as_nanos() as u64;
        node.base_virtual_ns = now_ns;
        node.rate_ppm = rate_ppm.clamp(-500_000, 500_000);
        node.unix_offset = unix_offset;
    });
}

/// Runs nothing of a node for so long; its clock goes on.
pub fn stall(node: NodeId, wait: Duration) {
    core::with(|state| {
        let until_ns = state.now_ns + wait.as_nanos() as u64;
        let node = &mut state.nodes[node.0];
        node.stalled_until_ns = node.stalled_until_ns.max(until_ns);
    });
}

/// Ends all tasks of a node where they stand: their stacks unwind, their memory goes. Returns when they are gone;
/// not at all when the caller is one of them. While they unwind they wait for locks and for nothing else, and
/// [`crate::is_dying`] tells their destructors that nothing may have an effect any more.
pub fn kill(node: NodeId) {
    let (mine, left) = core::with(|state| {
        state.nodes[node.0].dead = true;
        let of_node: Vec<_> = (0..state.tasks.len()).filter(|id| state.tasks[*id].node == node.0).collect();
        of_node.into_iter().for_each(|id| state.doom(id));
        let mine = core::running().is_some_and(|id| state.tasks[id].node == node.0);
        (mine, state.nodes[node.0].alive)
    });
    if mine && !core::is_dying() {
        core::block(None, Some(core::with(|state| state.now_ns)));
        unreachable!("a doomed task unwinds");
    }
    let gone = || core::with(|state| state.nodes[node.0].alive == 0);
    while left > 0 && !mine && core::is_simulated() && !gone() {
        core::block(Some(NODE | node.0 as u64), None);
    }
}
