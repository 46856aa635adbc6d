//! How far the peer's bytes have landed in my ring, from my page; my answers into the peer's.

use super::Shared;
use crate::counters::count;
use crate::ending::End;
use crate::frame::check_range;
use crate::spin::Spin;
use crate::{Arrival, LinkError, MirrorReceiver};
use ids::{LogPoint, Lsn};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct ShmReceiver {
    shared: Arc<Shared>,
    capacity_bytes: u64,
    expected: Option<Lsn>,
    seen: u64,
    spin: Spin,
}

impl ShmReceiver {
    pub(super) fn new(shared: Arc<Shared>, capacity_bytes: u64, spin: Spin) -> ShmReceiver {
        ShmReceiver { shared, capacity_bytes, expected: None, seen: 0, spin }
    }
}

impl MirrorReceiver for ShmReceiver {
    fn start(&mut self, at: LogPoint) -> Result<(), LinkError> {
        self.shared.ending.check()?;
        self.expected = Some(at.lsn);
        Ok(())
    }

    fn next(&mut self, wait: Duration) -> Result<Option<Arrival>, LinkError> {
        let expected = self.expected.ok_or(LinkError::NotStarted)?;
        let arrivals = &self.shared.my_page.words().arrivals;
        let Some(to) = self.shared.wait_for_news(arrivals, &mut self.seen, &mut self.spin, wait)? else {
            return Ok(None);
        };
        let len_bytes = check_range(expected, expected, to.lsn, self.capacity_bytes)
            .map_err(|what| self.shared.ending.end(End::Protocol(what)))?;
        self.expected = Some(to.lsn);
        let counters = self.shared.ending.counters();
        count(&counters.batches_received, 1);
        count(&counters.bytes_received, len_bytes);
        Ok(Some(Arrival { to }))
    }

    fn acknowledge(&mut self, durable: LogPoint) -> Result<(), LinkError> {
        self.shared.ending.check()?;
        count(&self.shared.ending.counters().acknowledgements, 1);
        self.shared.peer_page.words().answers.put(durable);
        Ok(())
    }
}
