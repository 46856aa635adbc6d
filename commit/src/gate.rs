//! The gate in front of the log: who may append, how fast, and how much disk that may need later.
//!
//! Invariant 6: a full log slows clients down gradually and never fails them. From half full on, every
//! admission waits a little, more as the log fills; when the room that is left would not hold what is already
//! admitted, an admission waits for the next trim. Memory for what no tree holds yet counts in the same way: tiny
//! operations fill it before they fill the log. Invariant 7: what is admitted is counted against the free
//! space of both nodes in the same step, until a consistency point has put it on disk there, so that applying never
//! meets ENOSPC. Both counts are upper bounds ([`Needs`]): an overwrite needs no new block, and is counted as if it did.
//! Only when there is no room for that it is found out, by whoever asks, and it is let in as what it is ([`Room`]).

use super::bell::Bell;
use super::{Admission, Ask, Needs, NotServing, Refused, Room, SpaceBudget};
use ids::Lsn;
use runtime::{Condvar, Instant, Mutex, mark};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Log fill above which clients are slowed down, in percent of the capacity.
pub const THROTTLE_FROM_PERCENT: u64 = 50;
/// The longest delay of one admission while there is still room.
pub const MAX_DELAY_MS: u64 = 20;
/// Log space one record may need beside its payload: header, alignment, encoded head.
const LOG_BYTES_PER_RECORD: u64 = 1024;
/// Consistency points whose needs are remembered one by one; older ones are added to their neighbour.
const MAX_PENDING_SPANS: usize = 256;

/// How often a client that finds the log full asks for a consistency point.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How long a client waits for consistency points to show how much space there really is.
const STARVED_PATIENCE: Duration = Duration::from_secs(20);

/// What the consistency point that ends at `end` has to place on disk.
#[derive(Debug, Clone, Copy)]
struct Span {
    end: Lsn,
    needs: Needs,
}

#[derive(Debug)]
struct State {
    /// LSN up to which ring space may be overwritten.
    floor: Lsn,
    /// LSN from which a partner that catches up still needs the log.
    hold: Option<Lsn>,
    /// Admitted and not yet returned: log bytes that reservations may still take.
    admitted_bytes: u64,
    /// Logged since the last seal.
    open: Needs,
    /// Sealed and not known to be applied on both nodes.
    spans: VecDeque<Span>,
    /// The sum of `open` and `spans`, kept beside them because every admission asks for it.
    pending: Needs,
    local: SpaceBudget,
    peer: Option<SpaceBudget>,
    local_applied: Lsn,
    /// What the partner tells of its space is after everything before this.
    peer_counted: Lsn,
    /// Its filesystem holds everything before this.
    peer_applied: Lsn,
    /// How much of the memory for what is not applied here is taken.
    memory_percent: u64,
    closed: Option<NotServing>,
    paused: bool,
    /// How often `open` was begun anew.
    begun: u64,
}

/// What the partner tells of its filesystem.
#[derive(Debug, Clone, Copy)]
pub struct PeerSpace {
    /// `space` is after everything before this, whether it is applied or not.
    pub counted: Lsn,
    /// It holds everything before this.
    pub applied: Lsn,
    /// What it has left.
    pub space: SpaceBudget,
}

/// The gate of one volume.
#[derive(Debug)]
pub struct Gate {
    capacity_bytes: u64,
    reserve_bytes: u64,
    state: Mutex<State>,
    moved: Condvar,
    bell: Bell,
}

/// Why an operation is not let in yet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hindrance {
    /// A switchover is under way, and decides.
    Paused,
    /// The log has no room for so many bytes.
    LogFull { log_bytes: u64, ask_again: Instant },
    /// The log fills.
    SlowedDown { until: Instant },
    /// A consistency point has to show how much of the space is really used.
    /// `inside`: or whoever is inside has to leave before that.
    DiskFull { needs: Needs, room: Room, measured_at: Lsn, inside: bool, until: Instant },
}

impl Hindrance {
    /// When to look again, even if the gate has not moved.
    pub fn deadline(&self) -> Option<Instant> {
        match *self {
            Hindrance::Paused => None,
            Hindrance::LogFull { ask_again: until, .. }
            | Hindrance::SlowedDown { until }
            | Hindrance::DiskFull { until, .. } => Some(until),
        }
    }
}

/// What an admission counts for, until it is given back.
#[derive(Debug)]
pub(super) struct Held {
    pub gate: Arc<Gate>,
    pub log_bytes: u64,
    needs: Needs,
    begun: u64,
}

/// How far an operation has come in front of the gate.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    delayed: bool,
    slowed: bool,
    starving: Option<(Instant, Lsn, Lsn)>,
}

/// What became of an attempt to be let in.
#[derive(Debug)]
pub(super) enum Step {
    In(Admission),
    Wait(Hindrance),
}

impl Gate {
    /// A gate for a log of `capacity_bytes`, closed until [`Gate::open`]. `reserve_bytes` are kept for the
    /// node's own records and for padding at the ring's end.
    pub fn new(capacity_bytes: u64, reserve_bytes: u64, floor: Lsn) -> Arc<Gate> {
        let state = State {
            floor,
            hold: None,
            admitted_bytes: 0,
            open: Needs::default(),
            spans: VecDeque::new(),
            pending: Needs::default(),
            local: SpaceBudget::default(),
            peer: None,
            local_applied: floor,
            peer_counted: floor,
            peer_applied: floor,
            memory_percent: 0,
            closed: Some(NotServing::NotPrimary),
            paused: false,
            begun: 0,
        };
        Arc::new(Gate {
            capacity_bytes,
            reserve_bytes,
            state: Mutex::new(state),
            moved: Condvar::new(),
            bell: Bell::new(),
        })
    }

    /// Lets clients in.
    pub fn open(&self) {
        let mut state = self.state.lock();
        state.closed = None;
        state.paused = false;
        self.tell();
    }

    /// Holds newcomers back without an answer, until [`Gate::open`] or [`Gate::close`] decides about them.
    pub fn pause(&self) {
        self.state.lock().paused = true;
    }

    /// Ends a [`Gate::pause`].
    pub fn resume(&self) {
        self.state.lock().paused = false;
        self.tell();
    }

    /// Is nobody inside?
    pub fn is_empty(&self) -> bool {
        self.state.lock().admitted_bytes == 0
    }

    /// Lets nobody in any more; those who wait get `why`.
    pub fn close(&self, why: NotServing) {
        self.state.lock().closed = Some(why);
        self.tell();
    }

    /// Ring space before `floor` can be reserved again.
    pub fn set_floor(&self, floor: Lsn) {
        self.state.lock().floor = floor;
        self.tell();
    }

    /// A partner that catches up needs everything from `hold` on.
    pub fn set_hold(&self, hold: Option<Lsn>) {
        self.state.lock().hold = hold;
        self.tell();
    }

    /// Waits for room for one operation. `reserved` tells the log's end, `starved` is called when space on disk or
    /// in the log looks used up; it must only ask for a consistency point, for the gate is locked meanwhile.
    ///
    /// # Errors
    /// [`Refused::NotServing`] when the gate is closed, also while waiting; [`Refused::NoSpace`].
    pub fn admit(
        self: &Arc<Gate>,
        ask: Ask,
        reserved: impl Fn() -> Lsn,
        starved: impl Fn(),
    ) -> Result<Admission, Refused> {
        let mut progress = Progress::default();
        let mut state = self.state.lock();
        loop {
            let hindrance = match self.step(&mut state, ask, &mut progress, reserved(), &starved)? {
                Step::In(admission) => return Ok(admission),
                Step::Wait(hindrance) => hindrance,
            };
            while self.is_held_back(&state, &hindrance, reserved()) {
                match hindrance.deadline() {
                    None => self.moved.wait(&mut state),
                    Some(until) if self.moved.wait_until(&mut state, until).timed_out() => break,
                    Some(_) => {}
                }
            }
        }
    }

    /// Like [`Gate::admit`] without the wait: what the operation has to wait for, if it has to. `progress` is its
    /// own, over all its attempts.
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn try_admit(
        self: &Arc<Gate>,
        ask: Ask,
        progress: &mut Progress,
        reserved: impl Fn() -> Lsn,
        starved: impl Fn(),
    ) -> Result<Step, Refused> {
        // Under the lock: whoever has left by then has logged what it was let in for.
        let mut state = self.state.lock();
        self.step(&mut state, ask, progress, reserved(), &starved)
    }

    /// Has an operation that was held back to be held back still?
    pub(super) fn holds_back(&self, hindrance: &Hindrance, reserved: Lsn) -> bool {
        self.is_held_back(&self.state.lock(), hindrance, reserved)
    }

    /// Who is to be told of every move, beside the threads that wait in [`Gate::admit`].
    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    // On the way of each commit: as a call of its own it costs some fifty instructions more.
    #[inline(always)]
    fn step(
        self: &Arc<Gate>,
        state: &mut State,
        ask: Ask,
        progress: &mut Progress,
        reserved: Lsn,
        starved: &dyn Fn(),
    ) -> Result<Step, Refused> {
        let (log_bytes, needs) = (ask.payload_bytes + LOG_BYTES_PER_RECORD, Needs::of(&ask));
        if let Some(why) = state.closed {
            return Err(why.into());
        }
        if state.paused {
            return Ok(Step::Wait(Hindrance::Paused));
        }
        let used = state.used_bytes(reserved);
        if self.is_full(state, used, log_bytes) {
            mark!("log full");
            progress.slowed = true;
            // Nobody can say for how long: a trim wakes us. Ask again in case the log only just filled; but not at
            // every wake-up, for a consistency point that finds nothing to do wakes us too.
            starved();
            return Ok(Step::Wait(Hindrance::LogFull { log_bytes, ask_again: Instant::now() + ASK_AGAIN }));
        }
        let delay = self.delay(self.fill(state, used));
        if !progress.delayed && !delay.is_zero() {
            (progress.delayed, progress.slowed) = (true, true);
            mark!("client slowed down");
            // Others come and go meanwhile; only a trim ends it early.
            return Ok(Step::Wait(Hindrance::SlowedDown { until: Instant::now() + delay }));
        }
        let mut all = state.pending;
        all.add(needs);
        if ask.grows && !state.has_plenty(&all) && !state.holds(ask.room, needs) {
            if ask.room == Room::Perhaps {
                return Err(Refused::NoSpace);
            }
            // Much of what is pending may turn out to need nothing: let a consistency point show it.
            // Others may take that room again, so it takes as many as it takes, until nothing is logged any more.
            let now = Instant::now();
            // Who is inside has not logged yet what takes the room, or may come to nothing.
            let inside = state.admitted_bytes > 0;
            let both_applied = state.both_applied();
            let until = match progress.starving {
                None => now + STARVED_PATIENCE,
                // The disk is not full, and each consistency point gives room: as many as it takes, while they come.
                Some((_, _, applied))
                    if applied < both_applied && state.lacks_certainty_only(ask.room, needs) =>
                {
                    now + STARVED_PATIENCE
                }
                Some((until, seen, _))
                    if now < until && both_applied < seen && state.lacks_certainty_only(ask.room, needs) =>
                {
                    until
                }
                Some((until, seen, _)) if now < until && (seen < reserved || inside) => until,
                Some(_) => return Err(state.no_space(needs)),
            };
            if state.is_hopeless(ask.room, needs) {
                return Err(state.no_space(needs));
            }
            progress.starving = Some((until, reserved, both_applied));
            mark!("room on disk waited for");
            starved();
            let (room, measured_at) = (ask.room, reserved);
            return Ok(Step::Wait(Hindrance::DiskFull { needs, room, measured_at, inside, until }));
        }
        state.admitted_bytes += log_bytes;
        state.open.add(needs);
        state.pending = all;
        let held = Some(Held { gate: self.clone(), log_bytes, needs, begun: state.begun });
        let slowed = progress.slowed;
        *progress = Progress::default();
        Ok(Step::In(Admission { bytes: ask.payload_bytes, slowed, held }))
    }

    fn is_full(&self, state: &State, used: u64, log_bytes: u64) -> bool {
        used + log_bytes + self.reserve_bytes > self.capacity_bytes || state.memory_percent >= 100
    }

    /// What the log would be filled by, if that were as much of it as memory is taken.
    fn fill(&self, state: &State, used: u64) -> u64 {
        used.max(self.capacity_bytes / 100 * state.memory_percent)
    }

    /// Whoever closes or pauses the gate decides anew about all who wait.
    fn is_held_back(&self, state: &State, hindrance: &Hindrance, reserved: Lsn) -> bool {
        if state.closed.is_some() {
            return false;
        }
        match *hindrance {
            Hindrance::Paused => state.paused,
            Hindrance::LogFull { log_bytes, .. } => {
                !state.paused && self.is_full(state, state.used_bytes(reserved), log_bytes)
            }
            Hindrance::SlowedDown { .. } => {
                !state.paused && !self.delay(self.fill(state, state.used_bytes(reserved))).is_zero()
            }
            Hindrance::DiskFull { needs, room, measured_at, inside, .. } => {
                let awaited = state.both_applied() < measured_at || inside && state.admitted_bytes > 0;
                awaited && !state.holds(room, needs) && !state.is_hopeless(room, needs)
            }
        }
    }

    fn tell(&self) {
        self.moved.notify_all();
        self.bell.ring();
    }

    /// How long an admission is held back when `used` bytes of the log are taken.
    fn delay(&self, used: u64) -> Duration {
        if used <= self.capacity_bytes / 100 * THROTTLE_FROM_PERCENT {
            return Duration::ZERO;
        }
        let percent = used.saturating_mul(100) / self.capacity_bytes.max(1);
        let above = percent.saturating_sub(THROTTLE_FROM_PERCENT);
        // Quadratic: hardly felt just above the threshold, MAX_DELAY_MS when full.
        let span = 100 - THROTTLE_FROM_PERCENT;
        Duration::from_micros(MAX_DELAY_MS * 1000 * above * above / (span * span))
    }

    /// Nothing was logged under an admission: it needs no disk either.
    pub(super) fn cancel(&self, held: &Held) {
        let mut state = self.state.lock();
        if state.begun == held.begun {
            state.open.take_off(held.needs);
            state.pending.take_off(held.needs);
        }
    }

    pub(super) fn give_back(&self, log_bytes: u64) {
        let mut state = self.state.lock();
        state.admitted_bytes = state.admitted_bytes.saturating_sub(log_bytes);
        self.tell();
    }

    /// What is logged so far belongs to a consistency point that ends at `end`.
    pub fn sealed(&self, end: Lsn) {
        let mut state = self.state.lock();
        let needs = std::mem::take(&mut state.open);
        state.begun += 1;
        let full = state.spans.len() == MAX_PENDING_SPANS;
        match state.spans.back_mut() {
            Some(last) if full => {
                last.end = end;
                last.needs.add(needs);
            }
            _ => state.spans.push_back(Span { end, needs }),
        }
    }

    /// A consistency point found nothing to do: if nobody is inside and `unchanged` (nothing was logged since it
    /// looked), what was admitted since the last seal came to nothing, and needs no disk.
    pub fn nothing_sealed(&self, unchanged: impl Fn() -> bool, space: SpaceBudget) {
        let mut state = self.state.lock();
        if state.admitted_bytes == 0 && unchanged() {
            let nothing = std::mem::take(&mut state.open);
            state.begun += 1;
            state.pending.take_off(nothing);
        }
        state.local = space;
        self.tell();
    }

    /// What was logged here and not applied is void, or counted elsewhere.
    pub fn forget_pending(&self) {
        self.begin_with(Lsn(0), Needs::default());
    }

    /// This node becomes the primary: what the log holds up to `end` and no disk has yet came in through the
    /// partner's gate, or before a restart, and needs its room all the same.
    pub fn begin_with(&self, end: Lsn, needs: Needs) {
        let mut state = self.state.lock();
        state.spans.clear();
        state.spans.push_back(Span { end, needs });
        state.open = Needs::default();
        state.begun += 1;
        state.pending = needs;
    }

    /// This node's filesystem holds everything before `applied` and has `space` left.
    pub fn set_local_space(&self, applied: Lsn, space: SpaceBudget) {
        let mut state = self.state.lock();
        state.local_applied = applied;
        state.local = space;
        state.forget_applied();
        self.tell();
    }

    /// What is not applied here takes so much memory, of so much that there is for it.
    pub fn set_unapplied_memory(&self, taken: u64, most: u64) {
        let mut state = self.state.lock();
        let before = state.memory_percent;
        state.memory_percent = taken.saturating_mul(100) / most.max(1);
        if before >= THROTTLE_FROM_PERCENT && state.memory_percent < before {
            self.tell();
        }
    }

    /// What the partner tells of its filesystem. `None` while there is no
    /// partner that has to store what is admitted.
    pub fn set_peer_space(&self, peer: Option<PeerSpace>) {
        let mut state = self.state.lock();
        match peer {
            Some(PeerSpace { counted, applied, space }) => {
                state.peer_counted = counted;
                state.peer_applied = applied;
                state.peer = Some(space);
            }
            None => state.peer = None,
        }
        state.forget_applied();
        self.tell();
    }

    /// Is there a partner that has to store what is admitted?
    pub fn has_peer(&self) -> bool {
        self.state.lock().peer.is_some()
    }

    /// What can still be stored on both nodes.
    pub fn space(&self) -> SpaceBudget {
        self.state.lock().budget()
    }
}

impl State {
    /// Log that cannot be overwritten, when it is reserved up to here.
    fn used_bytes(&self, reserved: Lsn) -> u64 {
        let needed_from = self.hold.map_or(self.floor, |hold| hold.min(self.floor));
        reserved.since(needed_from) + self.admitted_bytes
    }

    fn both_applied(&self) -> Lsn {
        match self.peer {
            Some(_) => self.local_applied.min(self.peer_applied),
            None => self.local_applied,
        }
    }

    /// Would it not fit either if all that is logged came to nothing? What the partner has still to apply is counted in
    /// what it tells, as much as it may need.
    fn is_hopeless(&self, room: Room, needs: Needs) -> bool {
        let too_small = |space: &SpaceBudget| !space.for_room(room).holds(needs);
        too_small(&self.local)
            || self
                .peer
                .as_ref()
                .is_some_and(|peer| self.peer_applied >= self.peer_counted && too_small(peer))
    }

    #[cold]
    fn no_space(&self, needs: Needs) -> Refused {
        let State { local, peer, pending, local_applied, peer_counted, peer_applied, .. } = self;
        tracing::debug!(
            ?needs, ?local, ?peer, ?pending, %local_applied, %peer_counted, %peer_applied,
            "no space for an operation"
        );
        Refused::NoSpace
    }

    fn forget_applied(&mut self) {
        let applied = match self.peer {
            Some(_) => self.local_applied.min(self.peer_counted),
            None => self.local_applied,
        };
        while let Some(span) = self.spans.pop_front_if(|span| span.end <= applied) {
            self.pending.take_off(span.needs);
        }
    }

    #[inline(always)]
    fn has_plenty(&self, all: &Needs) -> bool {
        self.local.has_plenty(all) && self.peer.as_ref().is_none_or(|peer| peer.has_plenty(all))
    }

    /// Each node for itself: what is scarce on one may be plenty on the other.
    fn holds(&self, room: Room, needs: Needs) -> bool {
        let holds = |space: &SpaceBudget| space.after(self.pending).for_room(room).holds(needs);
        holds(&self.local) && self.peer.as_ref().is_none_or(holds)
    }

    /// Would there be room if all inodes were certain that are likely?
    #[cold]
    fn lacks_certainty_only(&self, room: Room, needs: Needs) -> bool {
        let likely = |space: &SpaceBudget| SpaceBudget { free_inodes: space.shown_inodes(), ..*space };
        let holds = |space: &SpaceBudget| likely(space).after(self.pending).for_room(room).holds(needs);
        holds(&self.local) && self.peer.as_ref().is_none_or(holds)
    }

    fn budget(&self) -> SpaceBudget {
        let left = |space: SpaceBudget| space.after(self.pending).without_margin();
        let local = left(self.local);
        self.peer.map_or(local, |peer| local.smaller(left(peer)))
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
