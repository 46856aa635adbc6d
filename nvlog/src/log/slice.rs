//! An address of log memory that outlives borrows of the log, for system calls that read from it.
//!
//! Invariant: the memory stays mapped while the slice lives. That its *content* stays is the holder's promise:
//! the tail or a hold must not pass it. It is never turned into a Rust reference here.

use crate::region::ring::Ring;
use ids::Lsn;
use std::sync::Arc;

/// Bytes of the ring, as address and length.
#[derive(Clone)]
pub struct LogSlice {
    ring: Arc<Ring>,
    lsn: Lsn,
    len: usize,
}

impl LogSlice {
    pub(super) fn new(ring: Arc<Ring>, lsn: Lsn, len: usize) -> LogSlice {
        let slice = LogSlice { ring, lsn, len };
        // Panics here, where the caller is, if the range crosses the ring's end.
        let _ = slice.as_ptr();
        slice
    }

    /// First byte. Valid while the slice lives.
    pub fn as_ptr(&self) -> *const u8 {
        self.ring.address(self.lsn, self.len)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
