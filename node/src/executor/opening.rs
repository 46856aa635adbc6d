//! Begins to serve: at once where what is not applied yet fits into memory, as it does in every takeover of a partner that
//! has kept up. After a restart with a long log of small changes it may not; then consistency points come first, and this
//! thread goes on with everything else meanwhile.
//!
//! What can go wrong: the disk is full, or does nothing for [`STALLED`]. Then everything is absorbed whatever memory that
//! takes, and served from there, as it is when a disk fails later.

use super::{Executor, failed};
use crate::NodeError;
use crate::follower::{Serving, UNBOUNDED};
use ids::{Epoch, Lsn};
use pair::TakeoverTimes;
use runtime::{Instant, mark};
use std::time::Duration;

/// A consistency point that took so long may never end.
const STALLED: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Opening {
    epoch: Epoch,
    takeover: Option<(TakeoverTimes, &'static str)>,
    /// How far the tree was when this was last looked at, and since when.
    applied: (Lsn, Instant),
    said: bool,
}

impl Opening {
    pub fn new(epoch: Epoch, takeover: Option<(TakeoverTimes, &'static str)>) -> Opening {
        Opening { epoch, takeover, applied: (Lsn(0), Instant::now()), said: false }
    }

    /// Has the disk done nothing for too long, when the tree stands at `applied`?
    fn is_stalled(&mut self, applied: Lsn) -> bool {
        if self.applied.0 != applied {
            self.applied = (applied, Instant::now());
        }
        self.applied.1.elapsed() >= STALLED
    }
}

impl Executor {
    /// See the module.
    pub(super) fn try_to_serve(&mut self) -> Result<(), NodeError> {
        let Some(opening) = &mut self.opening else { return Ok(()) };
        let shared = self.shared.clone();
        let (end, applied) = (shared.log.end(), shared.path.cursors().applied());
        let memory = if opening.is_stalled(applied) { UNBOUNDED } else { shared.delta_memory() };
        let serving = shared.follower.start_serving(&shared.log, &shared.stack, end.lsn, memory)?;
        if serving == Serving::NotYet {
            if !std::mem::replace(&mut opening.said, true) {
                mark!("serves after a replay in pieces");
                tracing::info!(
                    volume = shared.name(),
                    left = admin_api::status::bytes(end.lsn.since(applied)),
                    "serves when the log is replayed: it takes more memory than `consistency_point.memory`"
                );
            }
            shared.applier.request();
            return Ok(());
        }
        let Some(Opening { epoch, takeover, .. }) = self.opening.take() else { return Ok(()) };
        let began = serving == Serving::Begun;
        if began {
            match self.reason {
                "partner lost" => mark!("takeover"),
                "switchover" => mark!("switchover"),
                _ => mark!("serves after a restart"),
            }
            shared.gate.begin_with(end.lsn, shared.unapplied_needs());
        }
        shared.gate.set_local_space(shared.path.cursors().applied(), shared.local_space());
        shared.path.open();
        shared.metrics.takeovers.add(u64::from(began));
        self.front.serve(epoch, self.pair.client_limits(), takeover);
        Ok(())
    }

    /// Tries again when a consistency point has made room for more, or none is going to.
    pub(super) fn watch_opening(&mut self) {
        let Some(opening) = &mut self.opening else { return };
        let shared = &self.shared;
        let stalled = opening.is_stalled(shared.path.cursors().applied());
        // What is committed is absorbed by the applier: this thread has more urgent things to do.
        let absorbed = shared.follower.absorbed().is_none_or(|absorbed| absorbed >= shared.path.committed());
        let has_room = absorbed && shared.stack.active_memory() < shared.delta_memory();
        if !has_room && !stalled {
            return;
        }
        if let Err(error) = self.try_to_serve() {
            self.answers.push_front(failed(&error));
            self.opening = None;
        }
    }
}
