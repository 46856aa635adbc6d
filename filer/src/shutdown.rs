//! The wish to stop: one latch, set by SIGTERM, SIGINT or the control socket, waited for by `serve`.
//!
//! Invariants: once requested it stays requested; the first reason is kept. A second SIGINT or SIGTERM while the clean
//! stop is still going on ends the process at once, so that a hanging hand-over never needs SIGKILL.

use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The latch. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    reason: Mutex<Option<&'static str>>,
    changed: Condvar,
    flag: AtomicBool,
}

/// Status of a process that a second signal ended.
const SECOND_SIGNAL_STATUS: i32 = 75;

impl Shutdown {
    /// A latch that is set by SIGTERM and SIGINT from now on, in the whole process.
    ///
    /// # Errors
    /// When the handlers can not be installed.
    pub fn on_signals() -> io::Result<Shutdown> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let shutdown = Shutdown::default();
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // Order matters: the check for "again" runs before it is armed.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                SECOND_SIGNAL_STATUS,
                Arc::clone(&again),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&again))?;
        }
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
        let requested = shutdown.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                requested.request(if signal == SIGTERM { "SIGTERM" } else { "SIGINT" });
            }
        })?;
        Ok(shutdown)
    }

    /// Asks for a stop.
    pub fn request(&self, reason: &'static str) {
        let mut held = self.inner.reason.lock();
        if held.is_none() {
            *held = Some(reason);
            self.inner.flag.store(true, Ordering::Release);
            self.inner.changed.notify_all();
        }
    }

    /// Why a stop was asked for, if it was.
    pub fn requested(&self) -> Option<&'static str> {
        *self.inner.reason.lock()
    }

    /// The latch for those who look now and then: true once a stop was asked for.
    pub fn flag(&self) -> &AtomicBool {
        &self.inner.flag
    }

    /// Waits for a request, at most `limit`.
    pub fn wait(&self, limit: Duration) -> Option<&'static str> {
        let mut reason = self.inner.reason.lock();
        if reason.is_none() {
            self.inner.changed.wait_for(&mut reason, limit);
        }
        *reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_kept_and_wakes_the_waiter() {
        let shutdown = Shutdown::default();
        assert_eq!(shutdown.wait(Duration::from_millis(1)), None);
        let other = shutdown.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(10)));
        shutdown.request("first");
        shutdown.request("second");
        assert_eq!(waiter.join().unwrap(), Some("first"));
        assert_eq!(shutdown.requested(), Some("first"));
        assert!(shutdown.flag().load(Ordering::Acquire));
    }
}
