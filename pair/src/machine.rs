//! The machine itself: what it holds, and the one transition function.
//!
//! ```text
//!                      names a primary to follow, or nobody
//!            ┌────────────────────── WAITING ◀───────────────────────────────┐
//!            │ (starting, outdated, deposed, frozen without a witness,       │
//!            │  needs-resync, split)      ▲    │                             │
//!   Hello of │                            │    │ register names me, or is    │ swap lost: outdated
//!  a primary │  link or primary lost,     │    │ mirrored and its primary    │ primary is back
//!            ▼  not in sync, no witness   │    ▼ stays away; force; formed   │
//!         PARTNER ────────────────────────┘  CLAIMING ───────────────────────┘
//!   truncating → joining → following ──────▶ revoking → lease wait → asking
//!            ▲     primary silent, in sync;    │ swap won, or epoch handed over
//!            │     or HandOver                 ▼
//!            │                              OPENING (first record of the new epoch)
//!            │                                 │                          ▲
//!            │ joins the                       ▼                          │ swap won:
//!            │ new primary                  PRIMARY                       │ (e) → (e', me, solo)
//!            │       ┌──────────────────────────────────────────────────┐ │
//!         WAITING ◀──┤ solo ──▶ barrier ──▶ mirrored ──▶ handing over   │ │
//!       deposed, or  │  ▲ ◀── too slow │        │ partner lost   │ off  │ │
//!       handed over  │  │              ▼        ▼                ▼      │ │
//!                    │  └─ (Opening) ◀───── frozen ─────────────────────┼─┘
//!                    │                        └──▶ barrier (it came back)│
//!                    └──────────────────────────────────────────────────┘
//!   FAILED: from anywhere, when the log's memory fails.   STOPPED: after Shutdown.
//! ```
//!
//! Every arrow is taken in [`Pair::apply`] or a function that it calls in a file named by role; effects leave
//! only through `emit`, which keeps account of them, so that the invariants can be checked after each event.

use crate::config::HEARTBEATS_PER_LEASE;
use crate::desk::Desk;
use crate::state::{Distrust, Effects, Known, LinkState, Reports, Role, Waiting, Why};
use crate::witness::{Mode, Register};
use crate::{
    Command, Config, ConfigError, DurableState, Event, Hello, Lease, LinkId, LogSummary, Message, MonoMs,
    Posture, ResyncReason, Vitals,
};
use ids::{AckRule, AnswerFrom, BaseLimits, Epoch};

/// The state machine of one volume on one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pair {
    pub(crate) config: Config,
    pub(crate) now: MonoMs,
    pub(crate) durable: DurableState,
    pub(crate) log: LogSummary,
    pub(crate) link: Option<LinkState>,
    pub(crate) role: Role,
    pub(crate) desk: Desk,
    pub(crate) effects: Effects,
    pub(crate) reports: Reports,
    pub(crate) vitals: Vitals,
    /// Reads of the partner's clients may be answered under a promise given no later than this.
    pub(crate) last_promise: MonoMs,
    pub(crate) last_heartbeat: Option<MonoMs>,
    /// What [`granted`](Self::granted) was after the last event.
    granted: Epoch,
    pub(crate) fault: bool,
    /// This process was not there when its log acknowledged out of memory: the log may lack some of that.
    pub(crate) unproven: bool,
    pub(crate) distrust: Distrust,
    /// `Some(by when)` after `Shutdown`.
    pub(crate) stopping: Option<MonoMs>,
    pub(crate) takeover: Option<crate::TakeoverTimes>,
    pub(crate) hellos: u64,
    pub(crate) out: Vec<Command>,
}

impl Pair {
    /// Starts with what the log's superblock and recovery said.
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn new(
        config: Config,
        durable: DurableState,
        log: LogSummary,
        now: MonoMs,
    ) -> Result<(Pair, Vec<Command>), ConfigError> {
        config.check()?;
        let patience = now.plus(config.timers.start_grace_ms);
        let mut pair = Pair {
            now,
            link: None,
            role: Role::Waiting(Waiting { why: Why::Starting, patience, join_not_before: now, handed: None }),
            desk: Desk::new(now),
            effects: Effects {
                rule: AckRule::Nobody,
                lease: Lease::None,
                granted: None,
                serving: false,
                mirroring: None,
                hold: false,
                rules_pending: 0,
                revokes_pending: 0,
                draining: false,
            },
            reports: Reports::default(),
            vitals: Vitals::default(),
            // A promise given just before a restart is not remembered: assume one.
            last_promise: now,
            last_heartbeat: None,
            granted: Epoch(0),
            fault: false,
            unproven: durable.from_memory,
            distrust: Distrust::default(),
            stopping: None,
            takeover: None,
            hellos: 0,
            out: Vec::new(),
            config,
            durable,
            log,
        };
        let before = pair.durable.clone();
        if !pair.log.survived {
            pair.durable.in_sync = false;
            if before != DurableState::default() || pair.log.end.lsn.0 > 0 {
                pair.durable.discarded = true;
                pair.reports.needs_resync = Some(ResyncReason::LogLost);
            }
        } else if pair.durable.resync {
            pair.reports.needs_resync = Some(ResyncReason::Unfinished);
        } else if pair.durable.discarded {
            pair.reports.needs_resync = Some(ResyncReason::Discarded);
        } else if pair.durable.compare_all {
            pair.reports.needs_resync = Some(ResyncReason::Asked);
        }
        if pair.durable.origin_empty.is_none() {
            pair.durable.origin_empty = Some(pair.log.base_empty && pair.log.tail.lsn.0 == 0);
        }
        if pair.durable != before {
            pair.emit(Command::Store(pair.durable.clone()));
        }
        pair.emit(Command::SetAckRule(AckRule::Nobody));
        pair.emit(Command::SetLease(Lease::None));
        pair.run_role();
        pair.check_invariants();
        let commands = std::mem::take(&mut pair.out);
        Ok((pair, commands))
    }

    /// Takes an event, returns what to do about it, in order (see [`crate::command`]).
    ///
    /// # Panics
    /// When an invariant is broken afterwards: a bug of this crate. The process must die then; the partner
    /// takes over.
    pub fn apply(&mut self, now: MonoMs, event: Event) -> Vec<Command> {
        self.now = self.now.max(now);
        if !matches!(self.role, Role::Failed(..) | Role::Stopped) {
            self.transition(event);
            self.check_invariants();
        }
        std::mem::take(&mut self.out)
    }

    fn transition(&mut self, event: Event) {
        match event {
            Event::Tick { vitals } => self.tick(vitals),
            Event::LinkUp { link, log } => self.link_up(link, log),
            Event::LinkDown { link } | Event::MirrorLost { link } => self.link_lost(link),
            Event::PartnerStalls { link } => self.partner_stalls(link),
            Event::ReceivedWrong { link } => {
                if matches!(&self.role, Role::Partner(partner) if partner.link == link) {
                    self.store(|state| state.in_sync = false);
                }
                self.link_lost(link);
            }
            Event::LinkRefused { reason: Some(reason) } => {
                self.refused(crate::Refusal::Transport(reason));
            }
            Event::LinkRefused { reason: None } => {
                self.reports.refusal.take_if(|refusal| matches!(refusal, crate::Refusal::Transport(_)));
            }
            Event::Message { link, message } => {
                if self.is_current(link) {
                    self.message(link, message);
                }
            }
            Event::BadMessage { link, error } => {
                if self.is_current(link) {
                    self.refused(crate::Refusal::Version(error.to_string()));
                    self.drop_link(link);
                }
            }
            Event::WitnessAnswer { request, outcome } => {
                let asked = self.desk.answered(self.now, &self.config.timers, request, &outcome);
                if let Some(asked) = asked {
                    self.witness_said(asked, outcome);
                }
            }
            Event::Revoked { log } => self.revoked(log),
            Event::EpochOpened { log } => self.epoch_opened(log),
            Event::Truncated { result } => self.truncated(result),
            Event::RuleSet { rule, committed } => {
                self.effects.rules_pending = self.effects.rules_pending.saturating_sub(1);
                if self.effects.rules_pending == 0 && rule == self.effects.rule {
                    self.rule_set(committed);
                }
            }
            Event::PointChecked { link, point, verdict } => self.point_checked(link, point, verdict),
            Event::PeerReached { link, lsn } => self.peer_reached(link, lsn),
            Event::Drained { end } => self.drained(end),
            Event::Operator(wish) => self.operator(wish),
            Event::Withdrawn(wish) => self.withdrawn(wish),
            Event::LocalFault(_) => self.fault = true,
            Event::LocalHealed => self.fault = false,
            Event::TreesDiffer(differ) => {
                if self.durable.tree_differs != differ {
                    self.store(|state| state.tree_differs = differ);
                }
            }
            Event::ResyncBegan => self.resync_began(),
            Event::Resynced { log } => self.resynced(log),
            Event::Shutdown => self.shutdown(),
            Event::CommandFailed { part, error } => self.failed(part, error),
        }
        self.run_role();
    }

    /// What each role does when time or facts may have changed. Cheap, and may run any number of times.
    pub(crate) fn run_role(&mut self) {
        let granted = self.granted();
        if granted > self.granted {
            self.granted = granted;
            self.desk.epoch_rose();
        }
        match self.role {
            Role::Waiting(_) => self.run_waiting(),
            Role::Partner(_) => self.run_partner(),
            Role::Claiming(_) => self.run_claiming(),
            Role::Primary(_) => self.run_primary(),
            Role::Opening(_) | Role::Failed(..) | Role::Stopped => {}
        }
    }

    fn tick(&mut self, vitals: Vitals) {
        self.vitals = Vitals { healthy: !self.fault, ..vitals };
        if let Some(asked) = self.desk.overdue(self.now, &self.config.timers) {
            self.witness_said(asked, crate::WitnessOutcome::Unreachable { maybe_applied: true });
        }
        let due = |last: MonoMs| self.now.since(last) >= self.heartbeat_ms();
        if self.last_heartbeat.is_none_or(due) {
            self.last_heartbeat = Some(self.now);
            let epoch = match &self.role {
                Role::Primary(primary) => Some(primary.epoch),
                _ => None,
            };
            // One that follows answers the primary's, which says the same.
            if !self.answers_heartbeats() {
                self.send(Message::Heartbeat { sent: self.now, epoch, vitals: self.vitals });
            }
            self.repeat();
        }
        self.forget_refusal();
        if self.stopping.is_some_and(|limit| self.now >= limit) {
            self.stop_now();
        }
    }

    /// Between two heartbeats. Three fit in a lease, also where the partner's is shorter than this node's own.
    fn heartbeat_ms(&self) -> u64 {
        let own = self.config.timers.heartbeat_ms;
        match &self.role {
            Role::Primary(primary) => own.min(primary.lease_ms / HEARTBEATS_PER_LEASE).max(1),
            _ => own,
        }
    }

    /// When the next `Tick` must come at the latest.
    pub fn next_deadline(&self) -> MonoMs {
        let timers = &self.config.timers;
        let heartbeat = self.last_heartbeat.map_or(self.now, |last| last.plus(self.heartbeat_ms()));
        let witness = self.desk.deadline(timers);
        let role = self.role_deadline();
        [Some(heartbeat), (witness > self.now).then_some(witness), role]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(heartbeat)
    }

    // ---- effects ----

    /// The only way out; keeps account of what is in force.
    pub(crate) fn emit(&mut self, command: Command) {
        let effects = &mut self.effects;
        match &command {
            Command::SetAckRule(rule) => {
                effects.rule = *rule;
                effects.rules_pending += 1;
            }
            Command::SetLease(lease) => effects.lease = *lease,
            Command::Grant { link } => effects.granted = Some(*link),
            Command::Revoke => {
                effects.granted = None;
                effects.revokes_pending += 1;
            }
            Command::StartServing { .. } => effects.serving = true,
            Command::StopServing { .. } => {
                effects.serving = false;
                effects.draining = false;
            }
            Command::StartMirroring { link, .. } => effects.mirroring = Some(*link),
            Command::StopMirroring => effects.mirroring = None,
            Command::SetHold(hold) => effects.hold = hold.is_some(),
            Command::Drain => effects.draining = true,
            Command::Undrain => effects.draining = false,
            _ => {}
        }
        self.out.push(command);
    }

    /// Changes the durable state, and stores it if that changed it.
    pub(crate) fn store(&mut self, change: impl FnOnce(&mut DurableState)) {
        let before = self.durable.clone();
        change(&mut self.durable);
        if self.durable != before {
            self.emit(Command::Store(self.durable.clone()));
        }
    }

    pub(crate) fn send(&mut self, message: Message) {
        if let Some(link) = &self.link {
            let link = link.id;
            self.emit(Command::Send { link, message });
        }
    }

    pub(crate) fn set_lease(&mut self, lease: Lease) {
        if self.effects.lease != lease {
            self.emit(Command::SetLease(lease));
        }
    }

    pub(crate) fn set_rule(&mut self, rule: AckRule) {
        if self.effects.rule != rule {
            self.emit(Command::SetAckRule(rule));
        }
    }

    pub(crate) fn stop_mirroring(&mut self) {
        if self.effects.mirroring.is_some() {
            self.emit(Command::StopMirroring);
        }
        if self.effects.hold {
            self.emit(Command::SetHold(None));
        }
    }

    // ---- facts ----

    pub(crate) fn is_current(&self, link: LinkId) -> bool {
        self.link.as_ref().is_some_and(|current| current.id == link)
    }

    pub(crate) fn peer_hello(&self) -> Option<&Hello> {
        self.link.as_ref()?.hello.as_ref()
    }

    /// The epoch that the partner is primary of, if its `Hello` says so.
    pub(crate) fn peer_epoch(&self) -> Option<Epoch> {
        match self.peer_hello()?.posture {
            Posture::Primary(epoch) => Some(epoch),
            _ => None,
        }
    }

    /// The lowest epoch above everything known whose parity is the given rank: nobody else opens it, ever.
    pub(crate) fn next_epoch(&self, rank: u64) -> Epoch {
        let known = [
            self.durable.epoch_seen,
            self.log.history.last().map_or(Epoch(0), |entry| entry.epoch),
            self.desk.register().map_or(Epoch(0), |register| register.epoch),
            self.peer_hello().map_or(Epoch(0), |hello| hello.epoch_seen),
        ];
        let above = known.into_iter().max().unwrap_or_default().next();
        if above.0 % 2 == rank { above } else { above.next() }
    }

    /// The register as far as it may decide anything. One that is older than an epoch that this node knows of was
    /// rolled back: whoever holds that epoch may serve, whatever the register says. So is one that calls solo the
    /// epoch that this node knows to have become mirrored.
    pub(crate) fn known(&self) -> Known {
        let Known::Is(register) = &self.desk.known else { return self.desk.known.clone() };
        let became_mirrored = self.durable.register.as_ref().is_some_and(|ours| {
            ours.epoch == register.epoch && ours.mode == Mode::Mirrored && register.mode == Mode::Solo
        });
        let old = register.epoch < self.granted() || became_mirrored;
        match old && !crate::planted::old_register_believed() {
            true if self.desk.told => Known::Stale(register.clone()),
            // Old news, perhaps.
            true => Known::Nothing,
            false => Known::Is(register.clone()),
        }
    }

    /// The highest epoch that was granted to a node, as this node knows beside what the witness says.
    fn granted(&self) -> Epoch {
        let opened = self.log.history.last().map_or(Epoch(0), |last| last.epoch);
        let stored = self.durable.register.as_ref().map_or(Epoch(0), |ours| ours.epoch);
        self.durable.epoch_seen.max(opened).max(stored)
    }

    /// Do both nodes want answers out of memory?
    pub(crate) fn answers_from_memory(&self) -> bool {
        self.log.answer_from == AnswerFrom::Memory
            && self.peer_hello().is_some_and(|theirs| theirs.log.answer_from == AnswerFrom::Memory)
    }

    /// What clients may ask for: what both bases hold, as far as the partner's was ever known.
    pub fn client_limits(&self) -> BaseLimits {
        self.durable.granted.unwrap_or(self.config.base_limits)
    }

    /// The highest epoch heard of.
    pub(crate) fn epoch_seen(&self) -> Epoch {
        let register = self.newest_register();
        let opened = self.log.history.last().map(|entry| entry.epoch);
        [Some(self.durable.epoch_seen), register.map(|r| r.epoch), opened]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or_default()
    }

    /// The register as last known. What this node stored before it restarted may be newer than what others say.
    pub(crate) fn newest_register(&self) -> Option<&Register> {
        self.durable.register.iter().chain(self.desk.register()).max_by_key(|register| register.epoch)
    }

    pub(crate) fn hello(&self) -> Hello {
        let unusable = self.reports.needs_resync.is_some() || self.reports.split.is_some();
        let posture = match &self.role {
            Role::Primary(primary) => Posture::Primary(primary.epoch),
            Role::Partner(partner) => Posture::Partner(partner.epoch),
            Role::Claiming(_) | Role::Opening(_) => Posture::Claiming,
            Role::Waiting(_) if !unusable && self.stopping.is_none() => Posture::Waiting,
            Role::Waiting(_) | Role::Failed(..) | Role::Stopped => Posture::Unusable,
        };
        Hello {
            number: self.hellos,
            node: self.config.me.clone(),
            log: self.log.clone(),
            posture,
            register: self.newest_register().cloned(),
            epoch_seen: self.epoch_seen(),
            in_sync: self.durable.in_sync,
            solo: self.durable.solo,
            origin_empty: self.durable.origin_empty.unwrap_or(false),
            base_filesystem: self.config.base_filesystem.clone(),
            base_limits: self.config.base_limits,
        }
    }

    pub(crate) fn say_hello(&mut self) {
        if self.link.is_some() {
            self.hellos += 1;
            let hello = self.hello();
            self.send(Message::Hello(Box::new(hello)));
        }
    }
}
