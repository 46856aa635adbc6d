//! fallocate(2), copy_file_range(2), lseek(2) for data and holes.
//!
//! Collapsing and inserting ranges is refused: it moves bytes relative to each other, and a record must be
//! absolute to be applied twice. A copy is logged as its bytes for the same reason: by the time of a replay
//! the source may be overwritten.

use super::attributes::stranger;
use super::data::require_file;
use super::errno::{Errno, Result};
use super::principal::Principal;
use super::transaction::Transaction;
use super::{Volume, WriteAt};
use apply_engine::Operation;
use commit::Ask;
use ids::{BaseLimits, Oid};

/// Payload of the records of one fallocate.
const PAYLOAD_BYTES: usize = 512;
/// Most bytes that one call copies; the caller goes on where it ended.
const MAX_COPY_BYTES: u64 = 16 << 20;
/// Bytes that are copied at a time.
const COPY_STEP_BYTES: usize = 1 << 20;

/// What fallocate(2) does to a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocateMode {
    /// Reserve blocks, change no byte.
    Reserve {
        /// Leave the length alone (`FALLOC_FL_KEEP_SIZE`).
        keep_size: bool,
    },
    /// Make it a hole (`FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`).
    PunchHole,
    /// Make it zeros (`FALLOC_FL_ZERO_RANGE`).
    Zero {
        /// Leave the length alone.
        keep_size: bool,
    },
}

impl AllocateMode {
    /// From the bits of fallocate(2).
    ///
    /// # Errors
    /// EOPNOTSUPP for collapse, insert, unshare, and what is unknown.
    pub fn from_bits(bits: i32) -> Result<AllocateMode> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        match bits {
            0 => Ok(AllocateMode::Reserve { keep_size: false }),
            KEEP => Ok(AllocateMode::Reserve { keep_size: true }),
            PUNCH => Ok(AllocateMode::PunchHole),
            ZERO => Ok(AllocateMode::Zero { keep_size: false }),
            ZERO_KEEP => Ok(AllocateMode::Zero { keep_size: true }),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekTo {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

impl Volume {
    /// fallocate(2).
    ///
    /// # Errors
    /// EINVAL, EFBIG, ENOSPC, EISDIR, EOPNOTSUPP where a base cannot.
    pub fn allocate(
        &self,
        who: &dyn Principal,
        oid: Oid,
        mode: AllocateMode,
        offset: u64,
        len_bytes: u64,
    ) -> Result<()> {
        let end = offset.checked_add(len_bytes).ok_or(Errno::EFBIG)?;
        if len_bytes == 0 {
            return Err(Errno::EINVAL);
        }
        if end > self.limits.max_allocate_bytes {
            return Err(Errno::EFBIG);
        }
        let BaseLimits { allocates, punches, .. } = self.limits;
        let possible = match mode {
            AllocateMode::PunchHole => punches,
            AllocateMode::Zero { .. } => allocates && punches,
            AllocateMode::Reserve { .. } => allocates,
        };
        if !possible {
            return Err(Errno::EOPNOTSUPP);
        }
        self.warm(oid)?;
        let range = offset..end;
        let ask = Ask { allocate_bytes: len_bytes, content: true, ..Ask::growing(PAYLOAD_BYTES) };
        match mode {
            AllocateMode::PunchHole => self.transact(Ask::keeping(PAYLOAD_BYTES), |transaction| {
                transaction.allocate(who, oid, mode, range.clone())
            }),
            AllocateMode::Zero { .. } | AllocateMode::Reserve { .. } => {
                let may = || self.has_room(oid, range.clone());
                self.transact_in_place(ask, None, may, |transaction, in_place| {
                    if in_place && !transaction.layers().is_allocated(oid, range.clone())? {
                        return Ok(None);
                    }
                    transaction.allocate(who, oid, mode, range.clone()).map(Some)
                })
            }
        }
    }

    /// copy_file_range(2): how many bytes were copied, fewer than asked for at the end of the source and for
    /// long ranges.
    ///
    /// # Errors
    /// As reading and writing.
    pub fn copy_range(
        &self,
        who: &dyn Principal,
        (from, from_offset): (Oid, u64),
        (to, to_offset): (Oid, u64),
        len_bytes: u64,
    ) -> Result<u64> {
        let wanted = len_bytes.min(MAX_COPY_BYTES);
        let target = self.known(to)?.attributes;
        let stranger = stranger(who, target.mode);
        let mut buf = vec![0; COPY_STEP_BYTES.min(wanted as usize)];
        let mut copied = 0;
        while copied < wanted {
            let step = buf.len().min((wanted - copied) as usize);
            let outcome = self
                .read(from, from_offset + copied, &mut buf[..step])
                .and_then(|got| self.write(to, WriteAt::Offset(to_offset + copied), &buf[..got], stranger));
            match outcome {
                Ok(0) => break,
                Ok(len) => copied += len as u64,
                Err(_) if copied > 0 => {
                    // The caller goes on from there, and waits then.
                    commit::settle();
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    /// Where the next data or hole begins. While somebody has the file open for writing all of it is data: a
    /// mapping or a cache may hold bytes for what is a hole here.
    ///
    /// # Errors
    /// ENXIO when there is none, or `offset` is past the end.
    pub fn seek(&self, oid: Oid, offset: u64, to: SeekTo) -> Result<u64> {
        let inode = self.known(oid)?;
        require_file(inode.attributes.kind)?;
        let layers = self.stack.snapshot();
        let size = inode.attributes.size;
        let found = match to {
            _ if offset >= size => None,
            SeekTo::Data if self.is_open_for_writing(oid) => Some(offset),
            SeekTo::Hole if self.is_open_for_writing(oid) => Some(size),
            SeekTo::Data => layers.seek_data(oid, offset)?,
            SeekTo::Hole => layers.seek_hole(oid, offset)?,
        };
        self.show(self.gate(oid)?)?;
        found.ok_or(Errno::ENXIO)
    }
}

impl Transaction<'_> {
    fn allocate(
        &mut self,
        who: &dyn Principal,
        oid: Oid,
        mode: AllocateMode,
        range: std::ops::Range<u64>,
    ) -> Result<()> {
        let before = self.inode(oid)?.attributes;
        require_file(before.kind)?;
        self.drop_privileges(oid, stranger(who, before.mode))?;
        let at = self.at;
        let grown = before.size.max(range.end);
        let (offset, len_bytes) = (range.start, range.end - range.start);
        let (operation, size) = match mode {
            AllocateMode::Reserve { keep_size } => {
                let size_after = if keep_size { before.size } else { grown };
                (Operation::Allocate { oid, offset, len_bytes, size_after, at }, size_after)
            }
            AllocateMode::PunchHole => {
                (Operation::PunchHole { oid, offset, len_bytes, size_after: before.size, at }, before.size)
            }
            AllocateMode::Zero { keep_size } => {
                let size_after = if keep_size { before.size } else { grown };
                (Operation::ZeroRange { oid, offset, len_bytes, size_after, at }, size_after)
            }
        };
        let end = self.record(&operation, &[])?;
        self.update(oid, end, |inode| {
            inode.attributes.size = size;
            inode.attributes.mtime = at;
            inode.attributes.ctime = at;
            inode.blocks_stale = true;
            inode.keeps_mtime = false;
        });
        Ok(())
    }
}
