//! The ring as a place that log positions name: the only module outside `uring` and `shm` that touches it.
//!
//! Invariants: a range is never longer than the ring; what passes its end continues at its start, so a range is
//! at most two pieces. No Rust reference into the ring is made.

use ids::{LogMemory, Lsn};
use std::sync::Arc;

/// A piece of the ring: a pointer that is valid for `len` bytes while the [`Ring`] it came from lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub pointer: *mut u8,
    pub len: usize,
}

/// A log's ring.
#[derive(Clone)]
pub(crate) struct Ring {
    memory: Arc<dyn LogMemory>,
}

impl Ring {
    pub(crate) fn new(memory: Arc<dyn LogMemory>) -> Ring {
        Ring { memory }
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.memory.capacity_bytes()
    }

    /// The pieces of `[from, from + len_bytes)`; the second one is empty unless the range passes the ring's end.
    pub(crate) fn pieces(&self, from: Lsn, len_bytes: u64) -> [Piece; 2] {
        let capacity = self.capacity_bytes();
        assert!(len_bytes <= capacity, "ranges were checked against the ring");
        let offset = from.0 % capacity;
        let first = len_bytes.min(capacity - offset);
        let base = self.memory.base();
        [
            Piece { pointer: base.wrapping_add(offset as usize), len: first as usize },
            Piece { pointer: base, len: (len_bytes - first) as usize },
        ]
    }

    /// Copies `bytes` to the place of `at`.
    pub(crate) fn copy_in(&self, at: Lsn, bytes: &[u8]) {
        let [first, second] = self.pieces(at, bytes.len() as u64);
        let (head, tail) = bytes.split_at(first.len);
        // SAFETY: the pieces lie inside the ring, which stays mapped while `self.memory` lives, and `bytes` is
        // ordinary memory of the same length that does not overlap it.
        unsafe {
            first.pointer.copy_from_nonoverlapping(head.as_ptr(), head.len());
            second.pointer.copy_from_nonoverlapping(tail.as_ptr(), tail.len());
        }
    }

    /// Copies what is at the place of `at` into `bytes`.
    pub(crate) fn copy_out(&self, at: Lsn, bytes: &mut [u8]) {
        let [first, second] = self.pieces(at, bytes.len() as u64);
        let (head, tail) = bytes.split_at_mut(first.len);
        // SAFETY: the pieces lie inside the ring, which stays mapped while `self.memory` lives, and `bytes` is
        // ordinary memory of the same length that does not overlap it.
        unsafe {
            first.pointer.copy_to_nonoverlapping(head.as_mut_ptr(), head.len());
            second.pointer.copy_to_nonoverlapping(tail.as_mut_ptr(), tail.len());
        }
    }

    /// Copies `[from, from + len_bytes)` of this ring to the same place of `other`, of the same capacity.
    pub(crate) fn copy_to(&self, other: &Ring, from: Lsn, len_bytes: u64) {
        assert_eq!(self.capacity_bytes(), other.capacity_bytes(), "the handshake compared the capacities");
        for (source, target) in self.pieces(from, len_bytes).into_iter().zip(other.pieces(from, len_bytes)) {
            // SAFETY: both pieces lie inside rings that stay mapped while `self` and `other` live, they have the
            // same length because the rings have; two nodes' rings are different memory.
            unsafe { target.pointer.copy_from_nonoverlapping(source.pointer, source.len) }
        }
    }
}
