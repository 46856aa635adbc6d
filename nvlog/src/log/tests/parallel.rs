//! Many threads append, one of them at a time seals and persists, another trims, readers read.

use super::*;
use crate::log::ReserveError;
use crate::region::MappedRegion;
use std::sync::atomic::{AtomicBool, AtomicUsize};

const THREADS: usize = 4;
const APPENDS_PER_THREAD: usize = 1500;

#[test]
fn parallel_appends_are_all_there_in_lsn_order_and_readers_see_no_torn_payload() {
    let region = MappedRegion::anonymous(RING_OFFSET_BYTES + CAPACITY_BYTES).unwrap();
    let log = Log::format(Box::new(region), options()).unwrap();
    let writing = AtomicUsize::new(THREADS);
    let seen = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (log, writing) = (&log, &writing);
            scope.spawn(move || {
                for n in 0..APPENDS_PER_THREAD {
                    let bytes = vec![(thread * 64 + n % 64) as u8; (n * 53) % 3000];
                    let slot = loop {
                        match log.reserve(bytes.len()) {
                            Ok(slot) => break slot,
                            Err(ReserveError::TooLarge { .. }) => panic!("never too large"),
                            Err(_) => std::thread::yield_now(),
                        }
                    };
                    if n % 17 == 0 {
                        drop(slot);
                        continue;
                    }
                    let (lsn, end) = (slot.lsn(), slot.end_lsn());
                    slot.publish(&[&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]]);
                    if log.seal().lsn >= end {
                        log.persist(lsn, end).unwrap();
                    }
                }
                writing.fetch_sub(1, Ordering::SeqCst);
            });
        }
        // The applier: reads every record once, in order, then frees it.
        scope.spawn(|| {
            let mut last = log.tail();
            loop {
                let done = writing.load(Ordering::SeqCst) == 0;
                let end = log.seal_and_persist().unwrap();
                for record in log.records(last, end.lsn) {
                    let record = record.unwrap();
                    assert_eq!(record.lsn, last.lsn, "no gap");
                    last = record.point_after;
                    let mut bytes = vec![0; record.payload_len];
                    log.copy_out(record.payload_lsn, &mut bytes).unwrap();
                    failed.fetch_or(bytes.windows(2).any(|w| w[0] != w[1]), Ordering::Relaxed);
                    let data = record.kind == crate::RecordKind::Data;
                    seen.fetch_add(usize::from(data), Ordering::Relaxed);
                }
                log.advance_tail(last).unwrap();
                log.set_space_floor(last.lsn);
                if done && last == log.end() {
                    break;
                }
            }
        });
        // A slow reader of what may be overwritten at any moment: it gets right bytes or an error.
        scope.spawn(|| {
            while writing.load(Ordering::SeqCst) > 0 {
                let from = log.tail();
                for record in log.records(from, log.end().lsn).map_while(Result::ok) {
                    let mut bytes = vec![0; record.payload_len];
                    if log.copy_out(record.payload_lsn, &mut bytes).is_ok() {
                        failed.fetch_or(bytes.windows(2).any(|w| w[0] != w[1]), Ordering::Relaxed);
                    }
                }
            }
        });
    });
    assert!(!failed.load(Ordering::Relaxed), "a reader saw a torn payload");
    let dropped = APPENDS_PER_THREAD.div_ceil(17);
    assert_eq!(seen.load(Ordering::Relaxed), THREADS * (APPENDS_PER_THREAD - dropped));
    assert_eq!(log.reserved(), log.end().lsn);
}
