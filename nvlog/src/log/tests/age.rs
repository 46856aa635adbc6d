//! A log that is older than it should be: a copy of the superblock that rotted, or one that was brought back.

use super::damage::forge;
use super::*;
use crate::format::{self, SUPERBLOCK_OFFSETS, superblock as at};
use crate::record::put;
use crate::recovery::{CutReason, Lost};
use crate::region::ring::read_superblock;

/// Records and trims until the ring has come round more than once; the role tells how often.
fn laps(log: &Log, rounds: u8) -> LogPoint {
    for round in 0..rounds {
        for n in 0..5 {
            append_durably(log, &payload(n, 7000));
        }
        trim_all(log);
        log.update_superblock(|draft| draft.role_state = vec![round + 1; 9]).unwrap();
    }
    log.end()
}

fn superblocks(region: &SimRegion) -> [[u8; format::SUPERBLOCK_BYTES]; 2] {
    [0, 1].map(|index| read_superblock(region, index))
}

fn bring_back(region: &SimRegion, copies: &[[u8; format::SUPERBLOCK_BYTES]; 2]) {
    for (offset, copy) in SUPERBLOCK_OFFSETS.into_iter().zip(copies) {
        region.damage(offset, copy);
    }
}

#[test]
fn whichever_copy_rots_the_newest_state_counts() {
    for offset in SUPERBLOCK_OFFSETS {
        let (log, region) = new_log();
        let end = laps(&log, 3);
        drop(log);
        region.damage(offset + 30, b"rot");
        let (log, report) = reopen(region);
        assert_eq!((report.tail, report.end, report.memory_lost), (end, end, false), "copy at {offset}");
        assert_eq!(log.superblock().role_state, vec![3; 9], "copy at {offset}");
    }
}

#[test]
fn a_write_that_fails_half_way_leaves_a_state_to_start_from() {
    for failing in 0..2 {
        let (log, region) = new_log();
        log.update_superblock(|draft| draft.role_state = vec![1; 900]).unwrap();
        for round in 0..4 {
            region.fail_persist_from(Some(failing));
            log.update_superblock(|draft| draft.role_state = vec![2; 900]).unwrap_err();
            region.fail_persist_from(None);
            let state = reopen(region.crash(round)).0.superblock().role_state;
            assert!(state == vec![1; 900] || state == vec![2; 900], "{state:?}");
        }
        log.update_superblock(|draft| draft.role_state = vec![3; 900]).unwrap();
        for offset in SUPERBLOCK_OFFSETS {
            let crashed = region.crash_losing_all();
            crashed.damage(offset + 30, b"rot");
            assert_eq!(reopen(crashed).0.superblock().role_state, vec![3; 900]);
        }
    }
}

#[test]
fn superblocks_of_an_earlier_lap_are_memory_that_is_lost() {
    let (log, region) = new_log();
    append_durably(&log, &payload(0, 900));
    log.update_superblock(|draft| draft.role_state = vec![1]).unwrap();
    let old = superblocks(&region);
    laps(&log, 3);
    append_durably(&log, &payload(1, 900));
    drop(log);
    bring_back(&region, &old);
    let (log, report) = reopen(region.clone());
    assert!(report.memory_lost, "{report:?}");
    drop(log);
    assert!(reopen(region).1.memory_lost, "also after another restart");
}

#[test]
fn a_later_lap_at_the_tail_is_memory_that_is_lost() {
    let (log, region) = new_log();
    let old = superblocks(&region);
    // Records that fill the ring to the byte: a lap later one begins where the first one did.
    for _ in 0..8 {
        append_durably(&log, &payload(2, 8192 - format::HEADER_BYTES));
        trim_all(&log);
    }
    append_durably(&log, &payload(3, 900));
    drop(log);
    bring_back(&region, &old);
    let (_, report) = reopen(region);
    assert_eq!((report.cut, report.lost), (CutReason::LaterLap, Some(Lost::LaterLap { tail: Lsn(0) })));
    assert!(report.memory_lost);
}

#[test]
fn a_walk_that_ends_before_the_durable_end_is_no_torn_tail() {
    let (log, region) = new_log();
    let first = append_durably(&log, b"durable");
    let second = append_durably(&log, b"durable too");
    log.update_superblock(|draft| draft.role_state = vec![1]).unwrap();
    append(&log, b"may be torn");
    drop(log);
    let torn = region.crash_losing_all();
    torn.damage(RING_OFFSET_BYTES + second.lsn.0, b"torn");
    let (_, report) = reopen(torn);
    assert_eq!((report.end, report.lost), (second, None));

    region.damage(RING_OFFSET_BYTES + first.lsn.0 + 64, b"rot");
    let (_, report) = reopen(region.clone());
    let cut = CutReason::PayloadBroken;
    let lost = Lost::EndsEarly { durable_end: second.lsn, end: first.lsn, cut };
    assert_eq!((report.lost, report.memory_lost), (Some(lost), true));
    let (log, again) = reopen(region.clone());
    assert_eq!((again.lost, again.memory_lost), (None, true), "until the owner says that it is complete");
    log.update_superblock(|draft| draft.memory_lost = false).unwrap();
    drop(log);
    assert!(!reopen(region).1.memory_lost);
}

#[test]
fn what_was_cut_off_is_not_missed() {
    let (log, region) = new_log();
    let keep = append_durably(&log, b"stays");
    append_durably(&log, b"is cut off");
    log.update_superblock(|draft| draft.role_state = vec![1]).unwrap();
    log.truncate(keep).unwrap();
    let (log, report) = reopen(region.crash_losing_all());
    assert_eq!((report.end, report.lost), (keep, None));
    log.reset(LogPoint { lsn: Lsn(128), ..keep }).unwrap();
    assert_eq!(reopen(region).1.lost, None);
}

#[test]
fn a_new_log_over_an_old_one_misses_nothing() {
    let (log, region) = new_log();
    laps(&log, 4);
    append_durably(&log, &payload(5, 900));
    drop(log);
    let overwrite = FormatOptions { overwrite: true, ..options() };
    drop(Log::format(Box::new(region.clone()), overwrite).unwrap());
    let (_, report) = reopen(region);
    assert_eq!((report.lost, report.cut), (None, CutReason::NoRecord));
}

/// Both copies as the version before would have written them.
fn as_version_1(region: &SimRegion) {
    forge(region, |copy| {
        put(copy, at::VERSION, &1u16.to_le_bytes());
        put(copy, at::DURABLE_END, &[0; 8]);
        put(copy, at::APPLYING_END, &[0; 8]);
    });
}

#[test]
fn a_log_of_version_1_opens_and_is_of_version_2_then() {
    let (log, region) = new_log();
    let end = append_durably(&log, b"written by the version before");
    drop(log);
    as_version_1(&region);
    let (log, report) = reopen(region.clone());
    assert_eq!((report.end, report.records, report.lost), (end, 1, None));
    assert_eq!(log.superblock().durable_end, end.lsn);
    drop(log);
    for copy in superblocks(&region) {
        assert_eq!(copy[at::VERSION], 2);
    }
}

#[test]
fn a_bad_copy_of_version_1_may_have_been_the_newer() {
    let (log, region) = new_log();
    append_durably(&log, b"written by the version before");
    drop(log);
    as_version_1(&region);
    region.damage(SUPERBLOCK_OFFSETS[0] + 30, b"rot");
    let (_, report) = reopen(region);
    assert_eq!((report.lost, report.memory_lost), (Some(Lost::OlderCopy), true));
}
