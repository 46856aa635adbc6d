//! The flags of an inode that keep everybody, root too, from changing it: immutable and append-only (`chattr +i`, `+a`).
//!
//! Clients cannot set them through the volume, so somebody has set them on the tree itself. What they refuse of an object's
//! values and of new names is kept in the remainder, which leaves them alone. A name that they hold fast cannot be kept
//! anywhere else: no other name can be made for a directory, none at all for an immutable file, and what stays would be
//! found by whoever reads the plain tree. The tree is ours, so they are taken away, and that is said.

use rustix::fs::{FileType, IFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fmt::Display;
use std::os::fd::BorrowedFd;

use super::inode::proc_path;

/// Takes them away from what a descriptor names. Whether there were any.
pub(crate) fn take_away(fd: BorrowedFd<'_>, at: &dyn Display) -> Result<bool, Errno> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    // Nothing else can have them, and a device or a pipe is not to be opened.
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = rustix::fs::open(proc_path(fd).as_str(), flags, Mode::empty())?;
    let Ok(now) = rustix::fs::ioctl_getflags(&open) else { return Ok(false) };
    let held = now & (IFlags::IMMUTABLE | IFlags::APPEND);
    if held.is_empty() {
        return Ok(false);
    }
    rustix::fs::ioctl_setflags(&open, now - held)?;
    tracing::warn!(
        %at,
        "somebody had made this immutable or append-only in the base; that was taken away, because a client moved or \
         removed a name that it held fast"
    );
    Ok(true)
}
