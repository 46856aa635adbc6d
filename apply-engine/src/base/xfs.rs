//! What XFS has to be asked for itself: room that it keeps behind files, and inodes.
//!
//! `unsafe` lives here because neither std nor rustix wraps these calls.

use rustix::io::Errno;
use std::os::fd::BorrowedFd;

use super::allocated::call;

/// `statfs` magic.
pub(super) const MAGIC: u64 = 0x5846_5342;

const XFS_IOC_FREE_EOFBLOCKS: u64 = 0x8080_583A;
const XFS_IOC_FSGEOMETRY_V1: u64 = 0x8070_5864;
const XFS_IOC_FSCOUNTS: u64 = 0x8020_5871;
/// Inodes that are made at a time (`XFS_INODES_PER_CHUNK`), from blocks that lie side by side.
pub(super) const CHUNK_INODES: u64 = 64;
/// How far a processor's part of a counter may be from what is told of it (`percpu_counter_batch`), at least.
const COUNTER_BATCH: u64 = 32;

/// Has XFS give back what it keeps behind the ends of files, beyond what was asked for. It does so itself only when it
/// runs out, and until then tells less room than there is.
pub(super) fn give_back_what_was_not_asked_for(root: BorrowedFd<'_>) {
    // struct xfs_fs_eofblocks: version, flags (none: files that are busy are passed over), and no filter.
    let mut words = [0_u32; 32];
    words[0] = 1;
    if let Err(errno) = call(root, XFS_IOC_FREE_EOFBLOCKS, words.as_mut_ptr().cast()) {
        tracing::debug!(%errno, "XFS does not give back what it keeps behind files");
    }
}

/// How many bytes lie side by side where inodes are made, and how many allocation groups there are.
pub(super) fn chunk_bytes_and_groups(root: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    // struct xfs_fsop_geom_v1: blocksize, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize.
    let mut words = [0_u32; 28];
    call(root, XFS_IOC_FSGEOMETRY_V1, words.as_mut_ptr().cast())?;
    Ok(((CHUNK_INODES * u64::from(words[6])).max(u64::from(words[0])), u64::from(words[3])))
}

/// Inodes that are made and nobody uses, at least.
pub(super) fn free_inodes(root: BorrowedFd<'_>) -> Result<u64, Errno> {
    // struct xfs_fsop_counts: freedata, freertx, freeino, allocino.
    let mut words = [0_u64; 4];
    call(root, XFS_IOC_FSCOUNTS, words.as_mut_ptr().cast())?;
    // SAFETY: it only asks.
    let processors = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    let processors = u64::try_from(processors).unwrap_or(1).max(1);
    Ok(words[2].saturating_sub(processors * COUNTER_BATCH.max(2 * processors)))
}
