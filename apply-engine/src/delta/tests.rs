//! What a Delta must know, and what it must not.

use super::*;
use crate::attributes::Timestamp;
use crate::op::{Displaced, NewKind, NewObject, Operation, Other};
use crate::oracle::{Generator, MemoryLog, Step};
use crate::{Extent, Source};
use proptest::prelude::*;

const AT: Timestamp = Timestamp { secs: 9, nanos: 0 };
const X: Oid = Oid(100);

fn name(text: &str) -> NameRef<'_> {
    NameRef::new(text.as_bytes()).unwrap()
}

fn position(record: u64) -> RecordPosition {
    RecordPosition {
        lsn: Lsn(record * 8192),
        end: Lsn((record + 1) * 8192),
        payload_lsn: Lsn(record * 8192 + 64),
    }
}

fn absorbed(vanished: Vanished, operations: &[Operation<'_>]) -> Delta {
    let mut delta = Delta::new(Lsn(0), vanished);
    for (record, operation) in operations.iter().enumerate() {
        delta.absorb(position(record as u64), operation);
    }
    delta
}

fn file(oid: Oid) -> Other {
    Other { oid, kind: ObjectKind::File, nlink: 1 }
}

fn create(oid: Oid, at_name: &'static str) -> Operation<'static> {
    let kind = NewKind::File;
    let object = NewObject { oid, kind, mode: 0o600, uid: 1, gid: 1, generation: 1, xattrs: vec![] };
    Operation::Create { parent: Oid::ROOT, name: name(at_name), object, parent_nlink: 2, at: AT }
}

fn unlink(oid: Oid, at_name: &'static str, reap: bool) -> Operation<'static> {
    let object = Other { nlink: 0, ..file(oid) };
    Operation::Unlink { parent: Oid::ROOT, name: name(at_name), object, reap, parent_nlink: 2, at: AT }
}

fn rename(oid: Oid, from: &'static str, to: &'static str, displaced: Displaced) -> Operation<'static> {
    Operation::Rename {
        from_parent: Oid::ROOT,
        from_name: name(from),
        to_parent: Oid::ROOT,
        to_name: name(to),
        moved: file(oid),
        displaced,
        whiteout: None,
        from_parent_nlink: 2,
        to_parent_nlink: 2,
        at: AT,
    }
}

fn write(oid: Oid, offset: u64, len_bytes: u32, size_after: u64) -> Operation<'static> {
    Operation::Write { oid, offset, len_bytes, size_after, at: AT }
}

#[test]
fn a_file_that_came_and_went_leaves_no_trace() {
    let run = [create(X, "t"), write(X, 0, 4096, 4096), unlink(X, "t", false), Operation::Reap { oid: X }];
    let delta = absorbed(Vanished::Forget, &run);
    assert_eq!(delta.object(X), None);
    assert_eq!(delta.slot(Oid::ROOT, name("t")), None);
    assert_eq!(delta.directories().count(), 0);
    assert_eq!((delta.net_data_bytes(), delta.stats().logged_data_bytes), (0, 4096));
}

#[test]
fn recovery_remembers_what_the_base_might_hold() {
    let delta = absorbed(Vanished::Keep, &[create(X, "t"), write(X, 0, 9, 9), unlink(X, "t", true)]);
    let object = delta.object(X).unwrap();
    assert!(object.born.is_some() && object.state == ObjectState::Dead && object.extents.is_empty());
    assert_eq!(delta.slot(Oid::ROOT, name("t")), Some(None));
}

#[test]
fn a_death_of_something_older_is_remembered() {
    let delta = absorbed(Vanished::Forget, &[write(X, 0, 9, 9), unlink(X, "old", true)]);
    assert_eq!(delta.object(X).map(|x| (x.state, x.born.is_some())), Some((ObjectState::Dead, false)));
    assert_eq!(delta.slot(Oid::ROOT, name("old")), Some(None));
}

#[test]
fn the_usual_atomic_replacement_costs_one_file() {
    // write to a temporary name, rename over the old file: what editors and databases do.
    let old = Other { nlink: 0, ..file(Oid(50)) };
    let run = [
        create(X, "tmp"),
        write(X, 0, 100, 100),
        rename(X, "tmp", "file", Displaced::Replaced { object: old, reap: true }),
    ];
    let delta = absorbed(Vanished::Forget, &run);
    let slots: Vec<_> = delta.slots_of(Oid::ROOT).map(|(n, s)| (n.as_bytes().to_vec(), *s)).collect();
    let slot = Slot { target: Some(Target { oid: X, kind: ObjectKind::File }), occupied_below: true };
    assert_eq!(slots, [(b"file".to_vec(), slot)]);
    assert_eq!(delta.object(Oid(50)).unwrap().state, ObjectState::Dead);
}

#[test]
fn truncating_and_growing_again_masks_what_lay_below() {
    let truncate = |size| Operation::Truncate { oid: X, size, at: AT };
    let delta = absorbed(
        Vanished::Forget,
        &[write(X, 0, 100, 1000), truncate(60), truncate(5000), write(X, 70, 5, 5000)],
    );
    let x = delta.object(X).unwrap();
    assert_eq!((x.base_valid_below, x.attrs.size), (60, Some(5000)));
    let data_at = |record| position(record).payload_lsn.plus(crate::op::codec::WRITE_HEAD_BYTES as u64);
    let extents: Vec<_> = x.extents.iter().collect();
    let expected = [
        Extent { offset: 0, len_bytes: 60, source: Source::Log(data_at(0)) },
        Extent { offset: 70, len_bytes: 5, source: Source::Log(data_at(3)) },
    ];
    assert_eq!(extents, expected);
}

#[test]
fn overwritten_bytes_are_forgotten() {
    let run: Vec<_> = (0..100).map(|_| write(X, 4096, 4096, 1 << 20)).collect();
    let delta = absorbed(Vanished::Forget, &run);
    assert_eq!((delta.net_data_bytes(), delta.stats().logged_data_bytes), (4096, 409_600));
    assert_eq!(delta.object(X).unwrap().last_lsn, position(99).lsn);
}

#[test]
fn a_hole_past_the_mask_needs_no_extent() {
    let punch = |offset| Operation::PunchHole { oid: X, offset, len_bytes: 100, size_after: 500, at: AT };
    let truncate = |size| Operation::Truncate { oid: X, size, at: AT };
    let delta = absorbed(Vanished::Forget, &[truncate(250), truncate(500), punch(0), punch(200), punch(300)]);
    let extents: Vec<_> = delta.object(X).unwrap().extents.iter().map(|e| (e.offset, e.len_bytes)).collect();
    assert_eq!(extents, [(0, 100), (200, 50)]);
}

fn allocated(delta: &Delta) -> Vec<(u64, u64)> {
    delta.object(X).unwrap().allocated.iter().map(|range| (range.start, range.end)).collect()
}

#[test]
fn preallocation_past_the_end_survives_until_a_truncation() {
    let allocate = Operation::Allocate { oid: X, offset: 0, len_bytes: 9000, size_after: 10, at: AT };
    let mut delta = absorbed(Vanished::Forget, &[create(X, "f"), allocate]);
    assert_eq!(allocated(&delta), [(0, 9000)]);
    delta.absorb(position(2), &Operation::Truncate { oid: X, size: 10, at: AT });
    assert_eq!(allocated(&delta), [(0, 10)]);
}

fn delta_of(steps: &[Step], vanished: Vanished, twice: bool) -> Delta {
    let log = MemoryLog::default();
    let positions: Vec<_> = steps.iter().map(|step| log.append(step)).collect();
    let mut delta = Delta::new(Lsn::ZERO, vanished);
    for _ in 0..=u8::from(twice) {
        steps.iter().zip(&positions).for_each(|(step, at)| delta.absorb(*at, &step.operation()));
    }
    delta
}

proptest! {
    /// Records are absolute: a run absorbed twice ends as it ended the first time.
    #[test]
    fn absorbing_a_run_again_changes_nothing(seed: u64, count in 1usize..150) {
        let steps = Generator::new(seed).steps(count);
        let (once, twice) = (delta_of(&steps, Vanished::Keep, false), delta_of(&steps, Vanished::Keep, true));
        let targets = |delta: &Delta| -> BTreeMap<(Oid, Name), Option<Target>> {
            let slots = delta.directories().map(|d| (d, delta.slots_of(d)));
            slots.flat_map(|(d, s)| s.map(move |(n, slot)| ((d, n.clone()), slot.target))).collect()
        };
        prop_assert_eq!(targets(&once), targets(&twice));
        let states = |delta: &Delta| -> BTreeMap<Oid, (ObjectState, AttrPatch)> {
            delta.objects().map(|(oid, o)| (oid, (o.state, o.attrs))).collect()
        };
        prop_assert_eq!(states(&once), states(&twice));
    }

    /// What is counted record by record is what there is.
    #[test]
    fn memory_is_counted_as_it_comes_and_goes(seed: u64, count in 1usize..150, keep: bool, twice: bool) {
        let steps = Generator::new(seed).steps(count);
        let delta = delta_of(&steps, if keep { Vanished::Keep } else { Vanished::Forget }, twice);
        let objects: usize = delta.objects().map(|(_, object)| memory::of_whole(object)).sum();
        let slots = delta.directories().flat_map(|directory| delta.slots_of(directory));
        let slots: usize = slots.map(|(name, _)| memory::of_slot(name.as_bytes())).sum();
        prop_assert_eq!(delta.stats().memory_bytes, objects + slots);
    }

    /// Forgetting loses nothing but what came and went.
    #[test]
    fn forgetting_differs_only_in_what_vanished(seed: u64, count in 1usize..150) {
        let steps = Generator::new(seed).steps(count);
        let (keeps, forgets) = (delta_of(&steps, Vanished::Keep, false), delta_of(&steps, Vanished::Forget, false));
        for (oid, object) in keeps.objects() {
            let vanished = object.born.is_some() && object.state == ObjectState::Dead;
            prop_assert_eq!(forgets.object(oid).is_none(), vanished, "{}", oid);
        }
        for directory in forgets.directories() {
            for (name, slot) in forgets.slots_of(directory) {
                prop_assert_eq!(keeps.slot(directory, name.as_ref()), Some(slot.target));
                // Nothing lies below an empty volume, so no emptiness needs to be told.
                prop_assert!(slot.target.is_some());
            }
        }
    }
}
