//! Bytes that a peer put into the ring: taken in as far as they continue the chain, never a panic, and what was
//! there before stays.

#![no_main]

use ids::VolumeId;
use libfuzzer_sys::fuzz_target;
use nvlog::format::RING_OFFSET_BYTES;
use nvlog::sim::SimRegion;
use nvlog::{FormatOptions, Log};
use std::sync::LazyLock;

const CAPACITY_BYTES: u64 = 64 * 1024;
const MARK: &[u8] = b"was here before";

/// A partner's log with one record, and the bytes that its primary would send next.
static PAIR: LazyLock<(SimRegion, u64, Vec<u8>)> = LazyLock::new(|| {
    let region = SimRegion::new(RING_OFFSET_BYTES + CAPACITY_BYTES);
    let options =
        FormatOptions { volume: VolumeId([7; 16]), capacity_bytes: CAPACITY_BYTES, overwrite: false };
    let log = Log::format(Box::new(region.clone()), options).expect("an empty region can be formatted");
    log.reserve(MARK.len()).expect("there is room").publish(&[MARK]);
    let end = log.seal_and_persist().expect("simulated memory persists");
    let before = region.kill_process();
    for number in 1..6usize {
        let payload = vec![number as u8; number * 50];
        log.reserve(payload.len()).expect("there is room").publish(&[&payload]);
    }
    let next = log.seal_and_persist().expect("simulated memory persists");
    let sent = (RING_OFFSET_BYTES + end.lsn.0) as usize..(RING_OFFSET_BYTES + next.lsn.0) as usize;
    (before, end.lsn.0, region.memory()[sent].to_vec())
});

fuzz_target!(|input: &[u8]| {
    let (before, end, sent) = &*PAIR;
    let region = before.kill_process();
    // The input is laid over what would be right, so that most of the chain can be reached.
    let mut bytes = sent.clone();
    for (place, byte) in bytes.iter_mut().zip(input) {
        *place ^= byte;
    }
    let (log, _) = Log::open(Box::new(region.clone()), None).expect("the log before is sound");
    region.damage(RING_OFFSET_BYTES + end, &bytes);
    let before_end = log.end();
    if let Ok((landed, _)) = log.ingest_all() {
        assert!(landed.lsn >= before_end.lsn && landed.lsn.0 <= end + sent.len() as u64);
        assert!(input.iter().any(|byte| *byte != 0) || landed.lsn.0 == end + sent.len() as u64);
    }
    let first = log.records(log.tail(), log.end().lsn).next();
    let first = first.expect("the first record stays").expect("and can be read");
    let mut kept = vec![0; first.payload_len];
    log.copy_out(first.payload_lsn, &mut kept).expect("it is not trimmed");
    assert_eq!(kept, MARK);
});
