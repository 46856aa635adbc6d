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

mod reader;
mod writer;

use super::Operation;
use crate::name::NameError;
use reader::Reader;
use writer::Writer;

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
    /// A name that cannot be one.
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
    #[expect(clippy::too_many_lines, reason = "one arm for each operation, in the order of their codes")]
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
