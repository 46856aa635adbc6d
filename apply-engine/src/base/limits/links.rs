//! How many names an object may have, and how many directories a directory.
//!
//! Making 65,000 links takes seconds at each start, so these two come from what is known of a filesystem, and only a
//! few are made: enough to find btrfs without `extref`, whose names of one object in one directory share one item. Of a
//! filesystem that nobody knows it is as many as were made.
//!
//! Sources: ext4 `EXT4_LINK_MAX`, `EXT4_DIR_LINK_MAX`; xfs `XFS_MAXLINK`; btrfs `BTRFS_LINK_MAX`.
//! What can go wrong: whether ext4 counts subdirectories without end stands in its superblock only; where the device
//! cannot be read, it does not.

use rustix::fs::AtFlags;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::probe::{Probe, stat};
use super::{Lack, PROBE, Unmeasured, within};
use crate::attributes::ObjectKind;
use crate::base::TreeError;

const EXT_MAGIC: u64 = 0xEF53;
const XFS_MAGIC: u64 = 0x5846_5342;
const BTRFS_MAGIC: u64 = 0x9123_683E;
const TMPFS_MAGIC: u64 = libc::TMPFS_MAGIC as u64;

/// `EXT4_LINK_MAX`.
const EXT_LINKS: u32 = 65_000;
/// Of a directory's links, one is its own name and one its `.`.
const OWN_LINKS: u32 = 2;
/// Made of a known filesystem.
const FEW: u32 = 100;
/// Made of any other.
const MANY: u32 = 1000;
const LONG_NAME_BYTES: usize = 255;

/// Whether more is known of a filesystem of this `statfs` type than what can be tried.
pub(super) fn is_known(kind: u64) -> bool {
    matches!(kind, EXT_MAGIC | XFS_MAGIC | BTRFS_MAGIC | TMPFS_MAGIC)
}

/// See the module.
pub(super) struct Links {
    pub max_links: u32,
    pub max_subdirectories: u32,
}

pub(super) fn measure(probe: &Probe) -> Result<Links, Unmeasured> {
    let found = rustix::fs::fstatfs(probe.fd()).map_err(TreeError::at("ask for the kind of", PROBE))?;
    let (max_links, max_subdirectories) = match found.f_type as u64 {
        EXT_MAGIC if counts_directories_without_end(probe)? => (EXT_LINKS, u32::MAX),
        EXT_MAGIC => (EXT_LINKS, EXT_LINKS - OWN_LINKS),
        XFS_MAGIC => (i32::MAX as u32, u32::MAX),
        BTRFS_MAGIC => (65_535, u32::MAX),
        TMPFS_MAGIC => (i32::MAX as u32, u32::MAX),
        _ => {
            return Ok(Links {
                max_links: make_links(probe, MANY)?,
                max_subdirectories: make_directories(probe)?,
            });
        }
    };
    match make_links(probe, FEW)? {
        FEW => Ok(Links { max_links, max_subdirectories }),
        fewer => Err(Lack::LinksInOneDirectory(fewer).into()),
    }
}

/// Gives a file up to `wanted` long names in one directory.
fn make_links(probe: &Probe, wanted: u32) -> Result<u32, Unmeasured> {
    let (file, directory) = (probe.file()?, probe.directory()?);
    // The first name is the one it was made with.
    for made in 1..wanted {
        let name = format!("{made:0>LONG_NAME_BYTES$}");
        let linked = rustix::fs::linkat(file.as_fd(), c"", directory.as_fd(), name, AtFlags::EMPTY_PATH);
        if !within("link a file in", linked)? {
            return Ok(made);
        }
    }
    Ok(wanted)
}

fn make_directories(probe: &Probe) -> Result<u32, Unmeasured> {
    for made in 0..MANY {
        if !within("make a directory in", probe.make(ObjectKind::Directory))? {
            return Ok(made);
        }
    }
    Ok(MANY)
}

/// ext4's `dir_nlink`, which needs `dir_index`.
fn counts_directories_without_end(probe: &Probe) -> Result<bool, Unmeasured> {
    let Some(superblock) = superblock(probe.fd())? else { return Ok(false) };
    let at = |offset: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| superblock[offset + byte]));
    let (compatible, read_only_compatible) = (at(0x5C), at(0x64));
    let (dir_index, dir_nlink) = (0x20, 0x20);
    Ok(compatible & dir_index != 0 && read_only_compatible & dir_nlink != 0)
}

/// ext4's, from its device; `None` where that cannot be read.
fn superblock(fd: BorrowedFd<'_>) -> Result<Option<[u8; 1024]>, Unmeasured> {
    let device = stat(fd)?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let read = || -> std::io::Result<[u8; 1024]> {
        let about = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"))?;
        let name = about.lines().find_map(|line| line.strip_prefix("DEVNAME=")).unwrap_or_default();
        let mut bytes = [0; 1024];
        File::open(format!("/dev/{name}"))?.read_exact_at(&mut bytes, 1024)?;
        Ok(bytes)
    };
    let magic = |bytes: &[u8; 1024]| u64::from(u16::from_le_bytes([bytes[0x38], bytes[0x39]])) == EXT_MAGIC;
    Ok(read().ok().filter(magic))
}
