//! A bell that a thread sleeps beside: rung by whoever changed what that thread waits for.
//!
//! Nobody pays for it while it is muted: ringing looks at one flag then. Invariant: a ring is never lost, because who
//! unmutes it looks afterwards whether there is something to do.

use runtime::{Condvar, Instant, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module.
#[derive(Debug)]
pub(super) struct Bell {
    muted: AtomicBool,
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    /// One that is muted.
    pub fn new() -> Bell {
        Bell { muted: AtomicBool::new(true), rung: Mutex::new(false), changed: Condvar::new() }
    }

    /// Whether rings that need not be heard are dropped.
    pub fn mute(&self, muted: bool) {
        self.muted.store(muted, Ordering::SeqCst);
    }

    /// Wakes one who sleeps, or keeps the next from sleeping; unless it is muted.
    pub fn ring(&self) {
        if !self.muted.load(Ordering::SeqCst) {
            self.ring_always();
        }
    }

    /// The same, muted or not.
    pub fn ring_always(&self) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }

    /// Sleeps until it is rung, or was since the last time, at most to `until`.
    pub fn sleep_until(&self, until: Instant) {
        let mut rung = self.rung.lock();
        while !*rung && !self.changed.wait_until(&mut rung, until).timed_out() {}
        *rung = false;
    }
}
