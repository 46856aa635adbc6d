//! Receiving, lying peers, catch-up, epochs.

use super::*;
use crate::log::{ChainError, TruncateError};
use crate::recovery::CutReason;
use ids::{EpochStart, LogMemory};
use proptest::prelude::*;

/// Sends the bytes of `[from, to)` from ring to ring, as a transport does.
#[allow(unsafe_code)]
fn send(from: &dyn LogMemory, to: &dyn LogMemory, start: Lsn, end: Lsn) {
    for lsn in (start.0..end.0).step_by(64) {
        let offset = (lsn % from.capacity_bytes()) as usize;
        // SAFETY: one line inside both rings, which have the same capacity; nobody else writes there.
        unsafe { std::ptr::copy_nonoverlapping(from.base().add(offset), to.base().add(offset), 64) };
    }
}

fn mirror(primary: &Log, partner: &Log) {
    send(&*primary.memory(), &*partner.memory(), partner.end().lsn, primary.end().lsn);
}

#[test]
fn a_partner_takes_over_what_continues_its_chain_and_survives() {
    let (primary, _a) = new_log();
    let (partner, region) = new_log();
    primary.append_epoch_record(Epoch(1), b"first").unwrap();
    for number in 0..100 {
        append_durably(&primary, &payload(number, number * 37));
        mirror(&primary, &partner);
        assert_eq!(partner.ingest(primary.end().lsn), Ok(primary.end()));
        partner.persist(Lsn(0), partner.end().lsn).unwrap();
        if number % 10 == 0 {
            [&primary, &partner].into_iter().for_each(trim_all);
        }
    }
    assert_eq!(partner.superblock().epoch_history, primary.superblock().epoch_history);
    let (again, report) = reopen(region.crash_losing_all());
    assert_eq!(report.end, primary.end());
    assert_eq!(payloads(&again), payloads(&primary));
    assert_eq!(again.epoch(), Epoch(1));
}

#[test]
fn each_lie_has_its_name_and_moves_nothing() {
    let (primary, _a) = new_log();
    let (partner, region) = new_log();
    let first = append_durably(&primary, &payload(1, 300));
    let second = append_durably(&primary, &payload(2, 300));
    mirror(&primary, &partner);
    let broken = |result| match result {
        Err(ChainError::Broken { reason, end, .. }) => {
            assert_eq!(end.lsn, Lsn(0));
            reason
        }
        other => panic!("{other:?}"),
    };
    assert!(matches!(partner.ingest(first.lsn.plus(64)), Err(ChainError::NotABoundary { .. })));
    assert!(matches!(partner.ingest(Lsn(7)), Err(ChainError::NotABoundary { .. })));
    assert!(matches!(partner.ingest(Lsn(2 * CAPACITY_BYTES)), Err(ChainError::Overrun { .. })));
    assert_eq!(broken(partner.ingest(second.lsn.plus(640))), CutReason::NoRecord);
    region.damage(RING_OFFSET_BYTES + first.lsn.0 + 100, b"!");
    assert_eq!(broken(partner.ingest(second.lsn)), CutReason::PayloadBroken);
    region.damage(RING_OFFSET_BYTES + first.lsn.0 + 17, b"!");
    assert_eq!(broken(partner.ingest(second.lsn)), CutReason::ChainBroken);
    region.damage(RING_OFFSET_BYTES + first.lsn.0 + 8, b"!!!!!!!!");
    assert_eq!(broken(partner.ingest(second.lsn)), CutReason::OtherLsn);
    assert_eq!((partner.end().lsn, partner.reserved()), (Lsn(0), Lsn(0)));
    assert_eq!(partner.ingest(first.lsn), Ok(first), "what is right before the lie can still be taken");
    assert!(matches!(partner.ingest(Lsn(0)), Err(ChainError::Backwards { .. })));
    let slot = partner.reserve(10).unwrap();
    assert!(matches!(partner.ingest(second.lsn), Err(ChainError::Writing { .. })));
    assert!(matches!(partner.truncate(first), Err(TruncateError::Writing { .. })));
    drop(slot);
}

proptest! {
    #[test]
    fn garbage_is_never_taken_over(bytes in prop::collection::vec(any::<u8>(), 64..2000), at in 0..20u64, lines in 1..60u64) {
        let (primary, _a) = new_log();
        let (partner, region) = new_log();
        let points: Vec<_> = (0..5).map(|n| append_durably(&primary, &payload(n, 200))).collect();
        mirror(&primary, &partner);
        region.damage(RING_OFFSET_BYTES + at * 64, &bytes);
        let intact = points.iter().filter(|point| point.lsn.0 <= at * 64).count();
        if let Ok(end) = partner.ingest(Lsn(lines * 64)) {
            prop_assert!(points[..intact].contains(&end));
        }
    }
}

#[test]
fn a_takeover_adopts_what_landed_and_nothing_else_ever_comes_back() {
    let (primary, _a) = new_log();
    let (partner, region) = new_log();
    primary.append_epoch_record(Epoch(1), b"").unwrap();
    let kept = append_durably(&primary, &payload(1, 300));
    let torn = append_durably(&primary, &payload(2, 300));
    append_durably(&primary, &payload(3, 300));
    mirror(&primary, &partner);
    region.damage(RING_OFFSET_BYTES + kept.lsn.0 + 70, b"torn");
    assert_eq!(partner.ingest_all(), Ok((kept, CutReason::PayloadBroken)));
    assert_eq!(partner.scrub_beyond_end().unwrap(), 2, "the torn one and the one behind it");
    let begun = partner.append_epoch_record(Epoch(2), b"").unwrap();
    let history = partner.superblock().epoch_history;
    assert_eq!(history.last(), Some(EpochStart { epoch: Epoch(2), first_lsn: kept.lsn }));
    assert_eq!(reopen(region.crash(9)).1.end, begun);
    assert!(partner.append_epoch_record(Epoch(2), b"").is_err(), "an epoch begins once");
    // The deposed primary finds where they parted, cuts, and follows.
    let ours = primary.superblock().epoch_history;
    let common = ours.common_end(primary.end().lsn, &history, partner.end().lsn).unwrap();
    assert_eq!(common, kept.lsn);
    assert!(partner.continues_from(kept) && !partner.continues_from(torn));
    primary.truncate(primary.point_at(common).unwrap()).unwrap();
    mirror(&partner, &primary);
    assert_eq!(primary.ingest(begun.lsn), Ok(begun));
    assert_eq!(primary.superblock().epoch_history, history);
}

#[test]
fn catch_up_reaches_back_before_the_tail_until_it_is_overwritten() {
    let (log, region) = new_log();
    let early = append_durably(&log, &payload(0, 1000));
    (1..10).for_each(|n| assert!(append_durably(&log, &payload(n, 1000)).lsn > Lsn(0)));
    trim_all(&log);
    assert!(log.continues_from(early));
    assert!(!log.continues_from(LogPoint { crc: ids::ChainCrc(1), ..early }));
    assert!(!log.continues_from(LogPoint { lsn: Lsn(1 << 30), ..early }));
    log.hold(Some(early.lsn)).unwrap();
    while log.reserve(4000).map(|slot| slot.publish(&[&payload(1, 4000)])).is_ok() {
        log.seal();
        trim_all(&log);
    }
    assert!(log.continues_from(early), "held");
    assert!(reopen(region.crash_losing_all()).0.continues_from(early), "a restarted node still has it");
    log.hold(None).unwrap();
    log.reserve(8000).unwrap().publish(&[&payload(1, 8000)]);
    log.seal();
    assert!(!log.continues_from(early));
    assert!(log.records(early, log.end().lsn).next().unwrap().is_err());
}

#[test]
fn a_reset_log_begins_anew_elsewhere() {
    let (log, region) = new_log();
    (0..10).for_each(|n| assert!(append_durably(&log, &payload(n, 1000)).lsn > Lsn(0)));
    let at = LogPoint { lsn: Lsn(10 * CAPACITY_BYTES + 640), crc: ids::ChainCrc(77) };
    log.reset(at).unwrap();
    assert_eq!((log.tail(), log.end(), log.persisted()), (at, at, at.lsn));
    assert_eq!(log.oldest_retained(), at.lsn);
    let end = append_durably(&log, b"after");
    assert_eq!(reopen(region.crash(3)).1.end, end);
}
