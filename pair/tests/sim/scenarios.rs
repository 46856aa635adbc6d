//! Scenarios by name, over a network without faults unless the scenario makes one.

use crate::disk::Disk;
use crate::world::World;
use ids::EpochHistory;
use pair::witness::Mode;
use pair::{Event, FailedPart, Operator, PairMode, ResyncReason, RoleName};

pub const A: usize = 0;
pub const B: usize = 1;

pub fn mirrored(witness: bool) -> World {
    let mut world = World::new(1, witness);
    world.start(A);
    world.start(B);
    world.run_for(3_000);
    world.assert_mirrored();
    assert_eq!(world.modes()[A], Some((RoleName::Primary, PairMode::Mirrored)), "the lower name begins");
    world
}

pub fn status(world: &World, node: usize) -> pair::PairStatus {
    let n = &world.nodes[node];
    n.pair.as_ref().expect("runs").status(n.clock(world.time_ms))
}

pub fn progresses(world: &mut World) -> bool {
    let before = world.oracle.acknowledged.len();
    world.run_for(300);
    world.oracle.acknowledged.len() > before
}

#[test]
fn a_fresh_pair_becomes_mirrored() {
    for witness in [true, false] {
        let mut world = mirrored(witness);
        assert!(progresses(&mut world));
        assert_eq!(world.register.is_some(), witness);
    }
}

#[test]
fn the_preferred_node_begins() {
    let mut world = World::new(1, true);
    for node in &mut world.nodes {
        node.config.preferred = Some("b".parse().unwrap());
    }
    world.start(A);
    world.start(B);
    world.run_for(3_000);
    assert_eq!(world.modes()[B], Some((RoleName::Primary, PairMode::Mirrored)));
}

/// Something else may answer at the address of a partner that is gone.
#[test]
fn a_frozen_primary_says_first_what_it_waits_for() {
    let mut world = mirrored(true);
    world.witness_up = false;
    world.crash(B);
    world.run_for(1_000);
    world.apply(A, Event::LinkRefused { reason: Some("a stranger answers there".to_owned()) });
    assert_eq!(world.modes()[A], Some((RoleName::Primary, PairMode::Frozen)));
    let detail = status(&world, A).detail;
    assert!(detail.starts_with("partner lost and the witness does not answer"), "{detail}");
    assert!(detail.ends_with("a stranger answers there"), "{detail}");
    // Nobody answers there any more.
    world.apply(A, Event::LinkRefused { reason: None });
    assert_eq!(status(&world, A).refusal, None);
}

/// The machine's own arithmetic, on a virtual clock; a tick of the simulation takes up to 35 ms.
#[test]
fn a_takeover_begins_with_the_failure_timeout_or_sooner_with_the_end_of_the_lease() {
    let timers = pair::Timers::default();
    let lease_ms = timers.lease_ms + timers.drift_margin_ms;
    for (told, begins_ms) in [(false, timers.failure_timeout_ms), (true, lease_ms)] {
        let mut world = mirrored(true);
        let link = world.link.expect("a link");
        world.nodes[A].crash();
        world.link = None;
        if told {
            world.apply(B, Event::LinkDown { link });
        }
        world.run_for(1_000);
        assert_eq!(world.modes()[B], Some((RoleName::Primary, PairMode::Solo)));
        assert!(progresses(&mut world));
        let takeover = status(&world, B).takeover.expect("a takeover");
        assert!((begins_ms..begins_ms + 40).contains(&takeover.detection_ms), "{told}: {takeover:?}");
        assert_eq!(takeover.lease_ms, 0, "it is over by then: {takeover:?}");
        let rest = takeover.fencing_ms + takeover.witness_ms + takeover.opening_ms;
        assert!(rest <= 50, "{takeover:?}");
    }
}

#[test]
fn a_link_that_breaks_under_a_primary_that_lives_moves_nothing() {
    // It comes back; or it does not, and who serves is the first to ask the witness.
    for (comes_back, mode) in [(true, PairMode::Mirrored), (false, PairMode::Solo)] {
        let mut world = mirrored(true);
        let link = world.link.take().expect("a link");
        world.network_up = comes_back;
        for node in [B, A] {
            world.apply(node, Event::LinkDown { link });
        }
        world.run_for(1_000);
        assert_eq!(world.modes()[A], Some((RoleName::Primary, mode)), "{comes_back}");
        assert_eq!(status(&world, A).epoch.0 > 2, !comes_back, "{comes_back}");
        assert_eq!(status(&world, B).takeover, None, "{comes_back}");
        assert!(progresses(&mut world));
    }
}

/// Both have started a moment ago, so neither trusts yet what the witness says and may claim. Whoever is to go on
/// with the epoch that is there needs no claim.
#[test]
fn a_primary_that_is_back_is_followed_also_while_nobody_may_claim() {
    let mut world = mirrored(true);
    world.crash(A);
    world.crash(B);
    world.run_for(3_000);
    world.start(A);
    world.start(B);
    for _ in 0..200 {
        world.run_for(10);
        if world.modes()[A] == Some((RoleName::Primary, PairMode::Mirrored)) {
            break;
        }
    }
    world.assert_mirrored();
    let epoch = status(&world, A).epoch;
    let link = world.link.take().expect("a link");
    world.network_up = false;
    for node in [B, A] {
        world.apply(node, Event::LinkDown { link });
    }
    world.run_for(400);
    world.network_up = true;
    world.run_for(500);
    world.assert_mirrored();
    assert_eq!(status(&world, A).epoch, epoch);
    assert_eq!(world.modes()[A], Some((RoleName::Primary, PairMode::Mirrored)));
}

#[test]
fn the_partner_takes_over_and_the_old_primary_joins_it() {
    let mut world = mirrored(true);
    world.crash(A);
    world.run_for(1_000);
    assert_eq!(world.modes()[B], Some((RoleName::Primary, PairMode::Solo)));
    assert!(progresses(&mut world));
    world.start(A);
    world.run_for(3_000);
    world.assert_mirrored();
    assert_eq!(world.modes()[A].unwrap().0, RoleName::Partner);
}

#[test]
fn the_primary_goes_on_alone_and_takes_the_partner_back() {
    let mut world = mirrored(true);
    world.crash(B);
    world.run_for(1_000);
    assert_eq!(world.modes()[A], Some((RoleName::Primary, PairMode::Solo)));
    assert!(progresses(&mut world));
    world.start(B);
    world.run_for(3_000);
    world.assert_mirrored();
}

#[test]
fn an_outdated_partner_does_not_serve() {
    let mut world = mirrored(true);
    world.crash(B);
    world.run_for(1_000);
    world.crash(A);
    world.start(B);
    world.run_for(10_000);
    assert_eq!(world.modes()[B], Some((RoleName::None, PairMode::Outdated)));
    world.start(A);
    world.run_for(4_000);
    world.assert_mirrored();
}

#[test]
fn without_the_witness_both_freeze_and_heal_by_themselves() {
    let mut world = mirrored(true);
    world.witness_up = false;
    world.network_up = false;
    world.cut();
    world.run_for(1_000);
    assert!(!progresses(&mut world), "nothing may be acknowledged");
    assert_eq!(world.modes()[A], Some((RoleName::Primary, PairMode::Frozen)));
    assert_eq!(world.modes()[B], Some((RoleName::None, PairMode::TakingOver)));
    world.witness_up = true;
    world.run_for(6_000);
    assert!(progresses(&mut world));
    world.network_up = true;
    world.run_for(4_000);
    world.assert_mirrored();
}

#[test]
fn with_no_witness_a_node_freezes_until_the_partner_is_back() {
    let mut world = mirrored(false);
    world.crash(A);
    world.run_for(20_000);
    assert_eq!(world.modes()[B], Some((RoleName::None, PairMode::Frozen)));
    world.start(A);
    world.run_for(4_000);
    world.assert_mirrored();
}

#[test]
fn with_no_witness_an_operator_decides() {
    let mut world = mirrored(false);
    world.crash(A);
    world.run_for(2_000);
    world.apply(B, Event::Operator(Operator::ForceTakeover));
    world.run_for(1_000);
    assert_eq!(world.modes()[B], Some((RoleName::Primary, PairMode::Solo)));
    world.start(A);
    world.run_for(4_000);
    world.assert_mirrored();
}

#[test]
fn an_outdated_partner_that_was_forced_splits_the_volume_and_nothing_is_merged() {
    let mut world = mirrored(true);
    world.crash(B);
    world.run_for(2_000);
    world.crash(A);
    world.start(B);
    world.run_for(4_000);
    world.oracle.forced = true;
    world.apply(B, Event::Operator(Operator::ForceTakeover));
    world.run_for(1_000);
    assert_eq!(world.modes()[B], Some((RoleName::Primary, PairMode::Solo)));
    let alone = world.nodes[A].disk.log.clone();
    world.start(A);
    world.run_for(4_000);
    assert_eq!(world.modes()[A], Some((RoleName::None, PairMode::Split)));
    assert!(status(&world, B).split.is_some(), "both sides show it");
    assert_eq!(world.nodes[A].disk.log, alone, "the other side is kept");
    world.apply(A, Event::Operator(Operator::DiscardLocal));
    assert_eq!(status(&world, A).needs_resync, Some(ResyncReason::Discarded));
    assert!(
        world.nodes[A].pair.as_ref().is_some_and(pair::Pair::salvages),
        "kept aside before its tree changes"
    );
    world.run_for(6_000);
    world.assert_mirrored();
}

#[test]
fn both_sides_of_a_split_show_it_also_when_neither_serves() {
    let mut world = mirrored(true);
    world.crash(B);
    world.run_for(2_000);
    world.crash(A);
    world.start(B);
    world.run_for(4_000);
    world.oracle.forced = true;
    // The witness never hears of what the operator forced.
    world.witness_up = false;
    world.apply(B, Event::Operator(Operator::ForceTakeover));
    world.run_for(1_000);
    world.start(A);
    world.run_for(2_000);
    for node in [A, B] {
        world.crash(node);
    }
    world.witness_up = true;
    for node in [A, B] {
        world.start(node);
    }
    world.run_for(8_000);
    for node in [A, B] {
        assert_eq!(world.modes()[node], Some((RoleName::None, PairMode::Split)), "{:?}", world.statuses());
    }
}

#[test]
fn a_witness_that_lost_its_register_gets_it_again_from_a_mirrored_pair() {
    let mut world = mirrored(true);
    world.register = None;
    world.run_for(3_000);
    world.assert_mirrored();
    assert!(world.register.as_ref().is_some_and(|register| register.mode == Mode::Mirrored));
    world.crash(A);
    world.run_for(2_000);
    assert_eq!(world.modes()[B], Some((RoleName::Primary, PairMode::Solo)), "so the partner can take over");
}

fn gets_its_resync(world: &mut World) {
    world.resyncs = true;
    world.run_for(5_000);
    world.assert_mirrored();
}

#[test]
fn away_longer_than_the_log_reaches_needs_a_resync() {
    let mut world = mirrored(true);
    world.nodes[A].retained = 20;
    world.resyncs = false;
    world.crash(B);
    world.run_for(2_000);
    world.start(B);
    world.run_for(3_000);
    assert_eq!(world.modes()[B], Some((RoleName::None, PairMode::NeedsResync)));
    assert_eq!(status(&world, B).needs_resync, Some(ResyncReason::TooOld));
    assert!(progresses(&mut world), "the primary goes on");
    gets_its_resync(&mut world);
}

#[test]
fn a_node_whose_log_was_lost_is_not_eligible() {
    let mut world = mirrored(true);
    world.crash(A);
    world.crash(B);
    let history = EpochHistory::default();
    let lost = Disk { state: Vec::new(), log: Vec::new(), history, survived: true, base_empty: false };
    world.nodes[B].disk = lost;
    world.resyncs = false;
    world.start(B);
    world.run_for(8_000);
    let (role, _) = world.modes()[B].unwrap();
    assert_eq!(role, RoleName::None, "{:?}", status(&world, B));
    world.start(A);
    world.run_for(4_000);
    assert_eq!(world.modes()[A], Some((RoleName::Primary, PairMode::Solo)));
    assert_eq!(status(&world, B).needs_resync, Some(ResyncReason::LogLost));
    gets_its_resync(&mut world);
}

#[test]
fn both_logs_lost_serves_nothing_by_itself() {
    let mut world = mirrored(true);
    for node in [A, B] {
        world.crash(node);
        world.nodes[node].disk.survived = false;
    }
    world.start(A);
    world.start(B);
    world.run_for(8_000);
    for node in [A, B] {
        assert_eq!(world.modes()[node], Some((RoleName::None, PairMode::NeedsResync)));
        assert_eq!(status(&world, node).needs_resync, Some(ResyncReason::LogLost));
    }
}

#[test]
fn both_nodes_lose_power_and_nothing_is_lost() {
    for (first, second) in [(A, B), (B, A)] {
        let mut world = mirrored(true);
        world.crash(A);
        world.crash(B);
        world.start(first);
        world.run_for(500);
        world.start(second);
        world.run_for(6_000);
        world.assert_mirrored();
        assert!(progresses(&mut world));
    }
}

#[test]
fn a_switchover_truncates_nothing_and_goes_both_ways() {
    for witness in [true, false] {
        let mut world = mirrored(witness);
        for (from, to) in [(A, B), (B, A)] {
            let before = world.nodes[from].disk.log.clone();
            // Asked for on the partner, it is passed on.
            world.apply(to, Event::Operator(Operator::Switchover));
            world.run_for(2_000);
            assert_eq!(world.modes()[to], Some((RoleName::Primary, PairMode::Mirrored)));
            world.assert_mirrored();
            assert!(world.nodes[from].disk.log.starts_with(&before), "the old primary truncated");
            assert!(progresses(&mut world));
        }
    }
}

#[test]
fn a_switchover_with_the_witness_away_is_called_off_or_settled_later() {
    let mut world = mirrored(true);
    world.witness_up = false;
    world.apply(A, Event::Operator(Operator::Switchover));
    world.run_for(3_000);
    world.witness_up = true;
    world.run_for(4_000);
    world.assert_mirrored();
    assert!(progresses(&mut world));
}

/// Every timer of the pair runs through an hour in which the witness says nothing: the lease lives on heartbeats, the
/// register that both remember does not age, and asking again and again never stops and never grows.
#[test]
fn an_hour_without_the_witness_changes_nothing_and_it_decides_as_ever_afterwards() {
    const HOUR_MS: u64 = 3_600_000;
    for lost in [A, B] {
        let mut world = mirrored(true);
        world.witness_up = false;
        for _ in 0..60 {
            world.run_for(HOUR_MS / 60);
            world.assert_mirrored();
            assert!(progresses(&mut world));
        }
        assert_eq!(world.modes()[A], Some((RoleName::Primary, PairMode::Mirrored)));
        // Without the witness nobody goes on alone, whoever is lost now.
        world.crash(lost);
        world.run_for(60_000);
        assert!(!progresses(&mut world));
        world.witness_up = true;
        world.run_for(3_000);
        let left = 1 - lost;
        assert_eq!(world.modes()[left], Some((RoleName::Primary, PairMode::Solo)));
        assert!(progresses(&mut world));
        world.start(lost);
        world.run_for(5_000);
        world.assert_mirrored();
    }
}

#[test]
fn a_clean_stop_hands_over_and_stops() {
    let mut world = mirrored(true);
    world.apply(A, Event::Shutdown);
    world.run_for(1_500);
    assert!(world.nodes[A].stopped);
    assert_eq!(world.modes()[B].unwrap().0, RoleName::Primary);
    assert!(progresses(&mut world));
}

#[test]
fn a_disk_fault_hands_over_to_a_healthy_partner() {
    let mut world = mirrored(true);
    world.apply(A, Event::LocalFault(pair::LocalFault::BaseIo));
    world.run_for(2_000);
    assert_eq!(world.modes()[B], Some((RoleName::Primary, PairMode::Mirrored)));
}

#[test]
fn a_partner_of_another_volume_is_refused_on_both_sides() {
    let mut world = World::new(1, true);
    world.nodes[B].volume.0[0] ^= 1;
    world.start(A);
    world.start(B);
    world.run_for(1_000);
    for node in [A, B] {
        assert!(matches!(status(&world, node).refusal, Some(pair::Refusal::Volume { .. })));
        assert_eq!(world.modes()[node].unwrap().0, RoleName::None);
    }
}

/// As long as it comes.
#[test]
fn a_partner_with_another_capacity_is_refused() {
    let mut world = World::new(1, true);
    world.nodes[B].capacity_bytes *= 2;
    world.start(A);
    world.start(B);
    for _ in 0..20 {
        world.run_for(1_000);
        for node in [A, B] {
            assert!(matches!(status(&world, node).refusal, Some(pair::Refusal::Capacity { .. })));
        }
    }
    world.crash(B);
    world.run_for(15_000);
    assert_eq!(status(&world, A).refusal, None);
}

#[test]
fn a_failing_log_stops_serving_and_the_partner_takes_over() {
    let mut world = mirrored(true);
    world.apply(A, Event::CommandFailed { part: FailedPart::Log, error: "EIO".to_owned() });
    assert_eq!(world.modes()[A].unwrap().1, PairMode::Failed);
    world.run_for(1_500);
    assert_eq!(world.modes()[B], Some((RoleName::Primary, PairMode::Solo)));
}

#[test]
fn an_adopted_tree_is_never_mirrored_over_an_empty_one() {
    let mut world = World::new(1, true);
    world.nodes[B].disk.base_empty = false;
    world.resyncs = false;
    world.start(A);
    world.start(B);
    world.run_for(4_000);
    assert_eq!(world.modes()[B], Some((RoleName::Primary, PairMode::Solo)), "the one with data begins");
    assert_eq!(status(&world, A).needs_resync, Some(ResyncReason::FirstCopy));
    gets_its_resync(&mut world);
}
