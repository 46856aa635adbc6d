//! The control socket: how commands reach a running daemon.
//!
//! One connection, one JSON line in, one JSON line out. Invariants: only root and the daemon's own user are
//! answered (SO_PEERCRED; the socket's mode 0600 is the first fence, this the second); a request and an answer
//! are bounded in length and time; at most `server::MAX_CONNECTIONS` are served at once. What can go
//! wrong: a stale socket file of a dead daemon (replaced), the socket of a living one (refused).

mod client;
mod protocol;
mod server;

#[cfg(test)]
mod tests;

pub use client::{ClientError, call};
pub use protocol::{Answer, ControlError, ErrorKind, Request};
pub use server::{BoundSocket, ControlServer, SocketError};

use crate::status::{ConsistencyPointStatus, NodeStatus, SplitReport};
use std::time::Duration;

/// Who waits for a command's answer.
pub trait Caller {
    /// Nobody waits any more: the command was interrupted, or its own time is over.
    fn is_gone(&self) -> bool;
}

/// What the control socket commands; the node's runtime implements it.
///
/// Calls come from several threads and may block for as long as their own limit says.
pub trait ControlTarget: Send + Sync + 'static {
    /// The node as it is now. Must answer while anything else hangs: take no lock that is held across I/O.
    fn status(&self) -> NodeStatus;

    /// Hands `volume` to the partner, waiting at most `timeout`. Returns when the partner serves.
    ///
    /// # Errors
    /// `Refused` when this node is not primary or the partner is not mirrored, `TimedOut` when it took too
    /// long and this node serves on. The order ends with the call, and when its `caller` is gone.
    fn switchover(&self, volume: &str, timeout: Duration, caller: &dyn Caller) -> Result<(), ControlError>;

    /// Makes this node primary of `volume`: through the witness, or with `force` without anybody's consent.
    ///
    /// # Errors
    /// `Refused` with the reason (no witness, partner alive, outdated without `force`). The order ends with the call,
    /// and when its `caller` is gone.
    fn takeover(&self, volume: &str, force: bool, caller: &dyn Caller) -> Result<(), ControlError>;

    /// Compares the whole tree of `volume` on this node with the primary's by content.
    ///
    /// # Errors
    /// `Refused` with the reason (this node is primary, no primary is linked, one is under way).
    fn resync(&self, volume: &str) -> Result<(), ControlError>;

    /// What each side of a split changed, at most `rows` objects and removed names of each.
    ///
    /// # Errors
    /// `Refused` when the volume is not split.
    fn split_show(&self, volume: &str, rows: u32) -> Result<SplitReport, ControlError>;

    /// Gives up this node's side of a split (`here`) or the partner's.
    ///
    /// # Errors
    /// `Refused` with the reason (not split, that side serves, the partner cannot be asked).
    fn split_discard(&self, volume: &str, here: bool) -> Result<(), ControlError>;
    /// Begins to compare both base trees of `volume`; with `repair` the partner then gets what differs. Returns the number
    /// that the result in the status will carry.
    ///
    /// # Errors
    /// `Refused` when this node is not the primary of a mirrored pair, or a comparison is under way.
    fn verify(&self, volume: &str, repair: bool, max_rate_bytes: Option<u64>) -> Result<u64, ControlError>;

    /// Takes a consistency point of `volume` now and waits for it.
    ///
    /// # Errors
    /// `Failed` with what the local filesystem said.
    fn consistency_point(&self, volume: &str) -> Result<ConsistencyPointStatus, ControlError>;
}
