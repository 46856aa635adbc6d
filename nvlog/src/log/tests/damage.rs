//! Bad input when making and opening logs: each a clear error, nothing overwritten.

use super::*;
use crate::format::{self, header, superblock as at};
use crate::log::{FormatError, OpenError};
use crate::record::{self, put};
use crate::recovery::SuperblockHealth;
use crate::region::ring::read_superblock;
use crate::region::{Region, anonymous};
use crate::superblock::{BootId, SuperblockError};
use proptest::prelude::*;

fn open_error(region: &SimRegion) -> OpenError {
    let before = region.persists();
    let error = Log::open(Box::new(region.clone()), Some(VOLUME)).map(drop).unwrap_err();
    assert_eq!(region.persists(), before, "nothing was written");
    error
}

/// Rewrites both superblock copies with `change` and a CRC that fits.
pub(super) fn forge(region: &SimRegion, change: impl Fn(&mut [u8])) {
    for index in 0..2 {
        let mut copy = read_superblock(region, index);
        change(&mut copy);
        let crc = record::crc32c(&copy[..at::CRC]);
        put(&mut copy, at::CRC, &crc.to_le_bytes());
        region.damage(format::SUPERBLOCK_OFFSETS[index], &copy);
    }
}

#[test]
fn a_region_that_holds_something_is_not_formatted() {
    let (log, region) = new_log();
    let end = append_durably(&log, b"precious");
    let again = Log::format(Box::new(region.clone()), options()).map(drop);
    assert!(matches!(again, Err(FormatError::HoldsLog { .. })));
    assert_eq!(reopen(region.clone()).1.end, end);
    let foreign = SimRegion::new(RING_OFFSET_BYTES + CAPACITY_BYTES);
    foreign.damage(1024 + 56, &[0x53, 0xEF]);
    assert!(matches!(Log::format(Box::new(foreign), options()).map(drop), Err(FormatError::NotEmpty)));
    let overwrite = FormatOptions { overwrite: true, ..options() };
    Log::format(Box::new(region.clone()), overwrite).unwrap();
    assert_eq!(reopen(region).1.records, 0, "old records of the same volume do not come back");
}

#[test]
fn impossible_capacities_are_refused() {
    for (capacity_bytes, len) in
        [(0, 1 << 20), (4096, 1 << 20), (65537, 1 << 20), (1 << 20, 1 << 20), (u64::MAX, 1 << 20)]
    {
        let options = FormatOptions { capacity_bytes, ..options() };
        assert!(Log::format(Box::new(SimRegion::new(len)), options).is_err(), "{capacity_bytes}");
    }
}

#[test]
fn one_damaged_superblock_copy_is_used_around_and_healed() {
    for copy in 0..2 {
        let (log, region) = new_log();
        let end = append_durably(&log, b"here");
        drop(log);
        region.damage(format::SUPERBLOCK_OFFSETS[copy] + 30, b"rot");
        let (log, report) = reopen(region.clone());
        assert!(matches!(report.superblock, SuperblockHealth::OneBad { copy: bad, .. } if bad == copy));
        assert_eq!(report.end, end);
        drop(log);
        assert_eq!(reopen(region).1.superblock, SuperblockHealth::BothValid);
    }
}

#[test]
fn each_unusable_superblock_has_its_error() {
    let (log, region) = new_log();
    append_durably(&log, b"here");
    let fresh = || region.crash_losing_all();
    let other = Log::open(Box::new(fresh()), Some(VolumeId([1; 16]))).map(drop);
    assert!(matches!(other, Err(OpenError::OtherVolume { .. })));
    let both = fresh();
    (0..2).for_each(|copy| both.damage(format::SUPERBLOCK_OFFSETS[copy] + 30, b"rot"));
    assert!(matches!(open_error(&both), OpenError::Superblock(SuperblockError::BothCorrupt { .. })));
    let future = fresh();
    forge(&future, |copy| put(copy, at::VERSION, &3u16.to_le_bytes()));
    assert!(matches!(
        open_error(&future),
        OpenError::Superblock(SuperblockError::FutureVersion { found: 3 })
    ));
    let larger = fresh();
    forge(&larger, |copy| put(copy, at::CAPACITY, &(2 * CAPACITY_BYTES).to_le_bytes()));
    assert!(matches!(open_error(&larger), OpenError::CapacityMismatch { .. }));
    let absurd = fresh();
    forge(&absurd, |copy| put(copy, at::HISTORY_COUNT, &u32::MAX.to_le_bytes()));
    assert!(matches!(open_error(&absurd), OpenError::Superblock(SuperblockError::BothCorrupt { .. })));
    let empty = SimRegion::new(RING_OFFSET_BYTES + CAPACITY_BYTES);
    assert!(matches!(open_error(&empty), OpenError::Superblock(SuperblockError::NotALog)));
    assert!(matches!(open_error(&SimRegion::new(4096)), OpenError::RegionTooSmall { .. }));
}

#[test]
fn a_record_of_a_newer_program_is_not_cut_off() {
    for (field, value) in [(header::VERSION, 2), (header::KIND, 200)] {
        let (log, region) = new_log();
        let first = append_durably(&log, b"known");
        append_durably(&log, b"from the future");
        let mut bytes = [0; format::HEADER_BYTES];
        let lsn = first.lsn.0;
        crate::region::ring::read_region(&region, RING_OFFSET_BYTES + lsn, &mut bytes);
        bytes[field] = value;
        let crc = record::expected_chain_crc(&bytes, first.crc);
        put(&mut bytes, header::CHAIN_CRC, &crc.0.to_le_bytes());
        region.damage(RING_OFFSET_BYTES + lsn, &bytes);
        assert!(matches!(open_error(&region), OpenError::FutureRecord { lsn, .. } if lsn == first.lsn));
    }
}

#[test]
fn volatile_memory_that_saw_another_boot_is_not_trusted_until_the_owner_says_so() {
    let region = || anonymous(RING_OFFSET_BYTES + CAPACITY_BYTES).unwrap();
    let memory = region();
    let log = Log::format(memory, options()).unwrap();
    append_durably(&log, b"gone with the power");
    // The same bytes, with the boot id of another boot, in other volatile memory.
    let mut superblock = log.superblock();
    assert!(!superblock.memory_lost);
    superblock.boot_id = BootId([9; 16]);
    superblock.generation += 10;
    let other = region();
    crate::region::ring::write_superblock(&*other, 0, &superblock.encode()).unwrap();
    let (log, report) = Log::open(other, Some(VOLUME)).unwrap();
    assert!(report.memory_lost && log.superblock().memory_lost);
    log.update_superblock(|draft| draft.memory_lost = false).unwrap();
    assert!(!log.superblock().memory_lost);
    // A region that survives power does not care.
    let durable = SimRegion::new(RING_OFFSET_BYTES + CAPACITY_BYTES);
    crate::region::ring::write_superblock(&durable, 0, &superblock.encode()).unwrap();
    assert!(!reopen(durable).1.memory_lost);
}

#[test]
fn a_volatile_log_survives_its_process_and_not_the_power() {
    let region = SimRegion::volatile(RING_OFFSET_BYTES + CAPACITY_BYTES);
    let log = Log::format(Box::new(region.clone()), options()).unwrap();
    let end = append_durably(&log, b"acknowledged");
    let (_, killed) = reopen(region.kill_process());
    assert_eq!((killed.end, killed.memory_lost), (end, false));
    assert!(reopen(region.kill_process().crash(7)).1.memory_lost);
    let lasting = new_log().1;
    assert!(!reopen(lasting.crash(7)).1.memory_lost);
}

#[test]
fn the_owners_state_survives_and_is_bounded() {
    let (log, region) = new_log();
    log.update_superblock(|draft| {
        draft.role_state = vec![7; format::MAX_ROLE_STATE_BYTES];
        draft.push_epoch(Epoch(3), Lsn(0)).unwrap();
    })
    .unwrap();
    assert!(log.update_superblock(|draft| draft.role_state.push(0)).is_err());
    let (again, _) = reopen(region.crash(1));
    assert_eq!(again.superblock().role_state, vec![7; format::MAX_ROLE_STATE_BYTES]);
    assert_eq!(again.epoch(), Epoch(3));
}

#[test]
fn a_superblock_write_that_tears_leaves_the_one_before() {
    let (log, region) = new_log();
    for n in 0..20u8 {
        log.update_superblock(|draft| draft.role_state = vec![n; 900]).unwrap();
        region.fail_persist_from(Some(0));
        log.update_superblock(|draft| draft.role_state = vec![0xEE; 900]).unwrap_err();
        region.fail_persist_from(None);
        let state = reopen(region.crash(u64::from(n))).0.superblock().role_state;
        assert!(state == vec![n; 900] || state == vec![0xEE; 900], "{state:?}");
    }
}

proptest! {
    /// Whatever rots, opening answers: an exact prefix or an error, never a panic.
    #[test]
    fn any_damage_ends_in_a_prefix_or_an_error(
        holes in prop::collection::vec((0..RING_OFFSET_BYTES + 8192, prop::collection::vec(any::<u8>(), 1..80)), 1..5)
    ) {
        let (log, region) = new_log();
        let points: Vec<_> = (0..10).map(|n| append_durably(&log, &payload(n, n * 60))).collect();
        for (offset, bytes) in &holes {
            region.damage(*offset, bytes);
        }
        if let Ok((log, report)) = Log::open(Box::new(region.clone()), None) {
            prop_assert!(report.end.lsn == Lsn(0) || points.contains(&report.end));
            prop_assert_eq!(payloads(&log), (0..report.records as usize).map(|n| payload(n, n * 60)).collect::<Vec<_>>());
        }
        prop_assert!(region.len_bytes() > 0);
    }
}
