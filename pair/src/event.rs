//! What can happen to a pair.
//!
//! The runtime tells everything it learns through one queue and calls `apply` for each event in turn. Events
//! of links that are no longer current, duplicates and late ones are harmless.

use crate::durable::LogSummary;
use crate::message::{Message, MessageError, Vitals};
use crate::witness::WitnessOutcome;
use crate::{LinkId, RequestId};
use ids::{AckRule, LogPoint, Lsn};
use serde::{Deserialize, Serialize};

/// Something an operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// Let the other node become primary, losing nothing. On a partner: asks the primary for it.
    Switchover,
    /// Serve here whatever the other node may hold: records that only it has acknowledged are given up.
    ForceTakeover,
    /// After a split: give up this node's side. What only it holds is kept aside, then it gets the other's tree.
    DiscardLocal,
    /// Compare this node's tree with the primary's, and replace what differs.
    Resync {
        /// Whatever the labels say, and over restarts too. Otherwise labels decide, and the runtime may suspect more.
        by_content: bool,
    },
}

/// A fault of this node that its partner does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalFault {
    /// The base file system fails (EIO).
    BaseIo,
    /// The base file system is full although space was reserved (ENOSPC).
    BaseFull,
    /// The base file system hangs, or is much slower than the partner's.
    BaseSlow,
}

/// Answer to [`Command::CheckPoint`](crate::Command::CheckPoint).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PointVerdict {
    /// The point is a prefix of this log, and everything after it is still there.
    Continues,
    /// What follows the point is (partly) overwritten.
    TooOld,
    /// This log has another record there, or no record boundary, or ends before it.
    Differs,
}

/// An event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Time passed. Sent at least every `heartbeat_ms` and at [`Pair::next_deadline`](crate::Pair::next_deadline).
    Tick {
        /// How this node is at this moment (`healthy` is ignored).
        vitals: Vitals,
    },
    /// A link to the configured partner is up; its ids ascend. It replaces any link before it.
    LinkUp {
        /// The new link.
        link: LinkId,
        /// This node's log, read *after* the link before it was torn down (nothing lands through that any
        /// more).
        log: LogSummary,
    },
    /// A link is gone. Its mirroring and receiving are over; what had landed stays.
    LinkDown {
        /// Which.
        link: LinkId,
    },
    /// The link's transport refused the partner before any message (wrong volume, version or node), or does so no more:
    /// nobody answers there.
    LinkRefused {
        /// For the status line.
        reason: Option<String>,
    },
    /// A message came.
    Message {
        /// Over which link.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// A message came that could not be decoded.
    BadMessage {
        /// Over which link.
        link: LinkId,
        /// Why.
        error: MessageError,
    },
    /// Writing to the partner failed, or its acknowledgements make no sense; or what came from the primary
    /// does not continue the chain.
    MirrorLost {
        /// Over which link.
        link: LinkId,
    },
    /// The partner answers heartbeats, but has acknowledged nothing for too long although it owes it.
    PartnerStalls {
        /// Over which link.
        link: LinkId,
    },
    /// What came from the primary does not continue the chain, over a link on which the primary acknowledges
    /// without this node's word: it may have acknowledged what is broken here.
    ReceivedWrong {
        /// Over which link.
        link: LinkId,
    },
    /// What became of [`Command::AskWitness`](crate::Command::AskWitness). Exactly once per request.
    WitnessAnswer {
        /// Which request.
        request: RequestId,
        /// What.
        outcome: WitnessOutcome,
    },
    /// Answer to `Revoke`: no byte of the partner lands in this log any more, what had landed has been
    /// checked, persisted and is part of `log`, and no acknowledgement will be sent for anything else.
    Revoked {
        /// The log as it is now and stays.
        log: LogSummary,
    },
    /// Answer to `OpenEpoch`: the history and the epoch's first record are durable.
    EpochOpened {
        /// The log with the new epoch.
        log: LogSummary,
    },
    /// Answer to `TruncateLog`.
    Truncated {
        /// The log that remains; or why it could not be cut there (no record boundary, applied further).
        result: Result<LogSummary, String>,
    },
    /// Answer to `SetAckRule`: the new rule is in force.
    RuleSet {
        /// The rule.
        rule: AckRule,
        /// `committed`, read after the change: everything acknowledged under the rule before lies below.
        committed: Lsn,
    },
    /// Answer to `CheckPoint`.
    PointChecked {
        /// From the command.
        link: LinkId,
        /// From the command.
        point: LogPoint,
        /// The answer.
        verdict: PointVerdict,
    },
    /// Answer to `AwaitPeer`.
    PeerReached {
        /// From the command.
        link: LinkId,
        /// From the command: the partner's log holds everything before it, durably.
        lsn: Lsn,
    },
    /// Answer to `Drain`: nothing is in flight, everything is committed.
    Drained {
        /// The log's end.
        end: LogPoint,
    },
    /// An operator's wish. Whether it can be met: ask [`Pair::can`](crate::Pair::can) first.
    Operator(Operator),
    /// The operator's command has ended (it took too long, or its caller left): what it asked for must not happen any
    /// more, as far as that can still be helped.
    Withdrawn(Operator),
    /// This node cannot apply for now.
    LocalFault(LocalFault),
    /// It can again.
    LocalHealed,
    /// The base tree is known to differ from the partner's (or not any more): as a partner this node takes over by
    /// itself no more, for what it would serve is not what the primary served.
    TreesDiffer(bool),
    /// SIGTERM: hand over if possible, and stop. Ends with `Command::Stopped`.
    Shutdown,
    /// The base tree is about to be replaced by the primary's. When the commands are executed, ask
    /// [`Pair::is_resyncing`](crate::Pair::is_resyncing) whether it may be.
    ResyncBegan,
    /// It is the primary's at a point of the log, where this node's log was begun anew.
    Resynced {
        /// The log, empty, at that point.
        log: LogSummary,
    },
    /// A blocking command failed. The rest of its batch was dropped.
    CommandFailed {
        /// What an operator has to mend.
        part: FailedPart,
        /// For the status line.
        error: String,
    },
}

/// What of a node failed, so that it cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailedPart {
    /// The log's memory, device or superblock.
    Log,
    /// The other node's right to write into the log could not be taken away.
    Fence,
    /// Something of the process: a thread, clients that do not leave.
    Process,
}
