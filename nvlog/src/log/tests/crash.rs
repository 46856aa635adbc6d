//! Power cuts at any point: everything persisted is recovered, and what is recovered is an exact prefix.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    GiveUp(usize),
    Persist,
    Trim,
    TruncateToPersisted,
    Epoch,
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..600usize).prop_map(Step::Append),
        3 => (600..12_000usize).prop_map(Step::Append),
        1 => (0..600usize).prop_map(Step::GiveUp),
        4 => Just(Step::Persist),
        1 => Just(Step::Trim),
        1 => Just(Step::TruncateToPersisted),
        1 => Just(Step::Epoch),
        3 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// The oracle: every point since the tail with the payload that led there.
#[derive(Default)]
struct Model {
    points: Vec<(LogPoint, Option<Vec<u8>>)>,
    persisted: usize,
}

impl Model {
    fn payloads(&self) -> Vec<Vec<u8>> {
        self.points.iter().filter_map(|(_, payload)| payload.clone()).collect()
    }

    /// The points that have been added to `log` without a payload of ours.
    fn add(&mut self, log: &Log, payload: Option<Vec<u8>>) {
        self.points.push((log.end(), payload));
    }
}

proptest! {
    #[test]
    fn what_was_persisted_is_recovered_and_what_is_recovered_is_a_prefix(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let (mut log, mut region) = new_log();
        let mut model = Model::default();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(len) => {
                    let bytes = payload(number, len);
                    if let Ok(slot) = log.reserve(len) {
                        slot.publish(&[&bytes]);
                        log.seal();
                        model.add(&log, Some(bytes));
                    }
                }
                Step::GiveUp(len) => {
                    if log.reserve(len).map(drop).is_ok() {
                        log.seal();
                        model.add(&log, None);
                    }
                }
                Step::Persist => {
                    log.persist(log.persisted(), log.end().lsn).unwrap();
                    model.persisted = model.points.len();
                }
                Step::Trim => {
                    trim_all(&log);
                    model = Model::default();
                }
                Step::TruncateToPersisted => {
                    let to = model.persisted.checked_sub(1).map_or(log.tail(), |i| model.points[i].0);
                    log.truncate(to).unwrap();
                    model.points.truncate(model.persisted);
                    prop_assert_eq!(log.end(), to);
                }
                Step::Epoch => {
                    if log.append_epoch_record(log.epoch().next(), b"epoch").is_ok() {
                        model.add(&log, None);
                        model.persisted = model.points.len();
                    }
                }
                Step::Crash(seed) => {
                    region = region.crash(seed);
                    drop(log);
                    let report;
                    (log, report) = reopen(region.clone());
                    let survivors = model.points.iter().take_while(|(point, _)| point.lsn <= report.end.lsn);
                    let survivors = survivors.count();
                    prop_assert!(survivors >= model.persisted, "lost a persisted record: {report:?}");
                    model.points.truncate(survivors);
                    // A pad may have survived without the record that it was made for.
                    if let Some((last, _)) = model.points.last() {
                        prop_assert!(report.end == *last || report.end.lsn.0 % CAPACITY_BYTES == 0);
                    }
                    model.persisted = survivors;
                    log.set_space_floor(log.tail().lsn);
                }
            }
            prop_assert_eq!(payloads(&log), model.payloads());
        }
    }

    /// The dangerous case of a rejoin: a record beyond a cut must not come back when the record before it is
    /// written again, byte for byte the same, and the power fails then.
    #[test]
    fn what_was_cut_off_never_continues_the_chain_again(
        lens in prop::collection::vec(0..2000usize, 3..12), cut in 0..10usize, seed in any::<u64>(), by_crash in any::<bool>()
    ) {
        let (log, region) = new_log();
        let mut points = vec![log.end()];
        points.extend(lens.iter().enumerate().map(|(n, len)| append_durably(&log, &payload(n, *len))));
        let keep = cut % (lens.len() - 1);
        let region = if by_crash {
            // The record at the cut is damaged, those after it are intact.
            let lsn = points[keep].lsn;
            region.damage(RING_OFFSET_BYTES + lsn.0, &[0xFF; 64]);
            region.crash_losing_all()
        } else {
            log.truncate(points[keep]).unwrap();
            region.crash_losing_all()
        };
        let (log, report) = reopen(region.clone());
        prop_assert_eq!(report.end, points[keep]);
        if by_crash {
            prop_assert_eq!(report.scrubbed as usize, lens.len() - keep - 1);
        } else {
            prop_assert_eq!(report.scrubbed, 0);
        }
        let again = append_durably(&log, &payload(keep, lens[keep]));
        prop_assert_eq!(again, points[keep + 1], "the very same record");
        prop_assert_eq!(reopen(region.crash(seed)).1.end, again);
    }
}

#[test]
fn a_truncation_that_the_power_cut_interrupts_never_brings_back_a_hole() {
    // Fail each persist of a truncation in turn; whatever the crash leaves is the old log, or a prefix at
    // least as long as the point that was kept.
    for nth in 0..6 {
        let (log, region) = new_log();
        let points: Vec<_> = (0..20).map(|n| append_durably(&log, &payload(n, 500))).collect();
        region.fail_persist_from(Some(region.persists() + nth));
        let failed = log.truncate(points[4]).is_err();
        for seed in 0..20 {
            let (after, report) = reopen(region.crash(seed));
            assert!(report.end == points[4] || (failed && points[4..].contains(&report.end)), "{report:?}");
            assert_eq!(
                payloads(&after),
                (0..payloads(&after).len()).map(|n| payload(n, 500)).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_sealed() {
    let (log, region) = new_log();
    let end = append(&log, b"sealed, not persisted");
    let after = region.kill_process();
    let (again, report) = reopen(after.clone());
    assert_eq!(report.end, end);
    assert_eq!(payloads(&again), [b"sealed, not persisted".to_vec()]);
}
