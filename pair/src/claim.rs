//! Taking over: revoke, wait out the lease, ask the witness, open the epoch.
//!
//! Invariants: no swap is asked before `Revoked` has come and the lease that this node last promised has
//! ended by its own clock plus the drift margin; a swap that may have happened is found out about before
//! anything else is done.

use crate::desk::{Asked, Purpose};
use crate::state::{ClaimStage, Claiming, Handed, Known, Opening, Role, TakeoverClock, Why};
use crate::witness::{Mode, Register};
use crate::{CallOff, Command, LogSummary, MonoMs, Pair, Posture, StopReason, TakeoverTimes, WitnessOutcome};
use ids::{Epoch, LogPoint};

impl Pair {
    /// Begins a claim. `formed`: both nodes agreed that this one may create the register.
    pub(crate) fn claim(&mut self, forced: bool, formed: bool, silent_since: MonoMs) {
        let given_away = matches!(&self.role, Role::Waiting(waiting) if waiting.handed.is_some());
        self.emit(Command::Revoke);
        self.desk.fresh = false;
        let now = self.now;
        let clock = TakeoverClock { silent_since, detected: now, fenced: now, lease_over: now, granted: now };
        let stage = ClaimStage::Revoking { handed: None };
        self.role = Role::Claiming(Claiming { stage, forced, formed, given_away, clock });
    }

    pub(crate) fn revoked(&mut self, log: LogSummary) {
        self.effects.revokes_pending = self.effects.revokes_pending.saturating_sub(1);
        if self.effects.revokes_pending > 0 {
            return;
        }
        self.log = log;
        if let Role::Claiming(claiming) = &mut self.role
            && let ClaimStage::Revoking { handed } = claiming.stage
        {
            claiming.clock.fenced = self.now;
            claiming.stage = ClaimStage::LeaseWait;
            let clock = claiming.clock;
            match handed {
                // The old primary serves no more: no lease to wait for. Its end must be ours.
                Some(handed) if handed.end == self.log.end => self.open(handed.epoch, false, Some(clock)),
                Some(_) => self.wait(Why::Starting, StopReason::Deposed, None),
                None => {}
            }
        } else if matches!(self.role, Role::Waiting(_)) {
            self.say_hello();
        }
    }

    /// The end of the lease that this node last promised, by its own clock, with the margin for drift.
    pub(crate) fn promise_ends(&self) -> MonoMs {
        self.last_promise.plus(self.config.timers.lease_ms + self.config.timers.drift_margin_ms)
    }

    pub(crate) fn run_claiming(&mut self) {
        if self.stopping.is_some() && !self.desk.swap_pending() {
            return self.stop_now();
        }
        let lease_over = self.promise_ends() <= self.now;
        let Role::Claiming(claiming) = &mut self.role else { return };
        if claiming.stage == ClaimStage::LeaseWait && lease_over {
            claiming.stage = ClaimStage::Asking;
            claiming.clock.lease_over = self.now;
        }
        let claiming = *claiming;
        if claiming.stage != ClaimStage::Asking {
            return;
        }
        if !self.config.witness {
            return match (claiming.forced, claiming.formed) {
                (true, _) => self.open(self.next_epoch(self.config.rank_of_me()), true, Some(claiming.clock)),
                (false, true) => self.open(self.next_epoch(self.config.rank_of_me()), false, None),
                (false, false) => self.wait(Why::Frozen, StopReason::Deposed, None),
            };
        }
        // The primary is back and we have certainly changed nothing: follow it rather than fight. Where neither may
        // claim yet (see `Desk::is_steady`), each would wait for the other.
        if !claiming.forced && self.primary_is_back() {
            return self.wait(Why::Starting, StopReason::Deposed, None);
        }
        if self.desk.ready(self.now) {
            self.ask_claim(claiming.forced, claiming.formed);
        }
    }

    fn primary_is_back(&self) -> bool {
        let register_epoch = self.desk.register().map(|register| register.epoch);
        self.peer_epoch().is_some_and(|epoch| register_epoch.is_none_or(|known| known <= epoch))
            && !self.desk.swap_pending()
    }

    /// The next step towards the next epoch, from what is known of the register.
    fn ask_claim(&mut self, forced: bool, formed: bool) {
        let me = self.config.me.clone();
        if forced && let Err(why) = self.can_be_forced() {
            // What was not known when the order came.
            self.emit(Command::CalledOff(CallOff::NotNow(why)));
            return self.wait(Why::Starting, StopReason::Deposed, None);
        }
        let expected = match self.known() {
            Known::Nothing => return self.ask(Purpose::Look, None),
            known @ (Known::Absent | Known::Stale(_)) if forced || formed => {
                // Before the swap: a node that dies between the two must know its epoch again.
                self.store(|state| state.in_sync = true);
                match known {
                    Known::Stale(register) => Some(register),
                    _ => None,
                }
            }
            Known::Absent | Known::Stale(_) => return self.wait(Why::Starting, StopReason::Deposed, None),
            Known::Is(register) => {
                let allowed = register.mode == Mode::Mirrored || register.primary == me;
                let allowed = forced || allowed && self.durable.in_sync;
                if !allowed && !self.desk.fresh {
                    // The news that the pair is mirrored may not have come: the witness's own word decides.
                    return self.ask(Purpose::Look, None);
                }
                if !allowed {
                    return self.claim_lost();
                }
                if !forced
                    && register.mode == Mode::Mirrored
                    && !self.is_steady()
                    && !self.is_beside_one_that_waits()
                {
                    return self.look();
                }
                Some(register)
            }
        };
        let epoch = self.next_epoch(self.config.rank_of_me());
        let new = self.register_of(epoch, Mode::Solo, expected.as_ref());
        self.ask(Purpose::Claim, Some((expected, new)));
    }

    /// A register value that names this node.
    pub(crate) fn register_of(&self, epoch: Epoch, mode: Mode, expected: Option<&Register>) -> Register {
        Register {
            volume: self.log.volume,
            epoch,
            primary: self.config.me.clone(),
            mode,
            generation: expected.map_or(1, |register| register.generation + 1),
        }
    }

    fn claim_lost(&mut self) {
        self.alone_is_the_other();
        self.wait(Why::Outdated, StopReason::Deposed, None);
    }

    pub(crate) fn witness_said(&mut self, asked: Asked, outcome: WitnessOutcome) {
        match self.role {
            Role::Claiming(claiming) => self.claim_answered(claiming, &asked, &outcome),
            Role::Primary(_) => self.primary_answered(&asked, &outcome),
            _ => {}
        }
    }

    fn claim_answered(&mut self, claiming: Claiming, asked: &Asked, outcome: &WitnessOutcome) {
        if claiming.stage != ClaimStage::Asking {
            return;
        }
        // An operator forced it here and no witness can be asked, not even what the register says: his word is final.
        if claiming.forced && matches!(outcome, WitnessOutcome::Unreachable { .. }) {
            // Where it may not be, the next attempt says why.
            if self.can_be_forced().is_ok() {
                self.open(self.next_epoch(self.config.rank_of_me()), true, Some(claiming.clock));
            }
            return;
        }
        if asked.purpose != Purpose::Claim {
            return;
        }
        match outcome {
            WitnessOutcome::Swapped(register) if self.is_mine_unopened(register) => {
                self.open(register.epoch, true, Some(claiming.clock));
            }
            // Meanwhile the partner told of an epoch that this one does not follow: the witness had forgotten it.
            WitnessOutcome::Swapped(_) => self.wait(Why::Starting, StopReason::Deposed, None),
            WitnessOutcome::Conflict(Some(register)) if self.is_mine_unopened(register) => {
                self.open(register.epoch, true, Some(claiming.clock));
            }
            WitnessOutcome::Is(_) | WitnessOutcome::Conflict(_) | WitnessOutcome::Unreachable { .. } => {}
        }
    }

    /// The partner is linked, and serves nothing: then nobody does, whatever the witness has forgotten.
    fn is_beside_one_that_waits(&self) -> bool {
        self.peer_hello().is_some_and(|theirs| !matches!(theirs.posture, Posture::Primary(_)))
    }

    /// Has the witness told what it tells now for long enough?
    pub(crate) fn is_steady(&self) -> bool {
        self.desk.is_steady(self.now, &self.config.timers)
    }

    /// The register gives this node an epoch that it has not opened, and no later one is known: its own swap, whose
    /// answer was lost.
    pub(crate) fn is_mine_unopened(&self, register: &Register) -> bool {
        register.primary == self.config.me
            && register.mode == Mode::Solo
            && self.durable.epoch_seen <= register.epoch
            && self.log.history.last().is_none_or(|last| last.epoch < register.epoch)
    }

    /// The epoch is this node's. Alone: remember that before anything is acknowledged.
    pub(crate) fn open(&mut self, epoch: Epoch, solo: bool, clock: Option<TakeoverClock>) {
        // Whoever asked for the switchover hears that the partner never came to serve.
        if matches!(&self.role, Role::Claiming(claiming) if claiming.given_away && !claiming.forced) {
            self.emit(Command::CalledOff(CallOff::PartnerLost));
        }
        let clock = clock.map(|clock| TakeoverClock { granted: self.now, ..clock });
        let register = match (self.desk.register(), self.config.witness) {
            (Some(register), true) => Some(register.clone()),
            _ => {
                let mode = if solo { Mode::Solo } else { Mode::Mirrored };
                Some(self.register_of(epoch, mode, self.durable.register.clone().as_ref()))
            }
        };
        self.reports.split = None;
        self.reports.needs_resync = None;
        let granted = self.client_limits();
        // Whatever is stored here rests on the log's device: see `Command::Store`.
        self.unproven = false;
        self.store(|state| {
            state.from_memory = false;
            state.granted = Some(granted);
            state.epoch_seen = epoch;
            state.register = register;
            state.in_sync = true;
            state.discarded = false;
            state.compare_all = false;
            state.solo = if solo { state.solo.or(Some(epoch)) } else { state.solo };
        });
        self.stop_mirroring();
        self.emit(Command::OpenEpoch { epoch });
        self.role = Role::Opening(Opening { epoch, solo, clock });
    }

    /// (partner) The primary gives its place to this node.
    pub(crate) fn handed_over(&mut self, from: Epoch, epoch: Epoch, end: LogPoint) {
        let Role::Partner(partner) = self.role else { return };
        let mine = epoch.0 % 2 == self.config.rank_of_me();
        let newer = self.log.history.last().is_none_or(|last| last.epoch < epoch);
        if partner.epoch != from || !mine || !newer || !self.durable.in_sync {
            return;
        }
        self.emit(Command::Revoke);
        let now = self.now;
        let clock =
            TakeoverClock { silent_since: now, detected: now, fenced: now, lease_over: now, granted: now };
        let stage = ClaimStage::Revoking { handed: Some(Handed { from, epoch, end }) };
        self.role =
            Role::Claiming(Claiming { stage, forced: false, formed: false, given_away: false, clock });
    }

    pub(crate) fn note_takeover(&mut self, clock: TakeoverClock) {
        self.takeover = Some(TakeoverTimes {
            detection_ms: clock.detected.since(clock.silent_since),
            fencing_ms: clock.fenced.since(clock.detected),
            lease_ms: clock.lease_over.since(clock.fenced),
            witness_ms: clock.granted.since(clock.lease_over),
            opening_ms: self.now.since(clock.granted),
        });
    }

    pub(crate) fn claim_deadline(&self) -> Option<MonoMs> {
        match &self.role {
            Role::Claiming(claiming) if claiming.stage == ClaimStage::LeaseWait => Some(self.promise_ends()),
            Role::Claiming(_) => self.desk.steady_at(&self.config.timers).filter(|at| *at > self.now),
            _ => None,
        }
    }
}
