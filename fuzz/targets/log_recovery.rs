//! Opening a log whose bytes were changed anywhere: it is refused or recovered, never a panic, and what was
//! recovered is recovered again.
//!
//! The input is a list of patches of a sound log; the first byte says whether the superblock's checksums are made
//! to fit again, so that wild values behind them are tried too.

#![no_main]

use ids::{LogPoint, VolumeId};
use libfuzzer_sys::fuzz_target;
use nvlog::format::{self, RING_OFFSET_BYTES};
use nvlog::sim::SimRegion;
use nvlog::{FormatOptions, Log};
use std::sync::LazyLock;

const CAPACITY_BYTES: u64 = 64 * 1024;
const VOLUME: VolumeId = VolumeId([0xA5; 16]);
/// A patch: where (3 bytes), how long (1 byte), then its bytes.
const PATCH_HEAD_BYTES: usize = 4;

/// A log with a dozen records of several lengths, a moved tail and two epochs.
static SOUND: LazyLock<SimRegion> = LazyLock::new(|| {
    let region = SimRegion::new(RING_OFFSET_BYTES + CAPACITY_BYTES);
    let options = FormatOptions { volume: VOLUME, capacity_bytes: CAPACITY_BYTES, overwrite: false };
    let log = Log::format(Box::new(region.clone()), options).expect("an empty region can be formatted");
    let mut points: Vec<LogPoint> = Vec::new();
    for number in 0..12usize {
        let payload = vec![number as u8; number * 37];
        log.reserve(payload.len()).expect("there is room").publish(&[&payload]);
        points.push(log.seal_and_persist().expect("simulated memory persists"));
        if number == 5 {
            log.append_epoch_record(ids::Epoch(3), b"epoch").expect("there is room");
        }
    }
    log.advance_tail(points[2]).expect("a record ends there");
    drop(log);
    region
});

fuzz_target!(|input: &[u8]| {
    let Some((&mend, mut patches)) = input.split_first() else { return };
    let region = SOUND.kill_process();
    let len_bytes = RING_OFFSET_BYTES + CAPACITY_BYTES;
    while let Some((head, rest)) = patches.split_first_chunk::<PATCH_HEAD_BYTES>() {
        let offset = u64::from(u32::from_le_bytes([head[0], head[1], head[2], 0])) % len_bytes;
        let room = (len_bytes - offset) as usize;
        let (bytes, rest) = rest.split_at(usize::from(head[3]).min(rest.len()));
        region.damage(offset, &bytes[..bytes.len().min(room)]);
        patches = rest;
    }
    if mend & 1 == 1 {
        mend_superblocks(&region);
    }
    let again = region.clone();
    let Ok((log, report)) = Log::open(Box::new(region), None) else { return };
    assert!(report.tail.lsn <= report.end.lsn, "{report:?}");
    for record in log.records(log.tail(), log.end().lsn) {
        let record = record.expect("what was recovered can be read");
        let mut bytes = vec![0; record.payload_len];
        log.copy_out(record.payload_lsn, &mut bytes).expect("what was recovered is kept");
    }
    drop(log);
    let (_, second) = Log::open(Box::new(again), None).expect("what was recovered once is recovered again");
    assert_eq!((second.tail, second.end), (report.tail, report.end));
});

fn mend_superblocks(region: &SimRegion) {
    let memory = region.memory();
    for offset in format::SUPERBLOCK_OFFSETS {
        let covered = &memory[offset as usize..][..format::superblock::CRC];
        let crc = crc32c::crc32c(covered).to_le_bytes();
        region.damage(offset + format::superblock::CRC as u64, &crc);
    }
}
