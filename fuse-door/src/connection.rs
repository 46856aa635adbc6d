//! Aborting a connection by the number of its device: the way that is left when a mount was detached and its clients
//! still have files open.
//!
//! The kernel's switch for that is a file of `fusectl`, which init mounts below `/sys`. A container, or a machine that
//! has just been started by something else, has it nowhere. So it is opened without being mounted anywhere.

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

/// Ends the connection behind the mount with this device number: every request that waits, and every later one, fails.
///
/// # Errors
/// `ENOENT` when there is no such connection, `EPERM` without the right to mount.
pub fn abort_connection(device: u64) -> io::Result<()> {
    let switch = format!("{}/abort", rustix::fs::minor(device));
    let opened = rustix::fs::openat(control()?, switch, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(opened).write_all(b"1")
}

fn control() -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
