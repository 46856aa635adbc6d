//! The gate in front of the log: who may append, how fast, and how much disk that may need later.
//!
//! Invariant 6: a full log slows clients down gradually and never fails them. From half full on, every
//! admission waits a little, more as the log fills; when the room that is left would not hold what is already
//! admitted, an admission waits for the next trim. Invariant 7: what is admitted is counted against the free
//! space of both nodes until a consistency point has put it on disk there, so that applying never meets
//! ENOSPC. Both counts are upper bounds: an overwrite needs no new block, but may be told to wait for the
//! consistency point that shows it.

use super::{Admission, NotServing, SpaceBudget};
use crate::runtime::{Condvar, Instant, Mutex, mark};
use ids::Lsn;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Log fill above which clients are slowed down, in percent of the capacity.
pub const THROTTLE_FROM_PERCENT: u64 = 50;
/// The longest delay of one admission while there is still room.
pub const MAX_DELAY_MS: u64 = 20;
/// Disk space one record may need beside its payload: a directory block and its share of inode and extent trees.
const DISK_BYTES_PER_RECORD: u64 = 4096;
/// Log space one record may need beside its payload: header, alignment, encoded head.
const LOG_BYTES_PER_RECORD: u64 = 1024;
/// Kept free on both nodes, so that metadata of the local filesystem never runs out.
const DISK_MARGIN_BYTES: u64 = 8 << 20;
/// Consistency points whose needs are remembered one by one; older ones are added to their neighbour.
const MAX_PENDING_SPANS: usize = 256;

/// How long a client waits for a consistency point to show how much space there really is.
const STARVED_PATIENCE: Duration = Duration::from_secs(4);

/// What has to be placed on disk, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Needs {
    disk_bytes: u64,
    inodes: u64,
}

impl Needs {
    fn add(&mut self, other: Needs) {
        self.disk_bytes += other.disk_bytes;
        self.inodes += other.inodes;
    }

    fn take_off(&mut self, other: Needs) {
        self.disk_bytes -= other.disk_bytes;
        self.inodes -= other.inodes;
    }
}

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
    peer_applied: Lsn,
    closed: Option<NotServing>,
    paused: bool,
}

/// The gate of one volume.
#[derive(Debug)]
pub struct Gate {
    capacity_bytes: u64,
    reserve_bytes: u64,
    state: Mutex<State>,
    moved: Condvar,
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
            peer_applied: floor,
            closed: Some(NotServing::NotPrimary),
            paused: false,
        };
        Arc::new(Gate { capacity_bytes, reserve_bytes, state: Mutex::new(state), moved: Condvar::new() })
    }

    /// Lets clients in.
    pub fn open(&self) {
        let mut state = self.state.lock();
        state.closed = None;
        state.paused = false;
        self.moved.notify_all();
    }

    /// Holds newcomers back without an answer, until [`Gate::open`] or [`Gate::close`] decides about them.
    pub fn pause(&self) {
        self.state.lock().paused = true;
    }

    /// Ends a [`Gate::pause`].
    pub fn resume(&self) {
        self.state.lock().paused = false;
        self.moved.notify_all();
    }

    /// Is nobody inside?
    pub fn is_empty(&self) -> bool {
        self.state.lock().admitted_bytes == 0
    }

    /// Lets nobody in any more; those who wait get `why`.
    pub fn close(&self, why: NotServing) {
        self.state.lock().closed = Some(why);
        self.moved.notify_all();
    }

    /// Ring space before `floor` can be reserved again.
    pub fn set_floor(&self, floor: Lsn) {
        self.state.lock().floor = floor;
        self.moved.notify_all();
    }

    /// A partner that catches up needs everything from `hold` on.
    pub fn set_hold(&self, hold: Option<Lsn>) {
        self.state.lock().hold = hold;
        self.moved.notify_all();
    }

    /// Waits for room for one operation of `payload_bytes`. `reserved` tells the log's end, `starved` is
    /// called when space on disk or in the log looks used up; it must only ask for a consistency point, for the
    /// gate is locked meanwhile.
    ///
    /// # Errors
    /// [`NotServing`] when the gate is closed, also while waiting.
    pub fn admit(
        self: &Arc<Gate>,
        payload_bytes: u64,
        reserved: impl Fn() -> Lsn,
        starved: impl Fn(),
    ) -> Result<Admission, NotServing> {
        let log_bytes = payload_bytes + LOG_BYTES_PER_RECORD;
        let mut delayed = false;
        let mut asked = false;
        let mut state = self.state.lock();
        loop {
            if let Some(why) = state.closed {
                return Err(why);
            }
            if state.paused {
                self.moved.wait(&mut state);
                continue;
            }
            let needed_from = state.hold.map_or(state.floor, |hold| hold.min(state.floor));
            let used = reserved().since(needed_from) + state.admitted_bytes;
            if used + log_bytes + self.reserve_bytes > self.capacity_bytes {
                mark!("log full");
                // Full: nobody can say for how long, a trim wakes us. Ask again in case the log only just filled.
                starved();
                self.moved.wait_for(&mut state, Duration::from_millis(50));
                continue;
            }
            let delay = self.delay(used);
            if !delayed && !delay.is_zero() {
                delayed = true;
                mark!("client slowed down");
                self.moved.wait_for(&mut state, delay);
                continue;
            }
            let disk_bytes = payload_bytes.next_multiple_of(4096) + DISK_BYTES_PER_RECORD;
            if !asked && state.pending.disk_bytes > 0 && state.budget().free_bytes < disk_bytes {
                // Much of what is pending may turn out to need nothing: let a consistency point show it.
                asked = true;
                mark!("room on disk waited for");
                starved();
                let (until, target) = (Instant::now() + STARVED_PATIENCE, reserved());
                let short = |state: &State| {
                    state.closed.is_none()
                        && state.budget().free_bytes < disk_bytes
                        && state.both_applied() < target
                };
                while short(&state) && !self.moved.wait_until(&mut state, until).timed_out() {}
                continue;
            }
            state.admitted_bytes += log_bytes;
            let needs = Needs { disk_bytes, inodes: 1 };
            state.open.add(needs);
            state.pending.add(needs);
            return Ok(Admission { bytes: payload_bytes, held: Some((self.clone(), log_bytes)) });
        }
    }

    /// How long an admission is held back when `used` bytes of the log are taken.
    fn delay(&self, used: u64) -> Duration {
        let percent = used.saturating_mul(100) / self.capacity_bytes.max(1);
        let above = percent.saturating_sub(THROTTLE_FROM_PERCENT);
        // Quadratic: hardly felt just above the threshold, MAX_DELAY_MS when full.
        let span = 100 - THROTTLE_FROM_PERCENT;
        Duration::from_micros(MAX_DELAY_MS * 1000 * above * above / (span * span))
    }

    pub(super) fn give_back(&self, log_bytes: u64) {
        let mut state = self.state.lock();
        state.admitted_bytes = state.admitted_bytes.saturating_sub(log_bytes);
        self.moved.notify_all();
    }

    /// What is logged so far belongs to a consistency point that ends at `end`.
    pub fn sealed(&self, end: Lsn) {
        let mut state = self.state.lock();
        let needs = std::mem::take(&mut state.open);
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
            state.pending.take_off(nothing);
        }
        state.local = space;
        self.moved.notify_all();
    }

    /// What was logged here and not applied is void, or counted elsewhere.
    pub fn forget_pending(&self) {
        let mut state = self.state.lock();
        state.spans.clear();
        state.open = Needs::default();
        state.pending = Needs::default();
    }

    /// This node's filesystem holds everything before `applied` and has `space` left.
    pub fn set_local_space(&self, applied: Lsn, space: SpaceBudget) {
        let mut state = self.state.lock();
        state.local_applied = applied;
        state.local = space;
        state.forget_applied();
        self.moved.notify_all();
    }

    /// The partner's filesystem holds everything before `applied` and has `space` left. `None` while there is
    /// no partner that has to store what is admitted.
    pub fn set_peer_space(&self, peer: Option<(Lsn, SpaceBudget)>) {
        let mut state = self.state.lock();
        match peer {
            Some((applied, space)) => {
                state.peer_applied = applied;
                state.peer = Some(space);
            }
            None => state.peer = None,
        }
        state.forget_applied();
        self.moved.notify_all();
    }

    /// What can still be stored on both nodes.
    pub fn space(&self) -> SpaceBudget {
        self.state.lock().budget()
    }
}

impl State {
    fn both_applied(&self) -> Lsn {
        match self.peer {
            Some(_) => self.local_applied.min(self.peer_applied),
            None => self.local_applied,
        }
    }

    fn forget_applied(&mut self) {
        let applied = self.both_applied();
        while let Some(span) = self.spans.pop_front_if(|span| span.end <= applied) {
            self.pending.take_off(span.needs);
        }
    }

    fn budget(&self) -> SpaceBudget {
        let smaller = match self.peer {
            Some(peer) => self.local.smaller(peer),
            None => self.local,
        };
        let keep = self.pending.disk_bytes + DISK_MARGIN_BYTES;
        SpaceBudget {
            free_bytes: smaller.free_bytes.saturating_sub(keep),
            available_bytes: smaller.available_bytes.saturating_sub(keep),
            free_inodes: smaller.free_inodes.saturating_sub(self.pending.inodes),
            ..smaller
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(free_bytes: u64) -> SpaceBudget {
        SpaceBudget {
            total_bytes: 1 << 40,
            free_bytes,
            available_bytes: free_bytes,
            total_inodes: 1000,
            free_inodes: 1000,
        }
    }

    fn open_gate(capacity: u64) -> Arc<Gate> {
        let gate = Gate::new(capacity, 0, Lsn(0));
        gate.set_local_space(Lsn(0), budget(1 << 40));
        gate.open();
        gate
    }

    #[test]
    fn a_full_log_makes_clients_wait_and_a_trim_lets_them_on() {
        let gate = open_gate(1 << 20);
        let waiting = {
            let gate = gate.clone();
            std::thread::spawn(move || gate.admit(4096, || Lsn(1 << 20), || ()).map(|_| ()))
        };
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished(), "there is no room");
        gate.set_floor(Lsn(1 << 20));
        assert_eq!(waiting.join().unwrap(), Ok(()));
    }

    #[test]
    fn what_a_partner_still_needs_counts_as_used() {
        let gate = open_gate(1 << 20);
        gate.set_floor(Lsn(1 << 20));
        gate.set_hold(Some(Lsn(0)));
        let waiting = {
            let gate = gate.clone();
            std::thread::spawn(move || gate.admit(4096, || Lsn(1 << 20), || ()).map(|_| ()))
        };
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished(), "trimmed, but the partner has not got it");
        gate.set_hold(None);
        assert_eq!(waiting.join().unwrap(), Ok(()));
    }

    #[test]
    fn what_was_admitted_and_not_logged_needs_no_disk_after_all() {
        let gate = open_gate(1 << 20);
        gate.set_local_space(Lsn(0), budget(DISK_MARGIN_BYTES + 100_000));
        drop(gate.admit(50_000, || Lsn(0), || ()).unwrap());
        assert!(gate.space().free_bytes < 50_000, "counted until it is known");
        gate.nothing_sealed(|| false, budget(DISK_MARGIN_BYTES + 100_000));
        assert!(gate.space().free_bytes < 50_000, "it may have been logged");
        gate.nothing_sealed(|| true, budget(DISK_MARGIN_BYTES + 100_000));
        assert_eq!(gate.space().free_bytes, 100_000);
        // Space that somebody freed outside of the volume is seen too.
        gate.nothing_sealed(|| true, budget(DISK_MARGIN_BYTES + 200_000));
        assert_eq!(gate.space().free_bytes, 200_000);
    }

    #[test]
    fn what_is_pending_is_the_sum_of_its_parts_whatever_happens() {
        let gate = open_gate(1 << 30);
        gate.set_peer_space(Some((Lsn(0), budget(1 << 40))));
        let mut end = 0;
        // More seals than spans are remembered, and a partner that lags behind by some of them.
        for round in 0..3 * MAX_PENDING_SPANS as u64 {
            drop(gate.admit(round * 100, || Lsn(0), || ()).unwrap());
            match round % 5 {
                0..3 => {
                    end += 64;
                    gate.sealed(Lsn(end));
                }
                3 => gate.nothing_sealed(|| round % 2 == 0, budget(1 << 40)),
                _ => gate.set_local_space(Lsn(end), budget(1 << 40)),
            }
            if round % 400 == 399 {
                gate.set_peer_space(Some((Lsn(end / 2), budget(1 << 40))));
            }
            let state = gate.state.lock();
            let mut sum = state.open;
            state.spans.iter().for_each(|span| sum.add(span.needs));
            assert_eq!(state.pending, sum, "round {round}");
        }
        gate.forget_pending();
        assert_eq!(gate.state.lock().pending, Needs::default());
    }

    #[test]
    fn closing_wakes_those_who_wait() {
        let gate = open_gate(1 << 20);
        let waiting = {
            let gate = gate.clone();
            std::thread::spawn(move || gate.admit(4096, || Lsn(1 << 20), || ()).map(|_| ()))
        };
        gate.close(NotServing::Stopping);
        assert_eq!(waiting.join().unwrap(), Err(NotServing::Stopping));
    }

    #[test]
    fn the_delay_grows_with_the_fill() {
        let gate = open_gate(1000);
        assert_eq!(gate.delay(500), Duration::ZERO);
        assert!(gate.delay(600) < gate.delay(800));
        assert_eq!(gate.delay(1000), Duration::from_millis(MAX_DELAY_MS));
    }

    #[test]
    fn what_is_admitted_counts_until_both_nodes_have_applied_it() {
        let gate = open_gate(1 << 30);
        gate.set_peer_space(Some((Lsn(0), budget(1 << 30))));
        let before = gate.space().free_bytes;
        drop(gate.admit(1 << 20, || Lsn(0), || ()).unwrap());
        let after = gate.space().free_bytes;
        assert!(after <= before - (1 << 20), "logged, so it is as good as used");
        gate.sealed(Lsn(2 << 20));
        gate.set_local_space(Lsn(2 << 20), budget(1 << 40));
        assert_eq!(gate.space().free_bytes, after, "the partner has not applied it");
        gate.set_peer_space(Some((Lsn(2 << 20), budget((1 << 30) - (1 << 20)))));
        assert_eq!(gate.space().free_bytes, before - (1 << 20));
    }
}
