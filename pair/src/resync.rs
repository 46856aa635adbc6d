//! A node whose base tree is replaced by the primary's: when that may begin by itself, and what it means meanwhile.
//!
//! Invariant: from before the first change of the tree ([`Event::ResyncBegan`](crate::Event::ResyncBegan)) until it is
//! the primary's at a point of the log ([`Event::Resynced`](crate::Event::Resynced)) this node follows nobody, claims
//! nothing, and is not forced to; that is stored, so a restart changes nothing. What can go wrong: the node holds what
//! nobody else has. Then nothing begins by itself, for it would be lost.

use crate::state::Role;
use crate::{DurableState, LinkId, LogSummary, Pair, ResyncReason};

impl Pair {
    /// The link over which a resync should be received now, if one should.
    pub fn wants_resync(&self) -> Option<LinkId> {
        let reason = self.reports.needs_resync?;
        let link = self.link.as_ref()?.id;
        let epoch = self.peer_epoch()?;
        let newest = self.desk.register().or(self.durable.register.as_ref());
        let ready = matches!(self.role, Role::Waiting(_))
            && self.stopping.is_none()
            && self.reports.split.is_none()
            && self.effects.revokes_pending == 0
            && !self.desk.swap_pending()
            && newest.is_none_or(|register| register.epoch <= epoch);
        (ready && !self.holds_something_alone(reason)).then_some(link)
    }

    /// Its base tree is being replaced.
    pub fn is_resyncing(&self) -> bool {
        self.durable.resync
    }

    /// Operations that were acknowledged may be in this node's tree and nowhere else.
    pub(crate) fn holds_something_alone(&self, reason: ResyncReason) -> bool {
        let DurableState { resync, solo, .. } = &self.durable;
        let discarded = matches!(reason, ResyncReason::Discarded | ResyncReason::NoCommonPoint);
        !resync && (discarded || solo.is_some())
    }

    pub(crate) fn resync_began(&mut self) {
        if self.wants_resync().is_some() {
            self.store(|state| {
                state.resync = true;
                state.in_sync = false;
            });
        }
    }

    /// The tree is the primary's at the end of this log, which begins there.
    pub(crate) fn resynced(&mut self, log: LogSummary) {
        if !self.durable.resync || !matches!(self.role, Role::Waiting(_)) {
            return;
        }
        self.log = log;
        self.reports.needs_resync = None;
        self.reports.split = None;
        self.store(|state| {
            state.resync = false;
            state.discarded = false;
            state.solo = None;
            // Whatever is older than this log is in the tree alone.
            state.origin_empty = Some(false);
        });
        if let Role::Waiting(waiting) = &mut self.role {
            waiting.join_not_before = self.now;
        }
        self.say_hello();
    }
}
