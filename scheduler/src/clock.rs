//! Time: virtual for everybody together, and each node's own clock, which runs a little fast or slow.

use crate::core;
use std::ops::{Add, AddAssign, Sub};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What ordinary threads' instants count from: so far before the first look at the clock, that subtracting works.
const BEFORE_FIRST: Duration = Duration::from_secs(1 << 20);
/// Time of day at which every run begins.
const RUN_BEGINS_UNIX: Duration = Duration::from_secs(1_700_000_000);

/// A moment on the clock of the node that looked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant(Duration);

impl Instant {
    /// Now, on the clock of the caller's node.
    pub fn now() -> Instant {
        Instant(match core::running() {
            Some(id) => core::with(|state| state.nodes[state.tasks[id].node].local(state.now_ns)),
            None => match core::try_with(|state| state.now_ns) {
                Some(now_ns) => Duration::from_nanos(now_ns),
                None => real_first().elapsed() + BEFORE_FIRST,
            },
        })
    }

    /// Time since then.
    pub fn elapsed(&self) -> Duration {
        Instant::now().duration_since(*self)
    }

    /// Time from `earlier` to this; zero if that was later.
    pub fn duration_since(&self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The same: kept apart in the standard library's interface.
    pub fn saturating_duration_since(&self, earlier: Instant) -> Duration {
        self.duration_since(earlier)
    }

    /// As a deadline in virtual time.
    pub(crate) fn virtual_ns(self) -> u64 {
        let id = core::running().expect("a task's deadline");
        core::with(|state| state.nodes[state.tasks[id].node].virtual_ns(self.0))
    }

    /// As a deadline of an ordinary thread.
    pub(crate) fn real(self) -> std::time::Instant {
        real_first() + self.0.saturating_sub(BEFORE_FIRST)
    }
}

fn real_first() -> std::time::Instant {
    static FIRST: OnceLock<std::time::Instant> = OnceLock::new();
    *FIRST.get_or_init(std::time::Instant::now)
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, wait: Duration) -> Instant {
        Instant(self.0.saturating_add(wait))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, wait: Duration) {
        *self = *self + wait;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, before: Duration) -> Instant {
        Instant(self.0.saturating_sub(before))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.duration_since(earlier)
    }
}

/// Sleeps on the clock of the caller's node.
pub fn sleep(wait: Duration) {
    match core::is_simulated() {
        true => {
            core::block(None, Some((Instant::now() + wait).virtual_ns()));
        }
        false => std::thread::sleep(wait),
    }
}

/// The time of day on the clock of the caller's node.
pub fn unix_time() -> Duration {
    match core::running() {
        Some(id) => core::with(|state| {
            let node = &state.nodes[state.tasks[id].node];
            RUN_BEGINS_UNIX + node.unix_offset + Duration::from_nanos(state.now_ns)
        }),
        None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    }
}

/// Virtual time since the run began.
pub fn virtual_now() -> Duration {
    core::with(|state| Duration::from_nanos(state.now_ns))
}
