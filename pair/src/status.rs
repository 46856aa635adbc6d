//! What status shows of a pair: plain data, made after each event, never read back.

use crate::FailedPart;
use crate::message::Vitals;
use crate::witness::Register;
use ids::{Epoch, Lsn, NodeName, VolumeId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The states that an operator sees. The machine has finer ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairMode {
    /// Looks for the register, the partner, or both.
    Starting,
    /// Both logs hold every acknowledged record.
    Mirrored,
    /// The partner (this node or the other) is getting what it misses.
    CatchingUp,
    /// The primary acknowledges alone.
    Solo,
    /// The partner is lost and the next epoch not granted: nothing is acknowledged.
    Frozen,
    /// Tries to take over from a lost primary.
    TakingOver,
    /// Hands over to the partner.
    HandingOver,
    /// Was primary; another node has a later epoch.
    Deposed,
    /// Misses records that the other node acknowledged alone.
    Outdated,
    /// The log cannot bring this node up to date.
    NeedsResync,
    /// Both nodes acknowledged records that the other lacks.
    Split,
    /// The log or something else failed; restart after repair.
    Failed,
    /// Stopped cleanly.
    Stopped,
}

impl fmt::Display for PairMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PairMode::Starting => "starting",
            PairMode::Mirrored => "mirrored",
            PairMode::CatchingUp => "catching-up",
            PairMode::Solo => "solo",
            PairMode::Frozen => "frozen",
            PairMode::TakingOver => "taking-over",
            PairMode::HandingOver => "handing-over",
            PairMode::Deposed => "deposed",
            PairMode::Outdated => "outdated",
            PairMode::NeedsResync => "needs-resync",
            PairMode::Split => "split",
            PairMode::Failed => "failed",
            PairMode::Stopped => "stopped",
        })
    }
}

/// Primary, partner, or neither.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Has opened the epoch and serves it (or is frozen in it).
    Primary,
    /// Follows a primary.
    Partner,
    /// Neither.
    None,
}

/// Why a partner is not talked to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It speaks another protocol version.
    #[error("the nodes run different versions: {0}")]
    Version(String),
    /// It serves another volume.
    #[error("the partner's log belongs to volume {theirs}, ours to {ours}; check both log settings")]
    Volume {
        /// This node's.
        ours: VolumeId,
        /// The other's.
        theirs: VolumeId,
    },
    /// Its ring has another length.
    #[error("the partner's log has {theirs_bytes} bytes, ours {ours_bytes}; format both with one capacity")]
    Capacity {
        /// This node's.
        ours_bytes: u64,
        /// The other's.
        theirs_bytes: u64,
    },
    /// A base holds less than what clients were granted, so that it may not be able to hold the volume.
    #[error(
        "the base directory of {node} lies on {filesystem}, which holds {holds}: give it a filesystem that holds as \
         much as those that the volume began on"
    )]
    BaseFilesystem {
        /// Whose.
        node: NodeName,
        /// Its kind.
        filesystem: String,
        /// What it holds, and what was granted.
        holds: String,
    },
    /// It is not the configured partner.
    #[error("node {0} is not the configured partner; check the names on both nodes")]
    Node(NodeName),
    /// Refused below the messages.
    #[error("{0}")]
    Transport(String),
}

/// Why a node needs a resync.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum ResyncReason {
    /// Volatile memory and a restart of the machine, a new log in a pair that is not new, or a tree that is not the log's.
    #[error("this node's log was lost, or is not that of its tree")]
    LogLost,
    /// Away longer than the primary's log reaches.
    #[error("away for longer than the primary's log reaches back")]
    TooOld,
    /// Chains do not meet.
    #[error("this log has no common point with the primary's")]
    NoCommonPoint,
    /// The log could not be cut where the histories part.
    #[error("this log cannot be cut where it parts from the primary's")]
    CannotTruncate,
    /// A new, empty node for a volume that has data.
    #[error("the volume had data before its log began; a first copy is needed")]
    FirstCopy,
    /// The operator discarded this side of a split.
    #[error("this side of a split was discarded")]
    Discarded,
    /// A resync was begun and has not come to its end.
    #[error("a resync was begun and is not finished")]
    Unfinished,
    /// The operator wants everything compared.
    #[error("the operator asked for this node's tree to be compared with the primary's")]
    Asked,
}

/// Both sides of a split volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Split {
    /// Up to here both logs are the same, as far as the histories tell.
    pub common_end: Option<Lsn>,
    /// This node's log end.
    pub our_end: Lsn,
    /// The other's, when it last told.
    pub their_end: Lsn,
    /// The epoch in which this node acknowledged alone, if known.
    pub our_epoch: Option<Epoch>,
    /// The epoch that the other serves.
    pub their_epoch: Epoch,
}

/// How the last takeover went, for the operator and the demo. Milliseconds of this node's clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct TakeoverTimes {
    /// Silence before the primary was given up.
    pub detection_ms: u64,
    /// Until the primary's right to write was revoked.
    pub fencing_ms: u64,
    /// Until its read lease had ended.
    pub lease_ms: u64,
    /// Until the witness had granted the epoch.
    pub witness_ms: u64,
    /// Until the epoch was opened in the log.
    pub opening_ms: u64,
}

/// The pair as this node sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PairStatus {
    /// Primary, partner or neither.
    pub role: RoleName,
    /// The state.
    pub mode: PairMode,
    /// One line on what it waits for or what to do; empty when all is well.
    pub detail: String,
    /// What failed, in the mode `failed`.
    pub failed: Option<FailedPart>,
    /// The epoch served or followed; else the highest known.
    pub epoch: Epoch,
    /// Is the link up and the partner's `Hello` accepted?
    pub linked: bool,
    /// Did the witness answer the last request? `None`: no witness configured, or not asked yet.
    pub witness_reachable: Option<bool>,
    /// The register as last known.
    pub register: Option<Register>,
    /// The witness's register is older than what this node knows to have been granted, and does not decide.
    pub register_stale: Option<Register>,
    /// May this node take over by itself (as far as it knows)?
    pub eligible: bool,
    /// Does this node serve clients (also while frozen)?
    pub serving: bool,
    /// The partner's vitals, as last told.
    pub peer_vitals: Option<Vitals>,
    /// Milliseconds since the partner was last heard.
    pub peer_silent_ms: Option<u64>,
    /// Why the partner is refused.
    pub refusal: Option<Refusal>,
    /// Why this node needs a resync.
    pub needs_resync: Option<ResyncReason>,
    /// Both sides of a split.
    pub split: Option<Split>,
    /// This node cannot apply.
    pub local_fault: bool,
    /// The base tree is known to differ from the partner's.
    pub tree_differs: bool,
    /// The last takeover by this node since it started.
    pub takeover: Option<TakeoverTimes>,
}
