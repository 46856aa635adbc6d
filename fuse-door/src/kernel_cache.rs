//! What the kernel keeps of a mounted volume, and how it is made to forget that in time.
//!
//! The kernel answers reads of a file that is open or mapped from its pages, without asking and without end, also
//! after the connection was aborted. So when the right to serve reads ends, every file that is open is invalidated:
//! by a thread that sees the lease run out, and by whoever takes the volume away, before that is done. The time for
//! it is part of the lease (`config::cache_guard`). Attributes and entries end by themselves: no
//! answer allows them to be kept for longer than the lease has left.
//!
//! Invariants: only open files have pages that somebody can reach without asking us; pages of calls that are under way
//! when the lease ends are invalidated as soon as these are answered.
//!
//! What can go wrong: a page that a mapping has changed has to be written first, and a frozen volume lets that wait.
//! Then the thread that invalidates this one file waits with it, and others go on; it ends when the volume answers,
//! with an error when it is taken away. A daemon that is stopped (SIGSTOP) invalidates nothing until it goes on.

use super::convert::ino;
use super::in_flight::{InFlight, Part};
use ids::Oid;
use runtime::{Condvar, Instant, JoinHandle, Mutex};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use volume::Volume;

/// How often a lease without an end is looked at: it may have got one.
const ENDLESS_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often a lease that is over is looked at: it may run again, and calls may have been answered.
const OVER_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a round is waited for; what hangs goes on by itself.
const ROUND_WITHIN: Duration = Duration::from_millis(200);
/// A round without progress for so long gets one thread more.
const STUCK_AFTER: Duration = Duration::from_millis(5);
/// Threads of one round: so many files can hang before the others wait for them.
const MAX_THREADS: usize = 64;

/// The pages of one mount.
pub struct KernelCache {
    volume: Arc<Volume>,
    notifier: fuser::Notifier,
    in_flight: Arc<InFlight>,
    ended: Mutex<bool>,
    wake: Condvar,
}

impl std::fmt::Debug for KernelCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelCache").finish_non_exhaustive()
    }
}

/// Parts of files that are invalidated together.
struct Round {
    parts: Vec<Part>,
    next: AtomicUsize,
    done: Mutex<usize>,
    progress: Condvar,
}

impl KernelCache {
    /// Watches over the pages of the mount that `notifier` speaks to, with a thread that ends after
    /// [`KernelCache::end`].
    pub(super) fn watch(
        volume: Arc<Volume>,
        notifier: fuser::Notifier,
        in_flight: Arc<InFlight>,
    ) -> io::Result<(Arc<KernelCache>, JoinHandle<()>)> {
        let (ended, wake) = (Mutex::new(false), Condvar::new());
        let cache = Arc::new(KernelCache { volume, notifier, in_flight, ended, wake });
        let watcher = Arc::clone(&cache);
        let thread = runtime::spawn("kernel-cache", move || watcher.run())?;
        Ok((cache, thread))
    }

    /// Ends the watching.
    pub(super) fn end(&self) {
        *self.ended.lock() = true;
        self.wake.notify_all();
    }

    fn run(&self) {
        runtime::be_urgent();
        // `None` while the lease runs; then the calls whose pages are still to be invalidated.
        let mut owed = None;
        loop {
            let left = self.volume.lease_left();
            let wait = match left {
                None => ENDLESS_POLL_INTERVAL,
                Some(left) if !left.is_zero() => left,
                Some(_) => {
                    owed = Some(self.lease_is_over(owed));
                    OVER_POLL_INTERVAL
                }
            };
            if left.is_none_or(|left| !left.is_zero()) {
                owed = None;
            }
            let mut ended = self.ended.lock();
            if !*ended {
                self.wake.wait_for(&mut ended, wait);
            }
            if *ended {
                return;
            }
        }
    }

    /// Invalidates everything at first, and later what calls that were under way have brought; those that still are.
    fn lease_is_over(&self, owed: Option<Vec<(u64, Part)>>) -> Vec<(u64, Part)> {
        let (parts, held) = match owed {
            None => {
                let files = self.open_files();
                self.in_flight.gaps(&files)
            }
            Some(owed) => self.in_flight.answered(owed),
        };
        if !self.invalidate(parts) {
            tracing::warn!("the lease is over, and the kernel holds pages that have to be written first");
        }
        held
    }

    /// Makes the kernel forget the contents and attributes of every open file; whether it has, within a bounded time.
    /// For a volume that serves nobody any more: calls that are under way are answered with an error at once.
    pub fn forget(&self) -> bool {
        let files = self.open_files();
        self.invalidate(files.into_iter().map(Part::whole).collect())
    }

    /// Every open file, its attributes forgotten: that waits for nothing.
    fn open_files(&self) -> Vec<Oid> {
        let files = self.volume.open_files();
        for file in &files {
            invalidate(&self.notifier, *file, -1, 0);
        }
        files
    }

    fn invalidate(&self, parts: Vec<Part>) -> bool {
        let (done, progress) = (Mutex::new(0), Condvar::new());
        let round = Arc::new(Round { parts, next: AtomicUsize::new(0), done, progress });
        let deadline = Instant::now() + ROUND_WITHIN;
        let (mut threads, mut seen) = (0, 0);
        let mut done = round.done.lock();
        while *done < round.parts.len() {
            if Instant::now() >= deadline {
                return false;
            }
            if threads == 0 || (*done == seen && threads < MAX_THREADS) {
                threads += 1;
                self.help(&round);
            }
            seen = *done;
            round.progress.wait_for(&mut done, STUCK_AFTER);
        }
        true
    }

    fn help(&self, round: &Arc<Round>) {
        let (round, notifier) = (Arc::clone(round), self.notifier.clone());
        let helper = runtime::spawn("kernel-cache", move || {
            runtime::be_urgent();
            while let Some(part) = round.parts.get(round.next.fetch_add(1, Ordering::Relaxed)) {
                invalidate(&notifier, part.file, part.from as i64, part.len_bytes as i64);
                *round.done.lock() += 1;
                round.progress.notify_all();
            }
        });
        if let Err(error) = helper {
            tracing::error!(%error, "a thread that invalidates the kernel's pages could not be started");
        }
    }
}

/// `from`: -1 for attributes only. `len_bytes`: 0 for the rest of the file.
fn invalidate(notifier: &fuser::Notifier, file: Oid, from: i64, len_bytes: i64) {
    if let Err(error) = notifier.inval_inode(ino(file), from, len_bytes) {
        // The connection is gone for good, or a page could not be written.
        tracing::debug!(%file, %error, "the kernel did not forget what it has of a file");
    }
}
