//! Many seeds, on all processors: each run on a thread of its own, because hash tables take their keys once for each.

use crate::entropy;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stack of a run's thread; tasks have their own.
const STACK_BYTES: usize = 4 << 20;

/// Runs `act` with this seed's randomness, on a fresh thread.
///
/// # Panics
/// No thread can be started, or `act` panics.
pub fn alone<T: Send>(seed: u64, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let body = || {
            entropy::begin(seed);
            act()
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, body);
        thread.expect("a thread").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs every seed of `[first, first + count)`, several at once; `tell` hears of each as it ends.
pub fn all<T: Send>(first: u64, count: u64, act: impl Fn(u64) -> T + Sync, tell: impl FnMut(u64, T) + Send) {
    let (next, tell) = (AtomicU64::new(first), Mutex::new(tell));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let outcome = alone(seed, || act(seed));
                    let mut tell = tell.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    tell(seed, outcome);
                }
            });
        }
    });
}
