//! A region that simulates a power cut: any cache line that was not persisted may be lost, kept, or torn.
//!
//! Fault model: each 64-byte line that differs between memory and medium at the crash survives whole, is lost
//! whole, or survives word by word (8 bytes are written atomically, as on x86). A line may have reached the
//! medium before it was flushed, at any moment; later lines may survive where earlier ones are lost.
//!
//! Invariants: `persist` copies exactly the lines of its range; the same seed gives the same surviving image.
//! For tests of this crate and of others; nothing in production uses it.

#![allow(unsafe_code)]

use crate::persist::{CACHE_LINE_BYTES, NON_TEMPORAL_MIN_BYTES};
use crate::region::ring::copy_parts;
use crate::region::{Region, Stored};
use crate::superblock::BootId;
use ids::Durability;
use parking_lot::Mutex;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const WORD_BYTES: usize = 8;
const PAGE_BYTES: usize = 4096;
const NEVER: u64 = u64::MAX;

/// A page of memory, for its alignment.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

struct Shared {
    memory: *mut u8,
    pages: usize,
    durable: Mutex<Vec<u8>>,
    persists: AtomicU64,
    fail_at: AtomicU64,
    durability: Durability,
    boot: u64,
}

// SAFETY: the memory is a leaked allocation that `drop` takes back; all access copies raw bytes.
unsafe impl Send for Shared {}
// SAFETY: as above; callers keep writers of one range apart, as with every region.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        let pages = std::ptr::slice_from_raw_parts_mut(self.memory.cast::<Page>(), self.pages);
        // SAFETY: the pointer and length come from `Box::into_raw` of a boxed slice of pages.
        drop(unsafe { Box::from_raw(pages) });
    }
}

/// Memory that loses and tears what was not persisted. Clones share the memory, so that a test can crash what
/// a log owns.
#[derive(Clone)]
pub struct SimRegion {
    shared: Arc<Shared>,
}

impl SimRegion {
    /// Zeroed memory of at least `len_bytes` (whole pages).
    pub fn new(len_bytes: u64) -> SimRegion {
        SimRegion::with_image(vec![0; len_bytes as usize])
    }

    /// Zeroed memory that a power cut takes away: the log knows it by the next boot.
    pub fn volatile(len_bytes: u64) -> SimRegion {
        SimRegion::in_boot(vec![0; len_bytes as usize], Durability::Process, 1)
    }

    /// Memory with this content, all of it durable.
    pub fn with_image(image: Vec<u8>) -> SimRegion {
        SimRegion::in_boot(image, Durability::Power, 1)
    }

    fn in_boot(mut image: Vec<u8>, durability: Durability, boot: u64) -> SimRegion {
        image.resize(image.len().next_multiple_of(PAGE_BYTES), 0);
        let pages: Box<[Page]> =
            image.chunks_exact(PAGE_BYTES).map(|chunk| Page(std::array::from_fn(|i| chunk[i]))).collect();
        let count = pages.len();
        let shared = Shared {
            memory: Box::into_raw(pages).cast(),
            pages: count,
            durable: Mutex::new(image),
            persists: AtomicU64::new(0),
            fail_at: AtomicU64::new(NEVER),
            durability,
            boot,
        };
        SimRegion { shared: Arc::new(shared) }
    }

    /// What a power cut at this moment leaves, as a region of its own. This one goes on unharmed.
    ///
    /// Volatile memory comes back as a file on disk would: with what had happened to be written there.
    pub fn crash(&self, seed: u64) -> SimRegion {
        let mut random = SplitMix(seed);
        let mut image = self.shared.durable.lock().clone();
        let memory = self.memory();
        // How much survives differs from crash to crash: from nothing to nearly everything.
        let (lost, torn) = (random.next() % 101, random.next() % 101);
        for (durable, line) in image.chunks_mut(CACHE_LINE_BYTES).zip(memory.chunks(CACHE_LINE_BYTES)) {
            if durable == line || random.next() % 100 < lost {
                continue;
            }
            let tear = random.next() % 100 < torn;
            for (durable, word) in durable.chunks_mut(WORD_BYTES).zip(line.chunks(WORD_BYTES)) {
                if !tear || random.next().is_multiple_of(2) {
                    durable.copy_from_slice(word);
                }
            }
        }
        SimRegion::in_boot(image, self.shared.durability, self.shared.boot + 1)
    }

    /// What is left when only what was persisted survives.
    pub fn crash_losing_all(&self) -> SimRegion {
        let image = self.shared.durable.lock().clone();
        SimRegion::in_boot(image, self.shared.durability, self.shared.boot + 1)
    }

    /// What is left when every store survives (the process was killed, the machine goes on).
    pub fn kill_process(&self) -> SimRegion {
        let dead = SimRegion::in_boot(self.memory(), self.shared.durability, self.shared.boot);
        *dead.shared.durable.lock() = self.shared.durable.lock().clone();
        dead
    }

    /// Calls of `persist` so far.
    pub fn persists(&self) -> u64 {
        self.shared.persists.load(Ordering::Relaxed)
    }

    /// From the `nth` call of `persist` on (counted from the region's creation), it fails with EIO and makes
    /// nothing durable; `None` heals it.
    pub fn fail_persist_from(&self, nth: Option<u64>) {
        self.shared.fail_at.store(nth.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Overwrites bytes in memory and on the medium, as a media fault does.
    pub fn damage(&self, offset: u64, bytes: &[u8]) {
        let mut durable = self.shared.durable.lock();
        // SAFETY: the memory is this region's, of this length.
        unsafe { copy_parts(self.base(), self.len_bytes(), offset, &[bytes], &mut |_| {}) };
        durable[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// What the memory holds now, durable or not.
    pub fn memory(&self) -> Vec<u8> {
        let mut copy = vec![0; self.len_bytes() as usize];
        // SAFETY: the memory has this length; the copy is a distinct buffer.
        unsafe { std::ptr::copy_nonoverlapping(self.shared.memory, copy.as_mut_ptr(), copy.len()) };
        copy
    }

    /// A part of it.
    pub fn read(&self, offset: u64, len_bytes: usize) -> Vec<u8> {
        let end = offset.checked_add(len_bytes as u64).filter(|end| *end <= self.len_bytes());
        assert!(end.is_some(), "a range inside the region");
        let mut copy = vec![0; len_bytes];
        // SAFETY: the range was checked; the copy is a distinct buffer of this length.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.shared.memory.add(offset as usize),
                copy.as_mut_ptr(),
                len_bytes,
            );
        }
        copy
    }

    /// Bytes land in the memory, as an adapter's do: nothing makes them durable.
    pub fn land(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: the memory is this region's, of this length.
        unsafe { copy_parts(self.base(), self.len_bytes(), offset, &[bytes], &mut |_| {}) };
    }

    fn make_durable(&self, offset: u64, len: u64) {
        let end = offset.checked_add(len).filter(|end| *end <= self.len_bytes());
        let end = end.expect("a range inside the region") as usize;
        let first = offset as usize - offset as usize % CACHE_LINE_BYTES;
        let end = end.next_multiple_of(CACHE_LINE_BYTES);
        let mut durable = self.shared.durable.lock();
        let target = &mut durable[first..end];
        // SAFETY: both ranges have target.len() bytes and lie inside their buffers, which are distinct.
        unsafe {
            std::ptr::copy_nonoverlapping(self.shared.memory.add(first), target.as_mut_ptr(), target.len());
        }
    }
}

// SAFETY: the allocation lives as long as any clone and only raw copies touch it.
unsafe impl Region for SimRegion {
    fn base(&self) -> *mut u8 {
        self.shared.memory
    }

    fn len_bytes(&self) -> u64 {
        (self.shared.pages * PAGE_BYTES) as u64
    }

    fn persist(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let nth = self.shared.persists.fetch_add(1, Ordering::Relaxed);
        if nth >= self.shared.fail_at.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.make_durable(offset_bytes, len_bytes);
        Ok(())
    }

    fn store(&self, offset_bytes: u64, parts: &[&[u8]], copied: &mut dyn FnMut(&[u8])) -> Stored {
        // SAFETY: the memory is this region's, of this length.
        unsafe { copy_parts(self.base(), self.len_bytes(), offset_bytes, parts, copied) };
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if total < NON_TEMPORAL_MIN_BYTES {
            return Stored::Volatile;
        }
        self.make_durable(offset_bytes, total as u64);
        Stored::Durable
    }

    fn kind(&self) -> super::RegionKind {
        super::RegionKind::Simulated
    }

    fn durability(&self) -> Durability {
        self.shared.durability
    }

    fn boot_id(&self) -> BootId {
        BootId(u128::from(self.shared.boot).to_le_bytes())
    }

    fn shared_fd(&self) -> Option<RawFd> {
        None
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed, the same sequence, on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn persisted_lines_survive_every_crash_and_others_do_not_always() {
        let region = SimRegion::new(8192);
        region.store(0, &[&[1; 64]], &mut |_| {});
        region.persist(0, 64).unwrap();
        region.store(64, &[&[2; 64]], &mut |_| {});
        let survivors: Vec<u8> = (0..64).map(|seed| region.crash(seed).memory()[64]).collect();
        assert!((0..64).all(|seed| region.crash(seed).memory()[..64] == [1; 64]));
        assert!(survivors.contains(&0) && survivors.contains(&2), "{survivors:?}");
        let torn = (0..256).any(|seed| region.crash(seed).memory()[64..128].windows(2).any(|w| w[0] != w[1]));
        assert!(torn, "some crash must tear the line");
        assert_eq!(region.crash_losing_all().memory()[64], 0);
        assert_eq!(region.kill_process().memory()[64], 2);
    }

    #[test]
    fn a_failing_medium_makes_nothing_durable() {
        let region = SimRegion::new(4096);
        region.fail_persist_from(Some(0));
        region.store(0, &[&[1; 8]], &mut |_| {});
        assert!(region.persist(0, 8).is_err());
        assert_eq!(region.crash_losing_all().memory()[0], 0);
        region.fail_persist_from(None);
        region.persist(0, 8).unwrap();
        assert_eq!(region.crash_losing_all().memory()[0], 1);
    }
}
