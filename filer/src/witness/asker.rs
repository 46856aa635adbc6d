//! Asks whichever witness is configured, in the words of the pair's event.
//!
//! Invariant: every question is answered honestly: another address of the built-in witness is tried only when the
//! question certainly did not arrive.

use super::Client;
use super::etcd::{Etcd, EtcdError};
use crate::config::{WitnessConfig, WitnessKeeper};
use pair::WitnessOutcome;
use pair::witness::{Answer, Request};
use rdma_transport::tls::{LinkKeys, PrivateKey};
use std::net::SocketAddr;
use std::time::Duration;

/// The configured witness.
pub struct Asker {
    keeper: Keeper,
    timeout: Duration,
    why: Option<String>,
}

/// Answers, or does not, in the stead of a witness that is reached over a network.
#[cfg(feature = "simulation")]
pub trait Ask: Send {
    /// As [`Asker::ask`].
    fn ask(&mut self, request: &Request, timeout: Duration) -> WitnessOutcome;
}

enum Keeper {
    /// Without a witness every question stays without an answer.
    None,
    BuiltIn(Vec<Client>),
    Etcd(Box<Etcd>),
    #[cfg(feature = "simulation")]
    Given(Box<dyn Ask>),
}

impl Asker {
    /// Nothing is connected before the first question. `own` is this node's key, for the built-in witness.
    ///
    /// # Errors
    /// A file of certificates or keys cannot be used.
    pub fn new(config: Option<&WitnessConfig>, own: Option<&PrivateKey>) -> Result<Asker, EtcdError> {
        let Some(config) = config else {
            return Ok(Asker { keeper: Keeper::None, timeout: Duration::ZERO, why: None });
        };
        let keeper = match &config.keeper {
            WitnessKeeper::BuiltIn(addresses) => {
                let keys = own.cloned().zip(config.public_key).map(|(own, peer)| LinkKeys { own, peer });
                let client = |address: &SocketAddr| Client::new(address.to_string(), keys.clone());
                Keeper::BuiltIn(addresses.iter().map(client).collect())
            }
            WitnessKeeper::Etcd(settings) => Keeper::Etcd(Box::new(Etcd::new(settings)?)),
        };
        Ok(Asker { keeper, timeout: config.timeout, why: None })
    }

    /// Asks `keeper` each time.
    #[cfg(feature = "simulation")]
    pub fn given(keeper: Box<dyn Ask>, timeout: Duration) -> Asker {
        Asker { keeper: Keeper::Given(keeper), timeout, why: None }
    }

    /// Asks, and waits no longer than the configured time for each address.
    pub fn ask(&mut self, request: &Request) -> WitnessOutcome {
        let unreachable = WitnessOutcome::Unreachable { maybe_applied: false };
        self.why = None;
        match &mut self.keeper {
            Keeper::None => unreachable,
            #[cfg(feature = "simulation")]
            Keeper::Given(keeper) => keeper.ask(request, self.timeout),
            Keeper::BuiltIn(clients) => {
                let mut reasons = Vec::new();
                for client in clients {
                    let outcome = client.ask(request, self.timeout);
                    if outcome != unreachable {
                        self.why = client.why().map(str::to_owned);
                        return outcome;
                    }
                    reasons.extend(client.why().map(str::to_owned));
                }
                self.why = Some(reasons.join("; "));
                unreachable
            }
            Keeper::Etcd(etcd) => match etcd.request(request, self.timeout) {
                Ok(answer) => {
                    self.why = refusal(&answer);
                    outcome_of(answer)
                }
                Err(failed) => {
                    self.why = Some(failed.error.to_string());
                    WitnessOutcome::Unreachable { maybe_applied: failed.maybe_applied }
                }
            },
        }
    }

    /// Why the last request had no answer that is one; `None` when it had.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }
}

/// Why a witness did not do what was asked, and will not when it is asked again.
pub(super) fn refusal(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Refused { reason } => Some(format!("it refuses: {reason}")),
        _ => None,
    }
}

/// The same answer as the pair's event says it.
pub(super) fn outcome_of(answer: Answer) -> WitnessOutcome {
    match answer {
        Answer::Is { register } => WitnessOutcome::Is(register),
        Answer::Swapped { register } => WitnessOutcome::Swapped(register),
        Answer::Conflict { register } => WitnessOutcome::Conflict(register),
        Answer::Refused { .. } => WitnessOutcome::Unreachable { maybe_applied: false },
    }
}
