//! My log bytes into the peer's ring, by copying; the peer's answers from my page.

use super::Shared;
use crate::counters::count;
use crate::ending::End;
use crate::flight::Flight;
use crate::memory::Ring;
use crate::spin::Spin;
use crate::{LinkError, MirrorSender};
use ids::{LogPoint, Lsn};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Copied before the right to write is looked at again.
const CHUNK_BYTES: u64 = 1 << 20;

pub(super) struct ShmSender {
    shared: Arc<Shared>,
    mine: Ring,
    theirs: Ring,
    flight: Flight,
    seen: u64,
    spin: Spin,
}

impl ShmSender {
    pub(super) fn new(shared: Arc<Shared>, mine: Ring, theirs: Ring, spin: Spin) -> ShmSender {
        let flight = Flight::new(mine.capacity_bytes());
        ShmSender { shared, mine, theirs, flight, seen: 0, spin }
    }

    /// Copies while the peer lets it; false when it does not.
    fn copy(&self, from: Lsn, to: Lsn) -> bool {
        let words = self.shared.peer_page.words();
        let mut at = from;
        while at < to {
            let len_bytes = to.since(at).min(CHUNK_BYTES);
            // Announce, then look: see the fence for the order.
            words.writing.store(1, Ordering::SeqCst);
            let granted = words.granted.load(Ordering::SeqCst) != 0;
            if granted {
                self.mine.copy_to(&self.theirs, at, len_bytes);
            }
            words.writing.store(0, Ordering::SeqCst);
            if !granted {
                return false;
            }
            at = at.plus(len_bytes);
        }
        true
    }
}

impl MirrorSender for ShmSender {
    fn start(&mut self, from: LogPoint) -> Result<(), LinkError> {
        self.shared.ending.check()?;
        self.flight.start(from.lsn)
    }

    fn write(&mut self, to: LogPoint) -> Result<(), LinkError> {
        self.shared.ending.check()?;
        let counters = self.shared.ending.counters();
        let from = self.flight.write(to.lsn, counters)?;
        if to.lsn == from {
            return Ok(());
        }
        if !self.copy(from, to.lsn) {
            return Err(self.shared.ending.end(End::NotGranted));
        }
        count(&counters.batches_sent, 1);
        count(&counters.bytes_sent, to.lsn.since(from));
        counters.batch_bytes.add(to.lsn.since(from));
        self.shared.peer_page.words().arrivals.put(to);
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.flight.len()
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<LogPoint>, LinkError> {
        let shared = Arc::clone(&self.shared);
        let answers = &shared.my_page.words().answers;
        let Some(durable) = shared.wait_for_news(answers, &mut self.seen, &mut self.spin, wait)? else {
            return Ok(None);
        };
        match self.flight.acknowledge(durable, shared.ending.counters()) {
            Ok(news) => Ok(news.then_some(durable)),
            Err(what) => Err(shared.ending.end(End::Protocol(what))),
        }
    }
}
