//! Shared memory of two processes: the mapping of the peer's ring, and the page of words that each side reads its
//! news from.
//!
//! Each side makes one page and hands it to the peer, so a page has one reader of news and one writer of news:
//!
//! ```text
//! my page:  granted   I write      may the peer write into my ring
//!           writing   peer writes  it is copying into my ring right now
//!           arrivals  peer writes  how far its log bytes have landed here
//!           answers   peer writes  how far my log bytes are durable there
//! ```
//!
//! Invariants: words are atomics, nothing else is shared; a [`Mailbox`] holds only the newest point, guarded by a
//! sequence number that is odd while it changes, so a peer that stops half-way leaves no torn point to be read.
//! The peer can write anything here at any time: readers check what they read as if it came from a socket.

use crate::LinkError;
use crate::socket::timespec;
use ids::{ChainCrc, LogMemory, LogPoint, Lsn};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::thread::futex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

/// Length of a page's descriptor.
const PAGE_BYTES: u64 = 4096;
/// Reads of a mailbox before it counts as unchanged: its writer was stopped half-way.
const READ_TRIES: usize = 64;

/// Memory that both sides map. What is in it may change at any time, so nobody makes a reference into it.
fn map(fd: impl AsFd, offset: u64, len_bytes: u64) -> Result<MmapRaw, LinkError> {
    let actual = rustix::fs::fstat(&fd).map_err(LinkError::os("reading the length of shared memory"))?;
    let fits = offset
        .checked_add(len_bytes)
        .is_some_and(|end| i64::try_from(end).is_ok_and(|end| end <= actual.st_size));
    if !fits || len_bytes == 0 || !offset.is_multiple_of(PAGE_BYTES) {
        return Err(LinkError::Protocol(
            "shared memory is not as long as the peer says, or begins elsewhere".into(),
        ));
    }
    let len = usize::try_from(len_bytes).map_err(|_| LinkError::NotShareable)?;
    let mapped = MmapOptions::new().offset(offset).len(len).map_raw(&fd.as_fd());
    mapped.map_err(|source| LinkError::Io { what: "mapping shared memory", source })
}

/// A descriptor of a log's memory that can be handed over.
pub(super) fn duplicate(fd: RawFd) -> Result<OwnedFd, LinkError> {
    // SAFETY: the log keeps the descriptor that it lends open, and it is duplicated before this returns.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_dupfd_cloexec(borrowed, 0).map_err(LinkError::os("duplicating the ring's descriptor"))
}

/// The peer's ring, mapped here.
pub(super) struct PeerRing {
    mapping: MmapRaw,
}

impl PeerRing {
    pub(super) fn map(fd: OwnedFd, offset: u64, capacity_bytes: u64) -> Result<PeerRing, LinkError> {
        Ok(PeerRing { mapping: map(fd, offset, capacity_bytes)? })
    }
}

// SAFETY: the mapping is readable and writable for its length and lives as long as the value; no reference into
// it is made.
unsafe impl LogMemory for PeerRing {
    fn base(&self) -> *mut u8 {
        self.mapping.as_mut_ptr()
    }
    fn capacity_bytes(&self) -> u64 {
        self.mapping.len() as u64
    }
    fn shared_fd(&self) -> Option<(RawFd, u64)> {
        None
    }
}

/// The newest of a row of points.
#[repr(C, align(128))]
pub(super) struct Mailbox {
    sequence: AtomicU64,
    lsn: AtomicU64,
    crc: AtomicU32,
    /// Counts news, for the futex.
    bell: AtomicU32,
    /// The reader sleeps or is about to.
    sleeping: AtomicU32,
}

impl Mailbox {
    /// Replaces the point and wakes the reader. One writer.
    pub(super) fn put(&self, point: LogPoint) {
        let sequence = self.sequence.load(Ordering::Relaxed) & !1;
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.lsn.store(point.lsn.0, Ordering::Relaxed);
        self.crc.store(point.crc.0, Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
        self.ring();
    }

    /// Wakes the reader.
    pub(super) fn ring(&self) {
        self.bell.fetch_add(1, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) != 0 {
            // It can only fail for an address that is not mapped.
            let _ = futex::wake(&self.bell, futex::Flags::empty(), u32::MAX >> 1);
        }
    }

    /// The point, if it is another than at `seen`.
    pub(super) fn get(&self, seen: &mut u64) -> Option<LogPoint> {
        for _ in 0..READ_TRIES {
            let before = self.sequence.load(Ordering::Acquire);
            if before == *seen {
                return None;
            }
            let lsn = Lsn(self.lsn.load(Ordering::Relaxed));
            let crc = ChainCrc(self.crc.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                *seen = before;
                return Some(LogPoint { lsn, crc });
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Sleeps until the bell rings, at most for `limit`; not at all when there is news, or `ready` says so.
    pub(super) fn sleep(&self, seen: u64, limit: Duration, ready: impl Fn() -> bool) {
        let bell = self.bell.load(Ordering::SeqCst);
        self.sleeping.store(1, Ordering::SeqCst);
        if self.sequence.load(Ordering::SeqCst) == seen && !ready() {
            // Woken, timed out, interrupted or rung in between: the caller looks again in every case.
            let _ = futex::wait(&self.bell, futex::Flags::empty(), bell, Some(&timespec(limit)));
        }
        self.sleeping.store(0, Ordering::SeqCst);
    }
}

/// The words of one side. All zero is a valid page: revoked, nothing arrived.
#[repr(C, align(128))]
pub(super) struct Words {
    pub granted: AtomicU64,
    pub writing: AtomicU64,
    pub arrivals: Mailbox,
    pub answers: Mailbox,
}

const _: () = assert!(size_of::<Words>() as u64 <= PAGE_BYTES);

/// A mapped page of words.
pub(super) struct Page {
    mapping: MmapRaw,
}

impl Page {
    /// A new page, and the descriptor that the peer maps. Its length is sealed: nobody can take it away.
    pub(super) fn create() -> Result<(Page, OwnedFd), LinkError> {
        let make = || {
            let fd = rustix::fs::memfd_create("link-words", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            rustix::fs::ftruncate(&fd, PAGE_BYTES)?;
            rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(fd)
        };
        let fd = make().map_err(LinkError::os("making shared memory"))?;
        Ok((Page { mapping: map(&fd, 0, PAGE_BYTES)? }, fd))
    }

    /// The peer's page.
    pub(super) fn map(fd: OwnedFd) -> Result<Page, LinkError> {
        Ok(Page { mapping: map(fd, 0, PAGE_BYTES)? })
    }

    pub(super) fn words(&self) -> &Words {
        // SAFETY: the mapping is page-aligned, long enough (asserted above), lives as long as `self`, and holds
        // only atomics, for which every value is valid and which may change at any time.
        unsafe { &*self.mapping.as_ptr().cast::<Words>() }
    }
}
