//! Which mount serves clients now, and who is still working on it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a load waits for a route before it looks whether it shall stop.
const POLL: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Default)]
pub struct Route {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
    refusals: AtomicBool,
}

#[derive(Default)]
struct State {
    generation: u64,
    mount: Option<PathBuf>,
    visitors: usize,
}

/// The permission to work on one mount. While it lives, [`Route::drain`] waits.
pub struct Visit<'a> {
    route: &'a Route,
    generation: u64,
    mount: PathBuf,
}

impl Visit<'_> {
    /// The number of the route that led here.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The mount to work on.
    pub fn mount(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.route.state().visitors -= 1;
        self.route.changed.notify_all();
    }
}

impl Route {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the clients to a mount. Gives the number of this route.
    pub fn open(&self, mount: &Path) -> u64 {
        let mut state = self.state();
        state.generation += 1;
        state.mount = Some(mount.to_path_buf());
        self.changed.notify_all();
        state.generation
    }

    /// Nothing serves; clients finish their current step and wait.
    pub fn close(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.mount = None;
    }

    /// From now on a full or broken disk is (not) something that clients may be told.
    pub fn expect_refusals(&self, may: bool) {
        self.refusals.store(may, Ordering::SeqCst);
    }

    /// Whether it is.
    pub fn may_refuse(&self) -> bool {
        self.refusals.load(Ordering::SeqCst)
    }

    /// Ends all loads after their current step.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Waits until nobody works on any mount. False: somebody still did after `limit`.
    pub fn drain(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        while state.visitors > 0 && Instant::now() < deadline {
            state = self.changed.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.visitors == 0
    }

    /// True while a visit's mount is the one that serves and nobody said stop.
    pub fn is_current(&self, visit: &Visit<'_>) -> bool {
        !self.stop.load(Ordering::SeqCst) && self.state().generation == visit.generation
    }

    /// Waits for a mount of a route newer than `seen`. None: stop.
    pub fn newer_than(&self, seen: u64) -> Option<Visit<'_>> {
        let mut state = self.state();
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            if let Some(mount) = state.mount.clone().filter(|_| state.generation > seen) {
                state.visitors += 1;
                return Some(Visit { route: self, generation: state.generation, mount });
            }
            state = self.changed.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
