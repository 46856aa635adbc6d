//! The writes of one sender that wait for their acknowledgement.
//!
//! Invariants: acknowledgements are cumulative; none is believed past what was written. Nothing is allocated
//! after [`Flight::new`].

use crate::counters::{Counters, count};
use crate::{LinkError, MAX_IN_FLIGHT};
use ids::{LogPoint, Lsn};
use std::collections::VecDeque;
use std::time::Instant;

/// See the module.
pub(crate) struct Flight {
    waiting: VecDeque<(Lsn, Instant)>,
    /// Where the last write ended, and everything before `acknowledged` is durable at the peer.
    position: Option<Position>,
    capacity_bytes: u64,
}

struct Position {
    written: Lsn,
    acknowledged: Lsn,
}

impl Flight {
    pub(crate) fn new(capacity_bytes: u64) -> Flight {
        Flight { waiting: VecDeque::with_capacity(MAX_IN_FLIGHT), position: None, capacity_bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn start(&mut self, from: Lsn) -> Result<(), LinkError> {
        if !self.waiting.is_empty() {
            return Err(LinkError::InFlight(self.waiting.len()));
        }
        self.position = Some(Position { written: from, acknowledged: from });
        Ok(())
    }

    /// Takes a write up to `to` and returns where it starts.
    pub(crate) fn write(&mut self, to: Lsn, counters: &Counters) -> Result<Lsn, LinkError> {
        let position = self.position.as_mut().ok_or(LinkError::NotStarted)?;
        if self.waiting.len() >= MAX_IN_FLIGHT {
            return Err(LinkError::InFlight(self.waiting.len()));
        }
        let from = position.written;
        if to < from || to.since(position.acknowledged) > self.capacity_bytes {
            return Err(LinkError::BadRange { from, to, capacity_bytes: self.capacity_bytes });
        }
        position.written = to;
        if to > from {
            self.waiting.push_back((to, Instant::now()));
            count(&counters.writes, 1);
        }
        Ok(from)
    }

    /// The peer holds everything before `durable`. True when that is news.
    pub(crate) fn acknowledge(&mut self, durable: LogPoint, counters: &Counters) -> Result<bool, String> {
        let Some(position) = self.position.as_mut() else { return Ok(false) };
        if durable.lsn > position.written {
            return Err(format!("LSN {} acknowledged, {} was written", durable.lsn, position.written));
        }
        if durable.lsn < position.acknowledged {
            return Ok(false);
        }
        position.acknowledged = durable.lsn;
        while let Some((to, since)) = self.waiting.front() {
            if *to > durable.lsn {
                break;
            }
            counters.round_trip_us.add(since.elapsed().as_micros() as u64);
            self.waiting.pop_front();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ids::ChainCrc;

    fn point(lsn: u64) -> LogPoint {
        LogPoint { lsn: Lsn(lsn), crc: ChainCrc(0) }
    }

    #[test]
    fn acknowledgements_are_cumulative_and_not_believed_past_what_was_written() {
        let (mut flight, counters) = (Flight::new(1024), Counters::default());
        assert!(matches!(flight.write(Lsn(64), &counters), Err(LinkError::NotStarted)));
        flight.start(Lsn(64)).unwrap();
        for to in [128, 192, 256] {
            flight.write(Lsn(to), &counters).unwrap();
        }
        assert!(matches!(flight.start(Lsn(0)), Err(LinkError::InFlight(3))));
        assert!(flight.acknowledge(point(200), &counters).unwrap());
        assert_eq!(flight.len(), 1);
        assert!(!flight.acknowledge(point(128), &counters).unwrap(), "old news");
        assert!(flight.acknowledge(point(320), &counters).is_err());
        assert!(flight.acknowledge(point(256), &counters).unwrap());
        assert_eq!(flight.len(), 0);
    }

    #[test]
    fn what_the_ring_or_the_flight_can_not_hold_is_refused() {
        let (mut flight, counters) = (Flight::new(1024), Counters::default());
        flight.start(Lsn(0)).unwrap();
        assert!(matches!(flight.write(Lsn(1025), &counters), Err(LinkError::BadRange { .. })));
        for to in 1..=MAX_IN_FLIGHT as u64 {
            flight.write(Lsn(to), &counters).unwrap();
        }
        assert!(matches!(flight.write(Lsn(100), &counters), Err(LinkError::InFlight(MAX_IN_FLIGHT))));
        flight.acknowledge(point(64), &counters).unwrap();
        assert!(matches!(flight.write(Lsn(10), &counters), Err(LinkError::BadRange { .. })), "goes back");
    }
}
