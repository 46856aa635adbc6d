//! The primary's side of a join: check where the partner's log ends, mirror, barrier, mirrored.
//!
//! Invariants: (1) `solo` is cleared only after the rule `Both` is in force and the partner holds everything
//! that was committed before; (2) the register says mirrored only after the partner has stored that it is in
//! sync, and out of memory nothing is answered before; (3) once that swap has been asked, this node never acknowledges alone in this epoch again, for the
//! swap may succeed late.

use crate::desk::Purpose;
use crate::state::{BarrierStage, Catching, PrimaryMode, Role};
use crate::witness::Mode;
use crate::{Command, JoinRefusal, Lease, LinkId, Message, MonoMs, Pair, PointVerdict};
use ids::{AckRule, Epoch, LogPoint, Lsn};

impl Pair {
    pub(crate) fn join_came(&mut self, link: LinkId, epoch: Epoch, at: LogPoint) {
        let refuse = |reason| Message::JoinRefused { epoch, at, reason };
        let Role::Primary(mut primary) = self.role else {
            return self.send(refuse(JoinRefusal::NotPrimary));
        };
        if primary.epoch != epoch {
            return self.send(refuse(JoinRefusal::NotPrimary));
        }
        let open_to_join = matches!(primary.mode, PrimaryMode::Solo | PrimaryMode::Frozen { .. });
        let busy = primary.catch.is_some_and(|catch| catch.link == link);
        if !open_to_join || busy || self.stopping.is_some() {
            if busy || primary.joined_link() == Some(link) {
                // The partner did not hear that it was let in.
                self.tell_register();
            }
            return;
        }
        if matches!(primary.mode, PrimaryMode::Frozen { .. }) && self.desk.swap_pending() {
            return;
        }
        let alone = matches!(primary.mode, PrimaryMode::Solo);
        if alone && self.shuts_partner_out() {
            return;
        }
        // Without a witness nobody goes on alone meanwhile, but by force: then it is better to try at once.
        let trusted = if self.config.witness || alone { self.distrust.until } else { self.now };
        let (since, barrier_not_before) = (self.now, self.now.max(trusted));
        primary.catch = Some(Catching { link, at, mirroring: false, barrier_not_before, since });
        self.role = Role::Primary(primary);
        self.emit(Command::SetHold(Some(at.lsn)));
        self.emit(Command::CheckPoint { link, point: at });
    }

    /// What the register says, or would say without a witness; also "you are in" for the joining node.
    pub(crate) fn tell_register(&mut self) {
        let Role::Primary(primary) = self.role else { return };
        if primary.catch.is_some_and(|catch| !catch.mirroring) {
            return;
        }
        let mode = match primary.mode {
            PrimaryMode::Mirrored { .. } | PrimaryMode::HandingOver { .. } => Mode::Mirrored,
            _ => Mode::Solo,
        };
        let register = match self.desk.register() {
            Some(register) if self.config.witness => register.clone(),
            _ => self.register_of(primary.epoch, mode, None),
        };
        self.send(Message::RegisterIs(register));
    }

    pub(crate) fn point_checked(&mut self, link: LinkId, point: LogPoint, verdict: PointVerdict) {
        let Role::Primary(mut primary) = self.role else { return };
        let Some(mut catch) = primary.catch else { return };
        if catch.link != link || catch.at != point || catch.mirroring || !self.is_current(link) {
            return;
        }
        let reason = match verdict {
            PointVerdict::Continues => {
                catch.mirroring = true;
                // What an earlier partner had acknowledged says nothing about this one.
                self.vitals.peer_durable = Lsn::ZERO;
                catch.since = self.now;
                primary.catch = Some(catch);
                self.role = Role::Primary(primary);
                self.emit(Command::StartMirroring { link, from: point });
                return self.tell_register();
            }
            PointVerdict::TooOld => JoinRefusal::TooOld,
            PointVerdict::Differs => JoinRefusal::Differs,
        };
        primary.catch = None;
        self.role = Role::Primary(primary);
        self.stop_mirroring();
        self.send(Message::JoinRefused { epoch: primary.epoch, at: point, reason });
    }

    /// Begins the barrier when the partner misses little.
    pub(crate) fn run_catching(&mut self) {
        let Role::Primary(mut primary) = self.role else { return };
        let Some(catch) = primary.catch else { return };
        let timers = &self.config.timers;
        let heard = primary.answered.max(catch.since);
        if self.now.since(heard) >= timers.failure_timeout_ms {
            return self.drop_link(catch.link);
        }
        let from_solo = matches!(primary.mode, PrimaryMode::Solo);
        let near = self.vitals.peer_durable >= catch.at.lsn
            && self.vitals.end.since(self.vitals.peer_durable) <= timers.barrier_lag_bytes;
        // Behind this node's own log device nobody hears what the partner acknowledges.
        if !catch.mirroring || !near || self.now < catch.barrier_not_before || self.vitals.log_is_slow {
            return;
        }
        if !from_solo && self.desk.swap_pending() {
            return;
        }
        primary.catch = None;
        primary.answered = self.now;
        primary.mode = PrimaryMode::Barrier {
            link: catch.link,
            stage: BarrierStage::AwaitRule,
            since: self.now,
            from: self.vitals.peer_durable,
            alone_ok: from_solo,
        };
        self.role = Role::Primary(primary);
        self.emit(Command::SetAckRule(AckRule::Both));
        self.set_lease(primary.lease());
    }

    fn barrier(&mut self, next: BarrierStage) {
        if let Role::Primary(primary) = &mut self.role
            && let PrimaryMode::Barrier { stage, .. } = &mut primary.mode
        {
            *stage = next;
        }
    }

    fn barrier_at(&self) -> Option<(LinkId, BarrierStage)> {
        match &self.role {
            Role::Primary(primary) => match primary.mode {
                PrimaryMode::Barrier { link, stage, .. } => Some((link, stage)),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn rule_set(&mut self, committed: Lsn) {
        if let Some((link, BarrierStage::AwaitRule)) = self.barrier_at() {
            self.barrier(BarrierStage::AwaitPeer { lsn: committed });
            self.emit(Command::AwaitPeer { link, lsn: committed });
        }
    }

    pub(crate) fn peer_reached(&mut self, link: LinkId, lsn: Lsn) {
        if let Some((ours, BarrierStage::AwaitPeer { lsn: wanted })) = self.barrier_at()
            && ours == link
            && lsn >= wanted
        {
            self.barrier(BarrierStage::AwaitMark);
            self.repeat_in_barrier();
        }
    }

    /// `MarkInSync`, or the news that the pair is mirrored, may have been lost.
    pub(crate) fn repeat_in_barrier(&mut self) {
        if matches!(&self.role, Role::Primary(primary) if matches!(primary.mode, PrimaryMode::Mirrored { .. }))
        {
            self.tell_register();
        }
        if let (Some((_, BarrierStage::AwaitMark)), Role::Primary(primary)) = (self.barrier_at(), &self.role)
        {
            let epoch = primary.epoch;
            self.send(Message::MarkInSync { epoch });
        }
    }

    pub(crate) fn partner_in_sync(&mut self, epoch: Epoch) {
        let (Some((_, BarrierStage::AwaitMark)), Role::Primary(primary)) = (self.barrier_at(), &self.role)
        else {
            return;
        };
        if primary.epoch != epoch {
            return;
        }
        self.store(|state| state.solo = None);
        let already = self.desk.register().cloned().is_some_and(|register| self.is_mirrored(&register));
        if already || !self.config.witness {
            return self.enter_mirrored();
        }
        self.barrier(BarrierStage::Swapping);
        if let Role::Primary(primary) = &mut self.role
            && let PrimaryMode::Barrier { alone_ok, .. } = &mut primary.mode
        {
            *alone_ok = false;
        }
    }

    pub(crate) fn run_barrier(&mut self, stage: BarrierStage, since: MonoMs) {
        let Role::Primary(mut primary) = self.role else { return };
        if stage == BarrierStage::Swapping {
            if self.desk.ready(self.now) {
                self.ask_for_mirrored();
            }
            return;
        }
        let PrimaryMode::Barrier { link, from, alone_ok: true, .. } = primary.mode else { return };
        if self.now.since(since) < self.config.timers.barrier_timeout_ms {
            return;
        }
        let owed = matches!(stage, BarrierStage::AwaitPeer { lsn } if lsn > from);
        if owed && self.vitals.peer_durable <= from && !self.vitals.log_is_slow {
            // It owed that from the beginning, and acknowledged nothing: no better the next time.
            return self.partner_stalls(link);
        }
        // Too slow for clients to wait: alone again for a while, the partner goes on catching up.
        primary.mode = PrimaryMode::Solo;
        primary.catch = Some(Catching {
            link,
            at: LogPoint { lsn: self.vitals.peer_durable, ..self.log.tail },
            mirroring: true,
            barrier_not_before: self.now.plus(self.config.timers.join_retry_ms),
            since: self.now,
        });
        self.role = Role::Primary(primary);
        self.emit(Command::SetAckRule(AckRule::Local));
        self.set_lease(Lease::Forever);
    }

    fn ask_for_mirrored(&mut self) {
        let Role::Primary(primary) = self.role else { return };
        let expected = self.desk.register().cloned();
        if let Some(register) = &expected {
            if self.is_mirrored(register) {
                return self.enter_mirrored();
            }
            if register.epoch > primary.epoch && register.primary != self.config.me {
                return self.deposed();
            }
        }
        // An own claim that landed late named an epoch that was never opened; the new value keeps it.
        let epoch = expected.as_ref().map_or(primary.epoch, |register| register.epoch.max(primary.epoch));
        if epoch > primary.epoch {
            return self.open(epoch, true, None);
        }
        let new = self.register_of(epoch, Mode::Mirrored, expected.as_ref());
        self.ask(Purpose::Mirror, Some((expected, new)));
    }

    /// Both logs hold everything acknowledged, and the register says so.
    pub(crate) fn enter_mirrored(&mut self) {
        let Role::Primary(mut primary) = self.role else { return };
        let Some(link) = primary.joined_link() else { return };
        primary.mode = PrimaryMode::Mirrored { link };
        self.role = Role::Primary(primary);
        if self.effects.hold {
            self.emit(Command::SetHold(None));
        }
        let register = match self.desk.register() {
            Some(register) if self.config.witness => register.clone(),
            _ => self.register_of(primary.epoch, Mode::Mirrored, self.durable.register.clone().as_ref()),
        };
        let from_memory = self.answers_from_memory();
        self.store(|state| {
            state.register = Some(register);
            state.from_memory = from_memory;
        });
        if from_memory {
            self.set_rule(AckRule::Memory);
        }
        self.tell_register();
    }
}
