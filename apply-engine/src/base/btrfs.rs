//! What btrfs has left for metadata, which it keeps apart from file contents: a volume of small files runs out of
//! metadata long before `statfs` shows anything, and then nothing can be applied.
//!
//! Asked of the kernel (`BTRFS_IOC_SPACE_INFO`, `_FS_INFO`, `_DEV_INFO`: linux/btrfs.h), because only that tells it to
//! the byte. What can go wrong: an older kernel, or a profile that this does not know; then what is told is less than
//! there is, never more.
//!
//! `unsafe` lives here because neither std nor rustix wraps these calls.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `statfs` magic.
pub(super) const MAGIC: u64 = 0x9123_683E;

const METADATA: u64 = 1 << 2;
const DATA: u64 = 1 << 0;
/// The reserve that the filesystem keeps for itself, told like a kind of block group.
const GLOBAL_RESERVE: u64 = 1 << 49;
/// Kinds of block groups that are asked for; there are a handful.
const MAX_SPACES: usize = 32;
/// Devices of one filesystem that are looked at; what the others have left counts as nothing.
const MAX_DEVICES: u64 = 64;
/// The largest block group of file contents: this much may go there at any time.
const MAX_BLOCK_GROUP_BYTES: u64 = 1 << 30;
/// The most copies that any profile makes of metadata (RAID1C4; DUP and RAID1 make two).
const METADATA_COPIES: u64 = 4;

const IOC_SPACE_INFO: u64 = ioc(3, 20, 16);
const IOC_FS_INFO: u64 = ioc(2, 31, 1024);
const IOC_DEV_INFO: u64 = ioc(3, 30, 4096);

const fn ioc(direction: u64, number: u64, size: u64) -> u64 {
    direction << 30 | size << 16 | 0x94 << 8 | number
}

/// Room for metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetadataSpace {
    /// Free in the block groups that exist, without the filesystem's own reserve.
    pub free_bytes: u64,
    /// What could become either contents or metadata.
    pub unallocated_bytes: u64,
}

impl MetadataSpace {
    /// All that could become metadata.
    pub fn total_bytes(&self) -> u64 {
        self.free_bytes.saturating_add(self.unallocated_bytes / METADATA_COPIES)
    }

    /// What is left when so much content and so much metadata have been written, wherever they go.
    #[must_use]
    pub fn after(self, content_bytes: u64, metadata_bytes: u64) -> MetadataSpace {
        let unallocated_bytes = self.unallocated_bytes.saturating_sub(content_bytes);
        let lacking = metadata_bytes.saturating_sub(self.free_bytes);
        MetadataSpace {
            free_bytes: self.free_bytes.saturating_sub(metadata_bytes),
            unallocated_bytes: unallocated_bytes.saturating_sub(lacking.saturating_mul(METADATA_COPIES)),
        }
    }
}

/// Asks the filesystem that `fd` lies on.
pub(super) fn metadata_space(fd: BorrowedFd<'_>) -> Result<MetadataSpace, Errno> {
    let mut spaces = [0_u64; 2 + 3 * MAX_SPACES];
    spaces[0] = MAX_SPACES as u64;
    call(fd, IOC_SPACE_INFO, &mut spaces)?;
    let told = (spaces[1] as usize).min(MAX_SPACES);
    let (mut free, mut reserve, mut mixed) = (0, 0, false);
    for space in spaces[2..].chunks_exact(3).take(told) {
        let [flags, total, used] = [space[0], space[1], space[2]];
        if flags & GLOBAL_RESERVE != 0 {
            reserve = total;
        } else if flags & METADATA != 0 {
            mixed |= flags & DATA != 0;
            free = u64::saturating_add(free, total.saturating_sub(used));
        }
    }
    if mixed {
        // One kind for both: what statfs tells is all there is to know.
        return Ok(MetadataSpace { free_bytes: u64::MAX, unallocated_bytes: 0 });
    }
    let (total, unallocated) = unallocated(fd)?;
    // The next block group of contents may be made at any moment.
    let promised = (total / 10).min(MAX_BLOCK_GROUP_BYTES);
    Ok(MetadataSpace {
        free_bytes: free.saturating_sub(reserve),
        unallocated_bytes: unallocated.saturating_sub(promised),
    })
}

/// Size of all devices, and what no block group has.
fn unallocated(fd: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    let mut filesystem = [0_u64; 1024 / 8];
    call(fd, IOC_FS_INFO, &mut filesystem)?;
    let highest = filesystem[0];
    let (mut sum, mut left) = (0_u64, 0_u64);
    for id in 1..=highest.min(MAX_DEVICES) {
        // devid, uuid (16 bytes), bytes_used, total_bytes
        let mut device = [0_u64; 4096 / 8];
        device[0] = id;
        match call(fd, IOC_DEV_INFO, &mut device) {
            Ok(()) => {
                sum = sum.saturating_add(device[4]);
                left = left.saturating_add(device[4].saturating_sub(device[3]));
            }
            // Ids have gaps.
            Err(Errno::NODEV) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok((sum, left))
}

fn call<const WORDS: usize>(
    fd: BorrowedFd<'_>,
    request: u64,
    argument: &mut [u64; WORDS],
) -> Result<(), Errno> {
    debug_assert!((request >> 16 & 0x3fff) as usize <= size_of_val(argument));
    // SAFETY: the request numbers above say how much the kernel reads and writes at `argument`, which is at least
    // that long and lives for the whole call; SPACE_INFO writes as many spaces as its first word allows, which is
    // what the array has room for.
    let status = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, argument.as_mut_ptr()) };
    if status < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
