//! One file operation as it stands in the log.
//!
//! Invariants: absolute, never relative, so that absorbing it twice changes nothing; complete, so that no
//! reader computes a time, a size, a mode or a link count; checked names. The bytes of a write are not part of
//! the value: they follow the encoded head in the same record's payload (see [`codec`]), and whoever needs
//! them reads them from the log.
//!
//! What can go wrong: a record from a newer program, or garbage. Decoding then says so and never panics.

pub mod codec;

pub use codec::{
    DecodeError, MAX_SYMLINK_BYTES, MAX_WRITE_BYTES, MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES,
};

use crate::attributes::{AttrPatch, ObjectKind, Timestamp};
use crate::name::NameRef;
use ids::Oid;

/// The kind of an object to be made, with what only that kind has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewKind<'a> {
    /// An empty regular file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link to this target, 1 to [`MAX_SYMLINK_BYTES`] bytes.
    Symlink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// A unix socket's name.
    Socket,
    /// A character device with this `dev_t`.
    CharDevice(u64),
    /// A block device with this `dev_t`.
    BlockDevice(u64),
}

impl NewKind<'_> {
    /// The kind alone.
    pub fn kind(&self) -> ObjectKind {
        match self {
            NewKind::File => ObjectKind::File,
            NewKind::Directory => ObjectKind::Directory,
            NewKind::Symlink(_) => ObjectKind::Symlink,
            NewKind::Fifo => ObjectKind::Fifo,
            NewKind::Socket => ObjectKind::Socket,
            NewKind::CharDevice(_) => ObjectKind::CharDevice,
            NewKind::BlockDevice(_) => ObjectKind::BlockDevice,
        }
    }

    /// The device number, 0 for what is no device.
    pub fn rdev(&self) -> u64 {
        match self {
            NewKind::CharDevice(rdev) | NewKind::BlockDevice(rdev) => *rdev,
            _ => 0,
        }
    }
}

/// An object to be made. Its link count is 1, 2 for a directory; all its times are the operation's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewObject<'a> {
    /// Its identity, never used before.
    pub oid: Oid,
    /// What it is.
    pub kind: NewKind<'a>,
    /// Permission bits, umask and inherited ACL already applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Part of NFS file handles.
    pub generation: u64,
    /// Extended attributes it is born with (inherited ACLs): full name and value.
    pub xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// An object that an operation names beside its main one, and its link count afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Other {
    /// Which object.
    pub oid: Oid,
    /// What it is.
    pub kind: ObjectKind,
    /// Its link count after the operation.
    pub nlink: u32,
}

/// What stood at a rename's target, and what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Displaced {
    /// The target name was free.
    Nothing,
    /// It lost that name. `reap`: that was its last name and nobody has it open, so it is gone at once.
    Replaced {
        /// The object and its link count afterwards.
        object: Other,
        /// Gone at once.
        reap: bool,
    },
    /// It took the moved object's old name (`RENAME_EXCHANGE`).
    Exchanged(Other),
}

/// One operation. See the fields for what "after" means: every value is the final one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation<'a> {
    /// Makes an object under a free name. Sets mtime and ctime of the parent.
    Create {
        /// Directory that gets the name.
        parent: Oid,
        /// The name.
        name: NameRef<'a>,
        /// The object.
        object: NewObject<'a>,
        /// The parent's link count afterwards.
        parent_nlink: u32,
        /// When.
        at: Timestamp,
    },
    /// Gives an object one more name. Sets its ctime, and mtime and ctime of the parent.
    Link {
        /// The object and its link count afterwards.
        object: Other,
        /// Directory that gets the name.
        parent: Oid,
        /// The name.
        name: NameRef<'a>,
        /// When.
        at: Timestamp,
    },
    /// Takes a name away; rmdir too (then `object.nlink` is 0). Sets ctime of the object, mtime and ctime of
    /// the parent. With `object.nlink` 0 the object is dead if `reap`, else an orphan until [`Operation::Reap`].
    Unlink {
        /// Directory that loses the name.
        parent: Oid,
        /// The name.
        name: NameRef<'a>,
        /// The object and its link count afterwards.
        object: Other,
        /// Nobody has it open: it is gone at once.
        reap: bool,
        /// The parent's link count afterwards.
        parent_nlink: u32,
        /// When.
        at: Timestamp,
    },
    /// Moves a name. Sets ctime of the moved and the displaced object, mtime and ctime of both parents.
    /// Never logged when both names already are the same object: POSIX wants nothing to happen then.
    Rename {
        /// Directory that loses the name.
        from_parent: Oid,
        /// The old name.
        from_name: NameRef<'a>,
        /// Directory that gets the name.
        to_parent: Oid,
        /// The new name.
        to_name: NameRef<'a>,
        /// The moved object and its link count (a rename does not change it).
        moved: Other,
        /// What stood at the new name.
        displaced: Displaced,
        /// `RENAME_WHITEOUT`: the object (character device 0:0) made under the old name. Never with an exchange.
        whiteout: Option<NewObject<'a>>,
        /// Link count of the old parent afterwards.
        from_parent_nlink: u32,
        /// Link count of the new parent afterwards (the same value when the parents are one).
        to_parent_nlink: u32,
        /// When.
        at: Timestamp,
    },
    /// Writes `len_bytes` (1 to [`MAX_WRITE_BYTES`]) at `offset`; the bytes follow the head in the payload.
    /// Sets mtime and ctime.
    Write {
        /// The file.
        oid: Oid,
        /// Where.
        offset: u64,
        /// How many bytes.
        len_bytes: u32,
        /// The file's length afterwards.
        size_after: u64,
        /// When.
        at: Timestamp,
    },
    /// Sets the length; what lies past it is gone, a gap reads as zeros. Sets mtime and ctime.
    Truncate {
        /// The file.
        oid: Oid,
        /// The length.
        size: u64,
        /// When.
        at: Timestamp,
    },
    /// Reserves blocks for a range, changing no byte. `size_after` is the old length for keep-size.
    Allocate {
        /// The file.
        oid: Oid,
        /// Start of the range.
        offset: u64,
        /// Its length.
        len_bytes: u64,
        /// The file's length afterwards.
        size_after: u64,
        /// When.
        at: Timestamp,
    },
    /// Makes a range a hole. The length stays.
    PunchHole {
        /// The file.
        oid: Oid,
        /// Start of the range.
        offset: u64,
        /// Its length.
        len_bytes: u64,
        /// The file's length afterwards, which is the one before.
        size_after: u64,
        /// When.
        at: Timestamp,
    },
    /// Makes a range zeros with blocks reserved. `size_after` is the old length for keep-size.
    ZeroRange {
        /// The file.
        oid: Oid,
        /// Start of the range.
        offset: u64,
        /// Its length.
        len_bytes: u64,
        /// The file's length afterwards.
        size_after: u64,
        /// When.
        at: Timestamp,
    },
    /// Sets attributes. `patch` says all, ctime included; it sets neither size nor nlink.
    SetAttr {
        /// The object.
        oid: Oid,
        /// The new values.
        patch: AttrPatch,
    },
    /// Sets an extended attribute, and the mode with it where it is an access ACL (or a chmod under one).
    SetXattr {
        /// The object.
        oid: Oid,
        /// Full name with its prefix, e.g. `user.x`.
        name: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// Permission bits afterwards, where they change.
        mode: Option<u32>,
        /// Becomes ctime.
        at: Timestamp,
    },
    /// Removes an extended attribute, and sets the mode with it where an ACL became equal to plain bits.
    RemoveXattr {
        /// The object.
        oid: Oid,
        /// Full name with its prefix.
        name: &'a [u8],
        /// Permission bits afterwards, where they change.
        mode: Option<u32>,
        /// Becomes ctime.
        at: Timestamp,
    },
    /// The last user of an orphan is gone: so is the orphan.
    Reap {
        /// The orphan.
        oid: Oid,
    },
}

impl Operation<'_> {
    /// The OID that it gives to a new object.
    pub fn given_oid(&self) -> Option<Oid> {
        match self {
            Operation::Create { object, .. } => Some(object.oid),
            Operation::Rename { whiteout, .. } => whiteout.as_ref().map(|object| object.oid),
            _ => None,
        }
    }

    /// The object that the operation is mainly about.
    pub fn oid(&self) -> Oid {
        match self {
            Operation::Create { object, .. } => object.oid,
            Operation::Link { object, .. } | Operation::Unlink { object, .. } => object.oid,
            Operation::Rename { moved, .. } => moved.oid,
            Operation::Write { oid, .. }
            | Operation::Truncate { oid, .. }
            | Operation::Allocate { oid, .. }
            | Operation::PunchHole { oid, .. }
            | Operation::ZeroRange { oid, .. }
            | Operation::SetAttr { oid, .. }
            | Operation::SetXattr { oid, .. }
            | Operation::RemoveXattr { oid, .. }
            | Operation::Reap { oid } => *oid,
        }
    }

    /// Bytes that it sets aside on disk without content.
    pub fn allocated_bytes(&self) -> u64 {
        match self {
            Operation::Allocate { len_bytes, .. } | Operation::ZeroRange { len_bytes, .. } => *len_bytes,
            _ => 0,
        }
    }

    /// Bytes of file content that follow the head in the payload.
    pub fn data_len_bytes(&self) -> u64 {
        match self {
            Operation::Write { len_bytes, .. } => u64::from(*len_bytes),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
