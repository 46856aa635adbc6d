//! The wish to stop: one latch, set by a signal or the control socket, waited for by `serve`; and what every other signal
//! means.
//!
//! | signal | what it does |
//! | --- | --- |
//! | TERM, INT | a clean stop, which hands over to the partner; a second one ends the process at once, with 75 |
//! | HUP | the terminal has gone that the process was started at: a clean stop. Without one: told in the log, nothing else. Where it was ignored at the start (`nohup`): nothing |
//! | USR1, USR2, ALRM, VTALRM, PROF, IO, PWR, XCPU, TSTP, TTIN, TTOU | told in the log, nothing else |
//! | PIPE, XFSZ | nothing: the call that met it fails, and says so |
//! | QUIT, ABRT, KILL and what a bug raises | the process ends at once, as if the power failed |
//!
//! Invariants: once requested it stays requested; the first reason is kept; no signal that somebody sends by habit (a
//! rotation of logs, a shell that ends, Ctrl-Z) ends or stops a node without a hand-over.

use parking_lot::{Condvar, Mutex};
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
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
/// A clean stop.
const STOPS: [i32; 2] = [SIGTERM, SIGINT];
/// Would end or stop the process, and mean nothing to it.
const MEANINGLESS: [i32; 11] =
    [SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, libc::SIGPWR, SIGXCPU, SIGTSTP, SIGTTIN, SIGTTOU];
/// Tells, among other things, which signals this process ignores.
const STATUS: &str = "/proc/self/status";
/// Opens in a process that has a terminal, and only there.
const TERMINAL: &str = "/dev/tty";

impl Shutdown {
    /// A latch that is set by signals from now on, in the whole process; see the module.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> io::Result<Shutdown> {
        let shutdown = Shutdown::default();
        let again = Arc::new(AtomicBool::new(false));
        for signal in STOPS {
            // Order matters: the check for "again" runs before it is armed.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                SECOND_SIGNAL_STATUS,
                Arc::clone(&again),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&again))?;
        }
        // A flag that nobody reads: what is caught does not end the process.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let has_terminal = std::fs::File::open(TERMINAL).is_ok();
        // Who started it wants it to outlive the terminal.
        let hang_up = (!is_ignored(SIGHUP, &std::fs::read_to_string(STATUS)?)).then_some(SIGHUP);
        let all = STOPS.into_iter().chain(hang_up).chain(MEANINGLESS);
        let mut signals = signal_hook::iterator::Signals::new(all)?;
        let requested = shutdown.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGTERM => requested.request("SIGTERM"),
                    SIGINT => requested.request("SIGINT"),
                    SIGHUP if has_terminal => requested.request("SIGHUP: the terminal has gone"),
                    SIGHUP => tracing::warn!(
                        "SIGHUP means nothing here: the configuration is read at the start alone"
                    ),
                    other => {
                        let signal = signal_hook::low_level::signal_name(other).unwrap_or("a signal");
                        tracing::warn!(signal, "this signal means nothing here");
                    }
                }
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

/// Whether a process with this [`STATUS`] ignores a signal.
fn is_ignored(signal: i32, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_which_signals_are_ignored() {
        let status = std::fs::read_to_string(STATUS).unwrap();
        // The standard library ignores this one before `main`.
        assert!(is_ignored(libc::SIGPIPE, &status) && !is_ignored(libc::SIGSEGV, &status), "{status}");
    }

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
