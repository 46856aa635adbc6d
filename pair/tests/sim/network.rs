//! The link: messages that are lost, doubled and late, and the data path beside them, which keeps its order.

use crate::canary::Canary;
use crate::disk::Record;
use crate::world::{Happening, World};
use pair::{Event, LinkId, Message};

impl World {
    /// The link breaks; each side notices sooner or later, or only by silence.
    pub fn cut(&mut self) {
        let Some(link) = self.link.take() else { return };
        for node in 0..2 {
            if self.random.below(3) > 0 {
                let delay = self.random.below(300);
                if self.canary == Some(Canary::BrokenLinkIsProof) {
                    self.deliver(delay, node, Event::Message { link, message: Message::Goodbye });
                }
                self.deliver(delay, node, Event::LinkDown { link });
            }
        }
    }

    pub fn mirror(&mut self, node: usize) {
        let Some((link, sent)) = self.nodes[node].mirroring else { return };
        let len = self.nodes[node].disk.log.len();
        if sent < len && self.link == Some(link) {
            let records = self.nodes[node].disk.log[sent..len].to_vec();
            self.nodes[node].mirroring = Some((link, len));
            let delay = 1 + self.random.below(self.data_ms);
            // Data keeps its order.
            let arrives = (self.time_ms + delay).max(self.data_not_before[node] + 1);
            self.data_not_before[node] = arrives;
            self.at(arrives - self.time_ms, Happening::Data { to: 1 - node, link, first: sent, records });
        }
    }

    pub fn data(&mut self, to: usize, link: LinkId, first: usize, records: Vec<Record>) {
        let node = &mut self.nodes[to];
        if node.pair.is_none() || node.granted != Some(link) {
            return;
        }
        let end = node.disk.log.len();
        for (index, record) in (first..).zip(&records) {
            if index < end {
                // One-sided: where the right was granted, the bytes lie in the log's memory.
                node.disk.log[index] = *record;
            }
        }
        if node.receiving != Some(link) {
            return;
        }
        if first != end {
            return self.deliver(0, to, Event::MirrorLost { link });
        }
        node.disk.ingest(&records);
        node.durable_len = node.disk.log.len();
        let len = node.durable_len;
        if self.link == Some(link) {
            let delay = 1 + self.random.below(10);
            self.at(delay, Happening::DataAck { to: 1 - to, link, len });
        }
    }

    pub fn send(&mut self, node: usize, link: LinkId, message: Message) {
        if self.link != Some(link) || !self.network_up {
            return;
        }
        let message = Message::decode(&message.encode()).unwrap();
        for copy in 0..2 {
            let doubled = copy == 1 && self.random.permille(self.loss_permille / 2);
            if (copy == 0 && !self.random.permille(self.loss_permille)) || doubled {
                let delay =
                    1 + self.random.below(12) + if doubled { self.random.below(self.late_ms) } else { 0 };
                self.deliver(delay, 1 - node, Event::Message { link, message: message.clone() });
            }
        }
    }
}
