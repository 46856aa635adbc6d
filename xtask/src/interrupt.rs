//! Ctrl-C as an ordinary error, so that every guard on the stack still removes its mounts and processes.
//!
//! The handler only sets a flag. Everything that waits does so through [`sleep`] or looks at [`check`], which
//! bounds the time between the key press and the clean-up by [`SLICE`]. A second Ctrl-C ends the program at
//! once, without cleaning up, for whoever insists.

use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The longest time that a wait does not look at the flag.
const SLICE: Duration = Duration::from_millis(20);

/// What a shell reports for a program that Ctrl-C ended.
pub const EXIT_CODE: i32 = 130;

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Installs the handler for SIGINT, SIGTERM and SIGHUP.
pub fn install() -> Result<()> {
    let flag = FLAG.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // Order matters: the first signal finds the flag unset and only sets it, the second one ends us.
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_CODE, Arc::clone(flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
            .context("cannot install a signal handler")?;
    }
    Ok(())
}

/// True once somebody asked us to stop.
pub fn requested() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error once somebody asked us to stop.
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, but wakes for an interruption.
pub fn sleep(duration: Duration) -> Result<()> {
    let deadline = Instant::now() + duration;
    loop {
        check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}

/// Asks `ready` again and again until it gives a value. `Ok(None)` when `limit` has passed.
pub fn poll<T>(limit: Duration, pause: Duration, mut ready: impl FnMut() -> Option<T>) -> Result<Option<T>> {
    let deadline = Instant::now() + limit;
    loop {
        check()?;
        if let Some(value) = ready() {
            return Ok(Some(value));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(pause.min(SLICE));
    }
}
