//! Names, targets, devices, times, xattrs and ACLs.
//!
//! Every object of a volume carries its label, so the room for xattrs is what is left beside one: it is written first,
//! as it is at a birth. What can go wrong: nothing beyond what [`super::Unmeasured`] says.

use ids::XattrRoom;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::probe::{self, Probe, label, set, stat};
use super::{Lack, PROBE, Unmeasured, largest, within};
use crate::attributes::ObjectKind;
use crate::base::TreeError;

const EXT_MAGIC: u64 = 0xEF53;
/// What Linux allows at most: a name, a target, a value.
const NAME_BYTES: u64 = 255;
const TARGET_BYTES: u64 = 4095;
const VALUE_BYTES: u64 = 65_536;
/// Largest device numbers of Linux.
const MAX_MAJOR: u64 = 0xFFF;
const MAX_MINOR: u64 = 0xF_FFFF;
/// More entries than this no client may set.
const MAX_ACL_ENTRIES: u64 = 4096;
/// Owner, one user, group, mask, others.
const MIN_ACL_ENTRIES: u64 = 5;
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// A time with nanoseconds, and one after 2038.
const FINE: (i64, u32) = (1_234_567_890, 123_456_789);
const AFTER_2038: i64 = 1 << 31;
/// Further than any filesystem keeps, and not so far that the kernel's own arithmetic ends.
const FAR_SECONDS: i64 = 1 << 61;

/// ext4's: header and end mark of an xattr block, an entry without its name, the step of names.
const BLOCK_OVERHEAD_BYTES: u64 = 36;
const ENTRY_BYTES: u64 = 16;
const STEP_BYTES: u64 = 4;
/// Left free in the block where a label may have come to lie there.
const LABEL_COST_BYTES: u32 = 76;
/// What three more entries would need (`EXT4_XATTR_MIN_LARGE_EA_SIZE`): longer values go to inodes of their own at once.
const OUTSIDE_OVERHEAD_BYTES: u64 = 56;
/// `FS_INLINE_DATA_FL`: contents share the inode with xattrs.
const INLINE_DATA: u32 = 0x1000_0000;

const KINDS: [ObjectKind; 7] = [
    ObjectKind::File,
    ObjectKind::Directory,
    ObjectKind::Symlink,
    ObjectKind::Fifo,
    ObjectKind::Socket,
    ObjectKind::CharDevice,
    ObjectKind::BlockDevice,
];

/// Names are bytes, and there is room for 255 of them.
pub(super) fn longest_name(probe: &Probe) -> Result<u32, Unmeasured> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let takes =
        |name: &[u8]| within("make a file in", rustix::fs::openat(probe.fd(), name, flags, Mode::RUSR));
    let longest = largest(1, NAME_BYTES, |len| {
        let name = vec![b'n'; len as usize];
        let works = takes(&name)?;
        if works {
            probe.forget(&name)?;
        }
        Ok(works)
    })? as u32;
    if u64::from(longest) < NAME_BYTES {
        return Err(Lack::ShortNames(longest).into());
    }
    if takes(b"a")? && takes(b"A")? && takes(&[0xFF; NAME_BYTES as usize])? {
        Ok(longest)
    } else {
        Err(Lack::Names.into())
    }
}

pub(super) fn longest_target(probe: &Probe) -> Result<u32, Unmeasured> {
    let target = [b't'; TARGET_BYTES as usize];
    let longest = largest(1, TARGET_BYTES, |len| {
        let made = rustix::fs::symlinkat(&target[..len as usize], probe.fd(), probe.name());
        within("make a symbolic link in", made)
    })?;
    Ok(longest as u32)
}

/// Major and minor number, which XFS keeps in fewer bits than Linux.
pub(super) fn largest_device(probe: &Probe) -> Result<(u32, u32), Unmeasured> {
    let kept = |major: u64, minor: u64| {
        let (name, device) = (probe.name(), rustix::fs::makedev(major as u32, minor as u32));
        let made = rustix::fs::mknodat(probe.fd(), &name, FileType::CharacterDevice, Mode::RUSR, device);
        if !within("make a device in", made)? {
            return Ok(false);
        }
        let found = rustix::fs::statat(probe.fd(), &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(TreeError::at("stat", PROBE))?;
        Ok(found.st_rdev == device)
    };
    let major = largest(1, MAX_MAJOR, |major| kept(major, 0))?;
    let minor = largest(1, MAX_MINOR, |minor| kept(1, minor))?;
    Ok((major as u32, minor as u32))
}

/// Objects of every kind can be made and carry what Twinfiler and clients put on them.
pub(super) fn check_kinds(probe: &Probe) -> Result<(), Unmeasured> {
    for kind in KINDS {
        let made = match probe.make(kind) {
            Err(Errno::NOSPC) => return Err(Unmeasured::Full),
            other => other.map_err(|_| Lack::Kind(kind))?,
        };
        let takes =
            |name: &str, value: &[u8]| within("set an xattr in", set(made.as_fd(), name.as_bytes(), value));
        if within("label an object in", label(made.as_fd()))? && takes("trusted.probe", b"p")? {
            if !takes("security.probe", b"p")? {
                return Err(Lack::Xattrs { namespace: "security.", kind }.into());
            }
        } else {
            return Err(Lack::Xattrs { namespace: "trusted.", kind }.into());
        }
        // The kernel allows them on these two only.
        if matches!(kind, ObjectKind::File | ObjectKind::Directory) && !takes("user.probe", b"p")? {
            return Err(Lack::UserXattrs.into());
        }
    }
    Ok(())
}

/// Times are kept to the nanosecond and beyond 2038. Returns the range: the kernel moves a time to the nearest one that
/// the filesystem can keep.
pub(super) fn check_times(probe: &Probe) -> Result<(i64, i64), Unmeasured> {
    let file = probe.file()?;
    let kept = |seconds: i64, nanos: u32| -> Result<(i64, u32), Unmeasured> {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&file, &times).map_err(TreeError::at("set times in", PROBE))?;
        let found = stat(file.as_fd())?;
        Ok((found.st_mtime, u32::try_from(found.st_mtime_nsec).unwrap_or(u32::MAX)))
    };
    if kept(FINE.0, FINE.1)? != FINE {
        return Err(Lack::Nanoseconds.into());
    }
    if kept(AFTER_2038, 1)? != (AFTER_2038, 1) {
        return Err(Lack::Years.into());
    }
    Ok((kept(-FAR_SECONDS, 0)?.0, kept(FAR_SECONDS, 0)?.0))
}

/// See the module.
pub(super) struct Xattrs {
    pub max_value_bytes: u32,
    pub max_bytes: u32,
    pub max_acl_entries: u32,
    pub room: Option<XattrRoom>,
}

pub(super) fn xattrs(probe: &Probe) -> Result<Xattrs, Unmeasured> {
    let value = vec![b'v'; VALUE_BYTES as usize];
    let longest_name = [b"user.".as_slice(), &[b'n'; NAME_BYTES as usize - 5]].concat();
    let max_value_bytes = largest_value(labelled(probe.file()?)?.as_fd(), b"user.z", &value)?;
    let max_bytes = largest_value(labelled(probe.file()?)?.as_fd(), &longest_name, &value)? + NAME_BYTES;
    let max_acl_entries = most_acl_entries(probe)?;
    let found = rustix::fs::fstatfs(probe.fd()).map_err(TreeError::at("ask for the kind of", PROBE))?;
    let room = match found.f_type as u64 {
        EXT_MAGIC => Some(ext_room(probe, max_value_bytes, found.f_bsize.unsigned_abs())?),
        // An unknown one may keep all of them in one place: as much as one value is certain.
        kind if !super::links::is_known(kind) => Some(XattrRoom {
            block_bytes: filled_bytes(&labelled(probe.file()?)?)?
                .min(max_value_bytes + ENTRY_BYTES + STEP_BYTES) as u32,
            inode_bytes: 0,
            outside_from_bytes: None,
        }),
        _ => None,
    };
    Ok(Xattrs {
        max_value_bytes: max_value_bytes as u32,
        max_bytes: max_bytes as u32,
        max_acl_entries: max_acl_entries as u32,
        room,
    })
}

fn largest_value(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<u64, Unmeasured> {
    largest(0, VALUE_BYTES, |len| {
        // btrfs takes less in the place of another one.
        probe::unset(fd, name)?;
        within("set an xattr in", set(fd, name, &value[..len as usize]))
    })
}

fn labelled(fd: OwnedFd) -> Result<OwnedFd, Unmeasured> {
    label(fd.as_fd()).map_err(TreeError::at("label an object in", PROBE))?;
    Ok(fd)
}

fn most_acl_entries(probe: &Probe) -> Result<u64, Unmeasured> {
    let (file, directory) = (labelled(probe.file()?)?, labelled(probe.directory()?)?);
    let takes = |fd: BorrowedFd<'_>, name, entries| match set(fd, name, &acl_of(entries)) {
        Err(Errno::NOTSUP) => Err(Lack::Acls.into()),
        outcome => within("set an ACL in", outcome),
    };
    if !takes(directory.as_fd(), DEFAULT_ACL, MIN_ACL_ENTRIES)? {
        return Err(Lack::Acls.into());
    }
    largest(0, MAX_ACL_ENTRIES, |entries| {
        probe::unset(file.as_fd(), ACCESS_ACL)?;
        takes(file.as_fd(), ACCESS_ACL, entries.max(MIN_ACL_ENTRIES))
    })
}

/// An access control list with that many entries, as xattr (include/uapi/linux/posix_acl_xattr.h).
fn acl_of(entries: u64) -> Vec<u8> {
    let (owner, user, group, mask, others) = (0x01_u16, 0x02, 0x04, 0x10, 0x20);
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let mut entry = |tag: u16, id: u32| {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(7_u16.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    };
    entry(owner, u32::MAX);
    (0..entries.saturating_sub(MIN_ACL_ENTRIES - 1)).for_each(|id| entry(user, id as u32 + 1));
    [group, mask, others].into_iter().for_each(|tag| entry(tag, u32::MAX));
    bytes
}

/// ext4 keeps what does not fit into the inode in one block.
fn ext_room(probe: &Probe, max_value_bytes: u64, block_bytes: u64) -> Result<XattrRoom, Unmeasured> {
    let directory = labelled(probe.directory()?)?;
    let opened = rustix::fs::openat(&directory, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(TreeError::at("open a directory in", PROBE))?;
    let inline_data = rustix::fs::ioctl_getflags(&opened).is_ok_and(|flags| flags.bits() & INLINE_DATA != 0);
    // With inline data a directory has less room in its inode, and its label may lie in the block.
    let directory_bytes = largest_value(directory.as_fd(), b"user.z", &[b'v'; VALUE_BYTES as usize])?;
    probe::unset(directory.as_fd(), b"user.z")?;
    let total = filled_bytes(&labelled(probe.file()?)?)?.min(filled_bytes(&directory)?);
    let plain = block_bytes - BLOCK_OVERHEAD_BYTES;
    let has_outside = max_value_bytes > block_bytes;
    let block = match has_outside {
        false => (max_value_bytes.min(directory_bytes) + ENTRY_BYTES + STEP_BYTES).min(total),
        true if total >= plain => plain,
        true => plain.saturating_sub(LABEL_COST_BYTES.into()),
    };
    Ok(XattrRoom {
        block_bytes: block as u32,
        inode_bytes: if inline_data { 0 } else { total.saturating_sub(block) as u32 },
        outside_from_bytes: has_outside.then_some((block_bytes - OUTSIDE_OVERHEAD_BYTES) as u32),
    })
}

/// What all xattrs of an object can take together, to the step: filled with entries that have no value, which never
/// lie outside.
fn filled_bytes(fd: &OwnedFd) -> Result<u64, Unmeasured> {
    let takes = |name: &str| within("set an xattr in", set(fd.as_fd(), name.as_bytes(), b""));
    let short_bytes = ENTRY_BYTES + STEP_BYTES;
    let mut filled = 0;
    let most = VALUE_BYTES / short_bytes;
    while filled < most && takes(&format!("user.{filled:04x}"))? {
        filled += 1;
    }
    // Less than one more is left: the last one may get a longer name.
    let rest = (1..short_bytes / STEP_BYTES).rev().map(|steps| steps * STEP_BYTES);
    if filled > 0 && filled < most {
        let last = format!("user.{:04x}", filled - 1);
        probe::unset(fd.as_fd(), last.as_bytes())?;
        for more in rest {
            let len = (STEP_BYTES + more) as usize;
            if takes(&format!("user.{:x>len$}", ""))? {
                return Ok(filled * short_bytes + more);
            }
        }
    }
    Ok(filled * short_bytes)
}
