//! Regions that are mapped memory: devdax, fsdax and emulated.
//!
//! Invariants: a region that claims to survive power is mapped with MAP_SYNC (devdax: by its nature) and
//! written back line by line; the emulated one claims to survive the process only, where a fence is enough.
//! What can go wrong: no MAP_SYNC, no such instruction, wrong kind of file: all said when it is opened.

#![allow(unsafe_code)]

use crate::persist::{NON_TEMPORAL_MIN_BYTES, WriteBack, fence, write_back, write_back_kind};
use crate::region::device;
use crate::region::ring::{copy_parts, copy_parts_non_temporal};
use crate::region::sys::{
    MapKind, Mapping, Place, check_device_len, devdax_bytes, memfd, prepare_file, wrong_kind,
};
use crate::region::{OpenMode, Region, RegionError, RegionKind, Stored};
use ids::Durability;
use rustix::fs::{FileType, OFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

/// How a range becomes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Persistence {
    /// The memory outlives the process: ordering is all there is to do.
    Fence,
    /// Write back the cache lines, then fence.
    WriteBack,
}

/// A region of mapped memory.
pub struct MappedRegion {
    mapping: Mapping,
    fd: OwnedFd,
    kind: RegionKind,
    persistence: Persistence,
}

impl MappedRegion {
    /// Whether what is there is a file.
    pub(crate) fn probe_file(path: &Path, kind: RegionKind) -> Result<Option<u64>, RegionError> {
        check_file(&Place::find(path, OpenMode::Existing)?, path, kind).map(|()| None)
    }

    /// The length of a devdax device that nobody uses and that holds nothing.
    pub(crate) fn probe_devdax(path: &Path) -> Result<u64, RegionError> {
        // As for a new log, but of no length yet.
        MappedRegion::open_devdax(path, OpenMode::Create { len_bytes: 0 }).map(|region| region.len_bytes())
    }

    pub(crate) fn open_devdax(path: &Path, mode: OpenMode) -> Result<MappedRegion, RegionError> {
        let kind = RegionKind::DevDax;
        check_write_back(path, kind)?;
        let place = Place::find(path, OpenMode::Existing)?;
        let needs = "a devdax character device such as /dev/dax0.0 (`ndctl create-namespace -m devdax`)";
        if place.file_type() != FileType::CharacterDevice {
            return Err(wrong_kind(path, kind, needs));
        }
        let fd = place.open(OFlags::empty())?;
        let len_bytes = devdax_bytes(fd.as_fd(), path)?.ok_or_else(|| wrong_kind(path, kind, needs))?;
        MappedRegion::map_devdax(fd, len_bytes, path, mode)
    }

    /// The device behind `fd`, which must be blank for a new log.
    pub(super) fn map_devdax(
        fd: OwnedFd,
        len_bytes: u64,
        path: &Path,
        mode: OpenMode,
    ) -> Result<MappedRegion, RegionError> {
        check_device_len(path, mode, len_bytes)?;
        let mapping = match Mapping::new(fd.as_fd(), len_bytes, MapKind::Sync) {
            // Kernels before 4.15 know no MAP_SYNC; a devdax mapping is direct in any case.
            Err(error) if is_unsupported(&error) => Mapping::new(fd.as_fd(), len_bytes, MapKind::Shared),
            other => other,
        };
        let mapping = mapping.map_err(|source| map_failed(path, source))?;
        if let OpenMode::Create { .. } = mode {
            device::check_blank_memory(&mapping, path)?;
        }
        Ok(MappedRegion { mapping, fd, kind: RegionKind::DevDax, persistence: Persistence::WriteBack })
    }

    pub(crate) fn open_fsdax(path: &Path, mode: OpenMode) -> Result<MappedRegion, RegionError> {
        let kind = RegionKind::FsDax;
        check_write_back(path, kind)?;
        let (place, fd, len_bytes) = open_file(path, mode, kind)?;
        let mapping = Mapping::new(fd.as_fd(), len_bytes, MapKind::Sync).map_err(|source| {
            if is_unsupported(&source) {
                RegionError::NoMapSync { path: path.to_owned() }
            } else {
                map_failed(path, source)
            }
        })?;
        place.keep();
        Ok(MappedRegion { mapping, fd, kind, persistence: Persistence::WriteBack })
    }

    pub(crate) fn open_emulated(path: &Path, mode: OpenMode) -> Result<MappedRegion, RegionError> {
        let kind = RegionKind::Emulated;
        let (place, fd, len_bytes) = open_file(path, mode, kind)?;
        let mapping = Mapping::new(fd.as_fd(), len_bytes, MapKind::Populated);
        let mapping = mapping.map_err(|source| map_failed(path, source))?;
        place.keep();
        Ok(MappedRegion { mapping, fd, kind, persistence: Persistence::Fence })
    }

    /// Memory that goes with the last descriptor of it; kind `emulated`.
    ///
    /// # Errors
    /// When the kernel gives no memory.
    pub fn anonymous(len_bytes: u64) -> Result<MappedRegion, RegionError> {
        let path = Path::new("memfd:twinfiler-log");
        let fd = memfd("twinfiler-log", len_bytes).map_err(|source| map_failed(path, source))?;
        let mapping = Mapping::new(fd.as_fd(), len_bytes, MapKind::Populated);
        let mapping = mapping.map_err(|source| map_failed(path, source))?;
        Ok(MappedRegion { mapping, fd, kind: RegionKind::Emulated, persistence: Persistence::Fence })
    }

    /// As [`MappedRegion::anonymous`], written back like persistent memory. It survives no more than that one;
    /// it exists to measure and test what the instructions do.
    ///
    /// # Errors
    /// When the kernel gives no memory or the processor has no write-back instruction.
    pub fn anonymous_written_back(len_bytes: u64) -> Result<MappedRegion, RegionError> {
        check_write_back(Path::new("memfd:twinfiler-log"), RegionKind::Emulated)?;
        Ok(MappedRegion { persistence: Persistence::WriteBack, ..MappedRegion::anonymous(len_bytes)? })
    }
}

fn open_file(
    path: &Path,
    mode: OpenMode,
    kind: RegionKind,
) -> Result<(Place<'_>, OwnedFd, u64), RegionError> {
    let place = Place::find(path, mode)?;
    check_file(&place, path, kind)?;
    let fd = place.open(OFlags::empty())?;
    let len_bytes = prepare_file(fd.as_fd(), path, mode)?;
    if len_bytes == 0 {
        return Err(RegionError::TooSmall { path: path.to_owned(), needs_bytes: 1, has_bytes: 0 });
    }
    Ok((place, fd, len_bytes))
}

fn check_file(place: &Place<'_>, path: &Path, kind: RegionKind) -> Result<(), RegionError> {
    match place.file_type() {
        FileType::RegularFile => Ok(()),
        FileType::BlockDevice => {
            Err(wrong_kind(path, kind, "a regular file; kind `block` takes block devices"))
        }
        _ => Err(wrong_kind(path, kind, "a regular file")),
    }
}

fn check_write_back(path: &Path, kind: RegionKind) -> Result<(), RegionError> {
    if write_back_kind() == WriteBack::Unavailable {
        return Err(wrong_kind(path, kind, "a processor with clwb, clflushopt or clflush; use `block` here"));
    }
    Ok(())
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

fn map_failed(path: &Path, source: io::Error) -> RegionError {
    RegionError::Io { path: path.to_owned(), what: "mapping", source }
}

// SAFETY: the mapping lives as long as the region and only raw copies touch it.
unsafe impl Region for MappedRegion {
    fn base(&self) -> *mut u8 {
        self.mapping.base()
    }

    fn len_bytes(&self) -> u64 {
        self.mapping.len_bytes()
    }

    fn persist(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let end = offset_bytes.checked_add(len_bytes);
        assert!(end.is_some_and(|end| end <= self.len_bytes()), "persist inside the region");
        if self.persistence == Persistence::WriteBack {
            // SAFETY: in bounds of the mapping, as just checked.
            unsafe { write_back(self.base().add(offset_bytes as usize), len_bytes as usize) };
        }
        fence();
        Ok(())
    }

    fn store(&self, offset_bytes: u64, parts: &[&[u8]], copied: &mut dyn FnMut(&[u8])) -> Stored {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.persistence == Persistence::Fence || total < NON_TEMPORAL_MIN_BYTES {
            // SAFETY: the mapping is the region's, of this length.
            unsafe { copy_parts(self.base(), self.len_bytes(), offset_bytes, parts, copied) };
            return Stored::Volatile;
        }
        // SAFETY: as above; the slot that the caller holds keeps other writers away.
        unsafe { copy_parts_non_temporal(self.base(), self.len_bytes(), offset_bytes, parts, copied) };
        // Other threads' fences do not drain this processor's write-combining buffers.
        fence();
        Stored::Durable
    }

    fn kind(&self) -> RegionKind {
        self.kind
    }

    fn durability(&self) -> Durability {
        match self.kind {
            RegionKind::DevDax | RegionKind::FsDax => Durability::Power,
            _ => Durability::Process,
        }
    }

    fn shared_fd(&self) -> Option<RawFd> {
        Some(self.fd.as_raw_fd())
    }
}
