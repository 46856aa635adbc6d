//! What can go wrong with a log, one type per operation; each says what to do.

use crate::recovery::CutReason;
use crate::region::RegionError;
use crate::superblock::SuperblockError;
use ids::{Epoch, LogPoint, Lsn, VolumeId};
use std::io;

/// Why a region cannot be formatted. Nothing was changed, except after [`FormatError::Io`].
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// There is a log already, whole or damaged.
    #[error("the region holds a log already ({what}); nothing was changed. To discard it say so explicitly")]
    HoldsLog {
        /// What the superblock copies say.
        what: String,
    },
    /// There is something else at the place of the superblocks.
    #[error(
        "the region is not empty and holds no log; nothing was changed. To discard its content say so explicitly"
    )]
    NotEmpty,
    /// Not a capacity that a ring can have.
    #[error("a log of {capacity_bytes} bytes is impossible: use a multiple of 4096, at least 65536")]
    BadCapacity {
        /// The capacity asked for.
        capacity_bytes: u64,
    },
    /// The region is too short for the capacity.
    #[error("the region has {has_bytes} bytes, a log of that capacity needs {needs_bytes}")]
    RegionTooSmall {
        /// Superblocks and ring.
        needs_bytes: u64,
        /// The region's length.
        has_bytes: u64,
    },
    /// The medium failed.
    #[error("writing the new log failed: {0}")]
    Io(#[from] io::Error),
}

/// Why a log cannot be opened. Nothing was changed, except after [`OpenError::Io`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The region itself cannot be opened.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// No superblock copy can be used.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// The log of another volume.
    #[error("the log belongs to volume {found}, expected {expected}: check `log.path` and the volume's id")]
    OtherVolume {
        /// The volume in the superblock.
        found: VolumeId,
        /// The volume that was expected.
        expected: VolumeId,
    },
    /// The region is shorter than the superblock says.
    #[error(
        "the superblock says that the log needs {needs_bytes} bytes, the region has {has_bytes}: it was cut, or \
         the path is wrong"
    )]
    CapacityMismatch {
        /// What the superblock says.
        needs_bytes: u64,
        /// The region's length.
        has_bytes: u64,
    },
    /// An intact record that this program does not understand: cutting there would lose what it says.
    #[error("the record at LSN {lsn} was written by a newer program ({what}): use that program")]
    FutureRecord {
        /// Where it is.
        lsn: Lsn,
        /// What is not understood.
        what: String,
    },
    /// The region is shorter than a superblock and the smallest ring.
    #[error("the region has {has_bytes} bytes, too short for any log")]
    RegionTooSmall {
        /// The region's length.
        has_bytes: u64,
    },
    /// The medium failed.
    #[error("preparing the log failed: {0}")]
    Io(#[from] io::Error),
}

/// Why no slot was reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReserveError {
    /// The ring is full until the tail (here or at the partner) advances.
    #[error("the log is full: {free_bytes} bytes free, {needs_bytes} needed")]
    Full {
        /// Bytes that the record takes, padding at the ring's end included.
        needs_bytes: u64,
        /// Bytes that may be overwritten now.
        free_bytes: u64,
    },
    /// No ring of this capacity takes such a payload.
    #[error("a payload of {payload_len} bytes is longer than this log takes ({max_bytes})")]
    TooLarge {
        /// Length asked for.
        payload_len: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// [`crate::Log::MAX_IN_FLIGHT_RECORDS`] slots are reserved and the oldest is not published yet: try again
    /// once its owner has published.
    #[error("too many records are being written at once")]
    TooManyInFlight,
}

/// The medium refused to make records durable.
#[derive(Debug, thiserror::Error)]
#[error("persisting the log from LSN {from} to {to} failed: {source}")]
pub struct PersistError {
    /// Start of the range.
    pub from: Lsn,
    /// End of the range.
    pub to: Lsn,
    /// What the medium said.
    pub source: io::Error,
}

/// The bytes that a peer sent do not continue this log. Nothing was moved.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// A record is not what must follow.
    #[error("the record at LSN {lsn} does not continue the chain from {end}: {reason}")]
    Broken {
        /// The log's end, which did not move.
        end: LogPoint,
        /// Where the chain broke.
        lsn: Lsn,
        /// The row of the decision table.
        reason: CutReason,
    },
    /// The claimed end lies inside a record.
    #[error("the claimed end {to} lies inside the record at LSN {lsn}")]
    NotABoundary {
        /// The record.
        lsn: Lsn,
        /// The claimed end.
        to: Lsn,
    },
    /// The claimed end lies before the log's end.
    #[error("the claimed end {to} lies before the end of the log, {end}")]
    Backwards {
        /// The log's end.
        end: LogPoint,
        /// The claimed end.
        to: Lsn,
    },
    /// The claimed end would overwrite what is still needed here.
    #[error("the claimed end {to} lies more than the capacity behind {floor}, which is still needed")]
    Overrun {
        /// Oldest position that must not be overwritten.
        floor: Lsn,
        /// The claimed end.
        to: Lsn,
    },
    /// This node has reserved slots itself: it is writing, not receiving.
    #[error("this log is being written locally (reserved up to {reserved}, sealed up to {end})")]
    Writing {
        /// Reserved up to here.
        reserved: Lsn,
        /// Sealed up to here.
        end: LogPoint,
    },
}

/// Why the log was not truncated.
#[derive(Debug, thiserror::Error)]
pub enum TruncateError {
    /// No record of this log ends there with that CRC.
    #[error("{to} is not a point of this log (tail {tail}, end {end}): it cannot be truncated there")]
    NotAPoint {
        /// The point asked for.
        to: LogPoint,
        /// The log's tail.
        tail: LogPoint,
        /// The log's end.
        end: LogPoint,
    },
    /// Slots are reserved that are not sealed.
    #[error("records are being written (reserved up to {reserved}, sealed up to {end})")]
    Writing {
        /// Reserved up to here.
        reserved: Lsn,
        /// Sealed up to here.
        end: LogPoint,
    },
    /// The medium failed; open the log again to learn its state.
    #[error("truncating the log failed: {0}")]
    Io(#[from] io::Error),
}

/// Why the tail was not advanced.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// Before the tail, after the end, or no point of this log.
    #[error("the tail cannot move from {tail} to {to} (end {end})")]
    NotAPoint {
        /// The point asked for.
        to: LogPoint,
        /// The log's tail.
        tail: LogPoint,
        /// The log's end.
        end: LogPoint,
    },
    /// What lies before the point is not durable.
    #[error("the tail cannot move to {to}: the log is durable up to {persisted} only; persist it first")]
    NotDurable {
        /// The point asked for.
        to: LogPoint,
        /// End of what is durable.
        persisted: Lsn,
    },
    /// The medium failed; the tail is where it was.
    #[error("writing the superblock failed: {0}")]
    Io(#[from] io::Error),
}

/// Why the superblock was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Longer than the superblock has room for.
    #[error("a role state of {len_bytes} bytes is longer than {}", crate::format::MAX_ROLE_STATE_BYTES)]
    RoleStateTooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// The epoch would go back, or records of the old one are still being written.
    #[error("epoch {new} cannot begin now: epoch {now} is written up to {end}, reserved up to {reserved}")]
    Epoch {
        /// The epoch asked for.
        new: Epoch,
        /// The epoch that records carry now.
        now: Epoch,
        /// Sealed up to here.
        end: Lsn,
        /// Reserved up to here.
        reserved: Lsn,
    },
    /// The epoch's record does not fit.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The epoch's record could not be made durable.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// The medium failed; the superblock is what it was.
    #[error("writing the superblock failed: {0}")]
    Io(#[from] io::Error),
}

/// The bytes asked for have been overwritten, or may be at any moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("LSN {lsn} is not in the log any more (or not yet): it holds {oldest} to {end}")]
pub struct Trimmed {
    /// The position asked for.
    pub lsn: Lsn,
    /// Oldest position that is safe to read.
    pub oldest: Lsn,
    /// The log's end.
    pub end: Lsn,
}

/// Why reading records stopped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// Overwritten since.
    #[error(transparent)]
    Trimmed(#[from] Trimmed),
    /// The chain does not continue from the point that was given.
    #[error("the record at LSN {lsn} does not continue the chain: {reason}")]
    Broken {
        /// Where.
        lsn: Lsn,
        /// The row of the decision table.
        reason: CutReason,
    },
}
