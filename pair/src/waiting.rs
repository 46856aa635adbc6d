//! Neither serving nor following: a node that starts, is outdated or deposed, or froze without a witness.
//!
//! It follows a primary when there is one; else it claims, if the register and its own log allow it. What can
//! go wrong: two nodes that wait for each other. So a node that may claim does, after a bounded patience.

use crate::desk::Purpose;
use crate::meeting::{parted, who_begins};
use crate::state::{Handed, Known, PartnerStage, Role, Waiting, Why};
use crate::witness::{Mode, Register};
use crate::{Command, Lease, Message, MonoMs, Pair, Posture, ResyncReason, StopReason};
use ids::AckRule;
use std::cmp::Ordering;

/// What the register allows this node.
enum Right {
    /// Claim at once: it names this node.
    Mine,
    /// Claim when its primary stays away.
    InTurn,
    /// Create it, as both nodes agreed.
    Begin,
    /// Nothing; follow when possible.
    No,
}

impl Pair {
    /// Stops whatever this node does and waits. The log's end is fixed by the answer to `Revoke`.
    pub(crate) fn wait(&mut self, why: Why, reason: StopReason, handed: Option<Handed>) {
        if self.effects.serving {
            self.emit(Command::StopServing { reason });
        }
        self.set_rule(AckRule::Nobody);
        self.set_lease(Lease::None);
        self.stop_mirroring();
        self.emit(Command::Revoke);
        let timers = &self.config.timers;
        let patience = self.now.plus(timers.failure_timeout_ms);
        self.role = Role::Waiting(Waiting { why, patience, join_not_before: self.now, handed });
        self.say_hello();
    }

    /// Another node has a later epoch (or the register says so).
    pub(crate) fn deposed(&mut self) {
        let me = self.config.me.clone();
        let alone = self.desk.register().is_none_or(|register| register.mode == Mode::Solo);
        let theirs = self.desk.register().is_none_or(|register| register.primary != me);
        if alone && theirs {
            self.store(|state| state.in_sync = false);
        }
        // What this primary made of a node that wanted to join it; it now wants to join that node.
        self.reports.split = None;
        self.wait(Why::Deposed, StopReason::Deposed, None);
    }

    pub(crate) fn run_waiting(&mut self) {
        if self.stopping.is_some() {
            return self.stop_when_handed();
        }
        if self.effects.revokes_pending > 0 {
            return;
        }
        if self.may_follow() {
            return self.follow();
        }
        if self.reports.needs_resync.is_some() || self.reports.split.is_some() {
            return;
        }
        let Role::Waiting(waiting) = &self.role else { return };
        let patient = self.now < waiting.patience;
        match self.right() {
            Right::Mine => self.claim(false, false, self.now),
            Right::InTurn if !patient => self.claim(false, false, self.now),
            Right::Begin => self.claim(false, true, self.now),
            Right::InTurn | Right::No => self.look(),
        }
    }

    /// Asks the witness what the register says, now and then.
    pub(crate) fn look(&mut self) {
        let pause_ms = match self.known() {
            Known::Nothing => 0,
            Known::Absent | Known::Stale(_) | Known::Is(_) => self.config.timers.witness_check_ms,
        };
        if self.config.witness && self.desk.ready(self.now) && self.now.since(self.desk.looked) >= pause_ms {
            self.ask(Purpose::Look, None);
        }
    }

    pub(crate) fn ask(&mut self, purpose: Purpose, swap: Option<(Option<Register>, Register)>) {
        let (request, ask) = self.desk.ask(self.now, self.log.volume, purpose, swap);
        self.emit(Command::AskWitness { request, ask });
    }

    fn right(&mut self) -> Right {
        let handed = matches!(&self.role, Role::Waiting(waiting) if waiting.handed.is_some());
        if !self.config.witness {
            return if !handed && self.begins() { Right::Begin } else { Right::No };
        }
        match self.known() {
            Known::Nothing => Right::No,
            Known::Absent | Known::Stale(_) if self.begins() => Right::Begin,
            Known::Absent | Known::Stale(_) => {
                self.look_for_a_split();
                Right::No
            }
            Known::Is(register) => {
                let names_me = register.primary == self.config.me;
                match register.mode {
                    _ if names_me && !self.durable.in_sync && self.log.history.entries().is_empty() => {
                        self.reports.needs_resync = Some(ResyncReason::LogLost);
                        Right::No
                    }
                    // The other node was forced to serve, and no witness heard of it.
                    _ if names_me && !self.durable.in_sync => {
                        self.outdated();
                        Right::No
                    }
                    Mode::Solo if names_me => Right::Mine,
                    Mode::Mirrored if self.durable.tree_differs && !names_me => Right::No,
                    Mode::Mirrored if self.durable.in_sync => self.right_beside_the_partner(&register),
                    Mode::Mirrored => Right::No,
                    Mode::Solo => {
                        self.outdated();
                        Right::No
                    }
                }
            }
        }
    }

    /// The register is mirrored: both logs hold everything, as far as it knows. So a log that is behind the other may
    /// be an older one that was brought back, and the one that is ahead goes first.
    fn right_beside_the_partner(&mut self, register: &Register) -> Right {
        let names_me = register.primary == self.config.me;
        if self.unproven && self.peer_hello().is_none() {
            // The other node may hold what this log acknowledged out of memory and lost.
            return Right::No;
        }
        let Some(theirs) = self.peer_hello().filter(|theirs| theirs.in_sync && theirs.log.survived) else {
            // Nothing to compare with, or nothing better.
            return if self.peer_hello().is_some() && names_me { Right::Mine } else { Right::InTurn };
        };
        // One that follows, or takes over, has a log that its Hello does not tell of any more; so has one that was given
        // an epoch of which its Hello does not know.
        let waits = theirs.posture == Posture::Waiting
            && theirs.epoch_seen >= register.epoch
            && matches!(&self.role, Role::Waiting(waiting) if waiting.handed.is_none());
        if waits && theirs.log.committed > self.log.end.lsn {
            self.needs_resync(ResyncReason::LogLost);
            return Right::No;
        }
        match theirs.log.reach().cmp(&self.log.reach()) {
            // What it holds now may be more than its Hello tells, and more than this node.
            _ if self.unproven && !waits => Right::No,
            Ordering::Less if names_me || waits => Right::Mine,
            Ordering::Equal if names_me => Right::Mine,
            Ordering::Greater if waits || theirs.posture == Posture::Claiming => Right::No,
            _ => Right::InTurn,
        }
    }

    /// The other node acknowledged alone, as the register or an operator allowed it.
    fn outdated(&mut self) {
        if let Role::Waiting(waiting) = &mut self.role
            && waiting.why != Why::Deposed
        {
            waiting.why = Why::Outdated;
        }
        self.alone_is_the_other();
        self.look_for_a_split();
    }

    /// Both may wait here, one for the other, although each acknowledged what the other lacks.
    fn look_for_a_split(&mut self) {
        let split = self.peer_hello().and_then(|theirs| parted(&self.hello(), theirs));
        if split.is_some() {
            self.reports.split = split;
            self.say_hello();
        }
    }

    /// The register, or an operator, lets the other node acknowledge alone. In the epoch of this log's end that may be
    /// news from before both were in sync, with the swap to mirrored still on its way: then only that is remembered, for
    /// the register decides.
    pub(crate) fn alone_is_the_other(&mut self) {
        let last = self.log.history.last().map(|last| last.epoch);
        let register = self.desk.register().filter(|register| Some(register.epoch) == last).cloned();
        self.store(|state| match register {
            Some(register) if state.in_sync => state.register = Some(register),
            _ => state.in_sync = false,
        });
    }

    /// Both nodes are here, wait, and agree that this one opens the first epoch?
    fn begins(&self) -> bool {
        let Some(theirs) = self.peer_hello() else { return false };
        who_begins(&self.config, &self.hello(), theirs).is_some_and(|name| name == self.config.me)
    }

    /// The link is up, the partner is a primary, and no swap of ours may still happen.
    fn may_follow(&self) -> bool {
        let Role::Waiting(waiting) = &self.role else { return false };
        let Some(epoch) = self.peer_epoch() else { return false };
        self.now >= waiting.join_not_before
            && !self.desk.swap_pending()
            && !self.durable.discarded
            && !self.durable.resync
            && !self.durable.compare_all
            && self.reports.needs_resync != Some(ResyncReason::Asked)
            && self.newest_register().is_none_or(|register| register.epoch <= epoch)
    }

    /// Repeats, once per heartbeat, what may have been lost.
    pub(crate) fn repeat(&mut self) {
        let settled = match &self.role {
            Role::Waiting(waiting) => {
                if let Some(Handed { from, epoch, end }) = waiting.handed {
                    self.send(Message::HandOver { from, epoch, end });
                }
                false
            }
            // A primary that has not heard this node's Hello answers no join.
            Role::Partner(partner) => !matches!(partner.stage, PartnerStage::Joining { .. }),
            Role::Primary(primary) => primary.catch.is_some() || primary.joined_link().is_some(),
            _ => false,
        };
        if !settled || self.peer_hello().is_none() {
            self.say_hello();
        }
        self.repeat_in_barrier();
    }

    pub(crate) fn waiting_deadline(&self) -> Option<MonoMs> {
        match &self.role {
            Role::Waiting(waiting) if waiting.patience > self.now => Some(waiting.patience),
            _ => None,
        }
    }
}
