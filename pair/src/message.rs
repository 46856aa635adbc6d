//! What the two nodes say to each other over a link's control channel.
//!
//! Every message stands on its own: it names the epoch it is about, so a duplicate or a late one is recognised
//! and ignored. Encoding: `u16` little-endian version, then postcard. A version this program does not know is
//! refused before anything else is read.

use crate::durable::LogSummary;
use crate::witness::Register;
use crate::{MonoMs, Refusal};
use ids::{BaseLimits, Epoch, LogPoint, Lsn, NodeName};
use serde::{Deserialize, Serialize};

/// Version of the messages (and of the rules behind them).
pub const PROTOCOL_VERSION: u16 = 8;

/// How a node is, told with every heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Vitals {
    /// End of what is committed, as this node knows.
    pub committed: Lsn,
    /// End of what its base tree holds.
    pub applied: Lsn,
    /// Its log's tail.
    pub trimmed: Lsn,
    /// Its log's end.
    pub end: Lsn,
    /// On a primary: what the partner holds durably.
    pub peer_durable: Lsn,
    /// What is free counts as taken what everything before this needs, applied or not.
    pub counted: Lsn,
    /// Free space in the base file system.
    pub free_bytes: u64,
    /// Free inodes in the base file system that can certainly be made.
    pub free_inodes: u64,
    /// Free inodes there, certain or not.
    pub likely_inodes: u64,
    /// Free space for metadata, and what could become metadata, where that is apart from `free_bytes` (btrfs).
    pub free_metadata_bytes: Option<(u64, u64)>,
    /// A write to this node's log device has not come back for a while. The partner is not told.
    #[serde(skip)]
    pub log_is_slow: bool,
    /// Part of the log that is in use, in thousandths.
    pub log_fill_permille: u16,
    /// What is committed takes more memory than it may, so it takes it in by pieces: it could not serve at once.
    pub replays: bool,
    /// The node can apply to its base tree (no EIO, no ENOSPC at present). Set by the pair, not the runtime.
    pub healthy: bool,
}

/// What a node does at present, as its partner needs to know it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Posture {
    /// It has opened this epoch and serves it, or is frozen in it.
    Primary(Epoch),
    /// It follows the primary of this epoch.
    Partner(Epoch),
    /// It tries to get the next epoch.
    Claiming,
    /// It looks for a primary to follow.
    Waiting,
    /// It needs a resync, or stands on one side of a split.
    Unusable,
}

/// The first message on a link, and again whenever one of its facts changed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Ascends with every `Hello` of a process: an older one that comes late is ignored.
    pub number: u64,
    /// The sender.
    pub node: NodeName,
    /// Its log. For a primary `log.end` is where the log ended when the message was written.
    pub log: LogSummary,
    /// What it does.
    pub posture: Posture,
    /// The register as it last knew it.
    pub register: Option<Register>,
    /// The highest epoch it has heard of.
    pub epoch_seen: Epoch,
    /// See [`DurableState::in_sync`](crate::DurableState::in_sync).
    pub in_sync: bool,
    /// See [`DurableState::solo`](crate::DurableState::solo).
    pub solo: Option<Epoch>,
    /// See [`DurableState::origin_empty`](crate::DurableState::origin_empty).
    pub origin_empty: bool,
    /// See [`Config::base_filesystem`](crate::Config::base_filesystem).
    pub base_filesystem: String,
    /// See [`Config::base_limits`](crate::Config::base_limits).
    pub base_limits: BaseLimits,
}

/// Why a primary does not let a node join.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum JoinRefusal {
    /// The log no longer holds what the node misses: it needs a resync.
    TooOld,
    /// The node's log end is no point of this log: it needs a resync.
    Differs,
    /// Not (any more) the primary of that epoch; look again.
    NotPrimary,
    /// The attempt failed for now (the barrier took too long); try again later.
    Later,
}

/// A message.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Message {
    /// Who I am and what I have.
    Hello(Box<Hello>),
    /// I do not talk to you, because.
    Refused(Refusal),
    /// I live. To be answered at once.
    Heartbeat {
        /// The sender's clock; comes back unchanged.
        sent: MonoMs,
        /// The epoch the sender is primary of, if it is.
        epoch: Option<Epoch>,
        /// How it is.
        vitals: Vitals,
    },
    /// Answer to a heartbeat.
    HeartbeatAnswer {
        /// From the heartbeat.
        sent: MonoMs,
        /// The epoch whose primary the answering node follows: it promises to claim nothing before the lease
        /// that this answer extends has ended. `None` promises nothing.
        follows: Option<Epoch>,
        /// For how long it promises that: the lease as it is configured there, which the sender's own may exceed.
        promised_ms: u64,
        /// How it is.
        vitals: Vitals,
    },
    /// (to the primary) My log ends here, my receiver stands there, and you may write.
    Join {
        /// The primary's epoch.
        epoch: Epoch,
        /// My log's end.
        at: LogPoint,
    },
    /// (to the joining node) Not so.
    JoinRefused {
        /// Epoch of the `Join` that is refused.
        epoch: Epoch,
        /// Its point.
        at: LogPoint,
        /// Why.
        reason: JoinRefusal,
    },
    /// (to the joining node) You hold everything; store that you are in sync.
    MarkInSync {
        /// The primary's epoch.
        epoch: Epoch,
    },
    /// (to the primary) It is stored.
    InSync {
        /// The primary's epoch.
        epoch: Epoch,
    },
    /// (to the partner) You have joined my epoch; and again when the register changed: what it says now
    /// (with no witness: what it would say).
    RegisterIs(Register),
    /// (to the partner) You are primary of `epoch`; my log ends here, as yours must. Repeated until the
    /// partner's `Hello` shows it.
    HandOver {
        /// The epoch of the sender, which ends.
        from: Epoch,
        /// The epoch that was given to the receiver.
        epoch: Epoch,
        /// The end of both logs.
        end: LogPoint,
    },
    /// (to the primary) An operator asks for a switchover.
    WantSwitchover,
    /// I stop; I acknowledge nothing and serve no read from now on.
    Goodbye,
    /// (to the partner) A switchover, maybe one that you asked for, does not come about.
    SwitchoverOff(CallOff),
    /// (to the primary) The command that asked for a switchover has ended: it must not happen any more.
    SwitchoverWithdrawn,
}

/// Why a switchover does not come about. Nothing has changed then, unless a node was lost.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum CallOff {
    /// It did not begin.
    #[error("{0}")]
    NotNow(String),
    /// Operations in flight did not end in time.
    #[error("operations in flight did not end in time; nothing has changed, and the primary serves")]
    Draining,
    /// The register still names the primary.
    #[error(
        "the witness did not give the volume to the partner; nothing has changed, and the primary serves: \
         `twinfiler status` there shows whether the witness answers"
    )]
    Witness,
    /// The command that asked for it has ended.
    #[error("the command that asked for it has ended; nothing has changed, and the primary serves")]
    Withdrawn,
    /// The partner is lost.
    #[error("the partner was lost meanwhile; see `twinfiler status`")]
    PartnerLost,
}

/// A message that cannot be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageError {
    /// The partner runs a version that this program does not know.
    #[error(
        "the partner speaks protocol version {0}, this node {PROTOCOL_VERSION}; bring both to one version"
    )]
    Version(u16),
    /// Not decodable.
    #[error("a message from the partner is damaged: {0}")]
    Damaged(String),
}

impl Message {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = PROTOCOL_VERSION.to_le_bytes().to_vec();
        bytes.extend(postcard::to_stdvec(self).expect("plain data always encodes"));
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote. The runtime answers an error with
    /// [`Event::BadMessage`](crate::Event::BadMessage).
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Message, MessageError> {
        let Some((version, rest)) = bytes.split_first_chunk::<2>() else {
            return Err(MessageError::Damaged("shorter than its version".to_owned()));
        };
        match u16::from_le_bytes(*version) {
            PROTOCOL_VERSION => {
                postcard::from_bytes(rest).map_err(|error| MessageError::Damaged(error.to_string()))
            }
            other => Err(MessageError::Version(other)),
        }
    }
}
