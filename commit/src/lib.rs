//! The seam between the volume and whatever makes its records durable.
//!
//! The volume admits, validates and absorbs; a [`Journal`] throttles, makes durable here and at the partner,
//! and says when a record may be shown. Volume code knows nothing of transports, epochs or witnesses.

mod answers;
mod base_reads;
mod bell;
mod gate;
mod needs;
mod path;
#[cfg(test)]
mod path_tests;
mod patience;
mod queue;
pub mod stack;
mod waiters;

pub use base_reads::{BaseReads, MUST_WAIT, PatientBase};
pub use gate::{Gate, PeerSpace};
pub use needs::Needs;
pub use path::{CommitEvents, CommitPath};
pub use patience::{Answer, Attempt, Client, Denied, Parked, Turn, attempt, finish, settle};
pub use queue::{MAX_PARKED, MAX_PARKED_BYTES};

use apply_engine::{BaseSpace, MetadataSpace};
use ids::{Lsn, Oid};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// This node cannot answer (any more): not primary, deposed, stopping, or frozen for longer than a client
/// should wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotServing {
    /// The node is not the volume's primary; clients go to the partner.
    #[error("this node does not serve the volume now; its partner does")]
    NotPrimary,
    /// The node froze and no decision came within the time a client is made to wait.
    #[error("the volume is frozen until partner or witness answers; see `twinfiler status`")]
    Frozen,
    /// The node is shutting down.
    #[error("the node is stopping")]
    Stopping,
    /// The log's memory failed.
    #[error("the log cannot be written; see the node's log")]
    LogFailed,
    /// Said in an [`attempt`] only, and never to a client: another one is to be made.
    #[error("the request has to wait")]
    MustWait,
}

/// Why an operation was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The volume is not served here.
    #[error(transparent)]
    NotServing(#[from] NotServing),
    /// One of the nodes could not store it.
    #[error("no space is left on one of the nodes")]
    NoSpace,
}

/// Where what an operation writes has its place on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Room {
    /// Somewhere new.
    #[default]
    New,
    /// Perhaps where there is room already: whoever asks wants to hear at once that there is none for it elsewhere.
    Perhaps,
    /// Where there is room already: content needs none, and what describes it may take some of the margin.
    There,
}

/// What an operation asks of the log and of both disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Payload bytes of its records, at most.
    pub payload_bytes: u64,
    /// Bytes that it sets aside on disk without logging them (fallocate).
    pub allocate_bytes: u64,
    /// What the map of its file's blocks may take beside content ([`ids::BaseLimits::map_bytes`]).
    pub map_bytes: u64,
    /// Objects that it makes.
    pub inodes: u64,
    /// Its payload is file content.
    pub content: bool,
    /// It may be refused for want of space. What removes or only describes is let in on a full disk too: the margin
    /// is for that.
    pub grows: bool,
    /// Where it goes, if it grows.
    pub room: Room,
}

impl Ask {
    /// An operation that must work on a full disk.
    pub fn keeping(payload_bytes: usize) -> Ask {
        Ask {
            payload_bytes: payload_bytes as u64,
            allocate_bytes: 0,
            map_bytes: 0,
            inodes: 0,
            content: false,
            grows: false,
            room: Room::New,
        }
    }

    /// An operation that takes room on disk.
    pub fn growing(payload_bytes: usize) -> Ask {
        Ask { grows: true, ..Ask::keeping(payload_bytes) }
    }
}

/// A right to reserve up to `bytes` of payload in the log; given back when dropped.
#[derive(Debug)]
pub struct Admission {
    /// Payload bytes that may be reserved under it.
    pub bytes: u64,
    /// The filling log held it back.
    slowed: bool,
    held: Option<gate::Held>,
}

impl Admission {
    /// An admission that nobody counts.
    pub fn uncounted(bytes: u64) -> Admission {
        Admission { bytes, slowed: false, held: None }
    }

    /// Gives it back unused: nothing was reserved.
    pub fn cancel(self) {
        if let Some(held) = &self.held {
            held.gate.cancel(held);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.gate.give_back(held.log_bytes);
        }
    }
}

/// What both nodes can still store: the smaller of both, field by field (invariant 7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceBudget {
    /// Size of the filesystem.
    pub total_bytes: u64,
    /// Free bytes, after what is logged but not applied.
    pub free_bytes: u64,
    /// Free bytes for those who are not root.
    pub available_bytes: u64,
    /// Inodes of the filesystem; 0 where it makes them as it goes (btrfs).
    pub total_inodes: u64,
    /// Free inodes that can certainly be made; meaningless when `total_inodes` is 0.
    pub free_inodes: u64,
    /// Free inodes for people; those that are certain, if it is fewer.
    pub likely_inodes: u64,
    /// Free bytes for metadata; `None` where `free_bytes` are for that too.
    pub metadata: Option<MetadataSpace>,
}

impl SpaceBudget {
    /// The partner's, of what it tells; `u64::MAX` inodes are made as they are needed. Totals are not told: they bind
    /// through what is free, and those of this node stand for them.
    pub fn of_partner(
        free_bytes: u64,
        (free_inodes, likely_inodes): (u64, u64),
        metadata: Option<MetadataSpace>,
        here: SpaceBudget,
    ) -> SpaceBudget {
        let (total_inodes, free_inodes, likely_inodes) = match free_inodes {
            u64::MAX => (0, 0, 0),
            free => (here.total_inodes.max(likely_inodes).max(free).max(1), free, likely_inodes),
        };
        let total_bytes = here.total_bytes;
        SpaceBudget {
            total_bytes,
            free_bytes,
            available_bytes: free_bytes,
            total_inodes,
            free_inodes,
            likely_inodes,
            metadata,
        }
    }

    /// Free inodes as people are told: those that are certain are made before each consistency point anew.
    pub fn shown_inodes(&self) -> u64 {
        self.free_inodes.max(self.likely_inodes)
    }

    /// The smaller of both, field by field. Inode counts of a filesystem without a fixed number do not bind.
    pub fn smaller(self, other: SpaceBudget) -> SpaceBudget {
        let (total_inodes, free_inodes, likely_inodes) = match (self.total_inodes, other.total_inodes) {
            (0, 0) => (0, 0, 0),
            (0, _) => (other.total_inodes, other.free_inodes, other.shown_inodes()),
            (_, 0) => (self.total_inodes, self.free_inodes, self.shown_inodes()),
            _ => (
                self.total_inodes.min(other.total_inodes),
                self.free_inodes.min(other.free_inodes),
                self.shown_inodes().min(other.shown_inodes()),
            ),
        };
        SpaceBudget {
            total_bytes: self.total_bytes.min(other.total_bytes),
            free_bytes: self.free_bytes.min(other.free_bytes),
            available_bytes: self.available_bytes.min(other.available_bytes),
            total_inodes,
            free_inodes,
            likely_inodes,
            metadata: match (self.metadata, other.metadata) {
                // What is free and what may become free belong together.
                (Some(one), Some(other)) if other.total_bytes() < one.total_bytes() => Some(other),
                (Some(one), Some(_)) => Some(one),
                (one, other) => one.or(other),
            },
        }
    }
}

impl From<BaseSpace> for SpaceBudget {
    fn from(space: BaseSpace) -> SpaceBudget {
        SpaceBudget {
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            available_bytes: space.free_bytes,
            total_inodes: space.total_inodes.unwrap_or(0),
            free_inodes: space.certain_inodes.unwrap_or(0),
            likely_inodes: space.free_inodes.unwrap_or(0),
            metadata: space.metadata,
        }
    }
}

/// What the volume needs of the commit path.
pub trait Journal: Send + Sync {
    /// Waits for room in the log; slows clients down gradually as the log fills. Called before any volume lock is
    /// taken. A reservation within an admission never finds the log full, and applying it never a disk: what is let
    /// in is counted against both in the same step.
    fn admit(&self, ask: Ask) -> Result<Admission, Refused>;
    /// The log that records go into.
    fn log(&self) -> &Arc<nvlog::Log>;
    /// Before an answer that may be given when everything before `lsn` is answerable. Blocks until it is, and drives the
    /// commit path itself; in an [`attempt`] it may only note what is owed.
    fn wait_answerable(&self, lsn: Lsn) -> Result<(), NotServing>;
    /// Everything before `lsn` is answerable when it returns: for what cannot be read before.
    fn require_answerable(&self, lsn: Lsn) -> Result<(), NotServing> {
        self.wait_answerable(lsn)
    }
    /// The same at the end of a client's operation, which is counted.
    fn commit(&self, end: Lsn) -> Result<(), NotServing> {
        self.wait_answerable(end)
    }
    /// Before a wait for somebody who may hang with the base. In an [`attempt`] only a thread that may hang, too, goes on.
    fn require_patience(&self) -> Result<(), NotServing> {
        Ok(())
    }
    /// Everything before this may be answered and shown: it is committed, or in both nodes' memory where the volume is
    /// configured so. Cheap.
    fn answerable(&self) -> Lsn;
    /// Before the answer to an fsync, of whatever kind: everything before `lsn` is committed. Blocks until it is; in an
    /// [`attempt`] it may only note what is owed.
    fn sync(&self, lsn: Lsn) -> Result<(), NotServing> {
        self.wait_answerable(lsn)
    }
    /// May reads be answered now? Blocks for a bounded time while frozen.
    fn check_lease(&self) -> Result<(), NotServing>;
    /// For how long an answer that is given now may be shown by those who keep it; `None`: without end.
    fn lease_left(&self) -> Option<Duration> {
        None
    }
    /// What both nodes can still store.
    fn space(&self) -> SpaceBudget;
    /// Has the partner, if there is one, blocks for a range of a file, so that writing there takes no room? Asks it, for
    /// a bounded time.
    fn partner_has_room(&self, _oid: Oid, _range: Range<u64>) -> bool {
        true
    }
    /// Gives `answer` when everything before `lsn` is answerable, or cannot be any more. A journal that heeds no
    /// [`attempt`] waits here.
    fn when_answerable(&self, lsn: Lsn, client: Client, answer: Answer) {
        let _ = client;
        answer(self.wait_answerable(lsn).map_err(Denied::from));
    }
    /// Gives `answer` when everything before `lsn` is committed, or cannot be any more.
    fn when_synced(&self, lsn: Lsn, client: Client, answer: Answer) {
        self.when_answerable(lsn, client, answer);
    }
    /// Keeps a request that has to wait, and tries it again when it may go on. Never called where no attempt waits.
    fn park(&self, request: Parked) {
        request.deny(Denied::TooMany);
    }
}
