//! The seam between the volume and whatever makes its records durable.
//!
//! The volume admits, validates and absorbs; a [`Journal`] throttles, makes durable here and at the partner,
//! and says when a record may be shown. Volume code knows nothing of transports, epochs or witnesses.

mod gate;
mod path;
#[cfg(test)]
mod path_tests;
mod waiters;

pub use gate::Gate;
pub use path::{CommitEvents, CommitPath};

use ids::Lsn;
use std::sync::Arc;

/// This node can not answer (any more): not primary, deposed, stopping, or frozen for longer than a client
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
    #[error("the log can not be written; see the node's log")]
    LogFailed,
}

/// A right to reserve up to `bytes` of payload in the log; given back when dropped.
#[derive(Debug)]
pub struct Admission {
    /// Payload bytes that may be reserved under it.
    pub bytes: u64,
    held: Option<(Arc<Gate>, u64)>,
}

impl Admission {
    /// An admission that nobody counts.
    pub fn uncounted(bytes: u64) -> Admission {
        Admission { bytes, held: None }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some((gate, log_bytes)) = self.held.take() {
            gate.give_back(log_bytes);
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
    /// Free inodes; meaningless when `total_inodes` is 0.
    pub free_inodes: u64,
}

impl SpaceBudget {
    /// The smaller of both, field by field. Inode counts of a filesystem without a fixed number do not bind.
    pub fn smaller(self, other: SpaceBudget) -> SpaceBudget {
        let (total_inodes, free_inodes) = match (self.total_inodes, other.total_inodes) {
            (0, _) => (other.total_inodes, other.free_inodes),
            (_, 0) => (self.total_inodes, self.free_inodes),
            _ => (self.total_inodes.min(other.total_inodes), self.free_inodes.min(other.free_inodes)),
        };
        SpaceBudget {
            total_bytes: self.total_bytes.min(other.total_bytes),
            free_bytes: self.free_bytes.min(other.free_bytes),
            available_bytes: self.available_bytes.min(other.available_bytes),
            total_inodes,
            free_inodes,
        }
    }
}

/// What the volume needs of the commit path.
pub trait Journal: Send + Sync {
    /// Waits for room for `payload_bytes` of payload; slows clients down gradually as the log fills. Called
    /// before any volume lock is taken. A reservation within an admission never finds the log full.
    fn admit(&self, payload_bytes: u64) -> Result<Admission, NotServing>;
    /// The log that records go into.
    fn log(&self) -> &Arc<nvlog::Log>;
    /// Blocks until everything before `lsn` is committed; drives the commit path itself.
    fn wait_committed(&self, lsn: Lsn) -> Result<(), NotServing>;
    /// Everything before this is committed. Cheap.
    fn committed(&self) -> Lsn;
    /// May reads be answered now? Blocks for a bounded time while frozen.
    fn check_lease(&self) -> Result<(), NotServing>;
    /// What both nodes can still store.
    fn space(&self) -> SpaceBudget;
}
