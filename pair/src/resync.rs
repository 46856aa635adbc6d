//! A node whose base tree is replaced by the primary's: when that may begin by itself, and what it means meanwhile.
//!
//! Invariant: from before the first change of the tree ([`Event::ResyncBegan`](crate::Event::ResyncBegan)) until it is
//! the primary's at a point of the log ([`Event::Resynced`](crate::Event::Resynced)) this node follows nobody, claims
//! nothing, and is not forced to; that is stored, so a restart changes nothing. What can go wrong: the node holds what
//! nobody else has. Then that is kept aside first ([`Pair::salvages`]), before anything of the tree changes; and one
//! side of a split is never given up but by the operator's word.

use crate::state::Role;
use crate::{DurableState, LinkId, LogSummary, Message, Pair, ResyncReason};

impl Pair {
    /// The link over which a resync should be received now, if one should.
    pub fn wants_resync(&self) -> Option<LinkId> {
        self.reports.needs_resync?;
        let link = self.link.as_ref()?.id;
        let epoch = self.peer_epoch()?;
        let newest = self.desk.register().or(self.durable.register.as_ref());
        let ready = matches!(self.role, Role::Waiting(_))
            && self.stopping.is_none()
            && self.reports.split.is_none()
            && self.effects.revokes_pending == 0
            && !self.desk.swap_pending()
            && newest.is_none_or(|register| register.epoch <= epoch);
        ready.then_some(link)
    }

    /// Before its tree may change, what only this node holds has to be kept aside.
    pub fn salvages(&self) -> bool {
        self.reports.needs_resync.is_some_and(|reason| self.holds_something_alone(reason))
    }

    /// Labels prove nothing: everything has to be compared by content.
    pub fn compares_all(&self) -> bool {
        self.durable.compare_all
    }

    /// Its base tree is being replaced.
    pub fn is_resyncing(&self) -> bool {
        self.durable.resync
    }

    /// Operations that were acknowledged may be in this node's tree and nowhere else.
    fn holds_something_alone(&self, reason: ResyncReason) -> bool {
        let DurableState { resync, solo, .. } = &self.durable;
        let discarded = matches!(reason, ResyncReason::Discarded | ResyncReason::NoCommonPoint);
        !resync && (discarded || solo.is_some())
    }

    /// Can the operator's wish for a resync be met now? `Err` says why not.
    pub(crate) fn can_resync(&self) -> Result<(), String> {
        let no = |why: &str| Err(why.to_owned());
        if self.durable.resync {
            return no("a resync of this node is under way already; `twinfiler status` shows how far it is");
        }
        if self.reports.split.is_some() {
            return no(
                "the volume is split: see `twinfiler split show VOLUME`, then `twinfiler split discard NODE`",
            );
        }
        match &self.role {
            Role::Primary(_) => {
                no("this node is primary, its tree is what the partner is compared with: run the \
                                    command on the partner")
            }
            Role::Partner(_) if !self.config.witness => no(
                "without a witness the primary would acknowledge nothing until the resync has ended; configure one, \
                 or stop this node, let the primary be forced to go on alone, and start this node again",
            ),
            Role::Partner(_) | Role::Waiting(_) if self.peer_epoch().is_some() => Ok(()),
            Role::Partner(_) | Role::Waiting(_) => no("no primary is linked; start the other node"),
            _ => no("this node cannot be resynced now; see `twinfiler status`"),
        }
    }

    /// The primary goes on alone at once, and this node takes over from nobody before its tree has been compared.
    pub(crate) fn resync_wanted(&mut self, by_content: bool) {
        self.store(|state| {
            state.compare_all |= by_content;
            state.in_sync = false;
        });
        self.reports.needs_resync = Some(self.reports.needs_resync.unwrap_or(ResyncReason::Asked));
        if matches!(self.role, Role::Partner(_)) {
            self.send(Message::Goodbye);
            self.leave_partner();
        } else {
            self.say_hello();
        }
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
            // Labels say nothing of contents that differ.
            state.tree_differs &= !state.compare_all;
            state.compare_all = false;
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
