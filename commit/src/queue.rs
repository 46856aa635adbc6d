//! Requests that are parked until they may go on, and the order in which they do.
//!
//! Those that a full log holds back go in the order in which they came, and newcomers stand behind them: only the
//! first is looked at when room is made, so a thousand of them cost no more than one. Those that are slowed down go when
//! their time is over or the log has room again; those that wait for a commit, when it has come that far. What waits
//! for space on disk, for a lease, or for a switchover to be decided is looked at one by one, for each may wait for
//! something else; that happens at most once in [`PACE`]. What has to read the base goes to threads of its own
//! ([`Queue::next_for_base`]).
//!
//! Invariants: nothing is held while a request is tried; a request is in one place only, here or with the thread that
//! tries it. What can go wrong: more are parked than there is memory for ([`MAX_PARKED`], [`MAX_PARKED_BYTES`]): the
//! next is refused, because a thread that waited instead of it would be missing for those that need not wait.

use super::gate::{Gate, Hindrance};
use super::patience::{Denied, Parked, Wait};
use ids::Lsn;
use runtime::{Instant, Mutex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Requests of one volume that may be parked.
pub const MAX_PARKED: usize = 1 << 16;
/// Memory that their data may take.
pub const MAX_PARKED_BYTES: usize = 512 << 20;
/// How often those are looked at one by one that wait for different things.
const PACE: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct Lines {
    /// The log is full.
    room: VecDeque<Parked>,
    /// The log fills: until when each is slowed down.
    slowed: BTreeMap<(Instant, u64), Parked>,
    /// Up to where has to be answerable.
    commit: BTreeMap<(Lsn, u64), Parked>,
    others: VecDeque<Parked>,
    /// They have to read the base, and go to the threads that may hang with it.
    base: VecDeque<Parked>,
    /// When `others` may be looked through again, and how many of them have not been since.
    look_at: Option<Instant>,
    unseen: usize,
    bytes: usize,
    count: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    lines: Mutex<Lines>,
    count: AtomicUsize,
    behind_full_log: AtomicUsize,
    /// The first commit that somebody waits for.
    first_commit: AtomicU64,
    next: AtomicU64,
}

/// What there is to do.
pub(super) enum Next {
    /// Try this one.
    Try(Parked),
    /// Nothing before then, unless something moves.
    At(Instant),
    /// Nobody waits.
    Idle,
}

/// What those in the queue wait for.
pub(super) struct Seen<'a> {
    pub gate: &'a Gate,
    pub reserved: Lsn,
    pub answerable: Lsn,
    pub has_lease: bool,
}

impl Seen<'_> {
    fn lets(&self, wait: &Wait, now: Instant) -> bool {
        match wait {
            Wait::Commit(lsn) => self.answerable >= *lsn,
            // Taken by [`Queue::next_for_base`] only.
            Wait::Base => false,
            Wait::Lease { until } => self.has_lease || now >= *until,
            Wait::Admission(hindrance) => {
                hindrance.deadline().is_some_and(|until| now >= until)
                    || !self.gate.holds_back(hindrance, self.reserved)
            }
        }
    }
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            lines: Mutex::default(),
            count: AtomicUsize::new(0),
            behind_full_log: AtomicUsize::new(0),
            first_commit: AtomicU64::new(u64::MAX),
            next: AtomicU64::new(0),
        }
    }
}

impl Queue {
    /// Parks a newcomer, or gives it back when there is no room for it.
    pub fn add(&self, request: Parked) -> Result<(), Parked> {
        let mut lines = self.lines.lock();
        if lines.count >= MAX_PARKED || lines.bytes + request.bytes > MAX_PARKED_BYTES {
            return Err(request);
        }
        lines.count += 1;
        lines.bytes += request.bytes;
        self.put(&mut lines, request, false);
        Ok(())
    }

    /// Parks one again that was tried; it keeps its place before those that came later.
    pub fn add_again(&self, request: Parked) {
        let mut lines = self.lines.lock();
        lines.count += 1;
        lines.bytes += request.bytes;
        self.put(&mut lines, request, true);
    }

    fn put(&self, lines: &mut Lines, request: Parked, first: bool) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match request.wait() {
            Wait::Admission(Hindrance::LogFull { .. }) if first => lines.room.push_front(request),
            Wait::Admission(Hindrance::LogFull { .. }) => lines.room.push_back(request),
            Wait::Admission(Hindrance::SlowedDown { until }) => {
                lines.slowed.insert((until, number), request);
            }
            Wait::Commit(lsn) => {
                lines.commit.insert((lsn, number), request);
            }
            Wait::Base => lines.base.push_back(request),
            _ => lines.others.push_back(request),
        }
        self.count_again(lines);
    }

    fn count_again(&self, lines: &Lines) {
        self.count.store(lines.count, Ordering::SeqCst);
        self.behind_full_log.store(lines.room.len(), Ordering::SeqCst);
        let first = lines.commit.first_key_value().map_or(u64::MAX, |((lsn, _), _)| lsn.0);
        self.first_commit.store(first, Ordering::SeqCst);
    }

    /// Is nobody parked?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are parked.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Does somebody wait for room in the log? Newcomers go behind.
    pub fn has_line(&self) -> bool {
        self.behind_full_log.load(Ordering::SeqCst) > 0
    }

    /// Does somebody wait for a commit that has come?
    pub fn waits_for(&self, answerable: Lsn) -> bool {
        self.first_commit.load(Ordering::SeqCst) <= answerable.0
    }

    /// The last commit that somebody waits for.
    pub fn last_commit(&self) -> Option<Lsn> {
        self.lines.lock().commit.last_key_value().map(|((lsn, _), _)| *lsn)
    }

    /// Takes out the next request that may go on.
    pub fn next(&self, seen: &Seen<'_>) -> Next {
        if self.is_empty() {
            return Next::Idle;
        }
        let now = Instant::now();
        let mut lines = self.lines.lock();
        match self.take(&mut lines, seen, now) {
            Some(waiting) => {
                lines.count -= 1;
                lines.bytes -= waiting.bytes;
                self.count_again(&lines);
                Next::Try(waiting)
            }
            None if lines.count == 0 => Next::Idle,
            None => Next::At(lines.deadline(now)),
        }
    }

    /// Takes out the next request that has to read the base, and tells whether there are more.
    pub fn next_for_base(&self) -> Option<(Parked, bool)> {
        if self.is_empty() {
            return None;
        }
        let mut lines = self.lines.lock();
        let waiting = lines.base.pop_front()?;
        lines.count -= 1;
        lines.bytes -= waiting.bytes;
        self.count_again(&lines);
        Some((waiting, !lines.base.is_empty()))
    }

    fn take(&self, lines: &mut Lines, seen: &Seen<'_>, now: Instant) -> Option<Parked> {
        let may_go = |waiting: &Parked| seen.lets(&waiting.wait(), now);
        if lines.commit.first_key_value().is_some_and(|(_, first)| may_go(first)) {
            return lines.commit.pop_first().map(|(_, waiting)| waiting);
        }
        if lines.slowed.first_key_value().is_some_and(|(_, first)| may_go(first)) {
            return lines.slowed.pop_first().map(|(_, waiting)| waiting);
        }
        if lines.room.front().is_some_and(may_go) {
            return lines.room.pop_front();
        }
        if lines.look_at.is_none_or(|at| now >= at) {
            lines.look_at = Some(now + PACE);
            lines.unseen = lines.others.len();
        }
        while lines.unseen > 0 {
            lines.unseen -= 1;
            let waiting = lines.others.pop_front()?;
            if may_go(&waiting) {
                return Some(waiting);
            }
            lines.others.push_back(waiting);
        }
        None
    }

    /// Tells all why they are not carried out.
    pub fn deny_all(&self, why: Denied) {
        let denied = std::mem::take(&mut *self.lines.lock());
        self.count_again(&Lines::default());
        for waiting in denied.into_all() {
            waiting.deny(why);
        }
    }

    /// Lets those go that have waited for `patience` and whose clients take no answer any more.
    pub fn let_go(&self, patience: Duration) {
        let asked: Vec<_> = {
            let lines = self.lines.lock();
            let waited = lines.all().filter(|waiting| waiting.since.elapsed() >= patience);
            waited.map(|waiting| waiting.client).collect()
        };
        let gone: BTreeSet<u64> =
            asked.into_iter().filter(|client| (client.gave_up)(client.id)).map(|client| client.id).collect();
        if gone.is_empty() {
            return;
        }
        let taken = {
            let mut lines = self.lines.lock();
            let taken = lines.take_of(&gone);
            lines.count -= taken.len();
            lines.bytes -= taken.iter().map(|waiting| waiting.bytes).sum::<usize>();
            self.count_again(&lines);
            taken
        };
        for waiting in taken {
            waiting.deny(Denied::Interrupted);
        }
    }
}

impl Lines {
    fn deadline(&self, now: Instant) -> Instant {
        let slowed = self.slowed.first_key_value().map(|((until, _), _)| *until);
        let room = self.room.front().and_then(|waiting| match waiting.wait() {
            Wait::Admission(hindrance) => hindrance.deadline(),
            _ => None,
        });
        let others = if self.others.is_empty() { None } else { self.look_at };
        let later = now + Duration::from_secs(1);
        [slowed, room, others].into_iter().flatten().fold(later, Instant::min)
    }

    fn all(&self) -> impl Iterator<Item = &Parked> {
        let sorted = self.slowed.values().chain(self.commit.values());
        self.room.iter().chain(&self.others).chain(&self.base).chain(sorted)
    }

    fn into_all(self) -> impl Iterator<Item = Parked> {
        let sorted = self.slowed.into_values().chain(self.commit.into_values());
        self.room.into_iter().chain(self.others).chain(self.base).chain(sorted)
    }

    fn take_of(&mut self, gone: &BTreeSet<u64>) -> Vec<Parked> {
        let is_gone = |waiting: &Parked| gone.contains(&waiting.client.id);
        let mut taken = Vec::new();
        for line in [&mut self.room, &mut self.others, &mut self.base] {
            let (left, kept): (Vec<_>, Vec<_>) = std::mem::take(line).into_iter().partition(is_gone);
            taken.extend(left);
            line.extend(kept);
        }
        let late: Vec<_> = self.slowed.iter().filter(|(_, w)| is_gone(w)).map(|(key, _)| *key).collect();
        taken.extend(late.iter().filter_map(|key| self.slowed.remove(key)));
        let read: Vec<_> = self.commit.iter().filter(|(_, w)| is_gone(w)).map(|(key, _)| *key).collect();
        taken.extend(read.iter().filter_map(|key| self.commit.remove(key)));
        self.unseen = 0;
        taken
    }
}
