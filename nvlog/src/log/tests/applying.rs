//! Up to where the base tree may be half applied, as the superblock tells it.

use super::damage::forge;
use super::*;
use crate::format::superblock as at;
use crate::record::put;

#[test]
fn what_was_begun_to_be_applied_is_known_after_a_crash() {
    let (log, region) = new_log();
    assert_eq!(log.applying_end(), Lsn(0), "nothing was applied");
    let ends: Vec<LogPoint> = (0..3).map(|n| append_durably(&log, &payload(n, 300))).collect();
    log.begin_applying(ends[0].lsn).unwrap();
    let region = region.crash_losing_all();
    let (log, _) = reopen(region.clone());
    assert_eq!(log.applying_end(), ends[0].lsn);
    log.advance_tail(ends[0]).unwrap();
    log.begin_applying(ends[1].lsn).unwrap();
    let (log, _) = reopen(region.crash_losing_all());
    assert_eq!((log.tail(), log.applying_end()), (ends[0], ends[1].lsn));
    log.advance_tail(ends[2]).unwrap();
    assert_eq!(log.applying_end(), ends[2].lsn, "what is before the tail is applied");
}

#[test]
fn a_log_begun_anew_has_nothing_half_applied() {
    let (log, region) = new_log();
    let end = append_durably(&log, &payload(1, 5000));
    log.begin_applying(end.lsn).unwrap();
    log.reset(LogPoint { lsn: Lsn(128), ..end }).unwrap();
    let end = append_durably(&log, &payload(1, 5000));
    assert_eq!(log.applying_end(), Lsn(128));
    let (log, _) = reopen(region);
    assert_eq!((log.end(), log.applying_end()), (end, Lsn(128)));
}

#[test]
fn a_program_that_does_not_tell_may_have_applied_everything() {
    let (log, region) = new_log();
    let first = append_durably(&log, b"first");
    log.begin_applying(first.lsn).unwrap();
    let end = append_durably(&log, b"second");
    drop(log);
    forge(&region, |copy| put(copy, at::APPLYING_END, &[0; 8]));
    let (log, _) = reopen(region);
    assert_eq!(log.applying_end(), end.lsn);
}

#[test]
fn nothing_is_applied_when_that_could_not_be_noted() {
    let (log, region) = new_log();
    let end = append_durably(&log, b"record");
    region.fail_persist_from(Some(0));
    log.begin_applying(end.lsn).unwrap_err();
    assert_eq!(log.applying_end(), Lsn(0));
}
