//! The ring of an open region: the only place where LSNs become addresses.
//!
//! Invariants: every access is bounds-checked against the ring; no reference into the memory is made, bytes are
//! copied in and out, because a peer may write at the same time (what is read then is checked by CRC).
//! What can go wrong: an access outside the ring is a program bug and panics.

#![allow(unsafe_code)]

use crate::format::{
    HEADER_BYTES, RECORD_MAGIC, RING_OFFSET_BYTES, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS, header,
};
use crate::persist::copy_non_temporal;
use crate::record::HeaderBytes;
use crate::recovery::RingBytes;
use crate::region::{Region, Stored};
use ids::{LogMemory, Lsn};
use std::io;
use std::os::fd::RawFd;

/// What is scrubbed between two persists.
const SCRUB_WINDOW_BYTES: u64 = 1024 * 1024;

/// The ring and the superblocks of a region.
pub(crate) struct Ring {
    region: Box<dyn Region>,
    base: *mut u8,
    capacity_bytes: u64,
}

// SAFETY: the pointer is the region's mapping, which lives as long as the ring; all access copies raw bytes.
unsafe impl Send for Ring {}
// SAFETY: as above; concurrent writers of one range are kept apart by the log's slots, concurrent readers check
// what they copied.
unsafe impl Sync for Ring {}

// SAFETY: the region keeps base..base + len mapped while it lives, the constructor checked that the ring lies
// inside, and no reference into it is made.
unsafe impl LogMemory for Ring {
    fn base(&self) -> *mut u8 {
        self.base
    }
    fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }
    fn shared_fd(&self) -> Option<(RawFd, u64)> {
        self.region.shared_fd().map(|fd| (fd, RING_OFFSET_BYTES))
    }
}

impl Ring {
    /// The caller has checked that the region is long enough.
    pub(crate) fn new(region: Box<dyn Region>, capacity_bytes: u64) -> Ring {
        assert!(region.len_bytes() >= RING_OFFSET_BYTES + capacity_bytes, "the region's length was checked");
        // SAFETY: the ring's offset lies inside the region, as just checked.
        let base = unsafe { region.base().add(RING_OFFSET_BYTES as usize) };
        Ring { region, base, capacity_bytes }
    }

    pub(crate) fn region(&self) -> &dyn Region {
        &*self.region
    }

    /// Bytes from `lsn` to the ring's end.
    pub(crate) fn to_ring_end(&self, lsn: Lsn) -> u64 {
        self.capacity_bytes - self.position(lsn)
    }

    /// Where `lsn` lies in the ring. A division costs as much as everything else in a small append, so the
    /// usual capacities, powers of two, do without.
    #[inline]
    fn position(&self, lsn: Lsn) -> u64 {
        if self.capacity_bytes.is_power_of_two() {
            lsn.0 & (self.capacity_bytes - 1)
        } else {
            lsn.0 % self.capacity_bytes
        }
    }

    #[inline]
    fn offset(&self, lsn: Lsn, len: usize) -> usize {
        let position = self.position(lsn);
        assert!(len as u64 <= self.capacity_bytes - position, "access at LSN {lsn} crosses the ring's end");
        position as usize
    }

    /// Copies `parts` to `lsn`; together they do not cross the ring's end.
    pub(crate) fn store(&self, lsn: Lsn, parts: &[&[u8]], copied: &mut dyn FnMut(&[u8])) -> Stored {
        let offset = self.offset(lsn, parts.iter().map(|part| part.len()).sum());
        self.region.store(RING_OFFSET_BYTES + offset as u64, parts, copied)
    }

    /// Writes one header.
    #[inline]
    pub(crate) fn write_header(&self, lsn: Lsn, header: &HeaderBytes) {
        let offset = self.offset(lsn, HEADER_BYTES);
        // SAFETY: in bounds; the slot or lock that the caller holds keeps other writers of this line away.
        unsafe { std::ptr::copy_nonoverlapping(header.as_ptr(), self.base.add(offset), HEADER_BYTES) }
    }

    /// Copies bytes out that do not cross the ring's end.
    #[inline]
    pub(crate) fn copy_contiguous(&self, lsn: Lsn, target: &mut [u8]) {
        let offset = self.offset(lsn, target.len());
        // SAFETY: in bounds; the target is a distinct Rust buffer.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(offset), target.as_mut_ptr(), target.len()) }
    }

    /// The address of `len` bytes that do not cross the ring's end.
    pub(crate) fn address(&self, lsn: Lsn, len: usize) -> *const u8 {
        let offset = self.offset(lsn, len);
        // SAFETY: in bounds.
        unsafe { self.base.add(offset) }
    }

    /// Invalidates every line in `[from, to)` that could be taken for a record of that very LSN, or of a later lap
    /// (of another log that was here), durably, and returns how many there were. The first line goes first: from then on no crash brings back what follows.
    /// It is cleared whatever it holds: words of a header that a power cut tore there would complete themselves with those of
    /// the next record, if that is torn, too.
    ///
    /// Rejected: writing zeros over the whole range, which would destroy the older records that a partner may
    /// still catch up from, and wear the medium.
    pub(crate) fn scrub(&self, from: Lsn, to: Lsn) -> io::Result<u64> {
        assert!(to.since(from) <= self.capacity_bytes, "a range is no longer than the ring");
        let mut scrubbed = 0;
        let mut window = from;
        while window < to {
            let len = if window == from { HEADER_BYTES as u64 } else { SCRUB_WINDOW_BYTES };
            let window_end = window.plus(len.min(to.since(window)));
            let found = self.scrub_window(window, window_end);
            let cleared = window == from && self.clear_line(from);
            if found > 0 || cleared {
                self.persist(window, window_end)?;
            }
            scrubbed += found;
            window = window_end;
        }
        Ok(scrubbed)
    }

    /// Whether there was anything.
    fn clear_line(&self, lsn: Lsn) -> bool {
        let offset = self.offset(lsn, HEADER_BYTES);
        // SAFETY: as in `scrub_window`; bytes may be read whatever wrote them.
        unsafe {
            let line = self.base.add(offset);
            let holds_something = (0..HEADER_BYTES).any(|at| line.add(at).read_volatile() != 0);
            if holds_something {
                std::ptr::write_bytes(line, 0, HEADER_BYTES);
            }
            holds_something
        }
    }

    fn scrub_window(&self, from: Lsn, to: Lsn) -> u64 {
        let mut found = 0;
        let mut lsn = from;
        while lsn < to {
            let offset = self.offset(lsn, HEADER_BYTES);
            // SAFETY: a whole line inside the ring, aligned to 64; the caller keeps other local writers away,
            // and a line that a peer is writing is read as some mixture, which the comparison survives.
            unsafe {
                let line = self.base.add(offset);
                if line.cast::<u32>().read_volatile() == RECORD_MAGIC.to_le()
                    && self.is_now_or_later(
                        lsn,
                        u64::from_le(line.add(header::LSN).cast::<u64>().read_volatile()),
                    )
                {
                    std::ptr::write_bytes(line, 0, HEADER_BYTES);
                    found += 1;
                }
            }
            lsn = lsn.plus(HEADER_BYTES as u64);
        }
        found
    }

    /// Is `found` the LSN of this place in this lap, or in a later one?
    fn is_now_or_later(&self, lsn: Lsn, found: u64) -> bool {
        found.checked_sub(lsn.0).is_some_and(|ahead| ahead.is_multiple_of(self.capacity_bytes))
    }

    /// Makes `[from, to)` durable, in two pieces when it wraps.
    pub(crate) fn persist(&self, from: Lsn, to: Lsn) -> io::Result<()> {
        assert!(to.since(from) <= self.capacity_bytes, "a range is no longer than the ring");
        let first = to.since(from).min(self.to_ring_end(from));
        let offset = self.position(from);
        if first > 0 {
            self.region.persist(RING_OFFSET_BYTES + offset, first)?;
        }
        let rest = to.since(from) - first;
        if rest > 0 {
            self.region.persist(RING_OFFSET_BYTES, rest)?;
        }
        Ok(())
    }
}

impl RingBytes for Ring {
    fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }
    fn copy_contiguous(&self, lsn: Lsn, target: &mut [u8]) {
        Ring::copy_contiguous(self, lsn, target);
    }
}

/// Copies superblock copy `index` out of `region`, which must be long enough.
pub(crate) fn read_superblock(region: &dyn Region, index: usize) -> [u8; SUPERBLOCK_BYTES] {
    let mut copy = [0; SUPERBLOCK_BYTES];
    read_region(region, SUPERBLOCK_OFFSETS[index], &mut copy);
    copy
}

/// Writes superblock copy `index` and makes it durable.
pub(crate) fn write_superblock(
    region: &dyn Region,
    index: usize,
    copy: &[u8; SUPERBLOCK_BYTES],
) -> io::Result<()> {
    let offset = SUPERBLOCK_OFFSETS[index];
    // SAFETY: the region keeps base..base + len mapped.
    unsafe { copy_parts(region.base(), region.len_bytes(), offset, &[copy], &mut |_| {}) };
    region.persist(offset, SUPERBLOCK_BYTES as u64)
}

/// Copies bytes out of `region` at `offset`.
pub(crate) fn read_region(region: &dyn Region, offset: u64, target: &mut [u8]) {
    assert!(offset + target.len() as u64 <= region.len_bytes(), "read inside the region");
    // SAFETY: in bounds of the region's mapping; the target is a distinct Rust buffer.
    unsafe {
        std::ptr::copy_nonoverlapping(region.base().add(offset as usize), target.as_mut_ptr(), target.len());
    }
}

/// What is copied before it is shown to `copied`: fits the first-level cache beside its copy.
const COPY_PIECE_BYTES: usize = 4096;

/// Copies `parts` into a mapping of `len_bytes` at `base + offset`, which is checked against it; see
/// [`Region::store`].
///
/// # Safety
/// `base..base + len_bytes` must be mapped writable.
pub(crate) unsafe fn copy_parts(
    base: *mut u8,
    len_bytes: u64,
    offset: u64,
    parts: &[&[u8]],
    copied: &mut dyn FnMut(&[u8]),
) {
    // SAFETY: passed on from the caller; the copy stays inside what `for_pieces` has checked, and a Rust slice
    // never overlaps log memory.
    unsafe {
        for_pieces(base, len_bytes, offset, parts, copied, |target, piece| {
            std::ptr::copy_nonoverlapping(piece.as_ptr(), target, piece.len());
        });
    }
}

/// As [`copy_parts`], with non-temporal stores; a fence must follow.
///
/// # Safety
/// As [`copy_parts`], and nobody else writes to the range meanwhile.
pub(crate) unsafe fn copy_parts_non_temporal(
    base: *mut u8,
    len_bytes: u64,
    offset: u64,
    parts: &[&[u8]],
    copied: &mut dyn FnMut(&[u8]),
) {
    // SAFETY: as in `copy_parts`.
    unsafe {
        for_pieces(base, len_bytes, offset, parts, copied, |target, piece| {
            copy_non_temporal(target, piece);
        });
    }
}

/// Checks the range once, then hands each piece and its target to `copy`.
///
/// # Safety
/// `base..base + len_bytes` must be mapped.
#[inline]
unsafe fn for_pieces(
    base: *mut u8,
    len_bytes: u64,
    offset: u64,
    parts: &[&[u8]],
    copied: &mut dyn FnMut(&[u8]),
    copy: impl Fn(*mut u8, &[u8]),
) {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    assert!(offset.checked_add(total as u64).is_some_and(|end| end <= len_bytes), "store inside the region");
    let mut at = offset as usize;
    for piece in parts.iter().flat_map(|part| part.chunks(COPY_PIECE_BYTES)) {
        // SAFETY: at + piece ≤ offset + total, which lies inside the mapping, as just checked.
        copy(unsafe { base.add(at) }, piece);
        copied(piece);
        at += piece.len();
    }
}
