//! What may be believed: a register that was rolled back, a log that is older than it should be, an order whose
//! command has ended.

use crate::scenarios::{A, B, mirrored, progresses, status};
use crate::world::World;
use pair::witness::{Mode, Register};
use pair::{CallOff, Event, LocalFault, Operator, PairMode, ResyncReason, RoleName};

const SOLO: Option<(RoleName, PairMode)> = Some((RoleName::Primary, PairMode::Solo));

/// A pair whose primary has gone on alone, and the register from before that.
fn alone(lost: usize) -> (World, Option<Register>) {
    let mut world = mirrored(true);
    let before = world.register.clone();
    world.crash(lost);
    world.run_for(2_000);
    assert_eq!(world.modes()[1 - lost], SOLO);
    assert!(progresses(&mut world));
    (world, before)
}

/// A pair that is mirrored again after its partner has served alone, and the register from before that.
fn mirrored_again() -> (World, Option<Register>) {
    let mut world = mirrored(true);
    let first = world.register.clone();
    world.crash(A);
    world.run_for(2_000);
    world.start(A);
    world.run_for(4_000);
    world.assert_mirrored();
    (world, first)
}

fn roll_back(world: &mut World, to: Option<Register>) {
    world.register = to;
    world.restored = true;
}

#[test]
fn a_solo_primary_writes_a_rolled_back_register_anew() {
    for before in [true, false] {
        let (mut world, old) = alone(B);
        let newest = world.register.clone().unwrap();
        roll_back(&mut world, old.filter(|_| before));
        world.run_for(1_500);
        let now = world.register.clone().unwrap();
        assert!(now.says_the_same_as(&newest), "{now:?}");
        assert!(progresses(&mut world));
        world.start(B);
        world.run_for(4_000);
        world.assert_mirrored();
    }
}

/// The partner knows nothing of the later epoch and cannot reach the primary: only the witness stands between them.
#[test]
fn a_rolled_back_register_gives_an_outdated_partner_nothing() {
    for wait_ms in [0, 300, 700, 1_100, 1_900] {
        let (mut world, old) = alone(B);
        world.network_up = false;
        world.start(B);
        world.run_for(wait_ms);
        roll_back(&mut world, old);
        world.run_for(10_000);
        assert_eq!(world.modes()[B], Some((RoleName::None, PairMode::Outdated)), "{wait_ms} ms");
        assert_eq!(world.modes()[A], SOLO);
        assert!(progresses(&mut world));
    }
}

#[test]
fn the_same_when_the_witness_was_away_meanwhile() {
    let (mut world, old) = alone(B);
    world.network_up = false;
    world.start(B);
    world.witness_up = false;
    world.run_for(20_000);
    roll_back(&mut world, old);
    world.witness_up = true;
    world.run_for(10_000);
    assert_eq!(world.modes()[B], Some((RoleName::None, PairMode::Outdated)));
    assert_eq!(world.modes()[A], SOLO);
}

/// A takes part in what B was granted, and the witness forgets that.
#[test]
fn a_register_older_than_the_nodes_own_epoch_never_decides() {
    let (mut world, first) = mirrored_again();
    world.crash(A);
    world.run_for(2_000);
    assert!(progresses(&mut world), "B has what A lacks");
    world.crash(B);
    roll_back(&mut world, first);
    world.start(A);
    world.run_for(20_000);
    assert_eq!(world.modes()[A].unwrap().0, RoleName::None, "{:?}", status(&world, A));
    let shown = status(&world, A);
    assert!(shown.register_stale.is_some() && !shown.eligible, "{shown:?}");
    assert!(shown.detail.contains("takeover VOLUME --force"), "{}", shown.detail);
    world.start(B);
    world.run_for(5_000);
    world.assert_mirrored();
    assert!(status(&world, A).register_stale.is_none() && world.register.is_some());
}

#[test]
fn a_mirrored_pair_writes_a_rolled_back_register_anew() {
    let (mut world, first) = mirrored_again();
    roll_back(&mut world, first);
    world.run_for(3_000);
    world.assert_mirrored();
    assert_eq!(world.modes()[B].unwrap().0, RoleName::Primary);
    let now = world.register.clone().unwrap();
    assert_eq!((now.mode, now.primary.as_str()), (Mode::Mirrored, "b"));
}

#[test]
fn with_a_rolled_back_register_a_survivor_waits_for_the_partner() {
    for lost in [A, B] {
        let (mut world, first) = mirrored_again();
        world.witness_up = false;
        world.crash(lost);
        world.run_for(1_000);
        roll_back(&mut world, first);
        world.witness_up = true;
        world.run_for(10_000);
        assert!(!progresses(&mut world), "the other may have been granted something meanwhile");
        assert!(status(&world, 1 - lost).register_stale.is_some());
        world.start(lost);
        world.run_for(5_000);
        world.assert_mirrored();
    }
}

/// Both lost power, and one has an older copy of its log, of which nobody can know by itself that it lacks something.
fn both_down_and_one_log_older(old: usize) -> World {
    let mut world = mirrored(true);
    let copy = world.nodes[old].disk.log.clone();
    world.run_for(1_000);
    world.crash(A);
    world.crash(B);
    world.nodes[old].disk.log = copy;
    world.restored = true;
    world
}

/// Both lost power, and one log is an older copy: whoever has more goes first, whomever the register names.
#[test]
fn the_older_of_two_logs_does_not_claim() {
    for (old, other) in [(A, B), (B, A)] {
        for other_is_late in [0, 300, 900] {
            let mut world = both_down_and_one_log_older(old);
            world.start(old);
            world.run_for(other_is_late);
            world.start(other);
            world.run_for(6_000);
            world.assert_mirrored();
            assert_eq!(world.modes()[other].unwrap().0, RoleName::Primary);
        }
    }
}

/// Likewise when the witness is away at first: then nobody serves, and afterwards the same one does.
#[test]
fn the_older_of_two_logs_does_not_claim_when_the_witness_comes_back() {
    for (old, other) in [(A, B), (B, A)] {
        let mut world = both_down_and_one_log_older(old);
        world.witness_up = false;
        world.start(old);
        world.start(other);
        world.run_for(6_000);
        for node in [A, B] {
            assert_eq!(world.modes()[node].unwrap().0, RoleName::None, "{:?}", status(&world, node));
        }
        world.witness_up = true;
        world.run_for(6_000);
        world.assert_mirrored();
        assert_eq!(world.modes()[other].unwrap().0, RoleName::Primary);
    }
}

/// A log that knows that it ends early (an older superblock, a later lap) claims nothing, whoever is away.
#[test]
fn a_log_that_lacks_something_does_not_claim_without_its_partner() {
    for (old, other) in [(A, B), (B, A)] {
        for witness_up in [true, false] {
            let mut world = mirrored(true);
            world.run_for(1_000);
            world.crash(A);
            world.crash(B);
            world.witness_up = witness_up;
            world.nodes[old].disk.survived = false;
            world.start(old);
            world.run_for(8_000);
            assert_eq!(world.modes()[old], Some((RoleName::None, PairMode::NeedsResync)));
            assert!(!status(&world, old).eligible);
            world.witness_up = true;
            world.start(other);
            world.run_for(8_000);
            assert_eq!(world.modes()[other].unwrap().0, RoleName::Primary, "{:?}", status(&world, other));
        }
    }
}

/// Primary, partner and witness lost power, and only the partner is back.
#[test]
fn force_works_without_primary_and_witness() {
    for node in [A, B] {
        let mut world = mirrored(true);
        world.crash(A);
        world.crash(B);
        world.witness_up = false;
        world.start(node);
        world.run_for(5_000);
        assert_eq!(world.modes()[node], Some((RoleName::None, PairMode::Starting)));
        world.oracle.forced = true;
        world.apply(node, Event::Operator(Operator::ForceTakeover));
        world.run_for(2_000);
        assert_eq!(world.modes()[node], SOLO, "{:?}", status(&world, node));
        assert!(progresses(&mut world));
        world.witness_up = true;
        world.start(1 - node);
        world.run_for(6_000);
        world.assert_mirrored();
        assert_eq!(world.modes()[node].unwrap().0, RoleName::Primary);
    }
}

#[test]
fn a_withdrawn_order_does_not_fire_later() {
    let (mut world, _) = alone(B);
    world.crash(A);
    world.witness_up = false;
    world.start(B);
    world.run_for(100);
    world.nodes[B].paused_until_ms = 0;
    // Its promise of a lease has not ended yet: nothing has been asked.
    world.apply(B, Event::Operator(Operator::ForceTakeover));
    world.apply(B, Event::Withdrawn(Operator::ForceTakeover));
    world.run_for(5_000);
    world.witness_up = true;
    world.run_for(20_000);
    assert_eq!(world.modes()[B].unwrap().0, RoleName::None);
}

/// The answer to its swap was lost. Whether it was made is found out, and it is not asked for again.
#[test]
fn a_withdrawn_switchover_is_not_asked_for_again() {
    let (mut kept, mut given) = (0, 0);
    for after_ms in 0..24 {
        let mut world = mirrored(true);
        world.apply(A, Event::Operator(Operator::Switchover));
        world.run_for(after_ms);
        world.witness_up = false;
        if world.modes()[A] != Some((RoleName::Primary, PairMode::HandingOver)) {
            continue;
        }
        world.apply(A, Event::Withdrawn(Operator::Switchover));
        // A swap that was under way has arrived by then.
        world.run_for(4_000);
        let made = world.register.as_ref().unwrap().primary.as_str() == "b";
        world.witness_up = true;
        world.run_for(5_000);
        world.assert_mirrored();
        let primary = if made { B } else { A };
        assert_eq!(world.modes()[primary].unwrap().0, RoleName::Primary, "made: {made}");
        assert!(progresses(&mut world));
        if made { given += 1 } else { kept += 1 }
    }
    assert!(kept > 0 && given > 0, "{kept} {given}");
}

/// It takes connections and says nothing, or its answers are lost: what it was asked may have been done.
#[test]
fn a_witness_that_is_away_holds_nobody_up() {
    for known in [false, true] {
        let mut world = mirrored(true);
        world.witness_up = false;
        if known {
            world.run_for(6_000);
            let refused = world.nodes[A].pair.as_ref().unwrap().can(Operator::Switchover).unwrap_err();
            assert!(refused.contains("the witness does not answer"), "{refused}");
            // Nor does a disk that fails.
            world.apply(A, Event::LocalFault(LocalFault::BaseIo));
            for _ in 0..10 {
                world.run_for(500);
                assert!(progresses(&mut world));
            }
        } else {
            world.apply(A, Event::Operator(Operator::Switchover));
            world.run_for(4_000);
            assert_eq!(world.nodes[A].called_off, Some(CallOff::Witness));
        }
        world.assert_mirrored();
        assert!(progresses(&mut world));
    }
}

/// Nobody takes over by itself without a witness that lets it.
#[test]
fn only_who_the_witness_lets_is_eligible() {
    let without = mirrored(false);
    assert!(status(&without, A).eligible && !status(&without, B).eligible);
    let mut world = mirrored(true);
    assert!(status(&world, B).eligible);
    world.witness_up = false;
    world.run_for(6_000);
    assert!(status(&world, A).eligible && !status(&world, B).eligible);
    world.witness_up = true;
    world.run_for(3_000);
    assert!(status(&world, B).eligible);
}

/// The partner dies before it serves what it was given. The old primary takes it back, and whoever asked hears that.
#[test]
fn a_switchover_that_the_old_primary_takes_back_is_called_off() {
    let mut world = mirrored(true);
    world.apply(A, Event::Operator(Operator::Switchover));
    while world.modes()[A].unwrap().0 == RoleName::Primary {
        world.run_for(1);
    }
    assert_eq!(world.nodes[A].called_off, None);
    world.crash(B);
    world.run_for(5_000);
    assert_eq!(world.modes()[A], SOLO, "{:?}", status(&world, A));
    assert_eq!(world.nodes[A].called_off, Some(CallOff::PartnerLost));
    assert!(progresses(&mut world));
}

/// The other node is there, and knows of nothing newer: nobody can have been granted anything that both lack.
#[test]
fn beside_a_node_that_needs_a_resync_an_old_register_does_not_stop_the_other() {
    for empty in [true, false] {
        let (mut world, first) = mirrored_again();
        world.crash(A);
        world.run_for(2_000);
        assert!(progresses(&mut world));
        world.nodes[B].retained = 20;
        world.resyncs = false;
        world.start(A);
        world.run_for(2_000);
        assert_eq!(status(&world, A).needs_resync, Some(ResyncReason::TooOld));
        // Its tree is between two states from here on.
        world.apply(A, Event::ResyncBegan);
        world.crash(B);
        roll_back(&mut world, first.filter(|_| !empty));
        world.run_for(10_000);
        assert_eq!(world.modes()[A].unwrap().0, RoleName::None, "it lacks what B acknowledged");
        world.start(B);
        world.run_for(8_000);
        assert_eq!(world.modes()[B], SOLO, "{:?}", status(&world, B));
        assert!(progresses(&mut world));
        world.resyncs = true;
        world.run_for(8_000);
        world.assert_mirrored();
    }
}

#[test]
fn an_empty_node_of_an_old_volume_is_not_forced() {
    let mut world = mirrored(true);
    world.crash(A);
    world.crash(B);
    world.nodes[B].disk = crate::disk::Disk::formatted();
    world.nodes[B].disk.base_empty = true;
    for witness_up in [true, false] {
        world.crash(B);
        world.witness_up = witness_up;
        world.start(B);
        world.run_for(3_000);
        let refused = world.nodes[B].pair.as_ref().unwrap().can(Operator::ForceTakeover);
        assert!(refused.is_err_and(|why| why.contains("empty")), "witness {witness_up}");
        world.apply(B, Event::Operator(Operator::ForceTakeover));
        world.run_for(3_000);
        assert_eq!(world.modes()[B].unwrap().0, RoleName::None);
    }
}

#[test]
fn a_node_that_waits_for_its_first_copy_is_not_forced() {
    let mut world = World::new(1, true);
    world.nodes[B].disk.base_empty = false;
    world.resyncs = false;
    world.start(A);
    world.start(B);
    world.run_for(4_000);
    assert_eq!(status(&world, A).needs_resync, Some(ResyncReason::FirstCopy));
    world.crash(B);
    world.run_for(1_000);
    assert!(world.nodes[A].pair.as_ref().unwrap().can(Operator::ForceTakeover).is_err());
}

#[test]
fn each_node_notices_a_dead_witness_and_its_return() {
    let mut world = mirrored(true);
    for up in [false, true, false, true] {
        world.witness_up = up;
        world.run_for(2_500);
        for node in [A, B] {
            assert_eq!(status(&world, node).witness_reachable, Some(up), "node {node}");
        }
    }
}

/// The witness is away, so nobody can tell an outdated node that the other one has gone on.
#[test]
fn without_the_witness_a_restarted_node_is_not_eligible() {
    let (mut world, _) = alone(B);
    world.network_up = false;
    world.witness_up = false;
    world.start(B);
    world.run_for(3_000);
    assert!(!status(&world, B).eligible);
}
