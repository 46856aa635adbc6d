//! Links and messages: what is current, what is checked before anything is believed, heartbeats and leases.
//!
//! A new link replaces the one before it, and with it everything that was under way over it.

use crate::meeting::{Meeting, meet, refuse};
use crate::state::{Known, LinkState, PartnerStage, Role};
use crate::{Command, Hello, LinkId, LogSummary, Message, MonoMs, Pair, Posture, Refusal, Vitals};
use ids::Epoch;

/// For how long a partner counts as refused that does not come again.
const REFUSAL_LASTS_MS: u64 = 10_000;

impl Pair {
    pub(crate) fn link_up(&mut self, link: LinkId, log: LogSummary) {
        if self.link.as_ref().is_some_and(|current| current.id >= link) {
            return;
        }
        if let Some(old) = self.link.take() {
            self.link_gone(old.id);
        }
        self.log = log;
        self.link = Some(LinkState { id: link, hello: None });
        self.reports.refusal = None;
        self.say_hello();
    }

    pub(crate) fn link_lost(&mut self, link: LinkId) {
        if self.is_current(link) {
            self.drop_link(link);
        }
    }

    /// Closes the link from here; both sides begin anew with the next.
    pub(crate) fn drop_link(&mut self, link: LinkId) {
        self.emit(Command::DropLink { link });
        self.link = None;
        self.link_gone(link);
    }

    fn link_gone(&mut self, link: LinkId) {
        match self.role {
            Role::Partner(partner) if partner.link == link => self.partner_link_gone(),
            Role::Primary(_) => self.primary_link_gone(),
            _ => {}
        }
    }

    pub(crate) fn message(&mut self, link: LinkId, message: Message) {
        if let Message::Hello(hello) = message {
            return self.hello_came(link, *hello);
        }
        if let Message::Refused(refusal) = message {
            self.refused(refusal);
            return self.drop_link(link);
        }
        if self.peer_hello().is_none() {
            return;
        }
        match message {
            Message::Hello(_) | Message::Refused(_) => {}
            Message::Heartbeat { sent, epoch, vitals } => self.heartbeat(sent, epoch, vitals),
            Message::HeartbeatAnswer { sent, follows, promised_ms, vitals } => {
                self.answer(sent, follows, promised_ms, vitals);
            }
            Message::Join { epoch, at } => self.join_came(link, epoch, at),
            Message::JoinRefused { epoch, at, reason } => self.join_refused(epoch, at, reason),
            Message::MarkInSync { epoch } => self.mark_in_sync(epoch),
            Message::InSync { epoch } => self.partner_in_sync(epoch),
            Message::RegisterIs(register) => self.register_is(register),
            Message::HandOver { from, epoch, end } => self.handed_over(from, epoch, end),
            Message::WantSwitchover => self.switchover_wanted(),
            Message::Goodbye => self.goodbye(),
            Message::SwitchoverWithdrawn => self.withdrawn_by_partner(),
            Message::SwitchoverOff(_) if matches!(self.role, Role::Primary(_)) => {}
            Message::SwitchoverOff(why) => self.emit(Command::CalledOff(why)),
        }
    }

    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.reports.refusal = Some(refusal);
        self.reports.refused = self.now;
    }

    /// A partner that is there links again and again, and is refused each time. (One below the messages is told of when
    /// that is over.)
    pub(crate) fn forget_refusal(&mut self) {
        let away = self.link.is_none() && self.now.since(self.reports.refused) >= REFUSAL_LASTS_MS;
        self.reports.refusal.take_if(|refusal| away && !matches!(refusal, Refusal::Transport(_)));
    }

    fn hello_came(&mut self, link: LinkId, hello: Hello) {
        if let Err(refusal) = refuse(&self.config, self.durable.granted, &self.hello(), &hello) {
            self.refused(refusal.clone());
            // Seen from there, "ours" and "theirs" change places.
            let turned = match refusal {
                Refusal::Volume { ours, theirs } => Refusal::Volume { ours: theirs, theirs: ours },
                Refusal::Capacity { ours_bytes, theirs_bytes } => {
                    Refusal::Capacity { ours_bytes: theirs_bytes, theirs_bytes: ours_bytes }
                }
                Refusal::Node(_) => Refusal::Node(self.config.me.clone()),
                other => other,
            };
            self.send(Message::Refused(turned));
            return self.drop_link(link);
        }
        if self.peer_hello().is_some_and(|newer| newer.number >= hello.number) {
            return;
        }
        self.reports.refusal = None;
        self.reports.peer_heard = Some(self.now);
        let known = self.epoch_seen();
        if hello.epoch_seen > known {
            // Kept in memory only: it is stored with the next epoch that is opened.
            self.durable.epoch_seen = hello.epoch_seen;
        }
        if let Some(register) = &hello.register {
            let stored = self.durable.register.as_ref().map(|ours| ours.epoch);
            if self.config.witness {
                // Older than what was stored here before a restart: hearsay, perhaps our own. No news either, and
                // the witness itself says that there is none, or an older one: that is what it has lost, said with
                // each `Hello`.
                let lost = matches!(self.known(), Known::Absent | Known::Stale(_));
                // Nor is what the partner says of an epoch of this node, once the witness itself has spoken.
                let own = register.primary == self.config.me && self.desk.answered_at.is_some();
                let again = |ours| ours == register.epoch && !lost && !own;
                if stored.is_none_or(|ours| ours < register.epoch || again(ours)) {
                    self.desk.observe(register);
                }
            } else if stored.is_none_or(|ours| ours < register.epoch) {
                self.durable.register = Some(register.clone());
            }
        }
        let first = self.peer_hello().is_none();
        let posture = hello.posture;
        let known_split = match (&self.role, posture) {
            (Role::Primary(primary), Posture::Waiting | Posture::Unusable) => {
                match meet(&hello, &self.hello(), primary.epoch) {
                    Meeting::Split(split) => Some(split),
                    Meeting::JoinAt(_) | Meeting::NeedsResync(_) => None,
                }
            }
            _ => None,
        };
        if matches!(self.role, Role::Primary(_)) {
            self.reports.split = known_split;
        }
        // Never less than before, or the partner was refused: what is served already stays within it.
        let granted = self.config.base_limits.weaker(hello.base_limits);
        self.store(|state| state.granted = Some(granted));
        if let Some(link) = &mut self.link {
            link.hello = Some(hello);
        }
        if first {
            // It may have missed what changed between our first Hello and now.
            self.say_hello();
        }
        match (posture, &self.role) {
            (Posture::Primary(theirs), Role::Primary(ours)) if theirs > ours.epoch => self.deposed(),
            (Posture::Primary(theirs), Role::Opening(ours)) if theirs > ours.epoch => self.deposed(),
            (Posture::Primary(theirs), Role::Partner(partner)) if theirs != partner.epoch => {
                self.leave_partner();
            }
            _ => {}
        }
    }

    /// The primary sends heartbeats over this link, and they are answered.
    pub(crate) fn answers_heartbeats(&self) -> bool {
        matches!(&self.role, Role::Partner(partner)
            if matches!(partner.stage, PartnerStage::Following { .. }) && self.is_current(partner.link))
    }

    fn heartbeat(&mut self, sent: MonoMs, epoch: Option<Epoch>, vitals: Vitals) {
        self.reports.peer_vitals = Some(vitals);
        self.reports.peer_heard = Some(self.now);
        let mut follows = None;
        let mut committed = None;
        if let Role::Partner(partner) = &mut self.role
            && epoch == Some(partner.epoch)
        {
            partner.heard = self.now;
            follows = epoch;
            if matches!(partner.stage, PartnerStage::Following { .. }) {
                committed = Some(vitals.committed);
            }
        }
        if follows.is_some() {
            self.last_promise = self.now;
        }
        self.emit(Command::PeerVitals { vitals, committed });
        let (vitals, promised_ms) = (self.vitals, self.config.timers.lease_ms);
        self.send(Message::HeartbeatAnswer { sent, follows, promised_ms, vitals });
    }

    fn answer(&mut self, sent: MonoMs, follows: Option<Epoch>, promised_ms: u64, vitals: Vitals) {
        self.reports.peer_vitals = Some(vitals);
        self.reports.peer_heard = Some(self.now);
        if sent > self.now {
            return;
        }
        self.emit(Command::PeerVitals { vitals, committed: None });
        if let Role::Primary(primary) = &mut self.role
            && follows == Some(primary.epoch)
        {
            primary.answered = primary.answered.max(sent);
            // Both nodes should be configured alike; while one is not (yet), the shorter lease counts.
            primary.lease_ms = self.config.timers.lease_ms.min(promised_ms);
            primary.lease_until = primary.lease_until.max(sent.plus(primary.lease_ms));
            self.renew_lease();
        }
    }
}
