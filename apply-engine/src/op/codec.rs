//! The bytes of an operation in a record's payload: a head, and for a write the written bytes after it.
//!
//! All integers are little-endian. The first byte is the operation's tag; the fields follow in the order of
//! the enum. Names are a length byte and the bytes; other strings a `u32` length and the bytes; timestamps
//! `i64` seconds and `u32` nanoseconds. A write's head is always [`WRITE_HEAD_BYTES`] long, so that the
//! position of its data follows from the payload's position alone.
//!
//! ```text
//! write:  tag=5 u8 │ oid u64 │ offset u64 │ size_after u64 │ secs i64 │ nanos u32 │ len u32 │ data …
//! ```
//!
//! What can go wrong: garbage, or a tag of a newer program. Decoding checks every length against what is
//! there before it uses it, allocates nothing but the list of a creation's xattrs (at most
//! [`MAX_BIRTH_XATTRS`]), and refuses trailing bytes.

use super::{Displaced, NewKind, NewObject, Operation, Other};
use crate::attributes::{AttrPatch, ObjectKind, Timestamp};
use crate::name::{NameError, NameRef};
use ids::Oid;

/// Length of an encoded write without its data.
pub const WRITE_HEAD_BYTES: usize = 1 + 3 * 8 + 12 + 4;
/// Most data of one write.
pub const MAX_WRITE_BYTES: usize = 1 << 20;
/// Longest target of a symbolic link (PATH_MAX without the NUL).
pub const MAX_SYMLINK_BYTES: usize = 4095;
/// Longest xattr name with its prefix (XATTR_NAME_MAX).
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// Longest xattr value (XATTR_SIZE_MAX).
pub const MAX_XATTR_VALUE_BYTES: usize = 64 << 10;
/// Most xattrs that an object is born with: the inherited ACLs, and room for security labels.
pub const MAX_BIRTH_XATTRS: usize = 16;
/// End of the longest file.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// Bytes that are no operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The payload ends inside a field.
    #[error("the record ends inside an operation")]
    Short,
    /// Bytes are left after the last field.
    #[error("the record has {0} bytes after its operation")]
    Trailing(u64),
    /// An operation that this program does not know.
    #[error("operation tag {0} is not known: was the record written by a newer version?")]
    Tag(u8),
    /// A field's value makes no sense.
    #[error("the operation's field {0} is out of range")]
    Field(&'static str),
    /// A name that can not be one.
    #[error("the operation holds an unusable name: {0}")]
    Name(#[from] NameError),
}

mod tag {
    pub const CREATE: u8 = 1;
    pub const LINK: u8 = 2;
    pub const UNLINK: u8 = 3;
    pub const RENAME: u8 = 4;
    pub const WRITE: u8 = 5;
    pub const TRUNCATE: u8 = 6;
    pub const ALLOCATE: u8 = 7;
    pub const PUNCH_HOLE: u8 = 8;
    pub const ZERO_RANGE: u8 = 9;
    pub const SET_ATTR: u8 = 10;
    pub const SET_XATTR: u8 = 11;
    pub const REMOVE_XATTR: u8 = 12;
    pub const REAP: u8 = 13;
}

impl<'a> Operation<'a> {
    /// Appends the head to `out`. A write's data follows it in the payload:
    /// `slot.publish(&[&head, data])`, in a slot of `head.len() + data.len()` bytes.
    ///
    /// # Panics
    /// When a string is longer than the limits of this module: the volume refuses those with an errno.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        match self {
            Operation::Create { parent, name, object, parent_nlink, at } => {
                w.u8(tag::CREATE);
                w.oid(*parent);
                w.name(*name);
                w.new_object(object);
                w.u32(*parent_nlink);
                w.time(*at);
            }
            Operation::Link { object, parent, name, at } => {
                w.u8(tag::LINK);
                w.other(object);
                w.oid(*parent);
                w.name(*name);
                w.time(*at);
            }
            Operation::Unlink { parent, name, object, reap, parent_nlink, at } => {
                w.u8(tag::UNLINK);
                w.oid(*parent);
                w.name(*name);
                w.other(object);
                w.u8(u8::from(*reap));
                w.u32(*parent_nlink);
                w.time(*at);
            }
            Operation::Rename {
                from_parent,
                from_name,
                to_parent,
                to_name,
                moved,
                displaced,
                whiteout,
                from_parent_nlink,
                to_parent_nlink,
                at,
            } => {
                w.u8(tag::RENAME);
                w.oid(*from_parent);
                w.name(*from_name);
                w.oid(*to_parent);
                w.name(*to_name);
                w.other(moved);
                w.displaced(displaced);
                w.u8(u8::from(whiteout.is_some()));
                whiteout.iter().for_each(|object| w.new_object(object));
                w.u32(*from_parent_nlink);
                w.u32(*to_parent_nlink);
                w.time(*at);
            }
            Operation::Write { oid, offset, len_bytes, size_after, at } => {
                w.u8(tag::WRITE);
                w.oid(*oid);
                w.u64(*offset);
                w.u64(*size_after);
                w.time(*at);
                w.u32(*len_bytes);
            }
            Operation::Truncate { oid, size, at } => {
                w.u8(tag::TRUNCATE);
                w.oid(*oid);
                w.u64(*size);
                w.time(*at);
            }
            Operation::Allocate { oid, offset, len_bytes, size_after, at } => {
                w.range(tag::ALLOCATE, *oid, [*offset, *len_bytes, *size_after], *at);
            }
            Operation::PunchHole { oid, offset, len_bytes, size_after, at } => {
                w.range(tag::PUNCH_HOLE, *oid, [*offset, *len_bytes, *size_after], *at);
            }
            Operation::ZeroRange { oid, offset, len_bytes, size_after, at } => {
                w.range(tag::ZERO_RANGE, *oid, [*offset, *len_bytes, *size_after], *at);
            }
            Operation::SetAttr { oid, patch } => {
                w.u8(tag::SET_ATTR);
                w.oid(*oid);
                w.patch(patch);
            }
            Operation::SetXattr { oid, name, value, mode, at } => {
                w.u8(tag::SET_XATTR);
                w.oid(*oid);
                w.string(name, MAX_XATTR_NAME_BYTES);
                w.string(value, MAX_XATTR_VALUE_BYTES);
                w.mode(*mode);
                w.time(*at);
            }
            Operation::RemoveXattr { oid, name, mode, at } => {
                w.u8(tag::REMOVE_XATTR);
                w.oid(*oid);
                w.string(name, MAX_XATTR_NAME_BYTES);
                w.mode(*mode);
                w.time(*at);
            }
            Operation::Reap { oid } => {
                w.u8(tag::REAP);
                w.oid(*oid);
            }
        }
    }

    /// How many bytes of a payload [`Operation::decode`] needs, given its first byte: the data of a write
    /// need not be copied out of the log.
    pub fn head_bytes_needed(first_byte: u8, payload_len_bytes: usize) -> usize {
        match first_byte {
            tag::WRITE => payload_len_bytes.min(WRITE_HEAD_BYTES),
            _ => payload_len_bytes,
        }
    }

    /// Reads the operation from the start of a payload of `payload_len_bytes`; `head` holds all of it, or
    /// for a write at least the head.
    ///
    /// # Errors
    /// When these bytes are no operation. See [`DecodeError`].
    pub fn decode(head: &'a [u8], payload_len_bytes: u64) -> Result<Operation<'a>, DecodeError> {
        let mut r = Reader(head);
        let operation = r.operation()?;
        let used = (head.len() - r.0.len()) as u64 + operation.data_len_bytes();
        match payload_len_bytes.checked_sub(used) {
            None => Err(DecodeError::Short),
            Some(0) => Ok(operation),
            Some(left) => Err(DecodeError::Trailing(left)),
        }
    }
}

struct Writer<'o>(&'o mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn oid(&mut self, oid: Oid) {
        self.u64(oid.0);
    }

    fn time(&mut self, at: Timestamp) {
        self.u64(at.secs as u64);
        self.u32(at.nanos);
    }

    fn name(&mut self, name: NameRef<'_>) {
        self.u8(name.as_bytes().len() as u8);
        self.0.extend_from_slice(name.as_bytes());
    }

    fn string(&mut self, bytes: &[u8], limit: usize) {
        assert!(bytes.len() <= limit, "a string of {} bytes went past the volume's checks", bytes.len());
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    fn mode(&mut self, mode: Option<u32>) {
        self.u8(u8::from(mode.is_some()));
        mode.iter().for_each(|bits| self.u32(*bits));
    }

    fn kind(&mut self, kind: ObjectKind) {
        self.u8(kind as u8);
    }

    fn other(&mut self, other: &Other) {
        self.oid(other.oid);
        self.kind(other.kind);
        self.u32(other.nlink);
    }

    fn displaced(&mut self, displaced: &Displaced) {
        match displaced {
            Displaced::Nothing => self.u8(0),
            Displaced::Replaced { object, reap } => {
                self.u8(1);
                self.other(object);
                self.u8(u8::from(*reap));
            }
            Displaced::Exchanged(object) => {
                self.u8(2);
                self.other(object);
            }
        }
    }

    fn new_object(&mut self, object: &NewObject<'_>) {
        self.oid(object.oid);
        self.kind(object.kind.kind());
        match object.kind {
            NewKind::Symlink(target) => self.string(target, MAX_SYMLINK_BYTES),
            NewKind::CharDevice(rdev) | NewKind::BlockDevice(rdev) => self.u64(rdev),
            _ => {}
        }
        self.u32(object.mode);
        self.u32(object.uid);
        self.u32(object.gid);
        self.u64(object.generation);
        assert!(object.xattrs.len() <= MAX_BIRTH_XATTRS, "too many xattrs at birth went past the volume");
        self.u8(object.xattrs.len() as u8);
        for (name, value) in &object.xattrs {
            self.string(name, MAX_XATTR_NAME_BYTES);
            self.string(value, MAX_XATTR_VALUE_BYTES);
        }
    }

    fn range(&mut self, tag: u8, oid: Oid, numbers: [u64; 3], at: Timestamp) {
        self.u8(tag);
        self.oid(oid);
        numbers.into_iter().for_each(|number| self.u64(number));
        self.time(at);
    }

    /// A bit for each field that is there, then those fields.
    fn patch(&mut self, patch: &AttrPatch) {
        let numbers = [patch.mode, patch.uid, patch.gid];
        let times = [patch.atime, patch.mtime, patch.ctime];
        let present = numbers.iter().map(Option::is_some).chain(times.iter().map(Option::is_some));
        self.u8(present.enumerate().map(|(bit, there)| u8::from(there) << bit).sum());
        numbers.into_iter().flatten().for_each(|number| self.u32(number));
        times.into_iter().flatten().for_each(|time| self.time(time));
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Field(field)),
        }
    }

    fn oid(&mut self) -> Result<Oid, DecodeError> {
        self.u64().map(Oid)
    }

    fn file_position(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.u64().and_then(|p| if p <= MAX_FILE_BYTES { Ok(p) } else { Err(DecodeError::Field(field)) })
    }

    fn time(&mut self) -> Result<Timestamp, DecodeError> {
        let time = Timestamp { secs: self.u64()? as i64, nanos: self.u32()? };
        if time.nanos < Timestamp::NANOS_PER_SECOND { Ok(time) } else { Err(DecodeError::Field("nanos")) }
    }

    fn name(&mut self) -> Result<NameRef<'a>, DecodeError> {
        let len = self.u8()?;
        Ok(NameRef::new(self.take(usize::from(len))?)?)
    }

    fn string(&mut self, field: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()? as usize;
        if len > limit {
            return Err(DecodeError::Field(field));
        }
        self.take(len)
    }

    fn xattr_name(&mut self) -> Result<&'a [u8], DecodeError> {
        let name = self.string("xattr name", MAX_XATTR_NAME_BYTES)?;
        if name.is_empty() || name.contains(&0) { Err(DecodeError::Field("xattr name")) } else { Ok(name) }
    }

    fn bits(&mut self) -> Result<u32, DecodeError> {
        self.u32().and_then(|mode| if mode <= 0o7777 { Ok(mode) } else { Err(DecodeError::Field("mode")) })
    }

    fn mode(&mut self) -> Result<Option<u32>, DecodeError> {
        self.flag("mode")?.then(|| self.bits()).transpose()
    }

    fn kind(&mut self) -> Result<ObjectKind, DecodeError> {
        let code = usize::from(self.u8()?);
        ObjectKind::ALL.get(code).copied().ok_or(DecodeError::Field("kind"))
    }

    fn other(&mut self) -> Result<Other, DecodeError> {
        Ok(Other { oid: self.oid()?, kind: self.kind()?, nlink: self.u32()? })
    }

    fn displaced(&mut self) -> Result<Displaced, DecodeError> {
        match self.u8()? {
            0 => Ok(Displaced::Nothing),
            1 => Ok(Displaced::Replaced { object: self.other()?, reap: self.flag("reap")? }),
            2 => Ok(Displaced::Exchanged(self.other()?)),
            _ => Err(DecodeError::Field("displaced")),
        }
    }

    fn new_object(&mut self) -> Result<NewObject<'a>, DecodeError> {
        let oid = self.oid()?;
        let kind = match self.kind()? {
            ObjectKind::File => NewKind::File,
            ObjectKind::Directory => NewKind::Directory,
            ObjectKind::Symlink => NewKind::Symlink(self.string("target", MAX_SYMLINK_BYTES)?),
            ObjectKind::Fifo => NewKind::Fifo,
            ObjectKind::Socket => NewKind::Socket,
            ObjectKind::CharDevice => NewKind::CharDevice(self.u64()?),
            ObjectKind::BlockDevice => NewKind::BlockDevice(self.u64()?),
        };
        let (mode, uid, gid, generation) = (self.bits()?, self.u32()?, self.u32()?, self.u64()?);
        let count = usize::from(self.u8()?);
        if count > MAX_BIRTH_XATTRS {
            return Err(DecodeError::Field("xattrs"));
        }
        let mut xattrs = Vec::with_capacity(count);
        for _ in 0..count {
            xattrs.push((self.xattr_name()?, self.string("xattr value", MAX_XATTR_VALUE_BYTES)?));
        }
        Ok(NewObject { oid, kind, mode, uid, gid, generation, xattrs })
    }

    fn patch(&mut self) -> Result<AttrPatch, DecodeError> {
        let present = self.u8()?;
        if present >= 1 << 6 {
            return Err(DecodeError::Field("patch"));
        }
        let there = |bit: u8| present & (1 << bit) != 0;
        let mut patch = AttrPatch::default();
        patch.mode = there(0).then(|| self.bits()).transpose()?;
        patch.uid = there(1).then(|| self.u32()).transpose()?;
        patch.gid = there(2).then(|| self.u32()).transpose()?;
        patch.atime = there(3).then(|| self.time()).transpose()?;
        patch.mtime = there(4).then(|| self.time()).transpose()?;
        patch.ctime = there(5).then(|| self.time()).transpose()?;
        Ok(patch)
    }

    /// Object, offset, length (not 0), length of the file, time.
    fn range(&mut self) -> Result<(Oid, u64, u64, u64, Timestamp), DecodeError> {
        let (oid, offset, len_bytes) =
            (self.oid()?, self.file_position("offset")?, self.file_position("len")?);
        if len_bytes == 0 || offset + len_bytes > MAX_FILE_BYTES {
            return Err(DecodeError::Field("len"));
        }
        Ok((oid, offset, len_bytes, self.file_position("size")?, self.time()?))
    }

    fn write(&mut self) -> Result<Operation<'a>, DecodeError> {
        let (oid, offset, size_after) =
            (self.oid()?, self.file_position("offset")?, self.file_position("size")?);
        let (at, len_bytes) = (self.time()?, self.u32()?);
        let fits = (1..=MAX_WRITE_BYTES).contains(&(len_bytes as usize));
        if !fits || offset + u64::from(len_bytes) > size_after {
            return Err(DecodeError::Field("len"));
        }
        Ok(Operation::Write { oid, offset, len_bytes, size_after, at })
    }

    fn rename(&mut self) -> Result<Operation<'a>, DecodeError> {
        let (from_parent, from_name) = (self.oid()?, self.name()?);
        let (to_parent, to_name) = (self.oid()?, self.name()?);
        let (moved, displaced) = (self.other()?, self.displaced()?);
        let whiteout = self.flag("whiteout")?.then(|| self.new_object()).transpose()?;
        if whiteout.is_some() && matches!(displaced, Displaced::Exchanged(_)) {
            return Err(DecodeError::Field("whiteout"));
        }
        Ok(Operation::Rename {
            from_parent,
            from_name,
            to_parent,
            to_name,
            moved,
            displaced,
            whiteout,
            from_parent_nlink: self.u32()?,
            to_parent_nlink: self.u32()?,
            at: self.time()?,
        })
    }

    fn operation(&mut self) -> Result<Operation<'a>, DecodeError> {
        Ok(match self.u8()? {
            tag::CREATE => Operation::Create {
                parent: self.oid()?,
                name: self.name()?,
                object: self.new_object()?,
                parent_nlink: self.u32()?,
                at: self.time()?,
            },
            tag::LINK => Operation::Link {
                object: self.other()?,
                parent: self.oid()?,
                name: self.name()?,
                at: self.time()?,
            },
            tag::UNLINK => Operation::Unlink {
                parent: self.oid()?,
                name: self.name()?,
                object: self.other()?,
                reap: self.flag("reap")?,
                parent_nlink: self.u32()?,
                at: self.time()?,
            },
            tag::RENAME => self.rename()?,
            tag::WRITE => self.write()?,
            tag::TRUNCATE => {
                Operation::Truncate { oid: self.oid()?, size: self.file_position("size")?, at: self.time()? }
            }
            tag::ALLOCATE => {
                let (oid, offset, len_bytes, size_after, at) = self.range()?;
                Operation::Allocate { oid, offset, len_bytes, size_after, at }
            }
            tag::PUNCH_HOLE => {
                let (oid, offset, len_bytes, size_after, at) = self.range()?;
                Operation::PunchHole { oid, offset, len_bytes, size_after, at }
            }
            tag::ZERO_RANGE => {
                let (oid, offset, len_bytes, size_after, at) = self.range()?;
                Operation::ZeroRange { oid, offset, len_bytes, size_after, at }
            }
            tag::SET_ATTR => Operation::SetAttr { oid: self.oid()?, patch: self.patch()? },
            tag::SET_XATTR => Operation::SetXattr {
                oid: self.oid()?,
                name: self.xattr_name()?,
                value: self.string("xattr value", MAX_XATTR_VALUE_BYTES)?,
                mode: self.mode()?,
                at: self.time()?,
            },
            tag::REMOVE_XATTR => Operation::RemoveXattr {
                oid: self.oid()?,
                name: self.xattr_name()?,
                mode: self.mode()?,
                at: self.time()?,
            },
            tag::REAP => Operation::Reap { oid: self.oid()? },
            unknown => return Err(DecodeError::Tag(unknown)),
        })
    }
}
