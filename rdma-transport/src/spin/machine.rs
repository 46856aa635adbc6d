//! What polling and sleeping cost on this machine, for all waiting places of the process.
//!
//! The cost of a wake-up is measured, not assumed: whenever a waiting thread had to sleep, at most each
//! [`REFRESH_INTERVAL`], by waking a thread of our own that sleeps otherwise. It is from the call that wakes until the
//! woken thread runs; the median of the last ones counts. Not measured by itself at the start: on a machine that starts
//! something its processors are awake, and to wake a thread costs a fifth of what it costs later. Who wants the processors
//! is the kernel's own count of runnable threads, read at intervals while there is traffic.
//!
//! What can go wrong: no thread can be started, or /proc is not mounted. Then a first guess stands, and processors count
//! as free; waits in vain still end the polling.

use super::decide::Processors;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Taken for a wake-up until one was measured.
const FIRST_GUESS: Duration = Duration::from_micros(50);
/// A longer one says that the machine was busy, not what a wake-up costs.
const LONGEST_WAKE: Duration = Duration::from_micros(250);
/// Measurements that count.
const KEPT: usize = 7;
/// How often sleeps of waiting threads have it measured.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// The same until so many were measured as count.
const FIRST_INTERVAL: Duration = Duration::from_millis(5);
/// How often the run queue is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Looks in a row that must find too many threads before the machine counts as crowded: some always come and go.
const CROWDED_LOOKS: u32 = 3;

/// How fresh an answer has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// At most [`LOOK_INTERVAL`] old, and not of one moment only.
    Lately,
    /// Of this moment.
    Now,
}

struct Machine {
    born: Instant,
    /// Nanoseconds; 0: not measured yet.
    wake: AtomicU64,
    woken_at: AtomicU64,
    measured: AtomicU32,
    sleeper: OnceLock<Thread>,
    next_refresh: AtomicU64,
    next_look: AtomicU64,
    crowded_looks: AtomicU32,
    run_queue: Option<File>,
    processors: u32,
    /// A control group leaves us the time of one processor.
    held_to_one: bool,
}

fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| Machine {
        born: Instant::now(),
        wake: AtomicU64::new(0),
        woken_at: AtomicU64::new(0),
        measured: AtomicU32::new(0),
        sleeper: OnceLock::new(),
        next_refresh: AtomicU64::new(0),
        next_look: AtomicU64::new(0),
        crowded_looks: AtomicU32::new(0),
        run_queue: File::open("/proc/loadavg").ok(),
        processors: online_processors(),
        held_to_one: std::thread::available_parallelism().is_ok_and(|count| count.get() == 1),
    })
}

impl Machine {
    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_nanos() as u64
    }

    /// Whether it is time; only one of those who ask is told so.
    fn is_due(&self, next: &AtomicU64, now: Instant, interval: Duration) -> bool {
        let (at, due) = (self.at(now), next.load(Relaxed));
        at >= due && next.compare_exchange(due, at + interval.as_nanos() as u64, Relaxed, Relaxed).is_ok()
    }

    fn ring(&self) {
        if let Some(sleeper) = self.sleeper.get() {
            self.woken_at.store(self.at(Instant::now()).max(1), Relaxed);
            sleeper.unpark();
        }
    }

    /// Sleeps for ever, and notes how long it takes to be woken.
    fn sleep(&self) {
        let mut last = Vec::with_capacity(KEPT);
        loop {
            std::thread::park();
            let now = self.at(Instant::now());
            let rung = self.woken_at.swap(0, Relaxed);
            if rung > 0 {
                self.wake.store(median(&mut last, now.saturating_sub(rung)), Relaxed);
                self.measured.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Begins to measure, once for the process.
pub(super) fn start() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let run = || {
            let machine = machine();
            let _first = machine.sleeper.set(std::thread::current());
            machine.sleep();
        };
        if let Err(error) = std::thread::Builder::new().name("wake-cost".to_owned()).spawn(run) {
            tracing::warn!(%error, "what a wake-up costs here is not measured");
        }
    });
}

/// A thread had to sleep although it waited for something: has the cost of that measured again, if that is long ago.
pub(super) fn refresh(now: Instant) {
    let machine = machine();
    let known = machine.measured.load(Relaxed) >= KEPT as u32;
    let interval = if known { REFRESH_INTERVAL } else { FIRST_INTERVAL };
    if machine.is_due(&machine.next_refresh, now, interval) {
        machine.ring();
    }
}

/// From the call that wakes a thread until that runs, as it was measured last on this machine.
pub fn wake_cost() -> Duration {
    match machine().wake.load(Relaxed) {
        0 => FIRST_GUESS,
        nanoseconds => Duration::from_nanos(nanoseconds).min(LONGEST_WAKE),
    }
}

/// Whether one is free for the calling thread to poll on.
pub(super) fn processors(look: Look, now: Instant) -> Processors {
    let machine = machine();
    if machine.held_to_one {
        return Processors::One;
    }
    if look == Look::Now || machine.is_due(&machine.next_look, now, LOOK_INTERVAL) {
        let crowded = machine.run_queue.as_ref().and_then(runnable).is_some_and(|n| n > machine.processors);
        if look == Look::Now {
            return if crowded { Processors::Crowded } else { Processors::Free };
        }
        let looks = if crowded { machine.crowded_looks.load(Relaxed).saturating_add(1) } else { 0 };
        machine.crowded_looks.store(looks, Relaxed);
    }
    match machine.crowded_looks.load(Relaxed) >= CROWDED_LOOKS {
        true => Processors::Crowded,
        false => Processors::Free,
    }
}

/// Threads that run or want to, the calling one among them.
fn runnable(run_queue: &File) -> Option<u32> {
    let mut text = [0; 64];
    let len = run_queue.read_at(&mut text, 0).ok()?;
    parse_runnable(std::str::from_utf8(&text[..len]).ok()?)
}

/// The first number of the fourth word, as in `0.20 0.18 0.12 3/80 11206`.
fn parse_runnable(text: &str) -> Option<u32> {
    text.split(' ').nth(3)?.split('/').next()?.parse().ok()
}

fn online_processors() -> u32 {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online");
    let usable = || std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    list.ok().and_then(|list| parse_processors(list.trim())).unwrap_or_else(usable)
}

/// How many a list as `0-3,8` names.
fn parse_processors(list: &str) -> Option<u32> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    };
    list.split(',').map(count).sum()
}

/// Adds one to the last measurements and gives the one in the middle.
fn median(last: &mut Vec<u64>, value: u64) -> u64 {
    if last.len() == KEPT {
        last.remove(0);
    }
    last.push(value);
    let mut sorted = last.clone();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_runnable_threads_and_processors() {
        assert_eq!(parse_runnable("0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(parse_runnable("nonsense"), None);
        assert_eq!(parse_processors("0-3,8"), Some(5));
        assert_eq!(parse_processors("0"), Some(1));
        assert_eq!(parse_processors(""), None);
        let now = File::open("/proc/loadavg").unwrap();
        assert!(runnable(&now).unwrap() >= 1, "this thread runs");
    }

    #[test]
    fn single_slow_wake_ups_do_not_count() {
        let mut last = Vec::new();
        for _ in 0..KEPT {
            median(&mut last, 10);
        }
        for _ in 0..3 {
            assert_eq!(median(&mut last, 4000), 10);
        }
        for _ in 0..KEPT {
            median(&mut last, 40);
        }
        assert_eq!(median(&mut last, 40), 40);
    }
}
