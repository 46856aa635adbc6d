//! A chained record log in a ring of persistent memory.
//!
//! What it is for: one writer node appends records in parallel, makes them durable in batches, and mirrors the
//! ring byte for byte to a partner, which checks the chain as the bytes arrive. It stores bytes and knows no
//! file operation.
//!
//! Invariants:
//! - Every record's CRC is seeded with that of the record before it, so (LSN, CRC) names a log prefix exactly.
//! - Recovery yields an exact prefix of what was sealed, at least as long as what was persisted.
//! - Bytes that a truncation or a recovery cut off can never continue the chain again.
//! - No Rust reference into the ring is ever made: the partner and the NIC write there too.
//!
//! What can go wrong: lost or torn cache lines (recovery cuts there), damaged superblocks (two copies), a peer
//! that lies (a typed [`ChainError`], nothing moves), a log of another volume or version (refused, untouched).
//!
//! The bytes are described in `docs/nvlog-format.md`.

#![deny(unsafe_code)]

mod boot;
pub mod format;
mod inspect;
mod log;
mod persist;
mod record;
mod recovery;
pub mod region;
mod superblock;

pub use inspect::{
    InspectError, InspectOptions, Inspection, ListedRecord, Walk, inspect, inspect_with, superblock_of,
};
pub use log::{
    ChainError, FormatError, FormatOptions, Log, LogSlice, OpenError, PersistError, ReadError, Record,
    Records, ReserveError, Slot, TailError, Trimmed, TruncateError, UpdateError,
};
pub use record::RecordKind;
pub use recovery::{CutReason, Lost, RecoveryReport, SuperblockHealth};
pub use region::sim;
pub use region::{OpenMode, Region, RegionError, RegionKind, Stored, UnknownRegionKind};
pub use superblock::{BootId, Superblock, SuperblockDraft, SuperblockError};
