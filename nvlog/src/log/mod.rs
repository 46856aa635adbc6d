//! The log (being filled in).
mod errors;
pub use errors::*;
use crate::{RecordKind, RecoveryReport, Region, Superblock, SuperblockDraft};
use ids::{Epoch, LogMemory, LogPoint, Lsn, VolumeId};
use std::sync::Arc;

/// What a new log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FormatOptions {
    /// The volume that it belongs to.
    pub volume: VolumeId,
    /// Length of the ring, the same on both nodes: a multiple of 4096, at least 64 KiB. The region must be
    /// [`crate::format::RING_OFFSET_BYTES`] longer.
    pub capacity_bytes: u64,
    /// Discard whatever the region holds.
    pub overwrite: bool,
}
/// An open log.
pub struct Log { ring: Arc<dyn LogMemory> }
impl Log {
    /// Records that may be reserved and not sealed at the same time.
    pub const MAX_IN_FLIGHT_RECORDS: usize = 4096;
    /// Makes an empty log.
    pub fn format(_region: Box<dyn Region>, _options: FormatOptions) -> Result<Log, FormatError> { todo!() }
    /// Opens and recovers a log.
    pub fn open(_region: Box<dyn Region>, _expect: Option<VolumeId>) -> Result<(Log, RecoveryReport), OpenError> { todo!() }
    /// The ring as memory, for transports.
    pub fn memory(&self) -> Arc<dyn LogMemory> { self.ring.clone() }
    /// The medium's kind.
    pub fn region_kind(&self) -> crate::RegionKind { todo!() }
    /// What a persisted record survives.
    pub fn durability(&self) -> ids::Durability { todo!() }
    /// Reserves space for a payload. Never blocks. LSNs in the order of the calls.
    pub fn reserve(&self, _payload_len: usize) -> Result<Slot<'_>, ReserveError> { todo!() }
    /// Chains all published contiguous records; returns the new end.
    pub fn seal(&self) -> LogPoint { todo!() }
    /// Makes everything sealed or ingested before `to` durable.
    pub fn persist(&self, _from: Lsn, _to: Lsn) -> Result<(), PersistError> { todo!() }
    /// Following records carry `epoch`.
    pub fn set_epoch(&self, _epoch: Epoch) -> Result<(), UpdateError> { todo!() }
    /// The epoch that records carry.
    pub fn epoch(&self) -> Epoch { todo!() }
    /// Begins `epoch`: history entry durable, then an epoch record with `payload`, sealed and persisted; its end.
    pub fn append_epoch_record(&self, _epoch: Epoch, _payload: &[u8]) -> Result<LogPoint, UpdateError> { todo!() }
    /// Takes over bytes up to `to` that a peer has written into the ring.
    pub fn ingest(&self, _to: Lsn) -> Result<LogPoint, ChainError> { todo!() }
    /// Takes over whatever complete records continue the chain beyond the end (takeover); the new end and why it stopped.
    pub fn ingest_all(&self) -> Result<(LogPoint, crate::CutReason), ChainError> { todo!() }
    /// Drops everything after `to`; durable on return.
    pub fn truncate(&self, _to: LogPoint) -> Result<(), TruncateError> { todo!() }
    /// Drops everything and begins again, empty, at `at` (before a full resync); durable on return.
    pub fn reset(&self, _at: LogPoint) -> Result<(), TruncateError> { todo!() }
    /// Where recovery begins.
    pub fn tail(&self) -> LogPoint { todo!() }
    /// End of the sealed (or ingested) records.
    pub fn end(&self) -> LogPoint { todo!() }
    /// End of the space given to records.
    pub fn reserved(&self) -> Lsn { todo!() }
    /// End of what `persist` has made durable.
    pub fn persisted(&self) -> Lsn { todo!() }
    /// Length of the ring.
    pub fn capacity_bytes(&self) -> u64 { todo!() }
    /// Largest payload.
    pub fn max_payload_bytes(&self) -> u64 { todo!() }
    /// Bytes that can be reserved now.
    pub fn free_bytes(&self) -> u64 { todo!() }
    /// The point at a record boundary between tail and end.
    pub fn point_at(&self, _lsn: Lsn) -> Option<LogPoint> { todo!() }
    /// Whether `point` is a prefix whose chain leads to our end and whose continuation the ring still holds.
    pub fn continues_from(&self, _point: LogPoint) -> bool { todo!() }
    /// Oldest position that is not overwritten.
    pub fn oldest_retained(&self) -> Lsn { todo!() }
    /// Keeps everything from here on, whatever is trimmed, until told otherwise.
    pub fn hold(&self, _from: Option<Lsn>) -> Result<(), Trimmed> { todo!() }
    /// Everything before may be overwritten.
    pub fn set_space_floor(&self, _floor: Lsn) { todo!() }
    /// Moves the tail; durable on return.
    pub fn advance_tail(&self, _to: LogPoint) -> Result<(), TailError> { todo!() }
    /// The records from a point to `to`.
    pub fn records(&self, _from: LogPoint, _to: Lsn) -> Records<'_> { todo!() }
    /// Copies bytes out; fails when they were overwritten meanwhile.
    pub fn copy_out(&self, _lsn: Lsn, _dst: &mut [u8]) -> Result<(), Trimmed> { todo!() }
    /// Contiguous log memory, for the kernel to read.
    pub fn payload_ptr(&self, _lsn: Lsn, _len: usize) -> Result<LogSlice, Trimmed> { todo!() }
    /// A copy of the superblock.
    pub fn superblock(&self) -> Superblock { todo!() }
    /// Changes the superblock; durable on return.
    pub fn update_superblock(&self, _change: impl FnOnce(&mut SuperblockDraft)) -> Result<(), UpdateError> { todo!() }
}
/// Space for one record.
pub struct Slot<'a> { _log: &'a Log }
impl Slot<'_> {
    /// Start of the record.
    pub fn lsn(&self) -> Lsn { todo!() }
    /// End of the record.
    pub fn end_lsn(&self) -> Lsn { todo!() }
    /// Start of the payload.
    pub fn payload_lsn(&self) -> Lsn { todo!() }
    /// Copies `parts`, which must add up to the reserved length, and marks the record complete.
    pub fn publish(self, _parts: &[&[u8]]) { todo!() }
}
/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Start.
    pub lsn: Lsn,
    /// End.
    pub end: Lsn,
    /// Who wrote it.
    pub epoch: Epoch,
    /// What it is.
    pub kind: RecordKind,
    /// Start of the payload.
    pub payload_lsn: Lsn,
    /// Length of the payload; 0 for pad and no-op records.
    pub payload_len: usize,
    /// The point after it.
    pub point_after: LogPoint,
}
/// Iterator over records.
pub struct Records<'a> { _log: &'a Log }
impl Iterator for Records<'_> {
    type Item = Result<Record, ReadError>;
    fn next(&mut self) -> Option<Self::Item> { todo!() }
}
/// Log memory, kept mapped while this lives.
pub struct LogSlice { _memory: Arc<dyn LogMemory> }
impl LogSlice {
    /// First byte.
    pub fn as_ptr(&self) -> *const u8 { todo!() }
    /// Length.
    pub fn len(&self) -> usize { todo!() }
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool { todo!() }
}
