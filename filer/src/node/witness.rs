//! Asks the witness on behalf of the pair, one question at a time.
//!
//! Invariant: every question is answered once, if only with "unreachable", and honestly: another address of
//! the witness is tried only when the question certainly did not arrive. What can go wrong: everything on the
//! way; the pair asks again.

use super::event::{NodeEvent, WitnessQuestion};
use super::shared::Shared;
use crate::config::WitnessConfig;
use crate::witness::Client;
use crossbeam::channel::Receiver;
use pair::WitnessOutcome;
use pair::witness::Request;
use std::sync::Arc;
use std::time::Duration;

/// Runs until the executor is gone.
pub(super) fn run(
    shared: &Arc<Shared>,
    config: Option<&WitnessConfig>,
    questions: &Receiver<WitnessQuestion>,
) {
    let mut clients: Vec<Client> = config
        .map(|config| config.addresses.iter().map(|address| Client::new(address.to_string())).collect())
        .unwrap_or_default();
    let timeout = config.map_or(Duration::ZERO, |config| config.timeout);
    for WitnessQuestion { request, ask } in questions {
        let outcome = ask_all(&mut clients, &ask, timeout);
        let reached = !matches!(outcome, WitnessOutcome::Unreachable { .. });
        *shared.witness_error.lock() = (!reached).then(|| "it did not answer the last request".to_owned());
        shared.tell(NodeEvent::Witness { request, outcome });
    }
}

fn ask_all(clients: &mut [Client], ask: &Request, timeout: Duration) -> WitnessOutcome {
    for client in clients {
        let outcome = client.ask(ask, timeout);
        if outcome != (WitnessOutcome::Unreachable { maybe_applied: false }) {
            return outcome;
        }
    }
    WitnessOutcome::Unreachable { maybe_applied: false }
}
