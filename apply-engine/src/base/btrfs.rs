//! What `statfs` does not tell of btrfs. What it has left for metadata, which it keeps apart from file contents: a volume of
//! small files runs out of metadata long before `statfs` shows anything, and then nothing can be applied. And which quota
//! group limits a subvolume. And how many names of a directory have one hash.
//!
//! Asked of the kernel (`BTRFS_IOC_SPACE_INFO`, `_FS_INFO`, `_DEV_INFO`, `_INO_LOOKUP`, `_TREE_SEARCH`: linux/btrfs.h), because
//! only that tells it to the byte. What can go wrong: an older kernel, or a profile that this does not know; then what is
//! told is less than there is, never more. A quota that is not seen is met as EDQUOT.
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

/// The tree of quota groups, and what its items say: a limit of a group, and a relation of two.
const QUOTA_TREE: u64 = 8;
const LIMIT_ITEM: u64 = 244;
const RELATION_ITEM: u64 = 246;
/// Of a limit's first word: the group's bytes are limited, those that it shares with others or those that it does not.
const IS_LIMITED: u64 = 0b11;
/// A group's level stands above this in its number; it belongs to groups of higher levels only.
const LEVEL_SHIFT: u32 = 48;
/// Groups that one subvolume belongs to, directly or not, and that are looked at.
const MAX_GROUPS: usize = 256;
/// The tree that a descriptor lies in; its items with the names in a directory that have one hash.
const OWN_TREE: u64 = 0;
const NAMES_ITEM: u64 = 84;
/// Such an item ends at nearly 4 KiB, or more. This leaves room for those that are being made at the same time.
const FEW_NAMES_BYTES: u32 = 1024;
/// The polynomial of the hash, in reverse.
const CASTAGNOLI: u32 = 0x82F6_3B78;
/// Any inode of a subvolume serves to ask for the subvolume.
const FIRST_INODE: u64 = 256;
/// Words of `struct btrfs_ioctl_search_key` and of one `struct btrfs_ioctl_search_header`.
const KEY_WORDS: usize = 13;
const HEADER_BYTES: usize = 32;

const IOC_TREE_SEARCH: u64 = ioc(3, 17, 4096);
const IOC_INO_LOOKUP: u64 = ioc(3, 18, 4096);
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

/// The quota group that limits the subvolume of `fd`, its own or one that this belongs to.
pub(super) fn limiting_group(fd: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
    let mut lookup = [0_u64; 4096 / 8];
    lookup[1] = FIRST_INODE;
    call(fd, IOC_INO_LOOKUP, &mut lookup)?;
    let (mut groups, mut at) = (vec![lookup[0]], 0);
    while let Some(&group) = groups.get(at).filter(|_| at < MAX_GROUPS) {
        at += 1;
        let limits = match search(fd, (0, 0), LIMIT_ITEM, (group, group)) {
            // There are no quotas.
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        if limits.iter().any(|item| item.first_word.is_some_and(|flags| flags & IS_LIMITED != 0)) {
            return Ok(Some(group));
        }
        let above = ((group >> LEVEL_SHIFT) + 1) << LEVEL_SHIFT;
        for relation in search(fd, (group, group), RELATION_ITEM, (above, u64::MAX))? {
            if !groups.contains(&relation.offset) {
                groups.push(relation.offset);
            }
        }
    }
    Ok(None)
}

/// An item of a tree: the end of its key, and how it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Item {
    offset: u64,
    first_word: Option<u64>,
}

/// Items of one kind in the tree of quotas, as many as one call tells: a few dozen.
fn search(
    fd: BorrowedFd<'_>,
    objects: (u64, u64),
    kind: u64,
    offsets: (u64, u64),
) -> Result<Vec<Item>, Errno> {
    let (found, count) = search_in(QUOTA_TREE, fd, objects, kind, offsets)?;
    let bytes: Vec<u8> = found[KEY_WORDS..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(items(&bytes, count, kind as u32))
}

/// What the call tells of one tree, behind the key, and how many items that are.
fn search_in(
    tree: u64,
    fd: BorrowedFd<'_>,
    objects: (u64, u64),
    kind: u64,
    offsets: (u64, u64),
) -> Result<([u64; 4096 / 8], u32), Errno> {
    let mut search = [0_u64; 4096 / 8];
    // tree_id, min_ and max_objectid, min_ and max_offset, min_ and max_transid
    search[..7].copy_from_slice(&[tree, objects.0, objects.1, offsets.0, offsets.1, 0, u64::MAX]);
    // min_type and max_type; nr_items: in, how many at most; out, how many there are.
    search[7] = words(kind as u32, kind as u32);
    search[8] = words(u32::MAX, 0);
    call(fd, IOC_TREE_SEARCH, &mut search)?;
    let count = half(&search[8].to_ne_bytes(), 0).unwrap_or(0);
    Ok((search, count))
}

/// Whether so many names of a directory have the hash of this one that there may be no room for it. Also if nobody knows.
pub(super) fn has_many_like(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    let Ok(stat) = rustix::fs::fstat(directory) else { return true };
    let (of_directory, hash) = ((stat.st_ino, stat.st_ino), u64::from(name_hash(name)));
    match search_in(OWN_TREE, directory, of_directory, NAMES_ITEM, (hash, hash)) {
        Ok((_, 0)) => false,
        // An item that does not fit into the answer is told as an empty one.
        Ok((found, _)) => {
            let len = half(&found[KEY_WORDS + HEADER_BYTES / 8 - 1].to_ne_bytes(), 4);
            len.is_none_or(|len| len == 0 || len > FEW_NAMES_BYTES)
        }
        Err(_) => true,
    }
}

/// CRC-32C, without its usual ends.
fn name_hash(name: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { CASTAGNOLI } else { 0 };
    name.iter().fold(!1, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// Items of a kind as they lie one after another: transid, objectid, offset, type, len; then their bytes.
fn items(bytes: &[u8], count: u32, kind: u32) -> Vec<Item> {
    let (mut found, mut rest) = (Vec::new(), bytes);
    for _ in 0..count {
        let header = (whole(rest, 16), half(rest, 24), half(rest, 28));
        let (Some(offset), Some(its_kind), Some(len)) = header else { break };
        let Some(data) = rest.get(HEADER_BYTES..HEADER_BYTES + len as usize) else { break };
        if its_kind == kind {
            let first = data.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            found.push(Item { offset, first_word: first });
        }
        rest = &rest[HEADER_BYTES + len as usize..];
    }
    found
}

/// Two numbers of 32 bits as they lie in memory.
fn words(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn whole(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

fn call<const WORDS: usize>(
    fd: BorrowedFd<'_>,
    request: u64,
    argument: &mut [u64; WORDS],
) -> Result<(), Errno> {
    debug_assert!((request >> 16 & 0x3fff) as usize <= size_of_val(argument));
    // SAFETY: the request numbers above say how much the kernel reads and writes at `argument`, which is at least
    // that long and lives for the whole call; SPACE_INFO writes as many spaces as its first word allows, which is
    // what the array has room for, and TREE_SEARCH no more than fits behind its key.
    let status = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, argument.as_mut_ptr()) };
    if status < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
