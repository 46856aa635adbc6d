//! Idempotence, proven by trying: whatever was applied when a crash came and whatever part of it survived,
//! running the consistency point again (over the same records and more) gives the oracle's tree.

use std::sync::Arc;

use ids::{Lsn, Oid, VolumeId};
use parking_lot::RwLock;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{ApplyError, apply_to};
use crate::attributes::AttrPatch;
use crate::base::Base;
use crate::base::tests::room;
use crate::delta::{Delta, RecordPosition, Vanished};
use crate::op::{NewKind, Operation};
use crate::oracle::{Generator, MemoryLog, Step, difference};
use crate::remainder::Bounds;
use crate::remainder::tolerant::{CAPABILITY, Tolerant};
use crate::simulation::tree::SimTree;
use crate::simulation::{Refusing, SimDisk};
use crate::tree::Tree;
use crate::view::Layers;

/// Crashes in a row before a run may come to its end.
const MAX_CRASHES: usize = 4;

fn delta_of(steps: &[(RecordPosition, Step)], vanished: Vanished) -> Delta {
    let mut delta = Delta::new(steps.first().map_or(Lsn::ZERO, |(at, _)| at.lsn), vanished);
    for (at, step) in steps {
        delta.absorb(*at, &step.operation());
    }
    delta
}

struct World {
    log: Arc<MemoryLog>,
    tree: SimTree<Arc<MemoryLog>>,
    generator: Generator,
}

impl World {
    fn new(seed: u64) -> World {
        let log = Arc::new(MemoryLog::default());
        World { tree: SimDisk::new().tree(log.clone()), generator: Generator::new(seed), log }
    }

    fn steps(&mut self, count: usize) -> Vec<(RecordPosition, Step)> {
        let steps = self.generator.steps(count);
        steps.into_iter().map(|step| (self.log.append(&step), step)).collect()
    }

    fn check(&self) {
        let layers = Layers {
            active: Arc::new(RwLock::new(Delta::new(Lsn::ZERO, Vanished::Forget).into())),
            sealed: Vec::new(),
            base: Arc::new(SimDisk::clone(&self.tree)),
            log: self.log.clone(),
        };
        if let Some(found) = difference(&layers, self.generator.model()) {
            panic!("{found}");
        }
        assert!(self.tree.staging_is_empty(), "something stayed in staging");
        let mut shown = self.tree.oids();
        shown.sort_unstable();
        let expected: Vec<Option<Oid>> = self.generator.model().nodes.keys().copied().map(Some).collect();
        assert_eq!(shown, expected, "inodes that no record made, or too few");
    }
}

/// Several consistency points, each cut short by crashes; recovery runs over all records since the last one
/// that ended, as many as were committed by then.
fn survive(seed: u64, points: usize, records: usize, refusing: Option<Refusing>) -> World {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut world = World::new(seed);
    world.tree.set_refusing(refusing);
    for _ in 0..points {
        let mut steps = world.steps(rng.random_range(1..=records));
        let mut vanished = Vanished::Forget;
        for _ in 0..rng.random_range(0..=MAX_CRASHES) {
            world.tree.crash_after(rng.random_range(0..steps.len() * 4 + 4));
            match apply_to(&world.tree, &delta_of(&steps, vanished)) {
                Ok(_) => {}
                Err(ApplyError::Io(_)) => {}
                Err(other) => panic!("{other}"),
            }
            let survival = [0.0, 0.2, 0.5, 0.8, 1.0][rng.random_range(0..5)];
            world.tree.restart(&mut rng, survival);
            vanished = Vanished::Keep;
            steps.extend(world.steps(rng.random_range(0..=records / 2)));
        }
        apply_to(&world.tree, &delta_of(&steps, vanished)).expect("nothing fails any more");
        world.check();
        // Power fails after the sync but before the log's tail has moved.
        world.tree.sync();
        apply_to(&world.tree, &delta_of(&steps, Vanished::Keep)).expect("nothing fails any more");
        world.check();
        world.tree.sync();
    }
    world
}

/// The same on a tree that refuses some of it for good. Then it refuses nothing any more, and takes all that was kept.
fn survive_refusals(seed: u64, points: usize, records: usize, one_in: u64) -> usize {
    let world = survive(seed, points, records, Some(Refusing { seed, one_in }));
    let (_, kept) = world.tree.remainder().held(0);
    world.tree.restart(&mut StdRng::seed_from_u64(seed), 1.0);
    world.check();
    assert_eq!(world.tree.remainder().held(0).1, kept, "a restart finds all that was kept");
    world.tree.set_refusing(None);
    let store = || {
        world.tree.sync();
        Ok(())
    };
    Tolerant(&world.tree).try_all_again(store).expect("nothing is refused any more");
    assert!(world.tree.remainder().is_empty(), "{:?}", world.tree.remainder().held(9));
    world.check();
    // What the records gave up to the tree was not flushed: a crash must find it in one of both.
    world.tree.restart(&mut StdRng::seed_from_u64(seed ^ 1), 0.5);
    world.check();
    kept
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_anywhere_with_any_surviving_effects_is_repaired(
        seed: u64, points in 1..4usize, records in 1..60usize,
    ) {
        survive(seed, points, records, None);
    }

    #[test]
    fn what_is_refused_is_kept_whatever_a_crash_leaves(
        seed: u64, points in 1..4usize, records in 1..60usize, one_in in 1..12u64,
    ) {
        survive_refusals(seed, points, records, one_in);
    }
}

#[test]
fn much_is_refused_and_all_of_it_is_kept() {
    let kept: usize = (0..20).map(|seed| survive_refusals(seed, 2, 50, 3)).sum();
    assert!(kept > 200, "only {kept} refusals: the tree takes nearly everything");
}

/// Beyond its bounds clients get no more; what they were answered before is applied and kept all the same.
#[test]
fn more_than_clients_may_have_refused_is_kept() {
    let mut world = World::new(5);
    world.tree.set_refusing(Some(Refusing { seed: 5, one_in: 2 }));
    world.tree.remainder().set_bounds(Bounds { names: 4, objects: 4, bytes: 1 << 20 });
    let steps = world.steps(60);
    apply_to(&world.tree, &delta_of(&steps, Vanished::Forget)).expect("all of it was answered");
    assert!(world.tree.remainder().held(0).1 > 8);
    world.check();
    let base = Base::simulated(SimDisk::clone(&world.tree), VolumeId([5; 16]));
    assert_eq!(base.space().expect("tells").free_bytes, 0, "clients get no more");
    world.tree.remainder().set_bounds(Bounds::default());
    assert!(base.space().expect("tells").free_bytes > 0);
}

/// Setting an owner takes them away; the one here was refused before they were given.
#[test]
fn an_owner_that_is_tried_again_takes_no_capabilities() {
    let (oid, value) = (Oid(20), [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let world = World::new(0);
    let point = |one_in: Option<u64>, operation| {
        world.tree.set_refusing(one_in.map(|one_in| Refusing { seed: 0, one_in }));
        let delta = room::delta_of(&world.log, &[(operation, &[])]);
        apply_to(&world.tree, &delta).expect("applies");
        world.tree.sync();
    };
    let seen = || {
        let owner = Tolerant(&world.tree).attributes(oid).expect("is there").uid;
        (owner, world.tree.xattr(oid, CAPABILITY).expect("reads").as_deref() == Some(&value))
    };
    point(None, room::create(oid, b"file", NewKind::File));
    let patch = AttrPatch { uid: Some(7), ..AttrPatch::default() };
    point(Some(1), Operation::SetAttr { oid, patch });
    assert!(!world.tree.remainder().is_empty(), "nothing was refused");
    point(None, room::set(oid, CAPABILITY, &value));
    assert_eq!(seen(), (7, true), "after a consistency point");
    let store = || {
        world.tree.sync();
        world.tree.crash_after(2);
        Ok(())
    };
    let cut = Tolerant(&world.tree).try_all_again(store);
    assert!(cut.is_err(), "no crash");
    world.tree.restart(&mut StdRng::seed_from_u64(0), 1.0);
    assert_eq!(world.tree.remainder().object(oid).and_then(|kept| kept.owner), Some((7, 0)));
    Tolerant(&world.tree).try_all_again(|| Ok(())).expect("nothing is refused any more");
    assert_eq!(seen(), (7, true), "after all was tried again");
    assert!(world.tree.remainder().is_empty());
}

/// A directory that lost its label in a crash, with what was made in it, stands where another one is wanted.
#[test]
fn an_adopted_directory_brings_nothing_with_it() {
    survive(8_056_702_502_401_702_802, 1, 47, None);
}

/// The same, one effect further each time, for one busy Delta: no crash point is left to luck.
#[test]
fn every_crash_point_of_one_consistency_point() {
    let prepared = |seed| {
        let mut world = World::new(seed);
        let before = world.steps(40);
        apply_to(&world.tree, &delta_of(&before, Vanished::Forget)).expect("applies");
        world.tree.sync();
        let steps = world.steps(60);
        (world, steps)
    };
    for seed in 0..3 {
        let (world, steps) = prepared(seed);
        apply_to(&world.tree, &delta_of(&steps, Vanished::Forget)).expect("applies");
        let effects = world.tree.effects();
        assert!(effects > 10, "the Delta is busy: {effects}");
        for crash in 0..effects {
            let (world, steps) = prepared(seed);
            world.tree.crash_after(crash);
            let cut = apply_to(&world.tree, &delta_of(&steps, Vanished::Forget));
            assert!(matches!(cut, Err(ApplyError::Io(_))), "{cut:?}");
            world.tree.restart(&mut StdRng::seed_from_u64(crash as u64), 0.7);
            apply_to(&world.tree, &delta_of(&steps, Vanished::Keep)).expect("nothing fails any more");
            world.check();
        }
    }
}

/// A start that applies a long log in pieces, as a node does: a Delta ends when it takes as much memory as it may, but never
/// before what the tree may hold already; where it ends is noted before it is applied, and only then does the tail move. Power
/// fails again and again, in the middle of a piece or between any two steps.
fn replay_in_pieces(seed: u64, records: usize, memory: usize, crashes: usize) -> usize {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x91ece5);
    let mut world = World::new(seed);
    let log = world.steps(records);
    // Records before `tail` are applied and flushed; nothing of those from `begun` on is.
    let (mut tail, mut begun, mut crashes, mut pieces) = (0, 0, crashes, 0);
    'start: loop {
        let mut vanished = Vanished::Keep;
        while tail < log.len() {
            let mut delta = Delta::new(log[tail].0.lsn, vanished);
            let mut end = tail;
            while end < log.len() && (end < begun || delta.stats().memory_bytes < memory) {
                delta.absorb(log[end].0, &log[end].1.operation());
                end += 1;
            }
            begun = end;
            let power_fails = crashes > 0 && rng.random_ratio(1, 3);
            if power_fails {
                world.tree.crash_after(rng.random_range(0..(end - tail) * 4 + 4));
            }
            match apply_to(&world.tree, &delta) {
                Ok(_) | Err(ApplyError::Io(_)) => {}
                Err(other) => panic!("{other}"),
            }
            if power_fails {
                crashes -= 1;
                if rng.random_ratio(1, 4) {
                    // Late: all is flushed, and the tail has not moved.
                    world.tree.restart(&mut rng, 1.0);
                } else {
                    let survival = [0.0, 0.2, 0.5, 0.8, 1.0][rng.random_range(0..5)];
                    world.tree.restart(&mut rng, survival);
                }
                continue 'start;
            }
            world.tree.sync();
            (tail, vanished) = (end, Vanished::Forget);
            pieces += 1;
        }
        break;
    }
    world.check();
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_replayed_in_pieces_whatever_crashes(
        seed: u64, records in 1..150usize, memory in 1..20_000usize, crashes in 0..8usize,
    ) {
        replay_in_pieces(seed, records, memory, crashes);
    }
}

#[test]
fn the_pieces_of_a_replay_are_many() {
    let pieces: usize = (0..20).map(|seed| replay_in_pieces(seed, 100, 2_000, 4)).sum();
    assert!(pieces > 200, "only {pieces}: the bound bounds nothing");
}
