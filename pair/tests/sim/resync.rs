//! A node whose log does not meet the primary's gets tree and log anew, if its machine lets that begin.
//!
//! The tree is not simulated, so what is copied is what the primary has committed. A session ends in vain when the
//! link, the node or the primary does; the node is incomplete until one has come to its end.

use crate::disk::Disk;
use crate::world::{Happening, World};
use pair::{Event, LinkId};

const SHORTEST_MS: u64 = 50;
const LONGEST_MS: u64 = 1_500;

impl World {
    pub fn begin_resync(&mut self, node: usize) {
        let wanted = self.nodes[node].pair.as_ref().and_then(pair::Pair::wants_resync);
        let Some(link) = wanted.filter(|_| self.resyncs && !self.nodes[node].resyncing) else { return };
        self.nodes[node].resyncing = true;
        self.apply(node, Event::ResyncBegan);
        let takes_ms = SHORTEST_MS + self.random.below(LONGEST_MS);
        let incarnation = self.nodes[node].incarnation;
        self.at(takes_ms, Happening::ResyncEnds { node, incarnation, link });
    }

    pub fn end_resync(&mut self, node: usize, link: LinkId) {
        self.nodes[node].resyncing = false;
        let source = &self.nodes[1 - node];
        if self.link != Some(link) || !source.serving || source.paused_until_ms > self.time_ms {
            return;
        }
        let n = &self.nodes[node];
        if !n.pair.as_ref().is_some_and(|pair| pair.is_resyncing() && pair.wants_resync() == Some(link)) {
            return;
        }
        let at = Disk::lsn(source.committed);
        let mut disk = Disk { state: n.disk.state.clone(), base_empty: false, ..source.disk.clone() };
        disk.cut(at);
        let n = &mut self.nodes[node];
        (n.durable_len, n.committed) = (disk.log.len(), disk.log.len());
        n.disk = disk;
        let log = n.summary();
        self.apply(node, Event::Resynced { log });
    }
}
