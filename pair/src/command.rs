//! What the runtime must do.
//!
//! **The one rule of order**: commands are executed one after the other, in the order in which `apply`
//! returned them, and each is complete before the next begins, except those marked *starts* (they only begin
//! something whose end an event tells). When one fails, the rest of the batch is dropped and
//! [`Event::CommandFailed`](crate::Event::CommandFailed) is the next event. Every event is applied only after all commands of the event
//! before it are executed. So "after X is durable" needs no condition: it is written behind X.
//!
//! The design not chosen, conditions on single commands, lets the runtime overlap them; role changes are
//! rare and short, and a strict order is what makes them easy to believe.

use crate::durable::DurableState;
use crate::message::{CallOff, Message, Vitals};
use crate::witness::Request;
use crate::{LinkId, MonoMs, RequestId};
use ids::{AckRule, Epoch, LogPoint, Lsn};
use std::fmt;

/// Until when reads may be answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lease {
    /// No reads.
    None,
    /// For a time; then they wait (frozen) until a new lease.
    Until {
        /// Its end, on the clock that the events carry.
        end: MonoMs,
        /// How long such a lease is from the sending of a heartbeat: what both nodes agree on, which may be less than
        /// what this one is configured with.
        lease_ms: u64,
    },
    /// No end: solo. Nobody can win a swap from (epoch, me, solo) but an operator's force.
    Forever,
}

/// Why serving stops.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StopReason {
    /// The partner serves on: hold the clients' open operations, fail none.
    HandedOver,
    /// Another node has (or may have) a later epoch: drop the clients, throw away what is not committed.
    Deposed,
    /// This node stops; everything is committed.
    Stopping,
    /// This node's log fails.
    Failed,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopReason::HandedOver => "handed over",
            StopReason::Deposed => "deposed",
            StopReason::Stopping => "this node stops",
            StopReason::Failed => "this node failed",
        })
    }
}

/// A command.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    /// Make `state.encode()` durable in the log superblock's role state.
    Store(DurableState),
    /// Send over the link. *Starts*; errors are ignored here, for a broken link is told by `LinkDown`.
    Send {
        /// The link.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// Ask the witness, once, with the runtime's own time limit. *Starts*; always answered by
    /// `WitnessAnswer`. There is never more than one request that was not answered or given up.
    AskWitness {
        /// Comes back with the answer.
        request: RequestId,
        /// The question.
        ask: Request,
    },
    /// Let the partner write into this log through this link. Followed by `StartReceiving`.
    Grant {
        /// The link.
        link: LinkId,
    },
    /// Stop receiving on every link, take back the right to write, ingest and persist what had landed.
    /// Answered by `Revoked`. Also when nothing was granted.
    Revoke,
    /// What acknowledgements wait for from now on. Answered by `RuleSet`.
    SetAckRule(AckRule),
    /// Until when reads may be answered. Sent with every renewal; must be cheap.
    SetLease(Lease),
    /// Everything in this log is now taken over as it is; append the epoch's first record and its entry in
    /// the history, both durable. Answered by `EpochOpened`.
    OpenEpoch {
        /// The epoch; higher than every one in the log's history.
        epoch: Epoch,
    },
    /// Clients may come: mount, run the hooks for becoming primary. *Starts*. Operations wait for the
    /// acknowledgement rule and the lease as ever. Sent again when a primary that serves goes on in a new
    /// epoch: then only the number changes.
    StartServing {
        /// The epoch.
        epoch: Epoch,
    },
    /// No client's operation is answered after this; the hooks run on their own. Also ends a `Drain`.
    StopServing {
        /// Why.
        reason: StopReason,
    },
    /// Drop everything at and after `to` from the log and its history. Nothing applied lies there. Answered
    /// by `Truncated` (which, other than most, carries a failure: the node then needs a resync).
    TruncateLog {
        /// The new end.
        to: Lsn,
    },
    /// Is `point` a prefix of this log, and is all that follows still there? Answered by `PointChecked`.
    CheckPoint {
        /// Comes back with the answer.
        link: LinkId,
        /// The joining node's log end.
        point: LogPoint,
    },
    /// Write own log to the partner from `from` on, and go on as it grows. *Starts*; `MirrorLost` when it
    /// fails.
    StartMirroring {
        /// The link.
        link: LinkId,
        /// Where the partner's log ends.
        from: LogPoint,
    },
    /// Write nothing more to the partner; forget what it acknowledged.
    StopMirroring,
    /// Tell `PeerReached` once the partner's log durably holds everything before `lsn`. *Starts*; a later one
    /// replaces it, and `StopMirroring` withdraws it.
    AwaitPeer {
        /// Comes back with the answer.
        link: LinkId,
        /// The position.
        lsn: Lsn,
    },
    /// Receive into this log from `at`, which is its end. Chain-check, persist, acknowledge. *Starts*;
    /// `MirrorLost` when it fails.
    StartReceiving {
        /// The link.
        link: LinkId,
        /// This log's end.
        at: LogPoint,
    },
    /// Keep what is at and after this position from being overwritten (a partner is catching up); `None`
    /// lifts it.
    SetHold(Option<Lsn>),
    /// The partner's newest vitals (space for invariant 7, its tail for the space floor, status).
    PeerVitals {
        /// As it told.
        vitals: Vitals,
        /// On a partner: its primary's committed position, up to which records that are in this log may be
        /// applied. `None`: do not advance.
        committed: Option<Lsn>,
    },
    /// Admit no new operation (hold, do not fail), let those in flight commit. *Starts*; answered by
    /// `Drained`.
    Drain,
    /// The switchover is off, or will be: admit operations again.
    Undrain,
    /// A switchover does not come about: tell the operator who asked for it.
    CalledOff(CallOff),
    /// Close the link. `LinkDown` may follow or not.
    DropLink {
        /// The link.
        link: LinkId,
    },
    /// All is said: the process may exit.
    Stopped,
}
