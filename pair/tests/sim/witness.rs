//! The witness's register, reached over a network that loses requests and answers and delays swaps.

use crate::world::{Happening, World};
use pair::witness::{Answer, Request, swap};
use pair::{Event, WitnessOutcome};

impl World {
    pub fn witness(&mut self, ask: &Request) -> WitnessOutcome {
        match ask {
            Request::Read { .. } => WitnessOutcome::Is(self.register.clone()),
            Request::CompareAndSwap { expected, new } => {
                match swap(self.register.as_ref(), expected.as_ref(), new) {
                    Ok(register) => {
                        self.register = Some(register.clone());
                        WitnessOutcome::Swapped(register)
                    }
                    Err(Answer::Conflict { register }) => WitnessOutcome::Conflict(register),
                    Err(other) => panic!("the pair asked for what the witness refuses: {other:?}"),
                }
            }
        }
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
