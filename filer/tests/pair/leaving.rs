//! A node leaves the primary's place on purpose.

use crate::harness::{Cluster, Load, Outcome, Side, Spec, check_all};
use admin_api::control::{Answer, Request};
use admin_api::status::{Mode, Role};

/// What clients on the node that left are told: the mount is going or gone. Never an answer that means something
/// else.
fn check_told(outcomes: &[Outcome]) {
    const SHUT_DOWN: i32 = 108;
    const NOT_CONNECTED: i32 = 107;
    const ABORTED: i32 = 103;
    // The path leads below the mount point, where nothing is.
    const NO_ENTRY: i32 = 2;
    for outcome in outcomes {
        let error = outcome.error.as_ref().and_then(std::io::Error::raw_os_error);
        let expected = [SHUT_DOWN, NOT_CONNECTED, ABORTED, NO_ENTRY];
        assert!(error.is_some_and(|error| expected.contains(&error)), "{:?}", outcome.error);
    }
}

#[test]
fn switchover_under_load_keeps_every_answered_operation() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(200);
    let wish = Request::Switchover { volume: "v".to_owned(), timeout_ms: 30_000 };
    assert_eq!(pair.ask(Side::A, &wish), Ok(Answer::Done), "{}", pair.diagnosis());
    let outcomes = load.join();
    check_told(&outcomes);
    assert_eq!(pair.wait_mirrored(), Side::B, "mirrored all the time: no answer hung on one node");
    check_all(&pair.mount(Side::B), &outcomes);
    assert_eq!(
        std::fs::read_dir(pair.mount(Side::A)).unwrap().count(),
        0,
        "nothing is mounted on the old node"
    );
    pair.check_trees_equal();
    // And back, asked for on the node that shall have it.
    let wish = Request::Takeover { volume: "v".to_owned(), force: false };
    assert_eq!(pair.ask(Side::A, &wish), Ok(Answer::Done), "{}", pair.diagnosis());
    assert_eq!(pair.wait_mirrored(), Side::A);
    check_all(&pair.mount(Side::A), &outcomes);
}

/// The witness is away: whoever asked hears so, and does not wait for what will not come.
#[test]
fn a_switchover_that_is_called_off_says_why() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 1);
    load.wait_for(20);
    pair.kill_witness();
    let wish = Request::Switchover { volume: "v".to_owned(), timeout_ms: 3_600_000 };
    let refused = pair.ask(Side::A, &wish);
    let Ok(Answer::Error(refused)) = refused else { panic!("{refused:?}") };
    assert!(refused.message.contains("called off: the witness"), "{refused:?}");
    let refused = pair.ask(Side::B, &Request::Takeover { volume: "v".to_owned(), force: false });
    let Ok(Answer::Error(refused)) = refused else { panic!("{refused:?}") };
    assert!(refused.message.contains("called off: the witness"), "the primary told it: {refused:?}");
    load.wait_for(20);
    let volume = pair.wait_mode(Side::A, Mode::Mirrored);
    assert_eq!(volume.role, Role::Primary);
    // Nothing stays of it: once the witness is heard again it works.
    pair.start_witness();
    pair.wait_volume(Side::A, "the witness", |volume| {
        volume.witness.as_ref().is_some_and(|witness| witness.reachable)
    });
    let wish = Request::Switchover { volume: "v".to_owned(), timeout_ms: 30_000 };
    assert_eq!(pair.ask(Side::A, &wish), Ok(Answer::Done), "{}", pair.diagnosis());
    let outcomes = load.join();
    check_told(&outcomes);
    assert_eq!(pair.wait_mirrored(), Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
}

#[test]
fn a_switchover_or_a_takeover_on_the_wrong_node_moves_nothing() {
    let mut pair = Cluster::start(Spec::default());
    let before = pair.wait_mode(Side::A, Mode::Mirrored);
    let takeover = Request::Takeover { volume: "v".to_owned(), force: false };
    assert_eq!(pair.ask(Side::A, &takeover), Ok(Answer::Done), "it is primary");
    let switchover = Request::Switchover { volume: "v".to_owned(), timeout_ms: 30_000 };
    let refused = pair.ask(Side::B, &switchover);
    let Ok(Answer::Error(refused)) = refused else { panic!("{refused:?}") };
    assert!(refused.message.contains("`twinfiler takeover VOLUME`"), "{refused:?}");
    let after = pair.wait_mode(Side::A, Mode::Mirrored);
    assert_eq!((after.role, after.epoch), (Role::Primary, before.epoch));
    assert_eq!(pair.wait_mode(Side::B, Mode::Mirrored).epoch, before.epoch);
}

#[test]
fn sigterm_of_the_primary_hands_over() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(200);
    assert_eq!(pair.terminate(Side::A).code(), Some(0));
    let outcomes = load.join();
    check_told(&outcomes);
    let volume = pair.wait_serving(Side::B);
    assert!(volume.faults.is_empty(), "{:?}", volume.faults);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    pair.check_trees_equal();
}

#[test]
fn sigterm_of_the_partner_disturbs_no_client() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(100);
    assert_eq!(pair.terminate(Side::B).code(), Some(0));
    pair.wait_mode(Side::A, Mode::Solo);
    load.wait_for(50);
    // The last one stops cleanly too, with everything applied, and serves again alone.
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    assert_eq!(pair.terminate(Side::A).code(), Some(0));
    check_all(&pair.base(Side::A), &outcomes);
    pair.start_node(Side::A);
    let volume = pair.wait_serving(Side::A);
    assert_eq!((volume.role, volume.mode), (Role::Primary, Mode::Solo));
    check_all(&pair.mount(Side::A), &outcomes);
}
