//! The disk itself: what survives a crash, what a full and a failing one refuse.

use super::*;
use crate::base::Base;
use crate::consistency::ApplyError;
use crate::consistency::{apply, apply_to};
use crate::delta::{Delta, Vanished};
use crate::oracle::{Generator, MemoryLog};
use crate::view::BaseReader;
use ids::VolumeId;

fn changed(disk: &SimDisk, seed: u64, count: usize) -> Result<(), ApplyError> {
    let log = MemoryLog::default();
    let mut delta = Delta::new(Lsn::ZERO, Vanished::Keep);
    for step in Generator::new(seed).steps(count) {
        delta.absorb(log.append(&step), &step.operation());
    }
    apply_to(&disk.tree(&log), &delta).map(drop)
}

fn shown(disk: &SimDisk) -> String {
    let sim = disk.0.sim.lock();
    format!("{:?}", sim.now.nodes)
}

#[test]
fn a_process_loses_nothing_and_power_what_was_not_flushed() {
    let disk = SimDisk::new();
    let empty = shown(&disk);
    changed(&disk, 1, 50).expect("applies");
    let dead = disk.crash(DiskCrash::Process);
    assert_eq!(shown(&dead), shown(&disk));
    assert_eq!(dead.object_count(), 1, "the index is as of the last flush");
    let survivors: Vec<String> = (0..40).map(|seed| shown(&dead.crash(DiskCrash::Power { seed }))).collect();
    assert!(survivors.contains(&empty), "everything may be lost, also after the process died");
    assert!(survivors.iter().any(|state| *state != empty && *state != shown(&disk)), "or a part");
    disk.flush(Oid(77), None).expect("flushes");
    let flushed = disk.crash(DiskCrash::Power { seed: 0 });
    assert_eq!((shown(&flushed), flushed.next_oid()), (shown(&disk), Oid(77)));
}

#[test]
fn a_full_disk_says_so_and_goes_on_with_room() {
    let disk = SimDisk::new();
    disk.set_total_bytes(Some(disk.used_bytes() + 3 * BLOCK_BYTES));
    assert!(matches!(changed(&disk, 2, 60), Err(ApplyError::NoSpace(_))));
    assert!(disk.space().expect("answers").free_bytes <= 3 * BLOCK_BYTES);
    disk.set_total_bytes(None);
    changed(&disk, 2, 60).expect("applies again");
    assert!(disk.staging_is_empty());
}

#[test]
fn a_failing_disk_changes_nothing() {
    let disk = SimDisk::new();
    let before = shown(&disk);
    disk.set_failing(true);
    assert!(matches!(changed(&disk, 3, 20), Err(ApplyError::Io(_))));
    assert!(disk.flush(Oid(9), None).is_err() && disk.space().is_err());
    assert_eq!(shown(&disk), before);
    disk.set_failing(false);
    changed(&disk, 3, 20).expect("applies");
}

#[test]
fn a_base_on_it_works_like_any_other() {
    let disk = SimDisk::new();
    let volume = VolumeId([3; 16]);
    let base = Arc::new(Base::simulated(disk.clone(), volume));
    assert_eq!(
        (base.volume(), base.next_oid(), base.object_count().ok()),
        (volume, Oid::FIRST_FREE, Some(1))
    );
    base.raise_next_oid(Oid(500));
    base.sync().expect("flushes");
    let again = Base::simulated(disk.crash(DiskCrash::Power { seed: 4 }), volume);
    assert_eq!(again.next_oid(), Oid(500));
    let region = Box::new(nvlog::sim::SimRegion::new(nvlog::format::RING_OFFSET_BYTES + (1 << 16)));
    let options = nvlog::FormatOptions { volume, capacity_bytes: 1 << 16, overwrite: false };
    let log = nvlog::Log::format(region, options).expect("formats");
    apply(&base, &log, &Delta::new(Lsn::ZERO, Vanished::Forget)).expect("applies nothing");
    assert_eq!(base.reader().attributes(Oid::ROOT).expect("reads").nlink, 2);
    assert_eq!(BaseReader::attributes(&*base, Oid::ROOT).expect("reads too").nlink, 2);
    let (labels, next) = crate::resync::labels(&base, Oid(0), 10).expect("reads");
    assert_eq!((labels.len(), next), (1, None));
}
