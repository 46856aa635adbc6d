//! Operations as system calls on a real directory.
//!
//! The process's umask must be clear ([`clear_umask`]): creation modes are then what the operations say without a
//! second call to set them, and each operation stays one call.

use super::operation::Operation;
use crate::random::content;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Clears the process's umask, so that creation modes are what the operations say.
pub fn clear_umask() {
    rustix::process::umask(Mode::empty());
}

/// Carries out one operation below `root`. A short write is an error of kind `WriteZero` with the rest undone.
pub fn perform(root: &Path, operation: &Operation) -> io::Result<()> {
    let at = |path: &str| root.join(path);
    match operation {
        Operation::Create { path, mode } => {
            OpenOptions::new().write(true).create_new(true).mode(*mode).open(at(path)).map(drop)
        }
        Operation::Write { path, offset, len, seed } => {
            let file = OpenOptions::new().write(true).open(at(path))?;
            complete(file.write_at(&content(*seed, *len as usize), *offset)?, *len)
        }
        Operation::Append { path, len, seed } => {
            let mut file = OpenOptions::new().append(true).open(at(path))?;
            complete(io::Write::write(&mut file, &content(*seed, *len as usize))?, *len)
        }
        Operation::Truncate { path, size } => rustix_truncate(&at(path), *size),
        Operation::PunchHole { path, offset, len } => {
            allocate(&at(path), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, *offset, *len)
        }
        Operation::Allocate { path, offset, len } => {
            allocate(&at(path), FallocateFlags::empty(), *offset, *len)
        }
        Operation::MakeDirectory { path, mode } => {
            Ok(rustix::fs::mkdir(at(path), Mode::from_raw_mode(*mode))?)
        }
        Operation::RemoveDirectory { path } => Ok(rustix::fs::rmdir(at(path))?),
        Operation::Unlink { path } => Ok(rustix::fs::unlink(at(path))?),
        Operation::Rename { from, to } => Ok(rustix::fs::rename(at(from), at(to))?),
        Operation::Exchange { one, other } => {
            Ok(rustix::fs::renameat_with(CWD, at(one), CWD, at(other), RenameFlags::EXCHANGE)?)
        }
        Operation::Link { from, to } => Ok(rustix::fs::linkat(CWD, at(from), CWD, at(to), AtFlags::empty())?),
        Operation::Symlink { path, target } => Ok(rustix::fs::symlink(target, at(path))?),
        Operation::Fifo { path, mode } => {
            Ok(rustix::fs::mknodat(CWD, at(path), FileType::Fifo, Mode::from_raw_mode(*mode), 0)?)
        }
        Operation::SetMode { path, mode } => {
            Ok(rustix::fs::chmodat(CWD, at(path), Mode::from_raw_mode(*mode), AtFlags::empty())?)
        }
        Operation::SetOwner { path, uid, gid } => {
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            Ok(rustix::fs::chownat(CWD, at(path), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        Operation::SetXattr { path, name, value } => {
            Ok(rustix::fs::lsetxattr(at(path), name.as_str(), value, XattrFlags::empty())?)
        }
        Operation::RemoveXattr { path, name } => Ok(rustix::fs::lremovexattr(at(path), name.as_str())?),
        Operation::SetModified { path, seconds, nanos } => {
            let time = Timespec { tv_sec: *seconds, tv_nsec: (*nanos).into() };
            let times = Timestamps { last_access: time, last_modification: time };
            Ok(rustix::fs::utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?)
        }
    }
}

fn rustix_truncate(path: &Path, size: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(size)
}

fn allocate(path: &Path, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    Ok(rustix::fs::fallocate(&file, flags, offset, len)?)
}

fn complete(written: usize, asked: u64) -> io::Result<()> {
    if written as u64 == asked {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::WriteZero, format!("wrote {written} of {asked} bytes")))
}
