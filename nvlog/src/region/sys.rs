//! System calls that the regions share: opening, locking, measuring, mapping.
//!
//! Invariants: the lock is taken before anything is read, and it goes with the descriptor, so a killed daemon
//! never leaves one behind; a file is only ever made longer when it was empty.

#![allow(unsafe_code)]

use crate::region::{OpenMode, RegionError, RegionKind};
use rustix::fs::{
    FallocateFlags, FileType, FlockOperation, Mode, OFlags, fallocate, flock, fstat, fstatfs, open,
};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58F6;
const HUGETLBFS_MAGIC: i64 = 0x9584_58F6;

/// Wraps an error of a system call.
pub(crate) fn failed(path: &Path, what: &'static str) -> impl Fn(Errno) -> RegionError {
    let path = path.to_owned();
    move |errno| match errno {
        Errno::NOENT => RegionError::Missing { path: path.clone() },
        errno => RegionError::Io { path: path.clone(), what, source: errno.into() },
    }
}

/// Opens `path` and takes the exclusive lock.
pub(crate) fn open_locked(path: &Path, mode: OpenMode, flags: OFlags) -> Result<OwnedFd, RegionError> {
    let create = if matches!(mode, OpenMode::Create { .. }) { OFlags::CREATE } else { OFlags::empty() };
    let fd = open(path, OFlags::RDWR | OFlags::CLOEXEC | create | flags, Mode::RUSR | Mode::WUSR)
        .map_err(failed(path, "opening"))?;
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fd),
        Err(Errno::WOULDBLOCK) => Err(RegionError::Locked { path: path.to_owned() }),
        Err(errno) => Err(failed(path, "locking")(errno)),
    }
}

/// The kind of inode behind `fd`.
pub(crate) fn file_type(fd: BorrowedFd<'_>, path: &Path) -> Result<FileType, RegionError> {
    let stat = fstat(fd).map_err(failed(path, "stat"))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// The name of the file system in memory that holds `fd`, if it is one.
pub(crate) fn memory_file_system(fd: BorrowedFd<'_>) -> Option<&'static str> {
    match fstatfs(fd).ok()?.f_type {
        TMPFS_MAGIC => Some("tmpfs"),
        RAMFS_MAGIC => Some("ramfs"),
        HUGETLBFS_MAGIC => Some("hugetlbfs"),
        _ => None,
    }
}

/// Makes a regular file `mode` long where that is asked for, all blocks allocated (a store to a hole on a full
/// file system would kill the process with SIGBUS), and returns its length.
pub(crate) fn prepare_file(fd: BorrowedFd<'_>, path: &Path, mode: OpenMode) -> Result<u64, RegionError> {
    let stat = fstat(fd).map_err(failed(path, "stat"))?;
    let has_bytes = u64::try_from(stat.st_size).unwrap_or(0);
    let OpenMode::Create { len_bytes } = mode else { return Ok(has_bytes) };
    if has_bytes != 0 {
        return Err(RegionError::Exists { path: path.to_owned(), len_bytes: has_bytes });
    }
    // hugetlbfs only takes whole huge pages; its block size is their size.
    let unit = if memory_file_system(fd) == Some("hugetlbfs") { stat.st_blksize as u64 } else { 1 };
    let len_bytes = len_bytes.next_multiple_of(unit.max(1));
    fallocate(fd, FallocateFlags::empty(), 0, len_bytes).map_err(failed(path, "allocating space"))?;
    rustix::fs::fsync(fd).map_err(failed(path, "fsync"))?;
    Ok(len_bytes)
}

/// The length of a block device.
pub(crate) fn block_device_bytes(fd: BorrowedFd<'_>, path: &Path) -> Result<u64, RegionError> {
    rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0)).map_err(failed(path, "measuring"))
}

/// The length of a devdax device, from sysfs; `None` when `path` is no devdax device.
pub(crate) fn devdax_bytes(fd: BorrowedFd<'_>, path: &Path) -> Result<Option<u64>, RegionError> {
    let stat = fstat(fd).map_err(failed(path, "stat"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Ok(None);
    }
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let device = format!("/sys/dev/char/{major}:{minor}");
    let is_dax = std::fs::read_link(format!("{device}/subsystem")).is_ok_and(|link| link.ends_with("dax"));
    let size = std::fs::read_to_string(format!("{device}/size")).unwrap_or_default();
    Ok(if is_dax { size.trim().parse().ok() } else { None })
}

/// Fails unless `has_bytes` is what a new region needs.
pub(crate) fn check_device_len(path: &Path, mode: OpenMode, has_bytes: u64) -> Result<(), RegionError> {
    match mode {
        OpenMode::Create { len_bytes } if has_bytes < len_bytes => {
            Err(RegionError::TooSmall { path: path.to_owned(), needs_bytes: len_bytes, has_bytes })
        }
        _ => Ok(()),
    }
}

/// A shared mapping, unmapped when dropped.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is plain memory; who uses the pointer keeps accesses apart.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// How to map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapKind {
    /// MAP_SHARED, pages present at once, so that no append meets a page fault.
    Populated,
    /// MAP_SHARED_VALIDATE | MAP_SYNC: the file system keeps its metadata durable before a page becomes
    /// writable, so write-back instructions suffice.
    Sync,
    /// MAP_SHARED.
    Shared,
}

impl Mapping {
    pub(crate) fn new(fd: BorrowedFd<'_>, len_bytes: u64, kind: MapKind) -> io::Result<Mapping> {
        Mapping::with_protection(fd, len_bytes, kind, libc::PROT_READ | libc::PROT_WRITE)
    }

    pub(crate) fn read_only(fd: BorrowedFd<'_>, len_bytes: u64) -> io::Result<Mapping> {
        Mapping::with_protection(fd, len_bytes, MapKind::Shared, libc::PROT_READ)
    }

    fn with_protection(
        fd: BorrowedFd<'_>,
        len_bytes: u64,
        kind: MapKind,
        protection: i32,
    ) -> io::Result<Mapping> {
        let flags = match kind {
            MapKind::Populated => libc::MAP_SHARED | libc::MAP_POPULATE,
            MapKind::Sync => libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC,
            MapKind::Shared => libc::MAP_SHARED,
        };
        let len = usize::try_from(len_bytes).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped page zero"))?;
        Ok(Mapping { base, len })
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len as u64
    }

    /// Copies bytes out; `None` when the range is not inside.
    pub(crate) fn copy_out(&self, offset: u64, target: &mut [u8]) -> Option<()> {
        let end = offset.checked_add(target.len() as u64)?;
        if end > self.len as u64 {
            return None;
        }
        // SAFETY: in bounds, as just checked; the target is a distinct Rust buffer.
        unsafe {
            let source = self.base().add(offset as usize);
            std::ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len());
        }
        Some(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `new`, and nobody else unmaps it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Memory of `len_bytes` behind a descriptor.
pub(crate) fn memfd(name: &str, len_bytes: u64) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(fd.as_fd(), len_bytes)?;
    Ok(fd)
}

/// What [`RegionKind::DevDax`] needs, for error messages.
pub(crate) fn wrong_kind(path: &Path, kind: RegionKind, needs: &'static str) -> RegionError {
    RegionError::WrongKind { path: path.to_owned(), kind, needs }
}
