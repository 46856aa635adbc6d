//! The pair's state machine without I/O: who is primary, who follows, who may acknowledge, and why.
//!
//! [`Pair::apply`] takes an event and returns commands; it reads no clock, opens nothing, draws no random
//! number. The same events give the same commands, so a run can be replayed and searched. The crate
//! `node` executes the commands by the rule of order in [`command`].
//!
//! What must hold (checked after every event, in release too; `docs/design.md` says why):
//! 1. Acknowledge alone only in an epoch that a swap of the register gave to this node as `solo` (or an
//!    operator forced), and only after that is stored.
//! 2. Claim only with a log that holds everything acknowledged: revoked first, lease waited out, `in_sync`.
//! 3. An epoch is opened by one node, once: its parity is the node's rank and it is above all seen before.
//! 4. Serve reads only under a lease that the partner's answers renew, or solo, where no one else can win.
//!
//! What can go wrong: everything around it. Messages may be lost, late or doubled, links stale, the witness
//! unreachable; the worst answer to that is to be frozen until it heals.

mod claim;
pub mod command;
mod config;
mod desk;
mod durable;
mod event;
mod invariants;
mod links;
mod machine;
mod meeting;
pub mod message;
mod naming;
mod partner;
pub mod planted;
mod primary;
mod rejoin;
mod resync;
mod state;
mod status;
mod switchover;
mod view;
mod waiting;
pub mod witness;

pub use command::{Command, Lease, StopReason};
pub use config::{Config, ConfigError, HEARTBEATS_PER_LEASE, MonoMs, Timers};
pub use durable::{DurableState, LogSummary, MAX_STATE_BYTES, StateError};
pub use event::{Event, FailedPart, LocalFault, Operator, PointVerdict};
pub use machine::Pair;
pub use message::{CallOff, Hello, JoinRefusal, Message, MessageError, PROTOCOL_VERSION, Posture, Vitals};
pub use naming::Name;
pub use status::{PairMode, PairStatus, Refusal, ResyncReason, RoleName, Split, TakeoverTimes};
pub use witness::WitnessOutcome;

use serde::{Deserialize, Serialize};

/// A link to the partner; given by the runtime, ascending, never used twice in the life of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LinkId(pub u64);

/// A request to the witness; given by the pair, ascending.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId(pub u64);
