//! Reading: records, bytes, and what a partner that was away needs to know.
//!
//! Invariants: bytes are copied out and checked afterwards, so a reader never blocks a writer and never keeps
//! what was overwritten under its hands; positions are only believed when the chain leads to them.
//! What can go wrong: the reader is slower than the ring ([`Trimmed`]); a damaged header
//! ([`ReadError::Broken`]).

use super::Log;
use super::errors::{ReadError, Trimmed};
use super::slice::LogSlice;
use crate::format::HEADER_BYTES;
use crate::record::RecordKind;
use crate::recovery::{Depth, Walker};
use ids::{Epoch, LogPoint, Lsn};
use std::sync::atomic::{Ordering, fence};

/// One record of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its first byte.
    pub lsn: Lsn,
    /// One past its last byte.
    pub end: Lsn,
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// What it is.
    pub kind: RecordKind,
    /// First byte of its payload.
    pub payload_lsn: Lsn,
    /// Length of its payload in bytes; 0 for pad and no-op records, whose payload means nothing.
    pub payload_len: usize,
    /// The log point after it.
    pub point_after: LogPoint,
}

/// Iterator over records, from [`Log::records`]. Ends after the first error.
pub struct Records<'a> {
    log: &'a Log,
    walker: Walker,
    failed: bool,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Result<Record, ReadError>> {
        let lsn = self.walker.at.lsn;
        if self.failed || lsn >= self.walker.limit {
            return None;
        }
        let step = self.walker.step(&*self.log.ring, Depth::Header).map_err(|reason| {
            match self.log.check_readable(lsn, HEADER_BYTES) {
                Err(trimmed) => ReadError::Trimmed(trimmed),
                Ok(()) => ReadError::Broken { lsn, reason },
            }
        });
        self.failed = step.is_err();
        Some(step.map(|link| Record {
            lsn,
            end: link.after.lsn,
            epoch: link.header.epoch,
            kind: link.kind,
            payload_lsn: lsn.plus(HEADER_BYTES as u64),
            payload_len: if link.kind.has_payload() { link.header.payload_len as usize } else { 0 },
            point_after: link.after,
        }))
    }
}

impl Log {
    /// The records from the point `from` on that end at or before `to` (and the log's end). Headers are checked
    /// against the chain; payloads were when the log was opened or ingested.
    pub fn records(&self, from: LogPoint, to: Lsn) -> Records<'_> {
        let limit = to.min(self.end().lsn);
        Records { log: self, walker: Walker { at: from, epoch: Epoch(0), limit }, failed: false }
    }

    /// Copies `target.len()` bytes from `lsn` on, also across the ring's end.
    ///
    /// # Errors
    /// [`Trimmed`] when they are not in the log, or were overwritten while they were copied; `target` then
    /// holds nothing of use.
    pub fn copy_out(&self, lsn: Lsn, target: &mut [u8]) -> Result<(), Trimmed> {
        self.check_readable(lsn, target.len())?;
        let first = (target.len() as u64).min(self.ring.to_ring_end(lsn)) as usize;
        let (start, rest) = target.split_at_mut(first);
        self.ring.copy_contiguous(lsn, start);
        self.ring.copy_contiguous(lsn.plus(first as u64), rest);
        // The writer announces what it will overwrite before it does: whatever of it was copied above, the
        // announcement is seen below.
        fence(Ordering::Acquire);
        self.check_readable(lsn, target.len())
    }

    /// The address of payload bytes, for the kernel to read them without a copy. They stay what they are while
    /// the tail (or a hold) is at or before `lsn`.
    ///
    /// # Errors
    /// [`Trimmed`] when they are not in the log.
    ///
    /// # Panics
    /// When the range crosses the ring's end, which no payload does.
    pub fn payload_ptr(&self, lsn: Lsn, len: usize) -> Result<LogSlice, Trimmed> {
        self.check_readable(lsn, len)?;
        Ok(LogSlice::new(self.ring.clone(), lsn, len))
    }

    /// What is needed is never overwritten. What is older is safe as far as this node's own records go, but
    /// where a peer writes, nobody here knows how far it has come.
    fn check_readable(&self, lsn: Lsn, len: usize) -> Result<(), Trimmed> {
        let oldest = if self.receiving.load(Ordering::Acquire) {
            self.needed_from().max(self.oldest_retained())
        } else {
            self.oldest_retained()
        };
        let reserved = self.reserved();
        if lsn < oldest || lsn.plus(len as u64) > reserved {
            return Err(Trimmed { lsn, oldest, end: reserved });
        }
        Ok(())
    }

    /// The point at the record boundary `lsn`, found by walking from the tail; `None` when no record between
    /// tail and end begins or ends there.
    pub fn point_at(&self, lsn: Lsn) -> Option<LogPoint> {
        self.walk_to(lsn, self.end()).map(|walker| walker.at)
    }

    /// Walks headers from the tail to exactly `lsn`.
    pub(super) fn walk_to(&self, lsn: Lsn, end: LogPoint) -> Option<Walker> {
        let mut walker = Walker { at: self.tail(), epoch: Epoch(0), limit: end.lsn };
        while walker.at.lsn < lsn {
            walker.step(&*self.ring, Depth::Header).ok()?;
        }
        (walker.at.lsn == lsn).then_some(walker)
    }

    /// Whether `point` names a prefix of this log whose continuation, up to the end, is all still in the ring:
    /// what a partner that has exactly that prefix can catch up from. `point` may lie before the tail. Set a
    /// [`Log::hold`] first, so that the answer stays true.
    pub fn continues_from(&self, point: LogPoint) -> bool {
        let end = self.end();
        let aligned = point.lsn.0.is_multiple_of(ids::RECORD_ALIGN_BYTES);
        if !aligned || point.lsn > end.lsn || point.lsn < self.oldest_retained() {
            return false;
        }
        let mut walker = Walker { at: point, epoch: Epoch(0), limit: end.lsn };
        // Before the tail payloads are checked as well: after a restart they may be partly overwritten.
        let tail = self.tail().lsn;
        while walker.at.lsn < end.lsn {
            let depth = if walker.at.lsn < tail { Depth::Payload } else { Depth::Header };
            if walker.step(&*self.ring, depth).is_err() {
                return false;
            }
        }
        walker.at == end
    }
}
