//! What no file in the probe directory shows: flags of the volume's root, mount options, limits of this process.
//!
//! Invariant: only what makes an answered operation fail for good is refused. What can go wrong: a flag that was set on
//! a directory deeper in the tree.

use rustix::fs::IFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::BorrowedFd;

use super::super::btrfs;
use super::probe::stat;
use super::{Lack, PROBE, Unmeasured};
use crate::base::TreeError;

/// `FS_ENCRYPT_FL`, `FS_CASEFOLD_FL`: rustix has no names for them.
const ENCRYPTED: u32 = 0x0800;
const CASEFOLDED: u32 = 0x4000_0000;

/// A limit on this process would look like one of the filesystem, and would stop applying: what the pair may store is
/// decided when a client asks.
pub(super) fn lift_file_size_limit() -> Result<(), Unmeasured> {
    let unlimited = Rlimit { current: None, maximum: None };
    if getrlimit(Resource::Fsize).current.is_none() {
        return Ok(());
    }
    setrlimit(Resource::Fsize, unlimited).map_err(|_| Lack::FileSizeLimit.into())
}

pub(super) fn check(root: BorrowedFd<'_>, hidden: BorrowedFd<'_>) -> Result<(), Unmeasured> {
    check_flags(flags_of(root), flags_of(hidden))?;
    let found = rustix::fs::fstatfs(root).map_err(TreeError::at("ask for the kind of", PROBE))?;
    // Whoever may not ask meets a quota as EDQUOT.
    if found.f_type as u64 == btrfs::MAGIC
        && let Ok(Some(group)) = btrfs::limiting_group(root)
    {
        return Err(Lack::QuotaGroup(group).into());
    }
    let device = stat(root)?.st_dev;
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Ok(mounts.lines().try_for_each(|line| check_mount(line, &device))?)
}

/// Nothing where the filesystem has no flags.
fn flags_of(fd: BorrowedFd<'_>) -> IFlags {
    rustix::fs::ioctl_getflags(fd).unwrap_or(IFlags::empty())
}

fn check_flags(root: IFlags, hidden: IFlags) -> Result<(), Lack> {
    if (root | hidden).intersects(IFlags::IMMUTABLE | IFlags::APPEND) {
        return Err(Lack::Frozen);
    }
    let differ = root.bits() ^ hidden.bits();
    if differ & IFlags::PROJECT_INHERIT.bits() != 0 {
        return Err(Lack::Project);
    }
    if differ & ENCRYPTED != 0 {
        return Err(Lack::Encrypted);
    }
    if (root.bits() | hidden.bits()) & CASEFOLDED != 0 {
        return Err(Lack::Names);
    }
    Ok(())
}

/// One line of `mountinfo` (proc_pid_mountinfo(5)).
fn check_mount(line: &str, device: &str) -> Result<(), Lack> {
    let Some((mount, superblock)) = line.split_once(" - ") else { return Ok(()) };
    if mount.split(' ').nth(2) != Some(device) {
        return Ok(());
    }
    let mut words = superblock.split(' ');
    let (kind, options) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
    let has = |wanted: &str| options.split(',').any(|option| option == wanted);
    if has("nouid32") {
        return Err(Lack::ShortIds);
    }
    // Those of ext4 let a process with CAP_SYS_RESOURCE pass.
    if kind == "xfs" && (has("usrquota") || has("grpquota")) { Err(Lack::Quotas) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mount_refuses_later_is_seen_in_its_options() {
        let line = |kind: &str, options: &str| {
            format!("36 35 98:0 / /srv/base rw,noatime shared:1 - {kind} /dev/sda {options}")
        };
        assert_eq!(check_mount(&line("ext4", "rw,quota,usrquota"), "98:0"), Ok(()));
        assert_eq!(check_mount(&line("ext4", "rw,nouid32"), "98:0"), Err(Lack::ShortIds));
        assert_eq!(check_mount(&line("xfs", "rw,inode64,usrquota"), "98:0"), Err(Lack::Quotas));
        assert_eq!(check_mount(&line("xfs", "rw,uqnoenforce,prjquota"), "98:0"), Ok(()));
        assert_eq!(check_mount(&line("xfs", "rw,usrquota"), "98:1"), Ok(()), "another filesystem");
    }

    #[test]
    fn a_root_that_nothing_can_be_moved_into_is_told() {
        let project = IFlags::PROJECT_INHERIT;
        assert_eq!(check_flags(project, project), Ok(()));
        for (root, hidden) in [(project, IFlags::empty()), (IFlags::empty(), project)] {
            assert_eq!(check_flags(root, hidden), Err(Lack::Project));
        }
        let encrypted = IFlags::from_bits_retain(ENCRYPTED);
        assert!(
            check_flags(encrypted, IFlags::empty()).is_err() && check_flags(encrypted, encrypted).is_ok()
        );
        assert_eq!(check_flags(IFlags::from_bits_retain(CASEFOLDED), IFlags::empty()), Err(Lack::Names));
        assert!(check_flags(IFlags::IMMUTABLE, IFlags::empty()).is_err());
    }
}
