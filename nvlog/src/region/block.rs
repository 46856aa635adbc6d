//! An ordinary file or block device behind an image in memory.
//!
//! Appends go to the image; `persist` writes the blocks that hold the range with io_uring, O_DIRECT and
//! RWF_DSYNC (one FUA write on devices that have it), and returns when all have completed.
//!
//! Invariants: what is written is first copied to a bounce buffer, because the image goes on changing and file
//! systems that checksum data (btrfs) must never see that; at most [`MAX_BATCH_BYTES`] are in flight. A device is open
//! exclusively and was blank when the log was made ([`device`]).
//! What can go wrong: any disk error; it is returned and the range stays dirty. A torn block costs at most
//! records that were not persisted: the bytes of durable records in it are written again unchanged.

#![allow(unsafe_code)]

use crate::format::{MIN_CAPACITY_BYTES, RING_OFFSET_BYTES, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS};
use crate::region::device;
use crate::region::ring::copy_parts;
use crate::region::sys::{
    MapKind, Mapping, Place, block_device_bytes, check_device_len, memfd, prepare_file, wrong_kind,
};
use crate::region::{OpenMode, Region, RegionError, RegionKind, Stored};
use crate::superblock::{self, CopyState};
use ids::Durability;
use io_uring::{IoUring, opcode, types};
use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

/// Unit of writing: covers the logical block size of every current disk.
const BLOCK_BYTES: u64 = 4096;
/// Length of one write.
const WRITE_BYTES: u64 = 256 * 1024;
/// Writes in flight.
const QUEUE_DEPTH: u32 = 16;
/// Bounce buffer: what is in flight at most.
const MAX_BATCH_BYTES: u64 = WRITE_BYTES * QUEUE_DEPTH as u64;

/// A file or device behind a memory image.
pub(crate) struct BlockRegion {
    image: Mapping,
    /// Only where another process may want to map the image.
    image_fd: Option<OwnedFd>,
    file: OwnedFd,
    writer: Mutex<Writer>,
}

struct Writer {
    uring: IoUring,
    bounce: Mapping,
}

impl BlockRegion {
    pub(crate) fn open(path: &Path, mode: OpenMode, shareable: bool) -> Result<BlockRegion, RegionError> {
        let place = Place::find(path, mode)?;
        let (file, has_bytes) = match place.file_type() {
            FileType::RegularFile => open_file(&place, path, mode)?,
            FileType::BlockDevice => open_device(&place, path, mode)?,
            _ => return Err(wrong_kind(path, RegionKind::Block, "a regular file or a block device")),
        };
        let failed = |what| move |source| RegionError::Io { path: path.to_owned(), what, source };
        let mut writer = Writer::new(failed)?;
        let len_bytes = match mode {
            OpenMode::Create { len_bytes } => len_bytes,
            OpenMode::Existing => writer.stored_len(file.as_fd(), has_bytes).map_err(failed("reading"))?,
        };
        // A device may be longer than its log: the image is as long as the log.
        let len_bytes = len_bytes.min(has_bytes);
        let len_bytes = len_bytes - len_bytes % BLOCK_BYTES;
        if len_bytes == 0 {
            return Err(RegionError::TooSmall { path: path.to_owned(), needs_bytes: BLOCK_BYTES, has_bytes });
        }
        let image = match shareable {
            true => mapped_memfd(len_bytes).map(|(fd, image)| (Some(fd), image)),
            false => Mapping::private(len_bytes).map(|image| (None, image)),
        };
        let (image_fd, image) = image.map_err(failed("allocating the memory image"))?;
        writer.load(&image, file.as_fd()).map_err(failed("reading"))?;
        place.keep();
        Ok(BlockRegion { image, image_fd, file, writer: Mutex::new(writer) })
    }

    /// Looks whether a new log can be made at `path`, and tells the length of a device. Changes nothing.
    pub(crate) fn probe(path: &Path) -> Result<Option<u64>, RegionError> {
        let place = Place::find(path, OpenMode::Existing)?;
        if place.file_type() != FileType::BlockDevice {
            return Ok(None);
        }
        // As for a new log, but of no length yet.
        open_device(&place, path, OpenMode::Create { len_bytes: 0 }).map(|(_, has_bytes)| Some(has_bytes))
    }
}

fn open_file(place: &Place<'_>, path: &Path, mode: OpenMode) -> Result<(OwnedFd, u64), RegionError> {
    if let Some(file_system) = place.memory_file_system() {
        return Err(RegionError::NotDurable { path: path.to_owned(), file_system });
    }
    let file = place.open(OFlags::DIRECT)?;
    let has_bytes = prepare_file(file.as_fd(), path, mode)?;
    Ok((file, has_bytes))
}

/// Opens a block device; for a new log it must be blank and long enough.
fn open_device(place: &Place<'_>, path: &Path, mode: OpenMode) -> Result<(OwnedFd, u64), RegionError> {
    let file = place.open(OFlags::DIRECT)?;
    device::check(file.as_fd(), path, place.device())?;
    let has_bytes = block_device_bytes(file.as_fd(), path)?;
    if let OpenMode::Create { .. } = mode {
        device::check_blank(&place.read()?, path, has_bytes)?;
        check_device_len(path, mode, has_bytes)?;
    }
    Ok((file, has_bytes))
}

fn mapped_memfd(len_bytes: u64) -> io::Result<(OwnedFd, Mapping)> {
    let fd = memfd("twinfiler-block-image", len_bytes)?;
    let mapping = Mapping::new(fd.as_fd(), len_bytes, MapKind::Populated)?;
    Ok((fd, mapping))
}

/// Which way a batch goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

impl Writer {
    fn new<F: FnOnce(io::Error) -> RegionError>(
        failed: impl Fn(&'static str) -> F,
    ) -> Result<Writer, RegionError> {
        let bounce = Mapping::private(MAX_BATCH_BYTES).map_err(failed("allocating a write buffer"))?;
        let uring = IoUring::new(QUEUE_DEPTH).map_err(failed("io_uring_setup"))?;
        Ok(Writer { uring, bounce })
    }

    /// How long the log is that lies here, by its superblocks; without a valid one, how long the shortest is.
    fn stored_len(&mut self, file: BorrowedFd<'_>, has_bytes: u64) -> io::Result<u64> {
        let mut len_bytes = RING_OFFSET_BYTES + MIN_CAPACITY_BYTES;
        if has_bytes < len_bytes {
            return Ok(has_bytes);
        }
        self.transfer(Direction::Read, file, 0, RING_OFFSET_BYTES)?;
        for offset in SUPERBLOCK_OFFSETS {
            let mut copy = [0; SUPERBLOCK_BYTES];
            let inside = self.bounce.copy_out(offset, &mut copy);
            if let (Some(()), CopyState::Valid(superblock)) = (inside, superblock::decode(&copy)) {
                len_bytes = len_bytes.max(RING_OFFSET_BYTES.saturating_add(superblock.capacity_bytes));
            }
        }
        Ok(len_bytes)
    }

    /// Reads the whole file into the image.
    fn load(&mut self, image: &Mapping, file: BorrowedFd<'_>) -> io::Result<()> {
        let mut offset = 0;
        while offset < image.len_bytes() {
            let len = (image.len_bytes() - offset).min(MAX_BATCH_BYTES);
            self.transfer(Direction::Read, file, offset, len)?;
            // SAFETY: both ranges lie inside their mappings: offset + len ≤ the image's length, len ≤ the
            // bounce buffer's, and the two are distinct mappings.
            unsafe {
                let target = image.base().add(offset as usize);
                std::ptr::copy_nonoverlapping(self.bounce.base(), target, len as usize);
            }
            offset += len;
        }
        Ok(())
    }

    /// Writes `[start, end)` of the image, whole blocks.
    fn save(&mut self, image: &Mapping, file: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
        let mut offset = start;
        while offset < end {
            let len = (end - offset).min(MAX_BATCH_BYTES);
            // SAFETY: both ranges lie inside their mappings: end ≤ the image's length (the caller's check),
            // len ≤ the bounce buffer's, and the two are distinct mappings.
            unsafe {
                let source = image.base().add(offset as usize);
                std::ptr::copy_nonoverlapping(source, self.bounce.base(), len as usize);
            }
            self.transfer(Direction::Write, file, offset, len)?;
            offset += len;
        }
        Ok(())
    }

    /// Moves `len ≤ MAX_BATCH_BYTES` between the bounce buffer and the file, all writes in flight at once.
    fn transfer(&mut self, way: Direction, file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
        let pieces = len.div_ceil(WRITE_BYTES);
        let piece_len = |piece: u64| (len - piece * WRITE_BYTES).min(WRITE_BYTES) as u32;
        let fd = types::Fd(file.as_raw_fd());
        for piece in 0..pieces {
            // SAFETY: the piece lies inside the bounce buffer, whose length is MAX_BATCH_BYTES.
            let buffer = unsafe { self.bounce.base().add((piece * WRITE_BYTES) as usize) };
            let at = offset + piece * WRITE_BYTES;
            let entry = match way {
                Direction::Write => opcode::Write::new(fd, buffer, piece_len(piece))
                    .offset(at)
                    .rw_flags(libc::RWF_DSYNC)
                    .build(),
                Direction::Read => opcode::Read::new(fd, buffer, piece_len(piece)).offset(at).build(),
            };
            // SAFETY: buffer and descriptor outlive the operation: all completions are awaited below, before
            // `self.bounce` can be touched or dropped.
            let pushed = unsafe { self.uring.submission().push(&entry.user_data(piece)) };
            assert!(pushed.is_ok(), "pieces ≤ QUEUE_DEPTH, and the queue was empty");
        }
        self.await_all(pieces, piece_len)
    }

    /// Submits and waits for `pieces` completions; the first error counts, but all are awaited.
    fn await_all(&mut self, pieces: u64, piece_len: impl Fn(u64) -> u32) -> io::Result<()> {
        let mut done = 0;
        let mut result = Ok(());
        while done < pieces {
            match self.uring.submit_and_wait((pieces - done) as usize) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EAGAIN and EBUSY: the kernel is short of requests for the moment; completions free them.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {}
                // Anything else means that the ring itself is broken: no completion will come, and the
                // buffer cannot be proven free. Never return into a state where it might be reused.
                Err(error) => panic!("io_uring_enter failed on a valid ring: {error}"),
            }
            for completion in self.uring.completion() {
                done += 1;
                let expected = piece_len(completion.user_data());
                let outcome = completion.result();
                if outcome < 0 {
                    result = result.and(Err(io::Error::from_raw_os_error(-outcome)));
                } else if outcome as u32 != expected {
                    result = result.and(Err(io::Error::other("the medium moved fewer bytes than asked for")));
                }
            }
        }
        result
    }
}

// SAFETY: the image lives as long as the region and only raw copies touch it.
unsafe impl Region for BlockRegion {
    fn base(&self) -> *mut u8 {
        self.image.base()
    }

    fn len_bytes(&self) -> u64 {
        self.image.len_bytes()
    }

    fn persist(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let end = offset_bytes.checked_add(len_bytes);
        assert!(end.is_some_and(|end| end <= self.len_bytes()), "persist inside the region");
        let start = offset_bytes - offset_bytes % BLOCK_BYTES;
        let end = (offset_bytes + len_bytes).next_multiple_of(BLOCK_BYTES);
        self.writer.lock().save(&self.image, self.file.as_fd(), start, end)
    }

    fn store(&self, offset_bytes: u64, parts: &[&[u8]], copied: &mut dyn FnMut(&[u8])) -> Stored {
        // SAFETY: the image is the region's mapping, of this length.
        unsafe { copy_parts(self.base(), self.len_bytes(), offset_bytes, parts, copied) };
        Stored::Volatile
    }

    fn persists_quickly(&self) -> bool {
        false
    }

    fn kind(&self) -> RegionKind {
        RegionKind::Block
    }

    fn durability(&self) -> Durability {
        Durability::Power
    }

    fn shared_fd(&self) -> Option<RawFd> {
        self.image_fd.as_ref().map(AsRawFd::as_raw_fd)
    }
}
