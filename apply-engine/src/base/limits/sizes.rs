//! How long files may get, and what can be done to their room.
//!
//! Tried with single bytes at the end of sparse files: a few blocks, however far out. Sizes are found by bisection between
//! nothing and 2^63 − 1, because limits lie anywhere: ext4 without extents ends where its block map does, without
//! `huge_file` where the block count does. What can go wrong: nothing beyond what [`super::Unmeasured`] says.

use rustix::fs::{FallocateFlags, FileType, Mode};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

use super::probe::{Probe, stat};
use super::{Lack, PROBE, Unmeasured, largest, within};
use crate::base::TreeError;

/// End of what Linux can address.
const MAX_BYTES: u64 = i64::MAX as u64;
/// Space is counted in these.
const BLOCK_BYTES: u64 = 4096;
/// So many names of this length are more than any inode has room for (2048 bytes at most).
const LONG_NAMES: usize = 8;
const LONG_NAME_BYTES: usize = 255;
/// Of `stat`.
const SECTOR_BYTES: u64 = 512;

/// See the module.
pub(super) struct Sizes {
    pub max_file_bytes: u64,
    pub max_allocate_bytes: u64,
    pub allocates: bool,
    pub punches: bool,
}

pub(super) fn measure(probe: &Probe) -> Result<Sizes, Unmeasured> {
    let file = probe.file()?;
    let keep = FallocateFlags::KEEP_SIZE;
    let has = |mode| match rustix::fs::fallocate(&file, mode, 0, 1) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        other => other.map(|()| true).map_err(TreeError::at("set room aside in", PROBE)),
    };
    let (allocates, punches) = (has(keep)?, has(FallocateFlags::PUNCH_HOLE | keep)?);
    let zeroes = allocates && has(FallocateFlags::ZERO_RANGE | keep)?;
    check_unit(probe, allocates)?;
    check_directory_unit(probe)?;
    let max_file_bytes = largest(0, MAX_BYTES, |end| reaches(file.as_fd(), end))?;
    let mut max_allocate_bytes = max_file_bytes;
    let modes = [
        (allocates, keep),
        (punches, FallocateFlags::PUNCH_HOLE | keep),
        (zeroes, FallocateFlags::ZERO_RANGE | keep),
    ];
    for mode in modes.iter().filter(|(has, _)| *has).map(|(_, mode)| *mode) {
        let ends_at = |end: u64| within("set room aside in", rustix::fs::fallocate(&file, mode, end - 1, 1));
        max_allocate_bytes = largest(1, max_allocate_bytes, ends_at)?;
    }
    Ok(Sizes { max_file_bytes, max_allocate_bytes, allocates, punches })
}

/// A file can get this long by truncating, and by writing its last byte.
fn reaches(file: BorrowedFd<'_>, len_bytes: u64) -> Result<bool, Unmeasured> {
    let works = within("lengthen a file in", rustix::fs::ftruncate(file, len_bytes))?
        && within("write to a file in", rustix::io::pwrite(file, b"x", len_bytes.saturating_sub(1)))?;
    rustix::fs::ftruncate(file, 0).map_err(TreeError::at("shorten a file in", PROBE))?;
    Ok(works)
}

/// A directory grows by one block, when there is no room for a name in its inode or the blocks that it has.
fn check_directory_unit(probe: &Probe) -> Result<(), Unmeasured> {
    let directory = probe.directory()?;
    let taken_bytes = || -> Result<u64, Unmeasured> {
        Ok(u64::try_from(stat(directory.as_fd())?.st_blocks).unwrap_or(0) * SECTOR_BYTES)
    };
    let before = taken_bytes()?;
    for number in 0..LONG_NAMES {
        let name = format!("{number:0>LONG_NAME_BYTES$}");
        rustix::fs::mknodat(&directory, name, FileType::RegularFile, Mode::RUSR, 0)
            .map_err(TreeError::at("make a file in", PROBE))?;
        let grown_bytes = taken_bytes()?.saturating_sub(before);
        if grown_bytes > BLOCK_BYTES {
            return Err(Lack::DirectoryUnit(grown_bytes).into());
        }
        if grown_bytes > 0 {
            break;
        }
    }
    Ok(())
}

/// One byte takes one block.
fn check_unit(probe: &Probe, allocates: bool) -> Result<(), Unmeasured> {
    let file = probe.file()?;
    let taken_bytes = if allocates {
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1)
            .map_err(TreeError::at("set room aside in", PROBE))?;
        u64::try_from(stat(file.as_fd())?.st_blocks).unwrap_or(0) * SECTOR_BYTES
    } else {
        u64::try_from(stat(file.as_fd())?.st_blksize).unwrap_or(0)
    };
    if taken_bytes > BLOCK_BYTES { Err(Lack::AllocationUnit(taken_bytes).into()) } else { Ok(()) }
}
