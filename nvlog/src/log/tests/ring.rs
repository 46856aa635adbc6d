//! Space, wrapping, slots, reading.

use super::*;
use crate::RecordKind;
use crate::log::{ReserveError, TailError};

#[test]
fn records_come_back_as_they_were_written() {
    let (log, region) = new_log();
    append(&log, &payload(1, 100));
    append(&log, b"");
    log.reserve(8).unwrap().publish(&[b"head", b"", b"data"]);
    let end = log.seal_and_persist().unwrap();
    let expected = vec![payload(1, 100), vec![], b"headdata".to_vec()];
    assert_eq!(payloads(&log), expected);
    let (log, report) = reopen(region.crash_losing_all());
    assert_eq!((log.end(), report.records, report.end), (end, 3, end));
    assert_eq!(payloads(&log), expected);
}

#[test]
fn the_ring_wraps_many_times_and_payloads_stay_contiguous() {
    let (log, region) = new_log();
    let mut pads = 0;
    for number in 0..500 {
        let len = (number * 997) % (CAPACITY_BYTES as usize / 4);
        let bytes = payload(number, len);
        let slot = match log.reserve(len) {
            Ok(slot) => slot,
            Err(ReserveError::Full { .. }) => {
                trim_all(&log);
                log.reserve(len).unwrap()
            }
            Err(other) => panic!("{other}"),
        };
        let offset = slot.payload_lsn().0 % CAPACITY_BYTES;
        assert!(offset + len as u64 <= CAPACITY_BYTES);
        slot.publish(&[&bytes]);
        log.seal_and_persist().unwrap();
        assert_eq!(payloads(&log).last(), Some(&bytes));
        pads += log
            .records(log.tail(), log.end().lsn)
            .filter(|r| r.as_ref().unwrap().kind == RecordKind::Pad)
            .count();
    }
    assert!(log.end().lsn.0 > 30 * CAPACITY_BYTES && pads > 0);
    let (again, _) = reopen(region.crash_losing_all());
    assert_eq!(payloads(&again), payloads(&log));
}

#[test]
fn a_full_ring_refuses_and_changes_nothing() {
    let (log, _region) = new_log();
    let max = log.max_payload_bytes() as usize;
    let count = (0..).take_while(|n| log.reserve(max).map(|slot| slot.publish(&[&payload(*n, max)])).is_ok());
    assert_eq!(count.count(), 3, "three quarters and their headers fit, a fourth does not");
    let reserved = log.reserved();
    assert!(matches!(log.reserve(max), Err(ReserveError::Full { .. })));
    assert_eq!(log.reserved(), reserved);
    assert!(matches!(log.reserve(max + 1), Err(ReserveError::TooLarge { .. })));
    // Trimming alone frees nothing while the partner still needs the space, nor while a hold is set.
    let end = log.seal_and_persist().unwrap();
    log.advance_tail(end).unwrap();
    assert!(log.reserve(max).is_err());
    log.hold(Some(Lsn(0))).unwrap();
    log.set_space_floor(end.lsn);
    assert!(log.reserve(max).is_err());
    log.hold(None).unwrap();
    assert!(log.reserve(max).is_ok());
}

#[test]
fn a_floor_beyond_the_tail_has_no_effect() {
    let (log, _region) = new_log();
    let first = append_durably(&log, &payload(1, 1000));
    log.set_space_floor(Lsn(1 << 40));
    assert_eq!(log.free_bytes(), CAPACITY_BYTES - first.lsn.0);
}

#[test]
fn a_dropped_slot_becomes_a_noop_and_stalls_nobody() {
    let (log, _region) = new_log();
    let given_up = log.reserve(100).unwrap();
    log.reserve(3).unwrap().publish(&[b"abc"]);
    assert_eq!(log.seal().lsn, Lsn(0), "the first slot is still open");
    drop(given_up);
    log.seal();
    assert_eq!(log.end().lsn, log.reserved());
    let kinds: Vec<_> = log.records(log.tail(), log.end().lsn).map(|r| r.unwrap().kind).collect();
    assert_eq!(kinds, [RecordKind::Noop, RecordKind::Data]);
}

#[test]
fn in_flight_records_are_bounded_and_unsealed_ones_are_sealed_on_the_way() {
    let region = SimRegion::new(RING_OFFSET_BYTES + (1 << 20));
    let log = Log::format(Box::new(region), FormatOptions { capacity_bytes: 1 << 20, ..options() }).unwrap();
    for _ in 0..3 * Log::MAX_IN_FLIGHT_RECORDS {
        log.reserve(1).unwrap().publish(&[b"x"]);
    }
    let open = log.reserve(1).unwrap();
    let blocked = (0..Log::MAX_IN_FLIGHT_RECORDS).find_map(|_| match log.reserve(1) {
        Ok(slot) => {
            slot.publish(&[b"x"]);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(blocked, Some(ReserveError::TooManyInFlight));
    open.publish(&[b"y"]);
    assert!(log.reserve(1).is_ok());
}

#[test]
fn overwritten_bytes_are_never_returned() {
    let (log, _region) = new_log();
    let slot = log.reserve(1000).unwrap();
    let lsn = slot.payload_lsn();
    slot.publish(&[&payload(0, 1000)]);
    trim_all(&log);
    let mut bytes = vec![0; 1000];
    log.copy_out(lsn, &mut bytes).expect("trimmed, not yet overwritten");
    assert_eq!(bytes, payload(0, 1000));
    for number in 0..8 {
        append(&log, &payload(number, 16000));
        trim_all(&log);
    }
    assert!(log.copy_out(lsn, &mut bytes).is_err());
    assert!(log.payload_ptr(lsn, 10).is_err());
    assert!(log.hold(Some(lsn)).is_err());
    assert!(log.copy_out(log.end().lsn, &mut bytes).is_err(), "nothing is written there yet");
}

#[test]
fn only_points_of_the_log_become_its_tail() {
    let (log, _region) = new_log();
    let first = append_durably(&log, &payload(1, 100));
    let second = append_durably(&log, &payload(2, 100));
    assert_eq!(log.point_at(first.lsn), Some(first));
    assert_eq!(log.point_at(first.lsn.plus(64)), None);
    let wrong = LogPoint { crc: ids::ChainCrc(first.crc.0 ^ 1), ..first };
    for bad in
        [wrong, LogPoint { lsn: first.lsn.plus(64), ..first }, LogPoint { lsn: Lsn(1 << 30), ..second }]
    {
        assert!(matches!(log.advance_tail(bad), Err(TailError::NotAPoint { .. })), "{bad}");
    }
    log.advance_tail(first).unwrap();
    log.advance_tail(second).unwrap();
    assert!(log.advance_tail(first).is_err(), "the tail does not go back");
    let third = append(&log, b"not durable");
    assert!(matches!(log.advance_tail(third), Err(TailError::NotDurable { .. })));
}

#[test]
fn a_failing_medium_is_reported_and_the_next_persist_tries_again() {
    let (log, region) = new_log();
    region.fail_persist_from(Some(0));
    log.reserve(5).unwrap().publish(&[b"hello"]);
    let end = log.seal();
    assert!(log.persist(Lsn(0), end.lsn).is_err());
    assert_eq!(log.persisted(), Lsn(0));
    assert!(log.update_superblock(|draft| draft.role_state = vec![1]).is_err());
    assert!(log.superblock().role_state.is_empty());
    region.fail_persist_from(None);
    log.persist(Lsn(0), end.lsn).unwrap();
    assert_eq!(reopen(region.crash_losing_all()).0.end(), end);
    assert!(log.persist(end.lsn, end.lsn.plus(64)).is_err(), "not sealed up to there");
}
