//! Which parts of a file have blocks of their own, so that writing there takes no room (`FS_IOC_FIEMAP`: linux/fiemap.h).
//!
//! A hole has none. Blocks that another file shares (a reflink), that are compressed, or that lie in an inode have to be
//! replaced by new ones when they are written, and what waits for its blocks (delayed allocation) has none yet: all of
//! these count as gaps. Reserved blocks that were never written do not: that is what they are reserved for. XFS keeps
//! more than was asked for behind the end of a file, and takes it back when it runs out; only `fallocate` makes that last.
//!
//! What can go wrong: a filesystem that tells nothing, or that writes every block to a new place (btrfs, a zoned XFS);
//! then all is a gap, and nothing is promised.
//!
//! `unsafe` lives here because neither std nor rustix wraps these calls.

use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::xfs;

/// `statfs` magic of ext2 to ext4, which write a block where it is, as XFS does.
const EXT: u64 = 0xEF53;

const FS_IOC_FIEMAP: u64 = 0xC020_660B;
const FS_IOC_FSGETXATTR: u64 = 0x801C_581F;
/// `fallocate` was used.
const FS_XFLAG_PREALLOC: u32 = 0x2;
/// Words of `struct fiemap` and of one `struct fiemap_extent`.
const HEAD_WORDS: usize = 4;
const EXTENT_WORDS: usize = 7;
/// Extents that are asked for at a time.
const MAX_EXTENTS: usize = 64;

const LAST: u64 = 0x1;
/// Unknown place, delayed, encoded, encrypted, unaligned, in the inode, in a shared tail, shared.
const NOT_IN_PLACE: u64 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000;

/// The parts of `range` that have no blocks which a write could go to. `allocates`: the filesystem takes `fallocate`.
pub(crate) fn gaps(
    file: BorrowedFd<'_>,
    range: Range<u64>,
    allocates: bool,
) -> Result<Vec<Range<u64>>, Errno> {
    let filesystem = rustix::fs::fstatfs(file)?;
    let lasts_below = match filesystem.f_type as u64 {
        EXT => u64::MAX,
        xfs::MAGIC if allocates && keeps_what_is_behind_its_end(file)? => u64::MAX,
        xfs::MAGIC if allocates => {
            let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
            size.next_multiple_of(u64::try_from(filesystem.f_bsize).unwrap_or(1).max(1))
        }
        _ => 0,
    };
    let (mut gaps, mut at, end) = (Vec::new(), range.start, range.end.min(lasts_below));
    while at < end {
        let told = extents(file, at..end)?;
        for extent in &told.extents {
            if extent.start > at {
                gaps.push(at..extent.start.min(end));
            }
            at = at.max(extent.end.min(end));
        }
        if told.is_all {
            break;
        }
    }
    if at < range.end {
        gaps.push(at..range.end);
    }
    Ok(gaps)
}

fn keeps_what_is_behind_its_end(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    // struct fsxattr: flags first.
    let mut words = [0_u32; 7];
    call(file, FS_IOC_FSGETXATTR, words.as_mut_ptr().cast())?;
    Ok(words[0] & FS_XFLAG_PREALLOC != 0)
}

/// `argument` is as long as the request number says.
pub(super) fn call(file: BorrowedFd<'_>, request: u64, argument: *mut u8) -> Result<(), Errno> {
    // SAFETY: all callers pass an array that lives for the whole call and has room for what the kernel writes: its
    // length is in the request number, and FIEMAP writes as many extents as the last word of the head allows besides.
    let status = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request as libc::Ioctl, argument) };
    match status {
        0.. => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// The pieces in which `range` lies on the disk, as far as it has blocks that can be written.
pub(super) fn extents_within(file: BorrowedFd<'_>, range: Range<u64>) -> Result<Vec<Range<u64>>, Errno> {
    let (mut all, mut at) = (Vec::new(), range.start);
    while at < range.end {
        let told = extents(file, at..range.end)?;
        at = match told.extents.last() {
            Some(last) if !told.is_all => last.end,
            _ => range.end,
        };
        all.extend(told.extents);
    }
    Ok(all)
}

struct Told {
    /// Those with blocks that can be written, in order.
    extents: Vec<Range<u64>>,
    is_all: bool,
}

fn extents(file: BorrowedFd<'_>, range: Range<u64>) -> Result<Told, Errno> {
    let mut words = [0_u64; HEAD_WORDS + MAX_EXTENTS * EXTENT_WORDS];
    words[0] = range.start;
    words[1] = range.end - range.start;
    words[3] = MAX_EXTENTS as u64;
    match call(file, FS_IOC_FIEMAP, words.as_mut_ptr().cast()) {
        Err(Errno::OPNOTSUPP | Errno::NOTTY) => return Ok(Told { extents: Vec::new(), is_all: true }),
        other => other?,
    }
    // fm_flags, fm_mapped_extents
    let mapped = ((words[2] >> 32) as usize).min(MAX_EXTENTS);
    let told = words[HEAD_WORDS..].chunks_exact(EXTENT_WORDS).take(mapped);
    let flags = |extent: &[u64]| extent[5] & u64::from(u32::MAX);
    let last = told.clone().next_back();
    Ok(Told {
        is_all: last.is_none_or(|extent| flags(extent) & LAST != 0) || mapped < MAX_EXTENTS,
        extents: told
            .filter(|extent| flags(extent) & NOT_IN_PLACE == 0)
            .map(|extent| extent[0]..extent[0].saturating_add(extent[2]))
            .collect(),
    })
}
