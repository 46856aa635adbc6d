//! Resync, as far as the pair's state machine and this node's log have to do with it.

use super::Executor;
use crate::NodeError;
use crate::verify;
use ids::LogPoint;
use pair::{Event, LinkId, PairMode, RoleName};
use runtime::mark;

impl Executor {
    /// Begins to receive the primary's tree when the pair wants that. The pair stores it first.
    pub(super) fn begin_resync(&mut self) {
        let Some(link) = self.pair.wants_resync() else { return };
        if !self.resync.may_begin() || self.stop_wanted {
            return;
        }
        let Some(control) = self.peer_of(link).map(|peer| peer.control()) else { return };
        mark!("resync began");
        let (salvages, compares_all) = (self.pair.salvages(), self.pair.compares_all());
        if (salvages || self.resync_stored())
            && let Err(error) = self.resync.begin(link.0, control, salvages, compares_all)
        {
            self.resync.ended(Some(&error.to_string()));
        }
    }

    /// The tree is about to change: has the pair stored that? Storing may fail, which ends the pair.
    fn resync_stored(&mut self) -> bool {
        self.apply(Event::ResyncBegan);
        self.answers.is_empty() && self.pair.is_resyncing()
    }

    /// What only this node held is kept aside, up to `end` of its log: from here on the tree may change, unless it came
    /// to another state meanwhile.
    pub(super) fn salvaged(&mut self, link: u64, session: u32, end: LogPoint) {
        if self.resync.waits_for_leave(link, session) {
            let granted = end == self.shared.log.end()
                && self.pair.wants_resync() == Some(LinkId(link))
                && self.resync_stored();
            self.resync.give_leave(granted);
        }
    }

    pub(super) fn heard_resync(&mut self, id: u64, bytes: Vec<u8>) {
        let control = self.peer_of(LinkId(id)).map(|peer| peer.control());
        let serves = self.pair.status(self.now()).role == RoleName::Primary;
        self.resync.heard(id, bytes, control, serves);
    }

    pub(super) fn resync_ended(&mut self, link: u64, result: Result<LogPoint, String>) {
        let result = result.and_then(|point| {
            tracing::info!(volume = self.shared.name(), link, %point, "the tree is the primary's");
            self.begin_anew(point).map_err(|error| error.to_string())
        });
        self.resync.ended(result.as_ref().err().map(String::as_str));
        if result.is_ok() {
            mark!("resync finished");
            let (log, by_content) = (self.shared.log_summary(), self.pair.compares_all());
            self.apply(Event::Resynced { log });
            if by_content {
                // Both nodes know that.
                verify::all_is_the_same(&self.shared);
            }
        }
    }

    /// The log begins anew at `point`, where the tree stands: so do the cursors and the Deltas.
    fn begin_anew(&mut self, point: LogPoint) -> Result<(), NodeError> {
        let shared = &self.shared;
        let _no_consistency_point = shared.applier.exclusive();
        shared.path.begun_anew(point)?;
        shared.stack.reset(shared.fresh_layers(point.lsn));
        shared.applier.begin_anew();
        shared.gate.forget_pending();
        shared.gate.set_local_space(point.lsn, shared.local_space());
        shared.follower.restart_at(point, point.lsn);
        shared.resync.set_replacing(false);
        Ok(())
    }

    /// The partner got all that it asked for, or went silent: the log is not held for it for ever.
    pub(super) fn resync_source_ended(&mut self, link: u64) {
        let joined = matches!(self.mode, PairMode::CatchingUp | PairMode::Mirrored | PairMode::HandingOver);
        if self.resync.source_ended(link)
            && !joined
            && let Some(peer) = self.peer_of(LinkId(link))
        {
            peer.drop_link();
        }
    }
}
