//! What the log promises, tried on the simulated region.

mod age;
mod applying;
mod crash;
mod damage;
mod parallel;
mod peer;
mod ring;

use super::*;
use crate::format::RING_OFFSET_BYTES;
use crate::recovery::RecoveryReport;
use crate::sim::SimRegion;
use ids::VolumeId;

pub(super) const CAPACITY_BYTES: u64 = 64 * 1024;
pub(super) const VOLUME: VolumeId = VolumeId([0xA5; 16]);

pub(super) fn options() -> FormatOptions {
    FormatOptions { volume: VOLUME, capacity_bytes: CAPACITY_BYTES, overwrite: false }
}

/// An empty log and a handle on its memory.
pub(super) fn new_log() -> (Log, SimRegion) {
    let region = SimRegion::new(RING_OFFSET_BYTES + CAPACITY_BYTES);
    let log = Log::format(Box::new(region.clone()), options()).unwrap();
    (log, region)
}

pub(super) fn reopen(region: SimRegion) -> (Log, RecoveryReport) {
    Log::open(Box::new(region), Some(VOLUME)).unwrap()
}

/// A payload that tells its number and length.
pub(super) fn payload(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + number * 7 + 1) as u8).collect()
}

pub(super) fn append(log: &Log, bytes: &[u8]) -> LogPoint {
    log.reserve(bytes.len()).unwrap().publish(&[bytes]);
    log.seal()
}

pub(super) fn append_durably(log: &Log, bytes: &[u8]) -> LogPoint {
    log.reserve(bytes.len()).unwrap().publish(&[bytes]);
    log.seal_and_persist().unwrap()
}

/// All payloads of data records from the tail on.
pub(super) fn payloads(log: &Log) -> Vec<Vec<u8>> {
    let records = log.records(log.tail(), log.end().lsn).map(Result::unwrap);
    let data = records.filter(|record| record.kind == crate::RecordKind::Data);
    data.map(|record| {
        let mut bytes = vec![0; record.payload_len];
        log.copy_out(record.payload_lsn, &mut bytes).unwrap();
        bytes
    })
    .collect()
}

/// Moves tail and floor to the end.
pub(super) fn trim_all(log: &Log) {
    log.persist(log.tail().lsn, log.end().lsn).unwrap();
    log.advance_tail(log.end()).unwrap();
    log.set_space_floor(log.end().lsn);
}
