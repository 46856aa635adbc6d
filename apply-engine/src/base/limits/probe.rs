//! The directory in which limits are tried.
//!
//! Invariants: it is root's own and locked while it is used; it is emptied before, for a process may have died in it, and
//! removed after. Nothing in it is followed; everything in it lies at most two directories deep.
//! What can go wrong: something of another kind has its name, or another process holds it for long.

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;
use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::super::hidden::PROBE as NAME;
use super::super::inode::{list_names, open_child, proc_path};
use super::super::{LABEL_BYTES, LABEL_XATTR, TreeError};
use super::{Lack, PROBE, Unmeasured};
use crate::attributes::ObjectKind;

/// Mode of all that is made here.
const FRESH: Mode = Mode::RUSR.union(Mode::WUSR);
/// How often, and how long in between, another process is waited for: it needs well under a second.
const MAX_ATTEMPTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// See the module.
pub(super) struct Probe {
    hidden: OwnedFd,
    directory: OwnedFd,
    made: Cell<u32>,
}

impl Probe {
    pub fn begin(hidden: BorrowedFd<'_>) -> Result<Probe, Unmeasured> {
        let at = |doing| TreeError::at(doing, PROBE);
        let hidden = hidden
            .try_clone_to_owned()
            .map_err(|error| at("open")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        for _ in 0..MAX_ATTEMPTS {
            match rustix::fs::mkdirat(&hidden, NAME, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(Errno::NOSPC) => return Err(Unmeasured::Full),
                Err(errno) => return Err(at("make")(errno).into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match rustix::fs::openat(&hidden, NAME, flags, Mode::empty()) {
                Ok(directory) => directory,
                // The other process has just removed it.
                Err(Errno::NOENT) => continue,
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(Lack::Occupied.into()),
                Err(errno) => return Err(at("open")(errno).into()),
            };
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(errno) => return Err(at("lock")(errno).into()),
            }
            let stat = rustix::fs::fstat(&directory).map_err(at("stat"))?;
            if stat.st_nlink == 0 {
                continue;
            }
            if stat.st_uid != 0 {
                return Err(Lack::Occupied.into());
            }
            let probe = Probe { hidden, directory, made: Cell::new(0) };
            probe.clear().map_err(at("clear"))?;
            // What is made here must not inherit anything.
            match rustix::fs::fremovexattr(&probe.directory, DEFAULT_ACL) {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => return Ok(probe),
                Err(errno) => return Err(at("clear the ACL of")(errno).into()),
            }
        }
        Err(Lack::Busy.into())
    }

    fn clear(&self) -> Result<(), Errno> {
        for name in list_names(self.directory.as_fd())? {
            let inner = open_child(self.directory.as_fd(), &name)?;
            let is_directory =
                FileType::from_raw_mode(rustix::fs::fstat(&inner)?.st_mode) == FileType::Directory;
            if is_directory {
                for name in list_names(inner.as_fd())? {
                    remove(inner.as_fd(), &name)?;
                }
            }
            remove(self.directory.as_fd(), &name)?;
        }
        Ok(())
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A name that nothing has yet.
    pub fn name(&self) -> String {
        self.made.set(self.made.get() + 1);
        format!("p{}", self.made.get())
    }

    /// A new regular file.
    pub fn file(&self) -> Result<OwnedFd, Unmeasured> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.fd(), self.name(), flags, FRESH)
            .map_err(TreeError::at("make a file in", PROBE))?)
    }

    /// A new directory.
    pub fn directory(&self) -> Result<OwnedFd, Unmeasured> {
        self.make(ObjectKind::Directory)
            .map_err(|errno| TreeError::at("make a directory in", PROBE)(errno).into())
    }

    /// A new object of any kind, for its inode only.
    pub fn make(&self, kind: ObjectKind) -> Result<OwnedFd, Errno> {
        let name = self.name();
        let special = |kind, device| rustix::fs::mknodat(self.fd(), &name, kind, FRESH, device);
        match kind {
            ObjectKind::File => special(FileType::RegularFile, 0)?,
            ObjectKind::Directory => rustix::fs::mkdirat(self.fd(), &name, Mode::RWXU)?,
            ObjectKind::Symlink => rustix::fs::symlinkat("nowhere", self.fd(), &name)?,
            ObjectKind::Fifo => special(FileType::Fifo, 0)?,
            ObjectKind::Socket => special(FileType::Socket, 0)?,
            ObjectKind::CharDevice => special(FileType::CharacterDevice, rustix::fs::makedev(1, 3))?,
            ObjectKind::BlockDevice => special(FileType::BlockDevice, rustix::fs::makedev(7, 0))?,
        }
        open_child(self.fd(), name.as_bytes())
    }

    /// Takes a name away again.
    pub fn forget(&self, name: &[u8]) -> Result<(), Unmeasured> {
        Ok(remove(self.fd(), name).map_err(TreeError::at("clear", PROBE))?)
    }
}

/// Gives an object a label, as every object of a volume has one: the first of its xattrs.
pub(super) fn label(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    set(fd, LABEL_XATTR.as_bytes(), &[0; LABEL_BYTES])
}

pub(super) fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::setxattr(proc_path(fd), name, value, XattrFlags::empty())
}

/// Takes an xattr away that may be there.
pub(super) fn unset(fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), Unmeasured> {
    match rustix::fs::removexattr(proc_path(fd), name) {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(TreeError::at("remove an xattr in", PROBE)(errno).into()),
    }
}

pub(super) fn stat(fd: BorrowedFd<'_>) -> Result<Stat, Unmeasured> {
    Ok(rustix::fs::fstat(fd).map_err(TreeError::at("stat", PROBE))?)
}

fn remove(directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR),
        other => other,
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // What cannot be removed is by whoever measures next.
        let cleared =
            self.clear().and_then(|()| rustix::fs::unlinkat(&self.hidden, NAME, AtFlags::REMOVEDIR));
        if let Err(errno) = cleared {
            tracing::warn!(%errno, "{PROBE} could not be removed");
        }
    }
}
