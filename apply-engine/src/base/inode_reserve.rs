//! Inodes that XFS can certainly make.
//!
//! XFS makes inodes 64 at a time, from free blocks that lie side by side. Where what is free is scattered it can make
//! none, however much that is, and `statfs` tells of as many as ever; an object that was answered could then never be
//! put into the tree. So a file in the hidden directory keeps pieces of the disk, each large enough for 64 inodes: a
//! create that meets ENOSPC gives one back, and clients may make what is certain before the next consistency point, and no
//! more.
//!
//! What can go wrong: the disk is scattered, or nearly full, before there is a reserve; then only inodes that are made already
//! are certain. With `inode32` inodes have to lie in the first TiB, and pieces elsewhere are of no use.

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::hidden::Hidden;
use super::{OpenError, allocated, xfs};

/// In the hidden directory.
const NAME: &str = "inode-reserve";
/// A piece holds a chunk of inodes wherever that has to begin.
const CHUNKS_PER_PIECE: u64 = 2;
/// What is kept at most; of a small filesystem, one part in this many.
const MAX_BYTES: u64 = 64 << 20;
const SHARE: u64 = 64;
/// So much stays free, and three quarters of the rest, when the reserve is filled.
const LEFT_BYTES: u64 = 24 << 20;
const LEFT_SHARE: u64 = 4;
/// Pieces that one create gives back at most: not every part of the disk may be of use to it.
const MAX_PIECES_PER_CREATE: usize = 16;
/// Pieces that an allocation group may keep for itself before one of them is of use: its list of free blocks comes first.
const PIECES_PER_GROUP: u64 = 3;
/// Before it is tried again to fill a reserve that could not be filled.
const RETRY: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct InodeReserve {
    file: File,
    piece_bytes: u64,
    /// How many pieces there should be.
    wanted: usize,
    /// How many of them may be of no use.
    spare: u64,
    /// Where those are that there are, in bytes.
    pieces: Mutex<Vec<u64>>,
    not_before: Mutex<Option<Instant>>,
}

impl InodeReserve {
    /// That of a filesystem of `total_bytes`; `None` where inodes are no matter of place.
    pub(super) fn open(
        root: BorrowedFd<'_>,
        hidden: &Hidden,
        total_bytes: u64,
    ) -> Result<Option<InodeReserve>, OpenError> {
        let failed = |errno| OpenError::Root { path: hidden.path_of(NAME), errno };
        if rustix::fs::fstatfs(root).map_err(failed)?.f_type as u64 != xfs::MAGIC {
            return Ok(None);
        }
        let (chunk_bytes, groups) = xfs::chunk_bytes_and_groups(root).map_err(failed)?;
        let piece_bytes = CHUNKS_PER_PIECE * chunk_bytes;
        let wanted = ((total_bytes / SHARE).min(MAX_BYTES) / piece_bytes) as usize;
        // A reserve lies in few of many groups.
        let spare = (PIECES_PER_GROUP * groups).min(wanted as u64 / 4);
        let file = match hidden.file(NAME)? {
            Some(file) => file,
            None => match hidden.new_file(NAME) {
                // There is not even an inode for it; the next start tries again.
                Err(OpenError::Root { errno: Errno::NOSPC, .. }) => return Ok(None),
                other => other?,
            },
        };
        let reserve = InodeReserve {
            file,
            piece_bytes,
            wanted,
            spare,
            pieces: Mutex::default(),
            not_before: Mutex::default(),
        };
        *reserve.pieces.lock() = reserve.whole().map_err(failed)?;
        Ok(Some(reserve))
    }

    /// Nothing of it was given back, or it was put back.
    pub(super) fn is_whole(&self) -> bool {
        self.pieces.lock().len() >= self.wanted
    }

    /// Inodes that can certainly be made, and whether the reserve is as large as it should be.
    pub(super) fn certain(&self) -> Result<(u64, bool), Errno> {
        let pieces = self.pieces.lock().len();
        let made = xfs::free_inodes(self.file.as_fd())?;
        let useful = (pieces as u64).saturating_sub(self.spare);
        Ok((made.saturating_add(useful * xfs::CHUNK_INODES), pieces >= self.wanted))
    }

    /// Does something that makes an inode, and gives back of the reserve what it takes, unless the disk is full:
    /// `has_room` tells.
    pub(super) fn giving<T>(
        &self,
        has_room: impl FnOnce() -> bool,
        act: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut done = act();
        if !matches!(done, Err(Errno::NOSPC)) || !has_room() {
            return done;
        }
        for _ in 0..MAX_PIECES_PER_CREATE {
            if !self.give_piece() {
                break;
            }
            done = act();
            if !matches!(done, Err(Errno::NOSPC)) {
                break;
            }
        }
        done
    }

    fn give_piece(&self) -> bool {
        let mut pieces = self.pieces.lock();
        let Some(offset) = pieces.pop() else { return false };
        // Blocks that were given back are somebody else's only when that is in the filesystem's log.
        match self.punch(offset).and_then(|()| rustix::fs::fsync(&self.file)) {
            Ok(()) => true,
            Err(errno) => {
                tracing::warn!(%errno, "a piece of the inode reserve could not be given back");
                false
            }
        }
    }

    /// Makes the reserve as large as it should be, if `free_bytes` of the disk are enough for that.
    pub(super) fn fill(&self, free_bytes: u64) {
        let mut pieces = self.pieces.lock();
        let affordable = free_bytes.saturating_sub(LEFT_BYTES) / LEFT_SHARE / self.piece_bytes;
        let missing = self.wanted.saturating_sub(pieces.len()).min(affordable as usize);
        let mut not_before = self.not_before.lock();
        if missing == 0 || not_before.is_some_and(|not_before| Instant::now() < not_before) {
            return;
        }
        let places = (0..self.wanted as u64).map(|number| number * self.piece_bytes);
        let tried: Vec<u64> = places.filter(|offset| !pieces.contains(offset)).take(missing).collect();
        let had = pieces.len();
        if let Err(errno) = self.take(&tried, &mut pieces) {
            tracing::debug!(%errno, "the inode reserve could not be filled");
        }
        *not_before = (pieces.len() < had + missing).then(|| Instant::now() + RETRY);
    }

    /// Reserves these pieces, and gives back those that do not lie side by side.
    fn take(&self, tried: &[u64], pieces: &mut Vec<u64>) -> Result<(), Errno> {
        let reserved = tried.iter().try_for_each(|offset| {
            rustix::fs::fallocate(&self.file, FallocateFlags::empty(), *offset, self.piece_bytes)
        });
        *pieces = self.whole()?;
        for offset in tried.iter().filter(|offset| !pieces.contains(offset)) {
            self.punch(*offset)?;
        }
        reserved
    }

    /// Pieces whose blocks lie side by side.
    fn whole(&self) -> Result<Vec<u64>, Errno> {
        let end = self.wanted as u64 * self.piece_bytes;
        let extents = allocated::extents_within(self.file.as_fd(), 0..end)?;
        let whole = |offset: &u64| {
            let piece = *offset..*offset + self.piece_bytes;
            extents.iter().any(|extent| extent.start <= piece.start && piece.end <= extent.end)
        };
        Ok((0..self.wanted as u64).map(|number| number * self.piece_bytes).filter(whole).collect())
    }

    fn punch(&self, offset: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, offset, self.piece_bytes)
    }
}
