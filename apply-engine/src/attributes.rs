//! What an object is and carries: kind, ownership, mode, sizes, times; and a patch of some of them.
//!
//! Modes hold the permission bits only (`0o7777`); the kind has its own type. Times are those of the record
//! that set them, never of the node that applies it.

use ids::Oid;
use serde::{Deserialize, Serialize};

/// A point in time, as POSIX shows it: seconds since 1970 (may be negative) and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since the epoch of 1970.
    pub secs: i64,
    /// Nanoseconds, below 1 000 000 000.
    pub nanos: u32,
}

impl Timestamp {
    /// One second.
    pub const NANOS_PER_SECOND: u32 = 1_000_000_000;

    /// The wall clock, now. A clock set before 1970 reads as 1970.
    pub fn now() -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp::since_epoch(since.unwrap_or_default())
    }

    /// So long after the beginning of 1970.
    pub fn since_epoch(since: std::time::Duration) -> Timestamp {
        Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
    }
}

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum ObjectKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A unix socket's name.
    Socket,
    /// A character device node.
    CharDevice,
    /// A block device node.
    BlockDevice,
}

impl ObjectKind {
    /// All kinds, in the order of their codes on the log.
    pub const ALL: [ObjectKind; 7] = [
        ObjectKind::File,
        ObjectKind::Directory,
        ObjectKind::Symlink,
        ObjectKind::Fifo,
        ObjectKind::Socket,
        ObjectKind::CharDevice,
        ObjectKind::BlockDevice,
    ];

    /// The `S_IFMT` bits of `st_mode`.
    pub fn format_bits(self) -> u32 {
        match self {
            ObjectKind::File => libc::S_IFREG,
            ObjectKind::Directory => libc::S_IFDIR,
            ObjectKind::Symlink => libc::S_IFLNK,
            ObjectKind::Fifo => libc::S_IFIFO,
            ObjectKind::Socket => libc::S_IFSOCK,
            ObjectKind::CharDevice => libc::S_IFCHR,
            ObjectKind::BlockDevice => libc::S_IFBLK,
        }
    }

    /// The kind that `st_mode` names; `None` for bits that no POSIX object has.
    pub fn from_st_mode(st_mode: u32) -> Option<ObjectKind> {
        ObjectKind::ALL.into_iter().find(|kind| kind.format_bits() == st_mode & libc::S_IFMT)
    }

    /// Whether it is a directory.
    pub fn is_directory(self) -> bool {
        self == ObjectKind::Directory
    }
}

/// All that `stat` shows of an object, and its generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Which object.
    pub oid: Oid,
    /// What it is.
    pub kind: ObjectKind,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead to it; 0 for an orphan.
    pub nlink: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes it occupies. An estimate for what has not reached the base yet, never 0 when there is data.
    pub blocks_bytes: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of its contents.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Device number (`dev_t`) of a device node, else 0.
    pub rdev: u64,
    /// Given at creation; part of NFS file handles.
    pub generation: u64,
}

impl Attributes {
    /// Overwrites what `patch` sets.
    pub fn apply(&mut self, patch: &AttrPatch) {
        self.mode = patch.mode.unwrap_or(self.mode);
        self.uid = patch.uid.unwrap_or(self.uid);
        self.gid = patch.gid.unwrap_or(self.gid);
        self.nlink = patch.nlink.unwrap_or(self.nlink);
        self.size = patch.size.unwrap_or(self.size);
        self.atime = patch.atime.unwrap_or(self.atime);
        self.mtime = patch.mtime.unwrap_or(self.mtime);
        self.ctime = patch.ctime.unwrap_or(self.ctime);
    }
}

/// New values for some attributes; absent ones stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AttrPatch {
    /// Permission bits, `0o7777`.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Link count.
    pub nlink: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<Timestamp>,
    /// Last change of contents.
    pub mtime: Option<Timestamp>,
    /// Last change of anything.
    pub ctime: Option<Timestamp>,
}

impl AttrPatch {
    /// Sets nothing.
    pub fn is_empty(&self) -> bool {
        *self == AttrPatch::default()
    }

    /// What `self` and then `newer` set together.
    pub fn then(&self, newer: &AttrPatch) -> AttrPatch {
        AttrPatch {
            mode: newer.mode.or(self.mode),
            uid: newer.uid.or(self.uid),
            gid: newer.gid.or(self.gid),
            nlink: newer.nlink.or(self.nlink),
            size: newer.size.or(self.size),
            atime: newer.atime.or(self.atime),
            mtime: newer.mtime.or(self.mtime),
            ctime: newer.ctime.or(self.ctime),
        }
    }
}
