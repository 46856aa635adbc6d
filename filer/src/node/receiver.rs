//! The partner's receiving thread: bytes land in the ring, the chain is checked, they are made durable, the
//! primary is told.
//!
//! Invariant: only what continues the chain and is durable is acknowledged. What can go wrong: a sender whose
//! bytes do not continue the chain, or whose claim differs from what the bytes say (the link is given up, the
//! log keeps what was good); the link ends.

use super::event::NodeEvent;
use super::shared::Shared;
use ids::LogPoint;
use rdma_transport::MirrorReceiver;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the thread looks whether it should stop.
const WAIT: Duration = Duration::from_millis(50);
/// Arrivals taken in after a stop was asked for; more than the transport lets travel at once.
const MAX_LAST_ARRIVALS: usize = 2 * rdma_transport::MAX_IN_FLIGHT;

/// A running receiver.
pub(super) struct Receiving {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Box<dyn MirrorReceiver>>,
}

impl Receiving {
    /// Receives from `at`, this log's end.
    pub fn start(
        shared: Arc<Shared>,
        link: u64,
        mut receiver: Box<dyn MirrorReceiver>,
        at: LogPoint,
    ) -> std::io::Result<Receiving> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            super::be_urgent();
            let reason = match receiver.start(at) {
                Ok(()) => receive(&shared, receiver.as_mut(), &stopped),
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = reason {
                shared.tell(NodeEvent::MirrorLost { id: link, reason });
            }
            receiver
        };
        let thread = std::thread::Builder::new().name("receive".into()).spawn(run)?;
        Ok(Receiving { stop, thread })
    }

    /// Takes in what has landed, and ends. The peer's right to write must be revoked, or the link closed.
    pub fn stop(self) -> Option<Box<dyn MirrorReceiver>> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().ok()
    }
}

/// Why it ended, unless it was asked to.
fn receive(shared: &Shared, receiver: &mut dyn MirrorReceiver, stop: &AtomicBool) -> Option<String> {
    while !stop.load(Ordering::Acquire) {
        match receiver.next(WAIT) {
            Ok(None) => {}
            Ok(Some(arrival)) => {
                if let Err(reason) = take_in(shared, receiver, arrival.to) {
                    return Some(reason);
                }
            }
            Err(error) => return Some(error.to_string()),
        }
    }
    for _ in 0..MAX_LAST_ARRIVALS {
        match receiver.next(Duration::ZERO) {
            Ok(Some(arrival)) if take_in(shared, receiver, arrival.to).is_ok() => {}
            _ => break,
        }
    }
    None
}

fn take_in(shared: &Shared, receiver: &mut dyn MirrorReceiver, claimed: LogPoint) -> Result<(), String> {
    let before = shared.log.end();
    if claimed.lsn <= before.lsn {
        return Err(format!("the primary sent up to {claimed}, but this log ends at {before} already"));
    }
    let landed = shared.log.ingest(claimed.lsn).map_err(|error| error.to_string())?;
    if landed != claimed {
        return Err(format!("the primary claimed {claimed}, but the records say {landed}"));
    }
    let started = std::time::Instant::now();
    shared.log.persist(before.lsn, landed.lsn).map_err(|error| {
        shared.tell(NodeEvent::LogFailed(error.to_string()));
        error.to_string()
    })?;
    shared.metrics.persist.observe(started.elapsed());
    // A primary that overruns this log's tail would be found here.
    shared.path.extended(landed).map_err(|error| error.to_string())?;
    receiver.acknowledge(landed).map_err(|error| error.to_string())
}
