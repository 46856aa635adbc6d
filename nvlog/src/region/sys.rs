//! System calls that the regions share: opening, locking, measuring, mapping.
//!
//! Invariants: the lock is taken before anything is read, and it goes with the descriptor, so a killed daemon
//! never leaves one behind; a file is only ever made longer when it was empty.

#![allow(unsafe_code)]

use crate::region::{OpenMode, RegionError, RegionKind, device};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{
    Dev, FallocateFlags, FileType, FlockOperation, Mode, OFlags, Stat, StatFs, fallocate, flock, fstat,
    fstatfs, lstat, open, statfs, unlink,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
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

/// An inode that a region may lie in: looked at, not opened yet, so that nothing happens to what has the wrong type.
///
/// Whoever is dropped without [`Place::keep`] takes back the file that it made, and never anything else.
pub(crate) struct Place<'p> {
    path: &'p Path,
    look: OwnedFd,
    stat: Stat,
    made: bool,
}

impl<'p> Place<'p> {
    /// What `path` leads to, links followed. `mode` may make a regular file where there is nothing, but not among the
    /// devices: a typing error would leave a file there.
    pub(crate) fn find(path: &'p Path, mode: OpenMode) -> Result<Place<'p>, RegionError> {
        let (look, made) = match open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) if matches!(mode, OpenMode::Create { .. }) && !is_among_devices(path) => {
                let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
                let file = open(path, flags, Mode::RUSR | Mode::WUSR).map_err(failed(path, "making"))?;
                (file, true)
            }
            other => (other.map_err(failed(path, "opening"))?, false),
        };
        let stat = fstat(&look).map_err(failed(path, "stat"))?;
        let place = Place { path, look, stat, made };
        if matches!(mode, OpenMode::Create { .. }) && !made {
            place.check_ours()?;
        }
        Ok(place)
    }

    /// A log is not made in what another user has laid out: a link of his would make root write where it leads, a file of
    /// his would give him all records.
    fn check_ours(&self) -> Result<(), RegionError> {
        let ours = |uid: u32| uid == 0 || uid == geteuid().as_raw();
        let link = lstat(self.path).map_err(failed(self.path, "stat"))?;
        let is_file = self.file_type() == FileType::RegularFile;
        let why = if !ours(link.st_uid) {
            format!("it belongs to user {}", link.st_uid)
        } else if is_file && !ours(self.stat.st_uid) {
            format!("it leads to a file of user {}", self.stat.st_uid)
        } else if is_file && self.stat.st_nlink > 1 {
            "it has another name elsewhere".to_owned()
        } else {
            return Ok(());
        };
        Err(RegionError::NotOurs { path: self.path.to_owned(), why })
    }

    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// The device that a device node stands for.
    pub(crate) fn device(&self) -> Dev {
        self.stat.st_rdev
    }

    /// The name of the file system in memory that holds the file, if it is one.
    pub(crate) fn memory_file_system(&self) -> Option<&'static str> {
        memory_file_system(self.look.as_fd())
    }

    /// Opens it for reading and writing, and takes the exclusive lock.
    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd, RegionError> {
        let is_block = self.file_type() == FileType::BlockDevice;
        // The kernel's own lock on block devices: it also keeps mounts, device mapper and RAID away.
        let exclusive = if is_block { OFlags::EXCL } else { OFlags::empty() };
        let fd = match self.reopen(OFlags::RDWR | flags | exclusive) {
            Err(Errno::BUSY) if is_block => return Err(device::in_use(self.path, self.device())),
            Err(Errno::ACCESS | Errno::ROFS | Errno::PERM) if is_block => {
                return Err(RegionError::ReadOnly { path: self.path.to_owned() });
            }
            other => other.map_err(failed(self.path, "opening"))?,
        };
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(fd),
            // udev holds a shared lock on a block device while it looks at it; O_EXCL has settled who uses it.
            Err(Errno::WOULDBLOCK) if is_block => Ok(fd),
            Err(Errno::WOULDBLOCK) => Err(RegionError::Locked { path: self.path.to_owned() }),
            Err(errno) => Err(failed(self.path, "locking")(errno)),
        }
    }

    /// Opens it for reading, beside whoever uses it.
    pub(crate) fn read(&self) -> Result<File, RegionError> {
        self.reopen(OFlags::RDONLY).map(File::from).map_err(failed(self.path, "opening"))
    }

    /// This inode again, whatever its path leads to by now.
    fn reopen(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let inode = format!("/proc/self/fd/{}", self.look.as_raw_fd());
        open(inode, flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// The region is good: what was made for it stays.
    pub(crate) fn keep(mut self) {
        self.made = false;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let is_ours = |found: Stat| (found.st_dev, found.st_ino) == (self.stat.st_dev, self.stat.st_ino);
        if self.made && lstat(self.path).is_ok_and(is_ours) {
            // The error that is on its way says more than a failure to tidy up.
            let _ = unlink(self.path);
        }
    }
}

/// Below /dev, but in no file system of its own there (as /dev/shm): no place for files.
pub(crate) fn is_among_devices(path: &Path) -> bool {
    let there = path.ancestors().skip(1).find_map(|above| std::fs::metadata(above).ok());
    let devices = std::fs::metadata("/dev").ok();
    path.starts_with("/dev") && there.zip(devices).is_none_or(|(there, devices)| there.dev() == devices.dev())
}

/// The name of the file system in memory that holds `fd`, if it is one.
pub(crate) fn memory_file_system(fd: BorrowedFd<'_>) -> Option<&'static str> {
    memory_name(&fstatfs(fd).ok()?)
}

/// The same for the file at `path`.
pub(crate) fn memory_of(path: &Path) -> Option<&'static str> {
    memory_name(&statfs(path).ok()?)
}

fn memory_name(found: &StatFs) -> Option<&'static str> {
    match found.f_type {
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

/// A mapping, unmapped when dropped.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    _memory: Memory,
}

/// What unmaps it.
enum Memory {
    Library {
        _raw: MmapRaw,
    },
    /// memmap2 knows no MAP_SYNC.
    Sync {
        _mapping: SyncMapping,
    },
}

struct SyncMapping {
    base: NonNull<u8>,
    len: usize,
}

impl Drop for SyncMapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `Mapping::sync`, and nobody else unmaps it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
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
        let len = usize::try_from(len_bytes).map_err(io::Error::other)?;
        match kind {
            MapKind::Populated => Mapping::of(MmapOptions::new().len(len).populate().map_raw(&fd)?),
            MapKind::Sync => Mapping::sync(fd, len),
            MapKind::Shared => Mapping::of(MmapOptions::new().len(len).map_raw(&fd)?),
        }
    }

    pub(crate) fn read_only(fd: BorrowedFd<'_>, len_bytes: u64) -> io::Result<Mapping> {
        let len = usize::try_from(len_bytes).map_err(io::Error::other)?;
        Mapping::of(MmapOptions::new().len(len).map_raw_read_only(&fd)?)
    }

    /// Memory of this process alone, present at once, in huge pages where the kernel gives some: a process that dies gives
    /// back all its memory before its sockets break, and small pages take 80 ms for each GiB.
    pub(crate) fn private(len_bytes: u64) -> io::Result<Mapping> {
        let len = usize::try_from(len_bytes).map_err(io::Error::other)?;
        let memory = MmapOptions::new().len(len).map_anon()?;
        // A kernel without huge pages gives small ones, and one before 5.14 gives them at the first touch.
        for advice in [Advice::HugePage, Advice::PopulateWrite] {
            let _less = memory.advise(advice);
        }
        Mapping::of(memory.into())
    }

    fn of(raw: MmapRaw) -> io::Result<Mapping> {
        let base = not_null(raw.as_mut_ptr())?;
        Ok(Mapping { base, len: raw.len(), _memory: Memory::Library { _raw: raw } })
    }

    fn sync(fd: BorrowedFd<'_>, len: usize) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = not_null(base.cast())?;
        Ok(Mapping { base, len, _memory: Memory::Sync { _mapping: SyncMapping { base, len } } })
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

fn not_null(base: *mut u8) -> io::Result<NonNull<u8>> {
    NonNull::new(base).ok_or_else(|| io::Error::other("the kernel mapped page zero"))
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
