//! Between the volume's types and those of the FUSE protocol.

use super::credentials::{Credentials, is_being_killed};
use apply_engine::{Attributes, ObjectKind, Timestamp};
use commit::Client;
use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};
use ids::Oid;
use std::cell::OnceCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use volume::{Principal, SetTime};

/// What `st_blksize` says: writes of this size and alignment are the cheapest.
const BLOCK_BYTES: u32 = 4096;
/// Unit of `st_blocks`.
const SECTOR_BYTES: u64 = 512;
/// Number of the root in the FUSE protocol.
const FUSE_ROOT: INodeNo = INodeNo::ROOT;

/// The object that an inode number names.
pub(super) fn oid(ino: INodeNo) -> Oid {
    if ino == FUSE_ROOT { Oid::ROOT } else { Oid(ino.0) }
}

/// The inode number of an object.
pub(super) fn ino(oid: Oid) -> INodeNo {
    if oid == Oid::ROOT { FUSE_ROOT } else { INodeNo(oid.0) }
}

pub(super) fn file_type(kind: ObjectKind) -> FileType {
    match kind {
        ObjectKind::File => FileType::RegularFile,
        ObjectKind::Directory => FileType::Directory,
        ObjectKind::Symlink => FileType::Symlink,
        ObjectKind::Fifo => FileType::NamedPipe,
        ObjectKind::Socket => FileType::Socket,
        ObjectKind::CharDevice => FileType::CharDevice,
        ObjectKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn attributes(of: &Attributes) -> FileAttr {
    FileAttr {
        ino: ino(of.oid),
        size: of.size,
        blocks: of.blocks_bytes.div_ceil(SECTOR_BYTES),
        atime: system_time(of.atime),
        mtime: system_time(of.mtime),
        ctime: system_time(of.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(of.kind),
        perm: of.mode as u16,
        nlink: of.nlink,
        uid: of.uid,
        gid: of.gid,
        // The low 32 bits of a dev_t are the kernel's own encoding.
        rdev: of.rdev as u32,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn system_time(at: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(at.nanos));
    let secs = Duration::from_secs(at.secs.unsigned_abs());
    let whole = if at.secs < 0 { UNIX_EPOCH.checked_sub(secs) } else { UNIX_EPOCH.checked_add(secs) };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// The time that the kernel sent. fuser 0.18 turns seconds s < 0 and nanoseconds n into the moment |s|
/// seconds *and* n nanoseconds before the epoch, where n nanoseconds after second s are meant; this undoes it. The least
/// s is its own opposite (without a check of overflows, which the profiles turn off there); the kernel sends it without
/// nanoseconds.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { secs: after.as_secs() as i64, nanos: after.subsec_nanos() },
        Err(error) => {
            let before = error.duration();
            Timestamp { secs: (before.as_secs() as i64).wrapping_neg(), nanos: before.subsec_nanos() }
        }
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::To(timestamp(at)),
    }
}

/// The caller of a request. What the request does not carry is read from `/proc` when it is asked for.
#[derive(Clone)]
pub(super) struct Caller {
    uid: u32,
    gid: u32,
    thread: u32,
    credentials: OnceCell<Credentials>,
}

impl Caller {
    pub fn of(request: &Request) -> Caller {
        Caller { uid: request.uid(), gid: request.gid(), thread: request.pid(), credentials: OnceCell::new() }
    }

    fn credentials(&self) -> &Credentials {
        self.credentials.get_or_init(|| Credentials::of_thread(self.thread))
    }
}

/// Whom a request that waits keeps waiting.
pub(super) fn client(request: &Request) -> Client {
    Client { id: u64::from(request.pid()), gave_up: is_being_killed }
}

impl Principal for Caller {
    fn uid(&self) -> u32 {
        self.uid
    }

    fn gid(&self) -> u32 {
        self.gid
    }

    fn keeps_set_ids(&self) -> bool {
        self.credentials().keeps_set_ids()
    }

    fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.credentials().in_group(gid)
    }

    fn sees_trusted(&self) -> bool {
        self.credentials().sees_trusted()
    }

    fn acts_as_owner(&self) -> bool {
        self.credentials().acts_as_owner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_survive() {
        for at in [(0, 0), (5, 7), (-1, 0), (-2, 500_000_000), (15_032_385_535, 999_999_999)] {
            let at = Timestamp { secs: at.0, nanos: at.1 };
            let shown = system_time(at);
            let expected = UNIX_EPOCH + Duration::from_secs(1 << 40);
            let whole = expected.duration_since(shown).unwrap().as_nanos() as i128;
            assert_eq!(
                (1_i128 << 40) * 1_000_000_000 - whole,
                i128::from(at.secs) * 1_000_000_000 + i128::from(at.nanos)
            );
        }
        // As fuser hands over -1.5 s, which the kernel sends as second -2 and 500 000 000 ns.
        let handed_over = UNIX_EPOCH - Duration::new(2, 500_000_000);
        assert_eq!(timestamp(handed_over), Timestamp { secs: -2, nanos: 500_000_000 });
        // As it hands over the least second.
        let least = Timestamp { secs: i64::MIN, nanos: 0 };
        let handed_over = UNIX_EPOCH - Duration::from_secs(i64::MIN.unsigned_abs());
        assert_eq!((timestamp(handed_over), system_time(least)), (least, handed_over));
    }
}
