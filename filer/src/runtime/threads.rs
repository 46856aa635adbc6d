//! Threads of the operating system.

pub use std::thread::{JoinHandle, Thread, current, park, sleep, yield_now};

/// Niceness of threads that the partner's time limits depend on.
const URGENT_NICE: i32 = -10;

/// Starts a thread.
///
/// # Errors
/// The limit of threads is reached.
pub fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Lets the calling thread go before those that only use time: on a busy node heartbeats that come late look
/// like a dead node. A node that may not do this works all the same.
pub fn be_urgent() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), URGENT_NICE) {
        tracing::debug!(%error, "a thread's priority could not be raised");
    }
}
