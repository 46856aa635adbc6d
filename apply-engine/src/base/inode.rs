//! One inode below the volume root, held by an `O_PATH` descriptor, and the calls that work on it.
//!
//! A descriptor names the inode whatever its path has become. Names are only ever resolved one component at a
//! time, beneath the root, following no symlink and entering no other filesystem. Files are opened through
//! `/proc/self/fd/N`, which opens exactly this inode, with `O_NOATIME`: reading the base leaves no trace.

use ids::Oid;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Stat, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use super::label::{LABEL_BYTES, LABEL_XATTR, Label, LabelError};
use crate::attributes::{ObjectKind, Timestamp};

/// Largest list of xattr names and largest value that Linux gives.
const MAX_XATTR_BYTES: usize = 64 << 10;

/// Namespaces that a volume keeps.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// What XFS shows of ACLs once more, in its own words: setting one would change the ACL behind Twinfiler's back.
const ALIASES: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

/// Whether an xattr of this name is a part of a volume: not Twinfiler's own, not one under which a filesystem shows
/// something else, not one that only some filesystem knows (`btrfs.compression`, `system.nfs4_acl`).
pub fn is_xattr_of_clients(name: &[u8]) -> bool {
    let named = NAMESPACES.iter().any(|space| name.len() > space.len() && name.starts_with(space));
    let kept = named || ACLS.contains(&name);
    kept && !name.starts_with(LABEL_XATTR.as_bytes()) && !ALIASES.contains(&name)
}

/// `/proc/self/fd/N`: the inode itself, for calls that want a path.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens one name in a directory as an `O_PATH` descriptor. `EXDEV`: a mount point.
pub(crate) fn open_child(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        dir,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV,
    )
}

/// The label of the inode behind a descriptor; `None` when it has none.
pub(crate) fn read_label(fd: BorrowedFd<'_>) -> Result<Result<Option<Label>, LabelError>, Errno> {
    let mut bytes = [0; LABEL_BYTES + 1];
    match rustix::fs::getxattr(proc_path(fd), LABEL_XATTR, &mut bytes[..]) {
        Ok(len) => Ok(Label::decode(&bytes[..len]).map(Some)),
        Err(Errno::NODATA) => Ok(Ok(None)),
        Err(Errno::RANGE) => Ok(Err(LabelError::Length(LABEL_BYTES + 2))),
        Err(errno) => Err(errno),
    }
}

/// Writes the label of the inode behind a descriptor.
pub(crate) fn write_label(fd: BorrowedFd<'_>, label: &Label) -> Result<(), Errno> {
    rustix::fs::setxattr(proc_path(fd), LABEL_XATTR, &label.encode(), rustix::fs::XattrFlags::empty())
}

/// Labels what has just been born. What it inherited from its directory is not the volume's, and would take the place in
/// the inode that the label is counted to have (`ids::XattrRoom`).
pub(crate) fn write_first_label(fd: BorrowedFd<'_>, label: &Label) -> Result<(), Errno> {
    for acl in ACLS {
        match rustix::fs::removexattr(proc_path(fd), acl) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    write_label(fd, label)
}

/// The entries of a directory, `.` and `..` included. Leaves no trace in its atime.
pub(crate) fn read_directory(dir: BorrowedFd<'_>) -> Result<rustix::fs::Dir, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
    rustix::fs::Dir::new(rustix::fs::openat(dir, c".", flags, Mode::empty())?)
}

/// Names in a directory, without `.` and `..`, in no order.
pub(crate) fn list_names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    list_some_names(dir, &|_| true)
}

/// Likewise, only those that are wanted.
pub(crate) fn list_some_names(
    dir: BorrowedFd<'_>,
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in read_directory(dir)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name if wanted(name) => names.push(name.to_vec()),
            _ => {}
        }
    }
    Ok(names)
}

/// Whether the label's name still goes into the list of xattrs, which the kernel lets be 64 KiB long.
pub(crate) fn has_room_in_xattr_list(fd: BorrowedFd<'_>) -> bool {
    let mut buffer = vec![0; MAX_XATTR_BYTES - LABEL_XATTR.len() - 1];
    !matches!(rustix::fs::listxattr(proc_path(fd), &mut buffer[..]), Err(Errno::TOOBIG | Errno::RANGE))
}

/// Fills `buf`; fewer bytes only at the end of the file.
pub(crate) fn read(file: BorrowedFd<'_>, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buf.len() {
        match rustix::io::pread(file, &mut buf[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

/// Whether a byte of a file can be read without asking the disk. A filesystem that does not tell says no.
pub(crate) fn is_cached(file: BorrowedFd<'_>, at: u64) -> bool {
    let mut byte = [0];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    rustix::io::preadv2(file, &mut [std::io::IoSliceMut::new(&mut byte)], at, flags).is_ok()
}

/// The kind that a `stat` shows.
pub(crate) fn kind_of(stat: &Stat) -> Result<ObjectKind, Errno> {
    ObjectKind::from_st_mode(stat.st_mode).ok_or(Errno::NOTSUP)
}

/// See the module.
pub(crate) struct Inode {
    path_fd: OwnedFd,
    oid: Oid,
    number: u64,
    kind: ObjectKind,
    /// `path_fd` is good for contents too.
    is_open: bool,
    file: OnceLock<OwnedFd>,
    /// What serves for reading while that cannot be had.
    read_only: OnceLock<OwnedFd>,
}

impl Inode {
    /// Takes a descriptor whose label and `stat` have been read.
    pub(crate) fn new(path_fd: OwnedFd, stat: &Stat, oid: Oid) -> Result<Inode, Errno> {
        let kind = kind_of(stat)?;
        Ok(Inode {
            path_fd,
            oid,
            number: stat.st_ino,
            kind,
            is_open: false,
            file: OnceLock::new(),
            read_only: OnceLock::new(),
        })
    }

    /// Like [`Inode::new`] for a regular file that is open read-write.
    pub(crate) fn new_open(file: OwnedFd, stat: &Stat, oid: Oid) -> Result<Inode, Errno> {
        Ok(Inode { is_open: true, ..Inode::new(file, stat, oid)? })
    }

    pub(crate) fn oid(&self) -> Oid {
        self.oid
    }
    pub(crate) fn kind(&self) -> ObjectKind {
        self.kind
    }
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
    /// Read anew each time: a consistency point may have changed it.
    pub(crate) fn label(&self) -> Result<Label, Errno> {
        read_label(self.fd())?.ok().flatten().ok_or(Errno::IO)
    }
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.path_fd.as_fd()
    }
    pub(crate) fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::fstat(&self.path_fd)
    }

    pub(crate) fn set_label(&self, label: &Label) -> Result<(), Errno> {
        write_label(self.fd(), label)
    }

    /// A descriptor for contents: a regular file read-write (read-only where that is refused), a directory for
    /// reading.
    pub(crate) fn file(&self) -> Result<BorrowedFd<'_>, Errno> {
        match (self.writable(), self.kind) {
            (Err(Errno::PERM | Errno::ROFS | Errno::ACCESS | Errno::TXTBSY), ObjectKind::File) => {
                self.opened(&self.read_only, OFlags::RDONLY)
            }
            (other, _) => other,
        }
    }

    /// The same, and no less than read-write for a regular file. It is tried each time: what refuses it may end.
    pub(crate) fn writable(&self) -> Result<BorrowedFd<'_>, Errno> {
        match self.kind {
            _ if self.is_open => Ok(self.fd()),
            ObjectKind::Directory => self.opened(&self.file, OFlags::RDONLY | OFlags::DIRECTORY),
            ObjectKind::File => self.opened(&self.file, OFlags::RDWR),
            _ => Err(Errno::INVAL),
        }
    }

    fn opened<'s>(&'s self, at: &'s OnceLock<OwnedFd>, flags: OFlags) -> Result<BorrowedFd<'s>, Errno> {
        if let Some(file) = at.get() {
            return Ok(file.as_fd());
        }
        let common = OFlags::CLOEXEC | OFlags::NOATIME;
        let opened = rustix::fs::open(proc_path(self.fd()).as_str(), flags | common, Mode::empty())?;
        Ok(at.get_or_init(|| opened).as_fd())
    }

    /// A descriptor of its own for reading the contents of a regular file.
    pub(crate) fn open_once(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOATIME;
        rustix::fs::open(proc_path(self.fd()).as_str(), flags, Mode::empty())
    }

    /// Names of all xattrs that are the clients'.
    pub(crate) fn xattr_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut buffer = vec![0; MAX_XATTR_BYTES];
        let len = match rustix::fs::listxattr(proc_path(self.fd()), &mut buffer[..]) {
            Err(Errno::NOTSUP) => 0,
            other => other?,
        };
        let names = buffer[..len].split(|b| *b == 0).filter(|name| is_xattr_of_clients(name));
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    pub(crate) fn xattr(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        if !is_xattr_of_clients(name) {
            return Ok(None);
        }
        let mut buffer = vec![0; MAX_XATTR_BYTES];
        match rustix::fs::getxattr(proc_path(self.fd()), name, &mut buffer[..]) {
            Ok(len) => {
                buffer.truncate(len);
                Ok(Some(buffer))
            }
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// btrfs wants room for the old value beside the new one, ext4 keeps the old one until the new one is there: what fits
    /// alone must not fail for what it replaces.
    pub(crate) fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        let set = || rustix::fs::setxattr(proc_path(self.fd()), name, value, rustix::fs::XattrFlags::empty());
        match set() {
            Err(Errno::NOSPC | Errno::OVERFLOW) => self.remove_xattr(name).and_then(|()| set()),
            other => other,
        }
    }

    /// Removing what is not there is fine.
    pub(crate) fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        match rustix::fs::removexattr(proc_path(self.fd()), name) {
            Err(Errno::NODATA) => Ok(()),
            other => other,
        }
    }

    pub(crate) fn set_owner(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(self.fd(), c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    }

    /// Symlinks have no mode of their own on Linux.
    pub(crate) fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        match self.kind {
            ObjectKind::Symlink => Ok(()),
            _ => rustix::fs::chmod(proc_path(self.fd()), Mode::from_raw_mode(mode)),
        }
    }

    pub(crate) fn set_times(&self, atime: Option<Timestamp>, mtime: Option<Timestamp>) -> Result<(), Errno> {
        let spec = |time: Option<Timestamp>| match time {
            Some(time) => rustix::fs::Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() },
            None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        };
        let times = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
        rustix::fs::utimensat(self.fd(), c"", &times, AtFlags::EMPTY_PATH)
    }

    /// Where a directory is now: its parent and its name there. `None`: it was removed.
    pub(crate) fn locate_directory(&self) -> Result<Option<(OwnedFd, Vec<u8>)>, Errno> {
        locate_directory(self.fd(), self.number)
    }
}

/// Where the directory with this number is now, likewise.
pub(crate) fn locate_directory(
    directory: BorrowedFd<'_>,
    number: u64,
) -> Result<Option<(OwnedFd, Vec<u8>)>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = || rustix::fs::openat(directory, c"..", flags, Mode::empty());
    let (parent, name) = match rustix::fs::readlink(proc_path(directory), Vec::new()) {
        Ok(path) => (above()?, path.to_bytes().rsplit(|b| *b == b'/').next().map(<[u8]>::to_vec)),
        // Its path is longer than the kernel tells.
        Err(Errno::NAMETOOLONG) => {
            let parent = above()?;
            let name = name_of(parent.as_fd(), number)?;
            (parent, name)
        }
        Err(errno) => return Err(errno),
    };
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    match open_child(parent.as_fd(), &name) {
        Ok(child) if rustix::fs::fstat(&child)?.st_ino == number => Ok(Some((parent, name))),
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Under which name a directory holds an inode.
fn name_of(dir: BorrowedFd<'_>, number: u64) -> Result<Option<Vec<u8>>, Errno> {
    for entry in read_directory(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.ino() == number && !matches!(name, b"." | b"..") {
            return Ok(Some(name.to_vec()));
        }
    }
    Ok(None)
}

/// Bytes as the path-taking calls of the standard library want them.
pub(crate) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
