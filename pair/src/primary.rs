//! Serving: solo, mirrored, and frozen when the partner is gone; the next epoch then comes from the witness.
//!
//! Invariants: alone only under a register that says (this epoch, me, solo), stored as `solo` beforehand;
//! frozen means `AckRule::Nobody` until the swap has been answered or the partner has joined again. What can
//! go wrong: a swap whose answer is lost. Then nothing is resumed until the register was seen.

use crate::desk::{Asked, Purpose};
use crate::meeting::{Meeting, meet};
use crate::state::{BarrierStage, Distrust, HandOverStage, Known, Primary, PrimaryMode, Role, Why};
use crate::witness::{Mode, Register};
use crate::{CallOff, Command, Lease, LinkId, LogSummary, MonoMs, Pair, Posture, StopReason, WitnessOutcome};
use ids::{AckRule, Epoch};

/// How often the time is doubled for which a partner that stalls is not waited for.
const MAX_DISTRUST_DOUBLINGS: u32 = 5;

impl Primary {
    /// The link whose partner acknowledgements wait for.
    pub fn joined_link(&self) -> Option<LinkId> {
        match self.mode {
            PrimaryMode::Barrier { link, .. }
            | PrimaryMode::Mirrored { link }
            | PrimaryMode::HandingOver { link, .. } => Some(link),
            PrimaryMode::Solo | PrimaryMode::Frozen { .. } | PrimaryMode::DrainingToStop => None,
        }
    }

    /// Until when reads may be answered on what the partner promised.
    pub fn lease(&self) -> Lease {
        Lease::Until { end: self.lease_until, lease_ms: self.lease_ms }
    }
}

impl Pair {
    pub(crate) fn epoch_opened(&mut self, log: LogSummary) {
        let Role::Opening(opening) = self.role else { return };
        let opened = log.history.last().is_some_and(|last| last.epoch == opening.epoch);
        assert!(
            opened,
            "the runtime answered OpenEpoch({}) with the history {:?}",
            opening.epoch, log.history
        );
        self.log = log;
        let now = self.now;
        let patience = now.plus(self.config.timers.failure_timeout_ms);
        let mode = if opening.solo {
            self.set_rule(AckRule::Local);
            self.set_lease(Lease::Forever);
            PrimaryMode::Solo
        } else {
            PrimaryMode::Frozen { claim_at: patience, since: now }
        };
        self.role = Role::Primary(Primary {
            epoch: opening.epoch,
            mode,
            catch: None,
            answered: now,
            lease_until: now,
            lease_ms: self.config.timers.lease_ms,
            fault_retry: now,
        });
        self.emit(Command::StartServing { epoch: opening.epoch });
        if let Some(clock) = opening.clock {
            self.note_takeover(clock);
        }
        self.say_hello();
    }

    pub(crate) fn run_primary(&mut self) {
        let Role::Primary(primary) = self.role else { return };
        let timers = self.config.timers.clone();
        let silent = self.now.since(primary.answered) >= timers.failure_timeout_ms;
        match primary.mode {
            PrimaryMode::Solo if self.stopping.is_some() => self.drain_to_stop(),
            PrimaryMode::Solo => {
                self.run_catching();
                self.check_register();
            }
            PrimaryMode::Barrier { .. } | PrimaryMode::Mirrored { .. } | PrimaryMode::HandingOver { .. }
                if silent =>
            {
                if let Some(link) = primary.joined_link().filter(|link| self.is_current(*link)) {
                    self.drop_link(link);
                }
                self.claim_now();
            }
            PrimaryMode::Barrier { stage, since, .. } => self.run_barrier(stage, since),
            PrimaryMode::Mirrored { .. } => self.run_mirrored(),
            PrimaryMode::HandingOver { stage, .. } => self.run_handover(stage),
            PrimaryMode::Frozen { .. } if self.stopping.is_some() && !self.desk.swap_pending() => {
                self.stop_now();
            }
            PrimaryMode::Frozen { .. } if self.passed_over(primary.epoch) => {
                if self.reports.split.is_none() {
                    self.open(self.next_epoch(self.config.rank_of_me()), false, None);
                } else if self.is_prefix_of_partner() {
                    // An operator let it acknowledge alone. This log lacks that, and holds nothing that it lacks.
                    self.deposed();
                }
            }
            PrimaryMode::Frozen { claim_at, .. } => {
                self.run_catching();
                if matches!(self.role, Role::Primary(now) if matches!(now.mode, PrimaryMode::Frozen { .. }))
                    && self.config.witness
                    && self.now >= claim_at
                    && self.desk.ready(self.now)
                {
                    self.ask_to_go_alone();
                }
            }
            PrimaryMode::DrainingToStop => {}
        }
    }

    /// Without a witness: the waiting partner knows a later epoch. It can only follow a still later one; or, when
    /// something was acknowledged in it, be followed.
    fn passed_over(&self, epoch: Epoch) -> bool {
        !self.config.witness
            && self
                .peer_hello()
                .is_some_and(|hello| hello.posture == Posture::Waiting && hello.epoch_seen > epoch)
    }

    /// Could this node join the partner, were that the primary?
    fn is_prefix_of_partner(&self) -> bool {
        self.peer_hello().is_some_and(|theirs| {
            matches!(meet(&self.hello(), theirs, theirs.epoch_seen), Meeting::JoinAt(_))
        })
    }

    /// The current link is gone.
    pub(crate) fn primary_link_gone(&mut self) {
        let Role::Primary(mut primary) = self.role else { return };
        self.stop_mirroring();
        primary.catch = None;
        match primary.mode {
            PrimaryMode::Solo | PrimaryMode::Frozen { .. } | PrimaryMode::DrainingToStop => {
                self.role = Role::Primary(primary);
            }
            PrimaryMode::Barrier { alone_ok: true, .. } => {
                primary.mode = PrimaryMode::Solo;
                self.role = Role::Primary(primary);
                self.set_rule(AckRule::Local);
                self.set_lease(Lease::Forever);
            }
            PrimaryMode::Barrier { .. } | PrimaryMode::Mirrored { .. } | PrimaryMode::HandingOver { .. } => {
                self.role = Role::Primary(primary);
                self.freeze(self.now.plus(self.config.timers.link_grace_ms));
            }
        }
    }

    /// Nothing is acknowledged from here on; reads run on to the end of the lease.
    pub(crate) fn freeze(&mut self, claim_at: MonoMs) {
        let Role::Primary(primary) = &mut self.role else { return };
        let handing_over = matches!(primary.mode, PrimaryMode::HandingOver { .. });
        primary.mode = PrimaryMode::Frozen { claim_at, since: self.now };
        primary.catch = None;
        let lease = primary.lease();
        self.set_rule(AckRule::Nobody);
        self.set_lease(lease);
        if self.effects.draining {
            self.emit(Command::Undrain);
        }
        if handing_over {
            self.emit(Command::CalledOff(CallOff::PartnerLost));
        }
        self.stop_mirroring();
    }

    /// The partner lives and makes no progress: alone without it, if the witness lets us, and not back at once. So it is
    /// if nobody waits for it, because it catches up: the log that is kept for it would fill, and stop clients.
    pub(crate) fn partner_stalls(&mut self, link: LinkId) {
        let Role::Primary(primary) = &self.role else { return };
        let catches_up = matches!(primary.mode, PrimaryMode::Solo)
            && primary.catch.is_some_and(|catch| catch.mirroring && catch.link == link);
        if (primary.joined_link() != Some(link) && !catches_up) || !self.is_current(link) {
            return;
        }
        self.distrust_partner(catches_up);
        self.drop_link(link);
        self.claim_now();
    }

    /// May a partner not even join a primary that serves alone? As long as after a first stall: one that was repaired
    /// should soon have a copy again, and clients wait for it later.
    pub(crate) fn shuts_partner_out(&self) -> bool {
        let Distrust { until, stalls, shut } = self.distrust;
        let rest_ms = self.distrust_wait_ms(stalls).saturating_sub(self.config.timers.distrust_ms);
        shut && self.now.plus(rest_ms) < until
    }

    fn distrust_wait_ms(&self, stalls: u32) -> u64 {
        let timers = &self.config.timers;
        (timers.distrust_ms << stalls.saturating_sub(1)).max(timers.join_retry_ms)
    }

    /// Twice as long as the last time, if it was trusted again since.
    fn distrust_partner(&mut self, shut: bool) {
        let Distrust { until, stalls, .. } = self.distrust;
        let stalls = match self.now.since(until) {
            calm if calm >= self.config.timers.distrust_forgotten_ms() => 1,
            _ if self.now < until => stalls,
            _ => (stalls + 1).min(MAX_DISTRUST_DOUBLINGS + 1),
        };
        self.distrust = Distrust { until: self.now.plus(self.distrust_wait_ms(stalls)), stalls, shut };
    }

    /// The partner is certainly gone: no grace.
    pub(crate) fn claim_now(&mut self) {
        if let Role::Primary(primary) = &mut self.role
            && let PrimaryMode::Frozen { claim_at, .. } = &mut primary.mode
        {
            *claim_at = self.now;
        }
    }

    pub(crate) fn renew_lease(&mut self) {
        let Role::Primary(primary) = &self.role else { return };
        if !matches!(primary.mode, PrimaryMode::Solo | PrimaryMode::DrainingToStop) {
            self.set_lease(primary.lease());
        }
    }

    /// Frozen: (e, me, mirrored) → (e', me, solo).
    fn ask_to_go_alone(&mut self) {
        let Role::Primary(primary) = self.role else { return };
        let expected = match self.known() {
            Known::Nothing => return self.ask(Purpose::Look, None),
            // The swap to mirrored may still be made: asking for it again settles that, and grants nothing new.
            Known::Absent if self.desk.swap_pending() => {
                let new = self.register_of(primary.epoch, Mode::Mirrored, None);
                return self.ask(Purpose::Mirror, Some((None, new)));
            }
            // Likewise, with what this epoch is as far as this node knows.
            Known::Stale(register) if self.desk.swap_pending() => {
                let mode = if self.durable.solo.is_some() { Mode::Solo } else { Mode::Mirrored };
                let new = self.register_of(primary.epoch, mode, Some(&register));
                return self.ask(Purpose::Mirror, Some((Some(register), new)));
            }
            // The witness forgot: it cannot tell whether the partner has claimed. Only the partner can.
            Known::Absent | Known::Stale(_) => return self.look(),
            Known::Is(register) => register,
        };
        if self.is_mine_unopened(&expected) {
            return self.open(expected.epoch, true, None);
        }
        if expected.primary != self.config.me && expected.epoch > primary.epoch {
            return self.deposed();
        }
        if !self.is_steady() {
            return self.look();
        }
        let epoch = self.next_epoch(self.config.rank_of_me());
        let new = self.register_of(epoch, Mode::Solo, Some(&expected));
        self.ask(Purpose::Claim, Some((Some(expected), new)));
    }

    /// Solo: has an operator given the epoch to another node, or has the witness forgotten this one? Then it is told
    /// at once: until it knows, it may let a node serve that knows no better.
    fn check_register(&mut self) {
        let Role::Primary(primary) = self.role else { return };
        let behind = match &self.desk.known {
            Known::Nothing => false,
            Known::Absent => true,
            Known::Stale(register) | Known::Is(register) => register.epoch < primary.epoch,
        };
        if self.config.witness && behind && self.desk.ready(self.now) {
            let expected = self.desk.register().cloned();
            let new = self.register_of(primary.epoch, Mode::Solo, expected.as_ref());
            self.ask(Purpose::Assert, Some((expected, new)));
        } else {
            self.look();
        }
    }

    pub(crate) fn primary_answered(&mut self, asked: &Asked, outcome: &WitnessOutcome) {
        let Role::Primary(primary) = self.role else { return };
        let seen = match outcome {
            WitnessOutcome::Is(register) | WitnessOutcome::Conflict(register) => register.clone(),
            WitnessOutcome::Swapped(register) => Some(register.clone()),
            WitnessOutcome::Unreachable { maybe_applied } => {
                return self.witness_silent(asked.purpose, *maybe_applied);
            }
        };
        let Some(register) = seen else { return };
        if asked.purpose == Purpose::HandOver && matches!(outcome, WitnessOutcome::Swapped(_)) {
            return self.given_away(register);
        }
        match primary.mode {
            PrimaryMode::HandingOver { stage: HandOverStage::Swapping { .. }, .. }
                if register.primary != self.config.me && register.mode == Mode::Mirrored =>
            {
                self.given_away(register);
            }
            // Also a hand-over that happened behind our back.
            _ if register.epoch > primary.epoch && register.primary != self.config.me => self.deposed(),
            PrimaryMode::Frozen { .. } if self.is_mine_unopened(&register) => {
                self.open(register.epoch, true, None);
            }
            PrimaryMode::Barrier { stage: BarrierStage::Swapping, .. } if self.is_mirrored(&register) => {
                self.enter_mirrored();
            }
            PrimaryMode::Solo if self.is_mirrored(&register) => self.freeze(self.now),
            _ => {}
        }
    }

    fn witness_silent(&mut self, purpose: Purpose, maybe_applied: bool) {
        let Role::Primary(primary) = self.role else { return };
        // Before the witness has spoken the volume was not given away; after that, a swap may have happened.
        let not_sent = purpose == Purpose::HandOver && !maybe_applied && !self.desk.swap_pending();
        if (not_sent || !self.desk.fresh)
            && let PrimaryMode::HandingOver { link, .. } = primary.mode
        {
            self.call_off(link, CallOff::Witness);
        }
    }

    /// Does it say: this epoch, me, mirrored?
    pub(crate) fn is_mirrored(&self, register: &Register) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        register.mode == Mode::Mirrored
            && register.epoch == primary.epoch
            && register.primary == self.config.me
    }

    /// The register gave the next epoch to the partner.
    pub(crate) fn given_away(&mut self, register: Register) {
        let Role::Primary(primary) = self.role else { return };
        let handed = match primary.mode {
            PrimaryMode::HandingOver { stage: HandOverStage::Swapping { end, .. }, .. } => {
                Some(crate::state::Handed { from: primary.epoch, epoch: register.epoch, end })
            }
            _ => None,
        };
        self.wait(Why::HandedOver, StopReason::HandedOver, handed);
        self.store(|state| {
            state.epoch_seen = state.epoch_seen.max(register.epoch);
            state.register = Some(register);
        });
        if let Some(crate::state::Handed { from, epoch, end }) = handed {
            self.send(crate::Message::HandOver { from, epoch, end });
        }
    }

    pub(crate) fn primary_deadline(&self) -> Option<MonoMs> {
        let Role::Primary(primary) = &self.role else { return None };
        match primary.mode {
            PrimaryMode::Frozen { claim_at, .. } if claim_at > self.now => Some(claim_at),
            _ if primary.joined_link().is_some() => {
                Some(primary.answered.plus(self.config.timers.failure_timeout_ms))
            }
            _ => None,
        }
    }
}
