//! Threads that wait for a log position to be committed, woken one by one and not as a herd.
//!
//! A thread registers, looks once more whether it can go on or take the driver's place itself, and parks.
//! Whoever advances `committed` wakes those it satisfies; whoever gives up driving wakes the one that waits
//! for the earliest position, to drive next. A wake-up is never lost: registering comes before the last
//! look, and both wakers look at the list after they changed what the last look sees.

use ids::Lsn;
use runtime::{Mutex, Thread};
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
struct Waiter {
    lsn: Lsn,
    thread: Thread,
}

/// The waiting threads of one volume.
#[derive(Debug, Default)]
pub struct Waiters {
    list: Mutex<Vec<Waiter>>,
    count: AtomicUsize,
}

impl Waiters {
    /// Adds the calling thread.
    pub fn register(&self, lsn: Lsn) {
        let mut list = self.list.lock();
        list.push(Waiter { lsn, thread: runtime::current() });
        self.count.store(list.len(), Ordering::SeqCst);
    }

    /// Takes the calling thread off the list, if it is still there.
    pub fn unregister(&self) {
        let me = runtime::current().id();
        let mut list = self.list.lock();
        list.retain(|waiter| waiter.thread.id() != me);
        self.count.store(list.len(), Ordering::SeqCst);
    }

    /// Wakes those who wait for something before or at `committed`.
    pub fn wake_satisfied(&self, committed: Lsn) {
        self.wake(|waiter| waiter.lsn <= committed);
    }

    /// Wakes everybody: what they wait for changed its rules.
    pub fn wake_all(&self) {
        self.wake(|_| true);
    }

    /// Wakes the one that waits for the earliest position, to drive next.
    pub fn wake_next(&self) {
        if self.is_empty() {
            return;
        }
        let list = self.list.lock();
        if let Some(next) = list.iter().min_by_key(|waiter| waiter.lsn) {
            next.thread.unpark();
        }
    }

    /// Does nobody wait?
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn wake(&self, which: impl Fn(&Waiter) -> bool) {
        if self.is_empty() {
            return;
        }
        let mut list = self.list.lock();
        list.retain(|waiter| {
            let chosen = which(waiter);
            if chosen {
                waiter.thread.unpark();
            }
            !chosen
        });
        self.count.store(list.len(), Ordering::SeqCst);
    }
}
