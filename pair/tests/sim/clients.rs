//! Clients that write whenever a node lets them, and what they are told.

use crate::canary::Canary;
use crate::disk::{Disk, Record};
use crate::world::{Happening, World};
use pair::Event;

impl World {
    pub fn client(&mut self, node: usize) {
        let draining = self.nodes[node].draining;
        if self.nodes[node].pair.is_none() || !self.nodes[node].serving {
            return;
        }
        if !draining && self.nodes[node].disk.log.len() < self.nodes[node].committed + 16 {
            let record = Record { epoch: self.nodes[node].epoch, id: self.next_record };
            self.next_record += 1;
            self.nodes[node].disk.log.push(record);
            let (len, incarnation) = (self.nodes[node].disk.log.len(), self.nodes[node].incarnation);
            let delay = self.random.below(4);
            self.at(delay, Happening::Durable { node, incarnation, len });
        }
        self.mirror(node);
        let n = &self.nodes[node];
        if n.draining && n.committed == n.disk.log.len() {
            let end = n.point(n.disk.log.len());
            self.deliver(0, node, Event::Drained { end });
        }
    }

    pub fn commit(&mut self, node: usize) {
        let early = self.canary == Some(Canary::AckBeforePeerDurable);
        let n = &self.nodes[node];
        let to = n.releasable(early);
        if to <= n.committed {
            return;
        }
        let released = n.disk.log[n.committed..to].to_vec();
        self.oracle.acknowledged_by(node, n.epoch, n.committed, &released);
        self.nodes[node].committed = to;
        self.tell_peer_reached(node);
    }

    pub fn tell_peer_reached(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let reached = Disk::lsn(n.peer_durable);
        let skip = self.canary == Some(Canary::BarrierWaitSkipped);
        if let Some((link, lsn)) = n.await_peer.take_if(|(_, lsn)| skip || *lsn <= reached) {
            self.deliver(0, node, Event::PeerReached { link, lsn });
        }
    }
}
