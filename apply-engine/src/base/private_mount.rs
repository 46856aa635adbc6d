//! A mount of the volume root that only this process sees, without access times.
//!
//! The kernel touches access times where no flag of ours can stop it: reading a symlink, and opening a cold
//! directory by handle (it searches the parent for the name). A detached clone of the mount with `noatime` stops
//! all of that, and filesystems that somebody mounts over the tree later do not appear in it.
//!
//! Renames and links work only within one mount, so every descriptor of the base comes from this one.
//! What can go wrong: a container without the right to mount; then the ordinary mount is used, and access times
//! may move as they do for anybody who reads the tree.
//!
//! `unsafe` lives here because neither std nor rustix wraps `mount_setattr`.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `root` again, open for reading, in a mount of its own when that is possible.
pub(crate) fn clone_without_atime(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let reopen = |fd: BorrowedFd<'_>| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
        rustix::fs::openat(fd, c".", flags, Mode::empty())
    };
    match clone_mount(root) {
        Ok(mount) => reopen(std::os::fd::AsFd::as_fd(&mount)),
        Err(errno) => {
            tracing::warn!(%errno, "no private mount: access times in the base may move");
            reopen(root)
        }
    }
}

fn clone_mount(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: the path is NUL-terminated and the other arguments are plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, root.as_raw_fd(), c"".as_ptr(), flags) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    let mount = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let wanted = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NOATIME,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: `wanted` lives for the whole call and its size is given; the path is NUL-terminated.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if status == 0 { Ok(mount) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
