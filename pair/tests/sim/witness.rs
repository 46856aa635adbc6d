//! The witness's register, reached over a network that loses requests and answers and delays swaps.

use crate::world::{Happening, World};
use pair::witness::{Answer, Request, swap};
use pair::{Event, WitnessOutcome};

/// Nothing else fails for so long after a backup was restored.
const RESTORE_MS: u64 = 3_000;

impl World {
    pub fn witness(&mut self, ask: &Request) -> WitnessOutcome {
        match ask {
            Request::Read { .. } => WitnessOutcome::Is(self.register.clone()),
            Request::CompareAndSwap { expected, new } => {
                match swap(self.register.as_ref(), expected.as_ref(), new) {
                    Ok(register) => {
                        self.register = Some(register.clone());
                        self.backups.push(register.clone());
                        // A swap of long ago may come late, and find the value that it was for.
                        self.restored &= self.backups.iter().any(|newer| newer.epoch > register.epoch);
                        WitnessOutcome::Swapped(register)
                    }
                    Err(Answer::Conflict { register }) => WitnessOutcome::Conflict(register),
                    Err(other) => panic!("the pair asked for what the witness refuses: {other:?}"),
                }
            }
        }
    }

    /// The witness comes back with the state that it had some changes ago. To restore a backup takes longer than the
    /// pause between two of a node's questions, before and after: what is granted and forgotten in between, or while
    /// whoever was granted it can ask nobody, no node can know.
    pub fn restore_witness(&mut self, back: usize) {
        let Some(register) = self.register.clone() else { return };
        let idle = |node: &crate::node::Node| node.stopped || node.pair.is_none();
        let all_ask = self.nodes.iter().all(|node| node.paused_until_ms <= self.time_ms);
        let all_know = self.nodes.iter().filter(|node| !idle(node)).all(|node| {
            let status = node.pair.as_ref().map(|pair| pair.status(node.clock(self.time_ms)));
            status.is_some_and(|status| status.register.as_ref() == Some(&register))
        });
        let holder = self.nodes.iter().find(|node| node.name == register.primary);
        if !self.witness_up || !all_ask || !all_know || holder.is_none_or(idle) {
            return;
        }
        let at = self.backups.len().saturating_sub(1 + back);
        self.register = self.backups.get(at).cloned();
        self.restored = true;
        self.run_for(RESTORE_MS);
    }

    pub fn ask(&mut self, node: usize, request: pair::RequestId, ask: Request) {
        let incarnation = self.nodes[node].incarnation;
        let lost = !self.witness_up || self.random.permille(self.loss_permille);
        if !lost {
            let delay = 1 + self.random.below(5);
            return self.at(delay, Happening::Ask { node, incarnation, request, ask, answer: true });
        }
        let sent = self.random.below(2) == 0;
        if sent && self.random.below(2) == 0 {
            // It arrives after all, perhaps long after the node has given it up.
            let delay = self.random.below(3_000);
            self.at(delay, Happening::Ask { node, incarnation, request, ask, answer: false });
        }
        let outcome = WitnessOutcome::Unreachable { maybe_applied: sent };
        let delay = if sent { 200 } else { 1 };
        self.deliver(delay, node, Event::WitnessAnswer { request, outcome });
    }
}
