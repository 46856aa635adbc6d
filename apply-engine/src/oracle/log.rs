//! A log in memory: record headers of zeros, payloads as they are. Bytes can be freed from the front.

use super::Step;
use crate::delta::RecordPosition;
use crate::view::{LogBytes, Overwritten};
use ids::{Lsn, RECORD_ALIGN_BYTES};
use parking_lot::RwLock;

/// Records one after another, never overwritten unless [`MemoryLog::free_before`] says so.
#[derive(Default)]
pub struct MemoryLog {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    freed_before: Lsn,
}

impl MemoryLog {
    /// Appends a step as one record.
    pub fn append(&self, step: &Step) -> RecordPosition {
        let inner = &mut *self.inner.write();
        let lsn = Lsn(inner.bytes.len() as u64);
        let payload_lsn = lsn.plus(RECORD_ALIGN_BYTES);
        inner.bytes.resize(payload_lsn.0 as usize, 0);
        inner.bytes.extend_from_slice(&step.head);
        inner.bytes.extend_from_slice(&step.data);
        let end = inner.bytes.len().next_multiple_of(RECORD_ALIGN_BYTES as usize);
        inner.bytes.resize(end, 0);
        RecordPosition { lsn, end: Lsn(end as u64), payload_lsn }
    }

    /// Makes every read before `lsn` fail.
    pub fn free_before(&self, lsn: Lsn) {
        self.inner.write().freed_before = lsn;
    }
}

impl LogBytes for MemoryLog {
    fn copy_out(&self, lsn: Lsn, dst: &mut [u8]) -> Result<(), Overwritten> {
        let inner = self.inner.read();
        let start = lsn.0 as usize;
        match inner.bytes.get(start..start + dst.len()) {
            Some(bytes) if lsn >= inner.freed_before => {
                dst.copy_from_slice(bytes);
                Ok(())
            }
            _ => Err(Overwritten { lsn }),
        }
    }
}
