//! How far a start is with what its log holds and its tree does not: told in status and in the node's log.
//!
//! It is replayed as everything else is applied, in consistency points; each takes as much memory as a Delta may
//! (`follower`). Invariant: what is told never goes backwards.

use super::shared::Shared;
use admin_api::status::{ReplayStatus, bytes};
use ids::Lsn;
use runtime::Mutex;

/// Less than this is not worth a word.
const WORTH_TELLING_BYTES: u64 = 1 << 20;

/// What there was to replay, until it is done.
#[derive(Debug, Default)]
pub(super) struct Replay(Mutex<Option<(Lsn, Lsn)>>);

impl Replay {
    /// The tree stands at `from`, the log ends at `to`.
    pub fn new(name: &str, from: Lsn, to: Lsn) -> Replay {
        if to.since(from) < WORTH_TELLING_BYTES {
            return Replay::default();
        }
        tracing::info!(
            volume = name,
            log = bytes(to.since(from)),
            "the log holds what the tree does not: to be replayed"
        );
        Replay(Mutex::new(Some((from, to))))
    }

    /// A consistency point has ended.
    pub fn look(&self, shared: &Shared) {
        let Some(status) = self.status(shared) else { return };
        let (done, total) = (bytes(status.done_bytes), bytes(status.total_bytes));
        if status.done_bytes < status.total_bytes {
            tracing::info!(volume = shared.name(), done, total, "replaying the log");
        } else {
            *self.0.lock() = None;
            tracing::info!(volume = shared.name(), total, "the log is replayed");
        }
    }

    /// How far it is; `None` when there is nothing to tell.
    pub fn status(&self, shared: &Shared) -> Option<ReplayStatus> {
        let (from, to) = (*self.0.lock())?;
        // Records that the partner does not know may have been cut off.
        let to = to.min(shared.log.end().lsn).max(from);
        let applied = shared.path.cursors().applied().clamp(from, to);
        Some(ReplayStatus { done_bytes: applied.since(from), total_bytes: to.since(from) })
    }
}
