//! Takes the fields of an operation from bytes of unknown origin. Nothing is used before it is checked.

use super::{
    DecodeError, MAX_BIRTH_XATTRS, MAX_FILE_BYTES, MAX_SYMLINK_BYTES, MAX_WRITE_BYTES, MAX_XATTR_NAME_BYTES,
    MAX_XATTR_VALUE_BYTES, tag,
};
use crate::attributes::{AttrPatch, ObjectKind, Timestamp};
use crate::name::NameRef;
use crate::op::{Displaced, NewKind, NewObject, Operation, Other};
use ids::Oid;

/// What is left to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

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
        Ok(AttrPatch {
            mode: there(0).then(|| self.bits()).transpose()?,
            uid: there(1).then(|| self.u32()).transpose()?,
            gid: there(2).then(|| self.u32()).transpose()?,
            atime: there(3).then(|| self.time()).transpose()?,
            mtime: there(4).then(|| self.time()).transpose()?,
            ctime: there(5).then(|| self.time()).transpose()?,
            nlink: None,
            size: None,
        })
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

    /// The operation that starts here.
    pub(super) fn operation(&mut self) -> Result<Operation<'a>, DecodeError> {
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
