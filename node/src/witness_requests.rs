//! Asks the witness on behalf of the pair, one question at a time.
//!
//! Invariant: every question is answered once, if only with "unreachable". What can go wrong: everything on the
//! way; the pair asks again.

use super::event::{NodeEvent, WitnessQuestion};
use super::shared::Shared;
use pair::WitnessOutcome;
use runtime::channel::Receiver;
use std::sync::Arc;
use witness::{Reply, WitnessClient};

/// Runs until the executor is gone.
pub(super) fn run(
    shared: &Arc<Shared>,
    client: &mut dyn WitnessClient,
    questions: &Receiver<WitnessQuestion>,
) {
    runtime::be_vital();
    let mut answered = true;
    for WitnessQuestion { request, ask } in questions.iter() {
        let Reply { outcome, why } = client.ask(&ask);
        let reached = !matches!(outcome, WitnessOutcome::Unreachable { .. });
        match &why {
            Some(why) if answered => {
                tracing::warn!(volume = shared.name(), why, "the witness does not answer")
            }
            None if !answered => tracing::info!(volume = shared.name(), "the witness answers again"),
            _ => {}
        }
        answered = reached;
        *shared.witness_error.lock() = why;
        shared.tell(NodeEvent::Witness { request, outcome });
    }
}
