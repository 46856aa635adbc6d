//! Answers in the shapes that requests have in common.

use super::convert::attributes;
use apply_engine::Attributes;
use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr};
use std::time::{Duration, UNIX_EPOCH};
use volume::Errno;

/// The answer to a look-up of a free name.
pub(super) const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

pub(super) fn number(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.code())
}

pub(super) fn empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(number(error)),
    }
}

/// Answers a request for an xattr or a list of them: the bytes, or how many they are.
pub(super) fn xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(number(error)),
    }
}

/// Answers with an object that was found or made.
pub(super) fn entry(reply: ReplyEntry, ttl: &Duration, found: Result<Attributes, Errno>) {
    match found {
        Ok(found) => reply.entry(ttl, &attributes(&found), Generation(found.generation)),
        Err(error) => reply.error(number(error)),
    }
}

/// Answers with attributes.
pub(super) fn attr(reply: ReplyAttr, ttl: &Duration, found: Result<Attributes, Errno>) {
    match found {
        Ok(found) => reply.attr(ttl, &attributes(&found)),
        Err(error) => reply.error(number(error)),
    }
}
