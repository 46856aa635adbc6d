//! Leaving the primary's place on purpose: a planned switchover, a local fault, the end of the process.
//!
//! (e, me, mirrored) → (e', partner, mirrored): drain, swap, stop serving, tell. Before the swap was asked
//! everything can be called off. After it, the register decides: if the swap is known not to have left this
//! node, off; otherwise clients are held until the register has been seen.

use crate::desk::Purpose;
use crate::state::{AskedBy, HandOverStage, Known, Primary, PrimaryMode, Role};
use crate::witness::{Mode, Register};
use crate::{
    CallOff, Command, FailedPart, Lease, LinkId, Message, MonoMs, Operator, Pair, ResyncReason, StopReason,
};
use ids::{AckRule, LogPoint, Lsn};

impl Pair {
    /// Can this wish be met now? `Err` says why not, for the operator.
    ///
    /// # Errors
    /// A line for the operator.
    pub fn can(&self, wish: Operator) -> Result<(), String> {
        let no = |why: &str| Err(why.to_owned());
        match (wish, &self.role) {
            (Operator::Switchover, Role::Primary(primary)) => match primary.mode {
                PrimaryMode::Mirrored { .. } if !self.peer_healthy() => {
                    no("the partner cannot apply to its own disk; repair it first")
                }
                PrimaryMode::Mirrored { .. } if self.peer_replays() => no(
                    "the partner replays more of its log than fits into `consistency_point.memory`, and clients would wait \
                     for that; ask again when `twinfiler status` there shows that it has applied it",
                ),
                PrimaryMode::Mirrored { .. } if self.witness_is_away() => no(
                    "the witness does not answer, and only it can give the volume to the partner; bring it back first",
                ),
                PrimaryMode::Mirrored { .. } => Ok(()),
                PrimaryMode::HandingOver { .. } => no("a switchover is under way"),
                _ => no("the pair is not mirrored; wait until the partner has caught up"),
            },
            (Operator::Switchover, Role::Partner(_)) if self.durable.in_sync => Ok(()),
            (Operator::Switchover, Role::Partner(_)) => {
                no("this node has not caught up with the primary yet")
            }
            (Operator::Switchover, Role::Claiming(_) | Role::Opening(_)) => no(
                "there is no primary to ask: this node takes over as soon as the witness lets it, or with `twinfiler \
                 takeover VOLUME --force`, once the other node is certainly down",
            ),
            (Operator::Switchover, _) => no(
                "there is no primary to ask, or it is not connected; `twinfiler status` says what this node waits for",
            ),
            (Operator::ForceTakeover, Role::Primary(primary)) => match primary.mode {
                PrimaryMode::Frozen { .. } => Ok(()),
                _ => no("this node is primary and serves"),
            },
            (Operator::ForceTakeover, Role::Failed(..) | Role::Stopped | Role::Opening(_)) => {
                no("this node cannot serve now")
            }
            (Operator::ForceTakeover, _) => self.can_be_forced(),
            (Operator::DiscardLocal, Role::Waiting(_)) if self.reports.split.is_some() => Ok(()),
            (Operator::DiscardLocal, Role::Primary(_)) if self.reports.split.is_some() => no(
                "this side serves clients; to discard it, first make the other node serve: there, `twinfiler \
                 takeover VOLUME --force`",
            ),
            (Operator::DiscardLocal, _) => no("the volume is not split here; there is nothing to discard"),
            (Operator::Resync { .. }, _) => self.can_resync(),
        }
    }

    /// May an operator make this node serve what is in its tree? Not when that is known to be nothing, or half of it.
    pub(crate) fn can_be_forced(&self) -> Result<(), String> {
        let no = |why: &str| Err(why.to_owned());
        if self.durable.resync {
            return no(
                "this node's tree is half replaced by the primary's; it cannot serve before the resync has ended",
            );
        }
        if self.reports.needs_resync == Some(ResyncReason::FirstCopy) {
            return no(
                "this node is empty and waits for its first copy: to serve it would replace the volume by nothing. \
                 Start the other node, which has the data",
            );
        }
        // In sync with nothing: the pair was mirrored before anything was written.
        let blank = !self.durable.in_sync
            && self.log.base_empty
            && self.log.end.lsn == Lsn::ZERO
            && self.log.history.entries().is_empty();
        let formed = self.newest_register().is_some()
            || self
                .peer_hello()
                .is_some_and(|theirs| !theirs.log.base_empty || theirs.log.end.lsn > Lsn::ZERO);
        let asked = !self.config.witness || self.desk.known == Known::Absent;
        if blank && formed {
            return no(
                "this node's log and tree are empty, and the volume is not new: to serve here would replace it by \
                 nothing. Start the other node, which has the data",
            );
        }
        if blank && !asked {
            return no(
                "this node's log and tree are empty, and the witness does not say whether the volume is new: to serve \
                 here could replace it by nothing. Bring the witness or the other node back",
            );
        }
        Ok(())
    }

    /// The command that asked for it has ended. What is with the witness already cannot be taken back: its answer
    /// decides, and it is not asked for that again.
    pub(crate) fn withdrawn(&mut self, wish: Operator) {
        match (wish, &mut self.role) {
            (Operator::ForceTakeover, Role::Claiming(claiming)) if claiming.forced => {
                claiming.forced = false;
                if !self.desk.swap_pending() {
                    self.leave_partner();
                }
            }
            (
                Operator::Switchover,
                Role::Primary(Primary {
                    mode: PrimaryMode::HandingOver { link, stage: HandOverStage::Draining { .. }, .. },
                    ..
                }),
            ) => {
                let link = *link;
                self.call_off(link, CallOff::Withdrawn);
            }
            (
                Operator::Switchover,
                Role::Primary(Primary {
                    mode: PrimaryMode::HandingOver { stage: HandOverStage::Swapping { withdrawn, .. }, .. },
                    ..
                }),
            ) => *withdrawn = true,
            (Operator::Switchover, Role::Partner(_)) => self.send(Message::SwitchoverWithdrawn),
            _ => {}
        }
    }

    pub(crate) fn withdrawn_by_partner(&mut self) {
        if let Role::Primary(primary) = &self.role
            && let PrimaryMode::HandingOver { asked: AskedBy::Partner, .. } = primary.mode
        {
            self.withdrawn(Operator::Switchover);
        }
    }

    pub(crate) fn operator(&mut self, wish: Operator) {
        if self.can(wish).is_err() {
            return;
        }
        match (wish, &self.role) {
            (Operator::Switchover, Role::Primary(_)) => self.begin_handover(AskedBy::This),
            (Operator::Switchover, _) => self.send(Message::WantSwitchover),
            (Operator::ForceTakeover, Role::Primary(_)) => self.force_frozen(),
            (Operator::ForceTakeover, Role::Claiming(_)) => {
                if let Role::Claiming(claiming) = &mut self.role {
                    claiming.forced = true;
                }
            }
            (Operator::ForceTakeover, _) => self.claim(true, false, self.now),
            (Operator::Resync { by_content }, _) => self.resync_wanted(by_content),
            (Operator::DiscardLocal, _) => {
                self.reports.split = None;
                self.reports.needs_resync = Some(ResyncReason::Discarded);
                self.store(|state| {
                    state.discarded = true;
                    state.in_sync = false;
                });
                self.say_hello();
            }
        }
    }

    /// A frozen primary goes on alone because an operator says so.
    fn force_frozen(&mut self) {
        if let Some(link) = &self.link {
            let link = link.id;
            self.drop_link(link);
        }
        let epoch = self.next_epoch(self.config.rank_of_me());
        self.open(epoch, true, None);
    }

    pub(crate) fn switchover_wanted(&mut self) {
        let can = match self.role {
            // What is wanted is under way.
            Role::Primary(Primary { mode: PrimaryMode::HandingOver { .. }, .. }) => return,
            Role::Primary(_) => self.can(Operator::Switchover),
            _ => Err("the other node is not the primary any more".to_owned()),
        };
        match can {
            Ok(()) => self.begin_handover(AskedBy::Partner),
            Err(why) => self.send(Message::SwitchoverOff(CallOff::NotNow(why))),
        }
    }

    fn peer_healthy(&self) -> bool {
        self.reports.peer_vitals.is_some_and(|vitals| vitals.healthy)
    }

    fn peer_replays(&self) -> bool {
        self.reports.peer_vitals.is_some_and(|vitals| vitals.replays)
    }

    /// Known to be away, so that nothing can be given to the partner; clients would only be held up.
    fn witness_is_away(&self) -> bool {
        self.config.witness && self.desk.reachable == Some(false)
    }

    fn begin_handover(&mut self, asked: AskedBy) {
        let Role::Primary(primary) = &mut self.role else { return };
        let PrimaryMode::Mirrored { link } = primary.mode else { return };
        let stage = HandOverStage::Draining { since: self.now };
        primary.mode = PrimaryMode::HandingOver { link, stage, asked };
        self.emit(Command::Drain);
        // A swap that is not answered holds clients until it is: first a question, which can be given up.
        self.desk.fresh = false;
        self.ask_anew();
    }

    /// Has the witness speak before anything is left to it.
    fn ask_anew(&mut self) {
        if self.config.witness && !self.desk.fresh && self.desk.ready(self.now) {
            self.ask(Purpose::Look, None);
        }
    }

    /// Mirrored: a fault of this node, or its end, is a reason to hand over.
    pub(crate) fn run_mirrored(&mut self) {
        let Role::Primary(primary) = self.role else { return };
        if !self.register_lags(&primary) {
            // A claim that the partner made before it crashed may reach the witness late; and an operator should
            // see that the witness is away before it is needed.
            self.look();
        } else if self.desk.ready(self.now) && self.still_follows(&primary) {
            let expected = self.desk.register().cloned();
            let new = self.register_of(primary.epoch, Mode::Mirrored, expected.as_ref());
            self.ask(Purpose::Mirror, Some((expected, new)));
        }
        let Role::Primary(primary) = &mut self.role else { return };
        let due = self.now >= primary.fault_retry;
        if (self.fault || self.stopping.is_some()) && due {
            primary.fault_retry = self.now.plus(self.config.timers.join_retry_ms);
            if self.peer_healthy() && (self.stopping.is_some() || !self.witness_is_away()) {
                self.begin_handover(AskedBy::This);
            } else if self.stopping.is_some() {
                self.drain_to_stop();
            }
        }
    }

    /// The witness lost the register, or has one from before the pair was mirrored (its swap was lost, or it was rolled
    /// back): the partner could not take over.
    fn register_lags(&self, primary: &Primary) -> bool {
        match &self.desk.known {
            Known::Nothing => false,
            Known::Absent => true,
            Known::Stale(register) | Known::Is(register) if register.epoch == primary.epoch => {
                register.primary == self.config.me && register.mode == Mode::Solo
            }
            Known::Stale(register) | Known::Is(register) => register.epoch < primary.epoch,
        }
    }

    /// A register is set right only while the partner has certainly not claimed: it still follows. (One that calls this
    /// epoch solo lets nobody else claim.)
    fn still_follows(&self, primary: &Primary) -> bool {
        self.desk.register().is_some_and(|register| register.epoch == primary.epoch)
            || self.desk.answered_at.is_some_and(|at| primary.answered > at)
    }

    pub(crate) fn drained(&mut self, end: LogPoint) {
        let Role::Primary(primary) = &mut self.role else { return };
        match primary.mode {
            PrimaryMode::HandingOver { link, stage: HandOverStage::Draining { .. }, asked }
                if self.effects.draining =>
            {
                let stage = HandOverStage::Swapping { end, withdrawn: false };
                primary.mode = PrimaryMode::HandingOver { link, stage, asked };
            }
            PrimaryMode::DrainingToStop => self.stop_now(),
            _ => {}
        }
    }

    pub(crate) fn run_handover(&mut self, stage: HandOverStage) {
        let Role::Primary(primary) = self.role else { return };
        let Some(link) = primary.joined_link() else { return };
        match stage {
            HandOverStage::Draining { since } => {
                if self.now.since(since) >= self.config.timers.drain_timeout_ms {
                    self.call_off(link, CallOff::Draining);
                } else {
                    self.ask_anew();
                }
            }
            HandOverStage::Swapping { withdrawn, .. } => {
                let new = Register {
                    primary: self.config.peer.clone(),
                    ..self.register_of(
                        self.next_epoch(1 - self.config.rank_of_me()),
                        Mode::Mirrored,
                        self.desk.register(),
                    )
                };
                if !self.config.witness {
                    return self.given_away(new);
                }
                let expected = self.desk.register().cloned();
                match &expected {
                    // Our own swap, seen before its answer came.
                    Some(register)
                        if register.primary == self.config.peer && register.epoch > primary.epoch =>
                    {
                        match register.mode {
                            Mode::Mirrored => self.given_away(register.clone()),
                            Mode::Solo => self.deposed(),
                        }
                    }
                    Some(register) if !self.is_mirrored(register) && !self.desk.swap_pending() => {
                        self.call_off(link, CallOff::Witness);
                    }
                    _ if withdrawn && !self.desk.swap_pending() => self.call_off(link, CallOff::Withdrawn),
                    // Settles whether it was granted, and grants nothing new.
                    _ if withdrawn && self.desk.ready(self.now) => {
                        let new = self.register_of(primary.epoch, Mode::Mirrored, expected.as_ref());
                        self.ask(Purpose::Mirror, Some((expected, new)));
                    }
                    _ if withdrawn => {}
                    _ if !self.desk.fresh => self.ask_anew(),
                    _ if self.desk.ready(self.now) => self.ask(Purpose::HandOver, Some((expected, new))),
                    _ => {}
                }
            }
        }
    }

    /// The switchover is off; nothing has changed.
    pub(crate) fn call_off(&mut self, link: LinkId, why: CallOff) {
        let Role::Primary(primary) = &mut self.role else { return };
        primary.mode = PrimaryMode::Mirrored { link };
        primary.fault_retry = self.now.plus(self.config.timers.join_retry_ms);
        self.emit(Command::Undrain);
        self.emit(Command::CalledOff(why.clone()));
        self.send(Message::SwitchoverOff(why));
    }

    // ---- the end of the process ----

    pub(crate) fn shutdown(&mut self) {
        if self.stopping.is_none() {
            // Once for the drain, once for the witness and the partner's takeover.
            self.stopping = Some(self.now.plus(self.config.timers.drain_timeout_ms * 2));
        }
    }

    pub(crate) fn drain_to_stop(&mut self) {
        if let Some(link) = &self.link {
            // The partner need not wait for our silence, and a join need not begin.
            let link = link.id;
            if matches!(&self.role, Role::Primary(primary) if primary.joined_link().is_none()) {
                self.drop_link(link);
            }
        }
        if let Role::Primary(primary) = &mut self.role {
            if matches!(primary.mode, PrimaryMode::Solo) {
                primary.mode = PrimaryMode::DrainingToStop;
                self.emit(Command::Drain);
            } else {
                self.stop_now();
            }
        }
    }

    /// Waiting while the process ends: a node that handed over stays until the partner serves.
    pub(crate) fn stop_when_handed(&mut self) {
        let Role::Waiting(waiting) = &self.role else { return };
        let taken = match waiting.handed {
            Some(handed) => self.peer_epoch().is_some_and(|epoch| epoch >= handed.epoch),
            None => true,
        };
        if taken && !self.desk.swap_pending() {
            self.stop_now();
        }
    }

    pub(crate) fn stop_now(&mut self) {
        if self.effects.serving {
            self.emit(Command::StopServing { reason: StopReason::Stopping });
        }
        self.set_rule(AckRule::Nobody);
        self.set_lease(Lease::None);
        self.stop_mirroring();
        self.emit(Command::Revoke);
        self.send(Message::Goodbye);
        self.emit(Command::Stopped);
        self.role = Role::Stopped;
    }

    pub(crate) fn failed(&mut self, part: FailedPart, error: String) {
        if self.effects.serving {
            self.emit(Command::StopServing { reason: StopReason::Failed });
        }
        self.set_rule(AckRule::Nobody);
        self.set_lease(Lease::None);
        self.stop_mirroring();
        self.emit(Command::Revoke);
        self.send(Message::Goodbye);
        self.role = Role::Failed(part, error);
    }

    pub(crate) fn role_deadline(&self) -> Option<MonoMs> {
        self.waiting_deadline()
            .or_else(|| self.partner_deadline())
            .or_else(|| self.claim_deadline())
            .or_else(|| self.primary_deadline())
    }
}
