//! Every committed record, in log order: what both nodes must hold, and what their trees must become.
//!
//! Records are read out of whichever node commits them first, before its ring may overwrite them. Invariant: nothing
//! here ever changes; a node that commits something else at a known place has lost or forged a record.

use apply_engine::Operation;
use apply_engine::oracle::Model;
use ids::{LogPoint, Lsn, Oid};
use nvlog::format::RING_OFFSET_BYTES;
use nvlog::sim::SimRegion;
use nvlog::{Log, RecordKind};
use std::collections::BTreeSet;

/// One committed record.
struct Committed {
    end: LogPoint,
    /// The payload of an operation; `None` for the log's own records.
    payload: Option<Vec<u8>>,
}

/// See the module.
pub struct Chain {
    start: LogPoint,
    records: Vec<Committed>,
    given: BTreeSet<Oid>,
}

/// The tree that the records up to a place lead to.
pub struct Following {
    next: usize,
    at: Lsn,
    /// The tree was compared with it there.
    checked: bool,
    /// It.
    pub model: Model,
}

impl Chain {
    /// Begins where the logs begin.
    pub fn new(start: LogPoint) -> Chain {
        Chain { start, records: Vec::new(), given: BTreeSet::new() }
    }

    /// The last point.
    pub fn end(&self) -> LogPoint {
        self.records.last().map_or(self.start, |record| record.end)
    }

    /// End of the last operation. What the log writes of its own accord is never applied.
    pub fn operations_end(&self) -> Lsn {
        let last = self.records.iter().rev().find(|record| record.payload.is_some());
        last.map_or(self.start.lsn, |record| record.end.lsn)
    }

    /// The point that ends at `lsn`; `None` where no record ends.
    pub fn point_at(&self, lsn: Lsn) -> Option<LogPoint> {
        if lsn == self.start.lsn {
            return Some(self.start);
        }
        let index = self.records.binary_search_by_key(&lsn, |record| record.end.lsn).ok()?;
        Some(self.records[index].end)
    }

    /// Takes in what `log`, which lies in `region`, holds up to `committed`. A record that was applied and trimmed since
    /// the last look still is in the ring: its bytes are checked by the chain and then read from there, past the log's own
    /// rule that nobody may need them any more.
    ///
    /// # Errors
    /// When that does not continue what was committed before.
    pub fn extend(&mut self, log: &Log, region: &SimRegion, committed: Lsn) -> Result<(), String> {
        let from = self.end();
        if committed <= from.lsn {
            return Ok(());
        }
        if from.lsn < log.oldest_retained() {
            return Err(format!("records from {from} on were overwritten before they were looked at"));
        }
        if !log.continues_from(from) {
            return Err(format!("a log that is committed up to {committed} does not hold {from}"));
        }
        for record in log.records(from, committed) {
            let record = record.map_err(|error| format!("a committed record cannot be read: {error}"))?;
            let payload = match record.kind {
                RecordKind::Data => {
                    // No payload crosses the ring's end.
                    let offset = RING_OFFSET_BYTES + record.payload_lsn.0 % log.capacity_bytes();
                    let bytes = region.read(offset, record.payload_len);
                    self.note(&bytes)?;
                    Some(bytes)
                }
                _ => None,
            };
            self.records.push(Committed { end: record.point_after, payload });
        }
        Ok(())
    }

    fn note(&mut self, payload: &[u8]) -> Result<(), String> {
        match operation(payload).0.given_oid() {
            Some(oid) if !self.given.insert(oid) => Err(format!("{oid} was given twice")),
            _ => Ok(()),
        }
    }

    /// Nothing yet.
    pub fn following(&self) -> Following {
        Following { next: 0, at: self.start.lsn, checked: false, model: Model::new() }
    }

    /// Goes on to `to`. False when that lies behind.
    pub fn follow(&self, following: &mut Following, to: Lsn) -> bool {
        if to < following.at {
            return false;
        }
        while let Some(record) = self.records.get(following.next).filter(|record| record.end.lsn <= to) {
            if let Some(payload) = &record.payload {
                let (operation, data) = operation(payload);
                following.model.apply(&operation, data);
            }
            following.next += 1;
            following.at = record.end.lsn;
            following.checked = false;
        }
        following.at == to
    }
}

impl Following {
    /// The place.
    pub fn at(&self) -> Lsn {
        self.at
    }

    /// Whether a tree was compared with it there.
    pub fn is_checked(&self) -> bool {
        self.checked
    }

    /// A tree is compared with it now.
    pub fn set_checked(&mut self) {
        self.checked = true;
    }
}

fn operation(payload: &[u8]) -> (Operation<'_>, &[u8]) {
    let first = payload.first().copied().unwrap_or_default();
    let (head, data) = payload.split_at(Operation::head_bytes_needed(first, payload.len()));
    let operation = Operation::decode(head, payload.len() as u64).expect("a committed record decodes");
    (operation, data)
}
