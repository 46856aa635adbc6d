//! The witness that a node is configured with, and what is common to all that can be one.
//!
//! Invariant: every request is answered honestly: another address of the built-in witness is tried only when the
//! request certainly did not arrive.

use crate::Client;
use crate::etcd::{Etcd, EtcdError, EtcdSettings};
use pair::WitnessOutcome;
use pair::witness::{Answer, Request};
use rdma_transport::tls::{LinkKeys, PrivateKey, PublicKey};
use std::net::SocketAddr;
use std::time::Duration;

/// Where the witness is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessConfig {
    /// What keeps the register.
    pub keeper: WitnessKeeper,
    /// The key of the built-in one, when there are keys.
    pub public_key: Option<PublicKey>,
    /// How long one request may take.
    pub timeout: Duration,
}

/// What keeps the registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WitnessKeeper {
    /// `twinfiler witness`: addresses of one and the same, tried in turn.
    BuiltIn(Vec<SocketAddr>),
    /// A cluster of etcd.
    Etcd(EtcdSettings),
}

impl WitnessKeeper {
    /// Its first address, for people.
    pub fn address(&self) -> String {
        match self {
            WitnessKeeper::BuiltIn(addresses) => addresses.first().map(ToString::to_string),
            WitnessKeeper::Etcd(settings) => settings.endpoints.first().map(ToString::to_string),
        }
        .unwrap_or_default()
    }
}

/// Whatever keeps the registers, as a node asks it.
pub trait WitnessClient: Send {
    /// Asks, and waits no longer than the configured time for each address.
    fn ask(&mut self, request: &Request) -> Reply;
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// In the words of the pair's event.
    pub outcome: WitnessOutcome,
    /// Why that is no answer; `None` when it is one.
    pub why: Option<String>,
}

impl Reply {
    /// An answer.
    pub fn to(answer: Answer) -> Reply {
        let outcome = match answer {
            Answer::Is { register } => WitnessOutcome::Is(register),
            Answer::Swapped { register } => WitnessOutcome::Swapped(register),
            Answer::Conflict { register } => WitnessOutcome::Conflict(register),
            // It will not do it when it is asked again, either.
            Answer::Refused { reason } => return Reply::none(false, format!("it refuses: {reason}")),
        };
        Reply { outcome, why: None }
    }

    /// There is no answer.
    pub fn none(maybe_applied: bool, why: String) -> Reply {
        Reply { outcome: WitnessOutcome::Unreachable { maybe_applied }, why: Some(why) }
    }
}

/// The configured witness. Nothing is connected before the first request. `own` is this node's key, for the built-in one.
///
/// # Errors
/// A file of certificates or keys cannot be used.
pub fn client(
    config: Option<&WitnessConfig>,
    own: Option<&PrivateKey>,
) -> Result<Box<dyn WitnessClient>, EtcdError> {
    let Some(config) = config else { return Ok(Box::new(NoWitness)) };
    let timeout = config.timeout;
    Ok(match &config.keeper {
        WitnessKeeper::BuiltIn(addresses) => {
            let keys = own.cloned().zip(config.public_key).map(|(own, peer)| LinkKeys { own, peer });
            let client = |address: &SocketAddr| Client::new(address.to_string(), keys.clone());
            Box::new(BuiltIn { clients: addresses.iter().map(client).collect(), timeout })
        }
        WitnessKeeper::Etcd(settings) => Box::new(OfEtcd { etcd: Etcd::new(settings)?, timeout }),
    })
}

/// Every request stays without an answer.
struct NoWitness;

impl WitnessClient for NoWitness {
    fn ask(&mut self, _: &Request) -> Reply {
        Reply::none(false, "no witness is configured".to_owned())
    }
}

/// One witness at any of these addresses.
struct BuiltIn {
    clients: Vec<Client>,
    timeout: Duration,
}

impl WitnessClient for BuiltIn {
    fn ask(&mut self, request: &Request) -> Reply {
        let mut reasons = Vec::new();
        for client in &mut self.clients {
            let reply = client.ask(request, self.timeout);
            if reply.outcome != (WitnessOutcome::Unreachable { maybe_applied: false }) {
                return reply;
            }
            reasons.extend(reply.why);
        }
        Reply::none(false, reasons.join("; "))
    }
}

struct OfEtcd {
    etcd: Etcd,
    timeout: Duration,
}

impl WitnessClient for OfEtcd {
    fn ask(&mut self, request: &Request) -> Reply {
        match self.etcd.request(request, self.timeout) {
            Ok(answer) => Reply::to(answer),
            Err(failed) => Reply::none(failed.maybe_applied, failed.error.to_string()),
        }
    }
}
