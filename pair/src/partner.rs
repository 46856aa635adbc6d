//! Following a primary: cut the log where it parts, join, receive, and notice when the primary is gone.
//!
//! Invariant: only in this role may the other node write into this log, and only in this role is a read lease
//! promised to it.

use crate::desk::Purpose;
use crate::meeting::{Meeting, meet};
use crate::state::{Partner, PartnerStage, Role, Why};
use crate::witness::{Mode, Register};
use crate::{Command, JoinRefusal, LogSummary, Message, MonoMs, Pair, ResyncReason, StopReason};
use ids::{Epoch, LogPoint};

impl Pair {
    /// The partner is a primary: find out how to join it, and begin.
    pub(crate) fn follow(&mut self) {
        let (Some(theirs), Some(epoch), Some(link)) = (self.peer_hello(), self.peer_epoch(), &self.link)
        else {
            return;
        };
        let link = link.id;
        match meet(&self.hello(), theirs, epoch) {
            Meeting::NeedsResync(reason) => self.needs_resync(reason),
            Meeting::Split(split) => {
                let news = self.reports.split.is_none();
                self.reports.split = Some(split);
                self.store(|state| state.in_sync = false);
                self.hold_off();
                if news {
                    self.say_hello();
                }
            }
            Meeting::JoinAt(cut) => {
                self.reports.needs_resync = None;
                self.reports.split = None;
                let stage = PartnerStage::Truncating;
                let mut partner = Partner { epoch, link, stage, heard: self.now, broken: None };
                if cut < self.log.end.lsn {
                    self.emit(Command::TruncateLog { to: cut });
                    self.role = Role::Partner(partner);
                } else {
                    partner.stage = PartnerStage::Joining { sent: self.now, at: self.log.end };
                    self.role = Role::Partner(partner);
                    self.join(partner);
                }
            }
        }
    }

    fn hold_off(&mut self) {
        let until = self.now.plus(self.config.timers.join_retry_ms);
        if let Role::Waiting(waiting) = &mut self.role {
            waiting.join_not_before = until;
        }
    }

    /// The log cannot bring this node up to date; looked at again with every link.
    pub(crate) fn needs_resync(&mut self, reason: ResyncReason) {
        let news = self.reports.needs_resync != Some(reason);
        self.reports.needs_resync = Some(reason);
        self.store(|state| state.in_sync = false);
        self.hold_off();
        if news {
            self.say_hello();
        }
    }

    fn join(&mut self, partner: Partner) {
        let (link, at) = (partner.link, self.log.end);
        self.emit(Command::Grant { link });
        self.emit(Command::StartReceiving { link, at });
        self.emit(Command::Send { link, message: Message::Join { epoch: partner.epoch, at } });
    }

    pub(crate) fn truncated(&mut self, result: Result<LogSummary, String>) {
        match result {
            Ok(log) => {
                self.log = log;
                if let Role::Partner(mut partner) = self.role
                    && partner.stage == PartnerStage::Truncating
                    && self.is_current(partner.link)
                {
                    // What only this log held is gone: it was never acknowledged.
                    self.store(|state| state.solo = None);
                    partner.stage = PartnerStage::Joining { sent: self.now, at: self.log.end };
                    self.role = Role::Partner(partner);
                    self.join(partner);
                }
            }
            Err(_) => {
                if matches!(self.role, Role::Partner(_)) {
                    self.leave_partner();
                }
                self.needs_resync(ResyncReason::CannotTruncate);
            }
        }
    }

    pub(crate) fn run_partner(&mut self) {
        let Role::Partner(partner) = &self.role else { return };
        if self.stopping.is_some() {
            return self.stop_now();
        }
        if self.peer_epoch() == Some(partner.epoch) && !self.is_current(partner.link) {
            // The primary is back over another link: begin anew from what has landed.
            return self.leave_partner();
        }
        let me = &self.config.me;
        let handed_over = |register: &Register| register.mode == Mode::Mirrored && register.primary == *me;
        let newer = self
            .desk
            .register()
            .is_some_and(|register| register.epoch > partner.epoch && !handed_over(register));
        if newer {
            // (Not a switchover, whose register may be heard of before the `HandOver` itself comes.) A swap of this node, or of an operator, that came late: its epoch must be opened, for the register
            // grants nothing to the primary of an older one.
            return self.leave_partner();
        }
        if self.now >= self.given_up_at(partner) {
            let heard = partner.heard;
            return self.primary_lost(heard);
        }
        let Role::Partner(partner) = &mut self.role else { return };
        let timers = &self.config.timers;
        if let PartnerStage::Joining { sent, at } = partner.stage
            && self.now.since(sent) >= timers.heartbeat_ms * 2
        {
            partner.stage = PartnerStage::Joining { sent: self.now, at };
            let (link, epoch) = (partner.link, partner.epoch);
            self.emit(Command::Send { link, message: Message::Join { epoch, at } });
        }
        // It is this node that will need the witness, when the primary is lost.
        self.look();
    }

    /// When the primary counts as lost: after the failure timeout in silence. Sooner where the link broke, which is
    /// how the end of a process shows at once: when the lease that this node promised has ended (a claim must wait for
    /// that anyway), and a primary that lives has had the time to make another link, or to ask the witness first.
    ///
    /// A broken link proves nothing about the primary, so it shortens no lease: one that lives may answer reads, and
    /// its kernel may give what it keeps, until the lease ends.
    fn given_up_at(&self, partner: &Partner) -> MonoMs {
        let timers = &self.config.timers;
        let silence = partner.heard.plus(timers.failure_timeout_ms);
        match partner.broken {
            Some(broken) if self.link.is_none() => {
                let first_turn = broken.plus(timers.link_grace_ms + timers.heartbeat_ms);
                silence.min(first_turn.max(self.promise_ends()))
            }
            // The other node's process lives: it has made a link, or has one.
            _ => silence,
        }
    }

    /// The primary is lost. Revoke first, whatever comes next.
    fn primary_lost(&mut self, heard: MonoMs) {
        if let Some(link) = &self.link {
            let link = link.id;
            self.emit(Command::DropLink { link });
            self.link = None;
        }
        if self.config.witness
            && self.durable.in_sync
            && !self.unproven
            && !self.durable.tree_differs
            && self.stopping.is_none()
        {
            self.claim(false, false, heard);
        } else {
            self.leave_partner();
        }
    }

    /// The link broke. The role stays for a while: the primary may come back, and its lease runs.
    pub(crate) fn partner_link_gone(&mut self) {
        if let Role::Partner(partner) = &mut self.role {
            partner.broken = Some(self.now);
        }
    }

    pub(crate) fn leave_partner(&mut self) {
        let why = match (self.durable.in_sync, self.config.witness) {
            (false, _) => Why::Outdated,
            (true, true) => Why::Starting,
            (true, false) => Why::Frozen,
        };
        self.wait(why, StopReason::Deposed, None);
    }

    pub(crate) fn register_is(&mut self, register: Register) {
        let Role::Partner(mut partner) = self.role else { return };
        if self.config.witness {
            if self.desk.in_doubt(&register) && self.desk.ready(self.now) {
                self.ask(Purpose::Look, None);
            }
            self.desk.observe(&register);
        } else if register.epoch == partner.epoch {
            self.store(|state| state.register = Some(register.clone()));
        }
        // An older value that comes late is told from a newer one by its generation.
        let newest = self.desk.register().unwrap_or(&register);
        let mirrored = newest.mode == Mode::Mirrored
            && newest.epoch == partner.epoch
            && self.durable.in_sync
            && !self.unproven;
        if !matches!(partner.stage, PartnerStage::Truncating) {
            partner.stage = PartnerStage::Following { mirrored };
            self.role = Role::Partner(partner);
        }
    }

    pub(crate) fn mark_in_sync(&mut self, epoch: Epoch) {
        let Role::Partner(partner) = &self.role else { return };
        if partner.epoch == epoch && matches!(partner.stage, PartnerStage::Following { .. }) {
            let from_memory = self.answers_from_memory();
            self.unproven = false;
            self.store(|state| {
                state.in_sync = true;
                state.from_memory = from_memory;
                state.solo = None;
                state.epoch_seen = state.epoch_seen.max(epoch);
            });
            self.send(Message::InSync { epoch });
        }
    }

    pub(crate) fn join_refused(&mut self, epoch: Epoch, at: LogPoint, reason: JoinRefusal) {
        let Role::Partner(partner) = &self.role else { return };
        let asked = matches!(partner.stage, PartnerStage::Joining { at: ours, .. } if ours == at);
        if partner.epoch != epoch || !asked {
            return;
        }
        self.leave_partner();
        match reason {
            JoinRefusal::TooOld => self.needs_resync(ResyncReason::TooOld),
            JoinRefusal::Differs => self.needs_resync(ResyncReason::NoCommonPoint),
            JoinRefusal::NotPrimary | JoinRefusal::Later => self.hold_off(),
        }
    }

    /// The other node stops.
    pub(crate) fn goodbye(&mut self) {
        match self.role {
            // It serves no more, so its lease has ended too.
            Role::Partner(partner) => {
                self.last_promise = MonoMs(
                    self.now
                        .0
                        .saturating_sub(self.config.timers.lease_ms + self.config.timers.drift_margin_ms),
                );
                self.primary_lost(partner.heard);
            }
            Role::Primary(_) => {
                if let Some(link) = &self.link {
                    let link = link.id;
                    self.drop_link(link);
                }
                self.claim_now();
            }
            _ => {}
        }
    }

    pub(crate) fn partner_deadline(&self) -> Option<MonoMs> {
        match &self.role {
            Role::Partner(partner) => Some(self.given_up_at(partner)),
            _ => None,
        }
    }
}
