//! The partner's receiving thread: bytes land in the ring, the chain is checked, they are made durable, the
//! primary is told. And what a takeover does first: take in everything that has landed, announced or not.
//!
//! Invariants: only what continues the chain and is durable is acknowledged; where both nodes want answers out of memory
//! ([`super::write_behind`]), what continues it. Where the primary itself learns
//! from its NIC that its bytes are durable here (verbs, modes `read` and `flush`), it acknowledges without this
//! processor; so once it may write here no more, [`Landing::take_in_the_rest`] walks the ring beyond the last
//! arrival that was announced. What can go wrong: a sender whose bytes do not continue the chain, or whose claim
//! differs from what the bytes say (the link is given up, the log keeps what was good; where the primary may have
//! acknowledged those bytes, this node is not fit to take over until it has caught up again); the link ends.

use super::NodeError;
use super::event::NodeEvent;
use super::shared::Shared;
use super::write_behind::WriteBehind;
use admin_api::metrics::VolumeMetrics;
use commit::CommitPath;
use ids::{AnswerFrom, LogPoint};
use nvlog::Log;
use rdma_transport::MirrorReceiver;
use runtime::channel::Sender;
use runtime::{Instant, JoinHandle, mark};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the thread looks whether it should stop.
const WAIT: Duration = Duration::from_millis(50);
/// Arrivals taken in after a stop was asked for; more than the transport lets travel at once.
const MAX_LAST_ARRIVALS: usize = 2 * rdma_transport::MAX_IN_FLIGHT;

/// Where the primary's bytes go.
#[derive(Clone)]
pub(super) struct Landing {
    log: Arc<Log>,
    path: Arc<CommitPath>,
    metrics: Arc<VolumeMetrics>,
    events: Sender<NodeEvent>,
    /// The primary may acknowledge what lies here before this processor has seen it.
    one_sided: bool,
    write_behind: Arc<WriteBehind>,
    /// What is acknowledged is in memory; it is durable later, which is told otherwise.
    from_memory: bool,
}

impl Landing {
    /// Into this volume's log.
    pub fn of(shared: &Shared) -> Landing {
        Landing {
            log: shared.log.clone(),
            path: shared.path.clone(),
            metrics: shared.metrics.clone(),
            events: shared.events.clone(),
            one_sided: shared.config.persistence().is_one_sided(),
            write_behind: shared.write_behind.clone(),
            from_memory: false,
        }
    }

    fn tell(&self, event: NodeEvent) {
        let _ended = self.events.send(event);
    }

    fn take_in(&self, receiver: &mut dyn MirrorReceiver, claimed: LogPoint) -> Result<(), Refused> {
        let before = self.log.end();
        if claimed.lsn <= before.lsn {
            return Err(Refused::Wrong(format!(
                "the primary sent up to {claimed}, but this log ends at {before} already"
            )));
        }
        let landed = self.log.ingest(claimed.lsn).map_err(|error| Refused::Wrong(error.to_string()))?;
        if landed != claimed {
            return Err(Refused::Wrong(format!(
                "the primary claimed {claimed}, but the records say {landed}"
            )));
        }
        match self.from_memory {
            true => self.path.landed(landed).map_err(NodeError::from),
            false => self.keep(before, landed),
        }
        .map_err(|error| Refused::Other(error.to_string()))?;
        receiver.acknowledge(landed).map_err(|error| Refused::Other(error.to_string()))
    }

    /// Makes what was taken in durable, and part of what this node holds.
    fn keep(&self, before: LogPoint, landed: LogPoint) -> Result<(), NodeError> {
        let started = Instant::now();
        if let Err(error) = self.log.persist(before.lsn, landed.lsn) {
            self.tell(NodeEvent::LogFailed(error.to_string()));
            return Err(NodeError::Persist(error));
        }
        self.metrics.persist.observe(started.elapsed());
        // A primary that overruns this log's tail would be found here.
        Ok(self.path.extended(landed)?)
    }

    /// Takes in every record in the ring that continues the log, whether it was announced or not, and makes it
    /// durable. Nobody may write here any more, and no receiver run.
    ///
    /// What lies beyond and does not continue the log stays where it is: looking for it would cost a takeover the
    /// time to read the whole ring, and the first record of the new epoch starts a chain that it cannot continue.
    pub fn take_in_the_rest(&self) -> Result<(), NodeError> {
        let before = self.log.end();
        let (landed, cut) = self.log.ingest_all()?;
        if cut.is_newer_program() {
            return Err(NodeError::Unreadable { lsn: landed.lsn, why: cut.to_string() });
        }
        if landed.lsn > before.lsn {
            tracing::info!(from = %before, to = %landed, "records had landed that nobody announced");
            mark!("unannounced records taken in");
            self.keep(before, landed)?;
        }
        Ok(())
    }
}

/// Why an arrival was not taken in.
enum Refused {
    /// The bytes are not what they should be.
    Wrong(String),
    /// The link or this node failed.
    Other(String),
}

/// A running receiver.
pub(super) struct Receiving {
    stop: Arc<AtomicBool>,
    write_behind: Arc<WriteBehind>,
    thread: JoinHandle<Box<dyn MirrorReceiver>>,
}

impl Receiving {
    /// Receives from `at`, this log's end.
    pub fn start(
        mut landing: Landing,
        link: u64,
        mut receiver: Box<dyn MirrorReceiver>,
        at: LogPoint,
    ) -> std::io::Result<Receiving> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let write_behind = landing.write_behind.clone();
        landing.from_memory = write_behind.receives(link) == AnswerFrom::Memory;
        let run = move || {
            runtime::be_vital();
            let refused = match receiver.start(at) {
                Ok(()) => receive(&landing, receiver.as_mut(), &stopped),
                Err(error) => Some(Refused::Other(error.to_string())),
            };
            match refused {
                Some(Refused::Wrong(reason)) if landing.one_sided => {
                    landing.tell(NodeEvent::ReceivedWrong { id: link, reason });
                }
                Some(Refused::Wrong(reason) | Refused::Other(reason)) => {
                    landing.tell(NodeEvent::MirrorLost { id: link, reason });
                }
                None => {}
            }
            receiver
        };
        let thread = runtime::spawn("receive", run)?;
        Ok(Receiving { stop, thread, write_behind })
    }

    /// Takes in what was announced, and ends. The peer's right to write must be revoked, or the link closed.
    pub fn stop(self) -> Option<Box<dyn MirrorReceiver>> {
        self.stop.store(true, Ordering::Release);
        self.write_behind.receives_no_more();
        self.thread.join().ok()
    }
}

/// Why it ended, unless it was asked to.
fn receive(landing: &Landing, receiver: &mut dyn MirrorReceiver, stop: &AtomicBool) -> Option<Refused> {
    while !stop.load(Ordering::Acquire) {
        match receiver.next(WAIT) {
            Ok(None) => {}
            Ok(Some(arrival)) => {
                if let Err(refused) = landing.take_in(receiver, arrival.to) {
                    return Some(refused);
                }
            }
            Err(error) => return Some(Refused::Other(error.to_string())),
        }
    }
    for _ in 0..MAX_LAST_ARRIVALS {
        match receiver.next(Duration::ZERO) {
            Ok(Some(arrival)) if landing.take_in(receiver, arrival.to).is_ok() => {}
            _ => break,
        }
    }
    None
}

#[cfg(test)]
mod tests;
