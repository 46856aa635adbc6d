//! The machine's own clocks, threads, locks and channels.

pub use parking_lot::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult,
};
pub use std::thread::{JoinHandle, Thread, current, park, sleep, yield_now};
pub use std::time::Instant;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Channels between threads.
pub mod channel {
    pub use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
}

/// Starts a thread, an ordinary one whatever the calling one is.
///
/// # Errors
/// The limit of threads is reached.
pub fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let nice = super::priority::ordinary_nice();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(nice) = nice {
            super::priority::ordinary_again(nice);
        }
        run()
    })
}

/// The wall clock: time since 1970. A clock set before that reads as 1970.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A moment of the clock that leases run on: nobody sets it, and it goes on while the machine is suspended.
#[derive(Clone, Copy, Debug)]
pub struct Uptime(Duration);

impl Uptime {
    /// Now.
    pub fn now() -> Uptime {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Both count from the start of the machine.
        Uptime(Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32))
    }

    /// How long ago it was.
    pub fn elapsed(&self) -> Duration {
        Uptime::now().0.saturating_sub(self.0)
    }
}

/// Whether the caller runs under a virtual clock.
pub const fn is_simulated() -> bool {
    false
}
