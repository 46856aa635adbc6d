//! A small bounded pool for independent system calls, which io_uring would only hand to worker threads of its
//! own. Threads live for one call: making one costs far less than the work that is worth spreading.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Threads that work at once. More only queue up in the filesystem's journal.
const WORKERS: usize = 4;
/// Fewer cheap items than this are not worth a thread.
const WORTH_A_THREAD: usize = 64;

/// Calls `work` for every item, in any order, and returns the results in the items' order; or the first error,
/// after which no further item is started.
pub(crate) fn map<I: Sync, R: Send, E: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    // A simulated disk must see the same order again.
    match items.len() < WORTH_A_THREAD || cfg!(feature = "simulation") {
        true => items.iter().map(work).collect(),
        false => spread(items, work),
    }
}

/// [`map`] for items that are each worth a thread.
pub(crate) fn spread<I: Sync, R: Send, E: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    if items.len() < 2 || cfg!(feature = "simulation") {
        return items.iter().map(work).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        let mut mine = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { break };
            match work(item) {
                Ok(result) => mine.push((at, result)),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(mine)
    };
    let mut results = Vec::with_capacity(items.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..WORKERS.min(items.len())).map(|_| scope.spawn(worker)).collect();
        let mut outcome = worker().map(|mine| results.extend(mine));
        for thread in threads {
            match thread.join() {
                Ok(theirs) => outcome = outcome.and(theirs.map(|theirs| results.extend(theirs))),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    })?;
    results.sort_unstable_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
