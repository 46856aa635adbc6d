//! The two pieces of lock-free state: a log point that many read and one writes, and the slots in which
//! records that are being written announce themselves to the sealer.
//!
//! Invariants: a [`PointCell`] is written under one lock and never read torn; a [`SlotCell`] is filled by one
//! publisher, then emptied by the sealer, before its index is given out again.

use crate::record::RecordKind;
use crate::region::Stored;
use ids::{ChainCrc, Epoch, LogPoint, Lsn};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A log point under a sequence lock.
pub(crate) struct PointCell {
    sequence: AtomicU64,
    lsn: AtomicU64,
    crc: AtomicU32,
}

impl PointCell {
    pub(crate) fn new(point: LogPoint) -> PointCell {
        PointCell {
            sequence: AtomicU64::new(0),
            lsn: AtomicU64::new(point.lsn.0),
            crc: AtomicU32::new(point.crc.0),
        }
    }

    /// Only ever called under one lock.
    #[inline]
    pub(crate) fn set(&self, point: LogPoint) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.lsn.store(point.lsn.0, Ordering::Relaxed);
        self.crc.store(point.crc.0, Ordering::Relaxed);
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    /// Spins only while the writer is between two stores.
    #[inline]
    pub(crate) fn get(&self) -> LogPoint {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let lsn = Lsn(self.lsn.load(Ordering::Relaxed));
            let crc = ChainCrc(self.crc.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return LogPoint { lsn, crc };
            }
            std::hint::spin_loop();
        }
    }
}

/// What the sealer must know of a published record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Published {
    pub kind: RecordKind,
    pub epoch: Epoch,
    pub payload_len: u32,
    pub payload_crc: u32,
    /// Whether the payload needs no persist any more.
    pub stored: Stored,
}

const PUBLISHED: u64 = 1 << 63;
const STORED_DURABLY: u64 = 1 << 40;
const KIND_SHIFT: u32 = 32;

/// One in-flight record. A cache line of its own, so that publishers do not disturb each other.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct SlotCell {
    /// [`PUBLISHED`], durability, kind and payload CRC; 0 while the record is not published.
    state: AtomicU64,
    epoch: AtomicU64,
    payload_len: AtomicU32,
}

impl SlotCell {
    #[inline]
    pub(crate) fn fill(&self, record: Published) {
        self.epoch.store(record.epoch.0, Ordering::Relaxed);
        self.payload_len.store(record.payload_len, Ordering::Relaxed);
        let durable = if record.stored == Stored::Durable { STORED_DURABLY } else { 0 };
        let kind = u64::from(record.kind as u8) << KIND_SHIFT;
        self.state.store(PUBLISHED | durable | kind | u64::from(record.payload_crc), Ordering::Release);
    }

    /// Empties the cell; `None` when it is not published.
    #[inline]
    pub(crate) fn take(&self) -> Option<Published> {
        let state = self.state.load(Ordering::Acquire);
        if state & PUBLISHED == 0 {
            return None;
        }
        let kind = RecordKind::from_byte((state >> KIND_SHIFT) as u8);
        let record = Published {
            kind: kind.expect("filled with a kind"),
            epoch: Epoch(self.epoch.load(Ordering::Relaxed)),
            payload_len: self.payload_len.load(Ordering::Relaxed),
            payload_crc: state as u32,
            stored: if state & STORED_DURABLY == 0 { Stored::Volatile } else { Stored::Durable },
        };
        self.state.store(0, Ordering::Relaxed);
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_point_is_never_read_torn() {
        let cell = PointCell::new(LogPoint { lsn: Lsn(0), crc: ChainCrc(0) });
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 1..200_000u32 {
                    cell.set(LogPoint { lsn: Lsn(u64::from(i) * 64), crc: ChainCrc(i) });
                }
                stop.store(true, Ordering::Relaxed);
            });
            while !stop.load(Ordering::Relaxed) {
                let point = cell.get();
                assert_eq!(point.lsn.0, u64::from(point.crc.0) * 64);
            }
        });
    }

    #[test]
    fn a_slot_gives_back_what_was_put_in_once() {
        let cell = SlotCell::default();
        assert_eq!(cell.take(), None);
        let record = Published {
            kind: RecordKind::Epoch,
            epoch: Epoch(u64::MAX),
            payload_len: 77,
            payload_crc: u32::MAX,
            stored: Stored::Durable,
        };
        cell.fill(record);
        assert_eq!(cell.take(), Some(record));
        assert_eq!(cell.take(), None);
    }
}
