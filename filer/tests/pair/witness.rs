//! Who decides, and what happens when nobody can.

use crate::harness::{ANSWER_LIMIT, Cluster, Load, Side, Spec, check_all, try_within, twinfiler, within};
use admin_api::control::{Answer, ErrorKind, Request};
use admin_api::status::{Mode, Role, VolumeStatus};
use std::time::Duration;

/// Long enough that an answer would have come, were there one.
const NO_ANSWER: Duration = Duration::from_secs(4);
/// Longer than all timers of these nodes.
const AWAY: Duration = Duration::from_secs(12);

#[test]
fn witness_dead_then_partner_lost_freezes_until_the_witness_is_back() {
    let mut pair = Cluster::start(Spec::default());
    pair.kill_witness();
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(200);
    assert_eq!(pair.volume(Side::A).unwrap().mode, Mode::Mirrored, "both nodes are enough");
    let outcomes = load.finish();
    pair.kill(Side::B);
    let frozen = pair.wait_mode(Side::A, Mode::Frozen);
    assert_eq!(frozen.acknowledgement, None);
    pair.wait_volume(Side::A, "the reason", |volume| volume.detail.contains("witness does not answer"));
    let path = pair.mount(Side::A).join("late");
    let (told, late) = std::sync::mpsc::channel();
    std::thread::spawn(move || told.send(std::fs::write(path, "late")));
    assert!(late.recv_timeout(NO_ANSWER).is_err(), "acknowledged without partner and witness");
    pair.start_witness();
    pair.wait_mode(Side::A, Mode::Solo);
    late.recv_timeout(ANSWER_LIMIT).expect("it is answered at last").unwrap();
    check_all(&pair.mount(Side::A), &outcomes);
    pair.start_node(Side::B);
    pair.wait_mirrored();
    pair.check_trees_equal();
}

/// For longer than any timer of the pair and any pause between two questions to the witness; an hour is in the pair's
/// own simulation.
#[test]
fn a_witness_that_was_away_for_long_decides_again_when_it_is_back() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(50);
    pair.kill_witness();
    let until = std::time::Instant::now() + AWAY;
    while std::time::Instant::now() < until {
        load.wait_for(20);
        assert_eq!(pair.volume(Side::A).unwrap().mode, Mode::Mirrored);
    }
    pair.wait_volume(Side::A, "an unreachable witness", |volume| {
        volume.witness.as_ref().is_some_and(|witness| !witness.reachable)
    });
    pair.start_witness();
    // Soon, however long it was away: it may be needed at any moment.
    pair.wait_volume(Side::A, "a witness that answers", |volume| {
        volume.witness.as_ref().is_some_and(|witness| witness.reachable)
    });
    pair.kill(Side::A);
    let outcomes = load.join();
    pair.wait_serving(Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    pair.check_trees_equal();
}

/// Register, takeover, solo, mirrored again, and frozen without it: all with etcd in the witness's place.
#[test]
fn etcd_decides_as_the_witness_does() {
    let mut pair = Cluster::start(Spec { etcd: true, ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(200);
    pair.kill(Side::A);
    let outcomes = load.join();
    pair.wait_serving(Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    pair.kill_witness();
    pair.kill(Side::A);
    pair.wait_mode(Side::B, Mode::Frozen);
    pair.start_witness();
    pair.wait_mode(Side::B, Mode::Solo);
    pair.start_node(Side::A);
    pair.wait_mirrored();
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
}

fn takeover(pair: &Cluster, side: Side, force: bool) -> Result<Answer, String> {
    pair.ask(side, &Request::Takeover { volume: "v".to_owned(), force })
}

#[test]
fn without_a_witness_the_survivor_freezes_until_it_is_forced() {
    let mut pair = Cluster::start(Spec { witness: false, ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(200);
    pair.kill(Side::A);
    let outcomes = load.join();
    let frozen = pair.wait_mode(Side::B, Mode::Frozen);
    assert!(frozen.detail.contains("takeover VOLUME --force"), "{}", frozen.detail);
    match takeover(&pair, Side::B, false) {
        Ok(Answer::Error(error)) => assert_eq!(error.kind, ErrorKind::Refused, "{error}"),
        other => panic!("{other:?}"),
    }
    let config = pair.config(Side::B).display().to_string();
    let output = twinfiler(&["--config", &config, "takeover", "v", "--force"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("diverge"), "the risk is stated: {said}");
    pair.wait_serving(Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    pair.check_trees_equal();
}

#[test]
fn without_a_witness_a_frozen_primary_goes_on_when_the_partner_is_back() {
    let mut pair = Cluster::start(Spec { witness: false, ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(100);
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Frozen);
    let before = load.answered();
    assert!(try_within(NO_ANSWER, || std::thread::sleep(NO_ANSWER * 2)).is_none());
    assert!(load.answered() <= before + 2, "a frozen primary acknowledges nothing");
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    load.wait_for(50);
    let outcomes = load.finish();
    assert!(
        outcomes.iter().all(|outcome| outcome.error.is_none()),
        "clients waited, none failed: {outcomes:?}"
    );
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
}

#[test]
fn a_forced_split_is_detected_and_never_merged() {
    let mut pair = Cluster::start(Spec { witness: false, ..Spec::default() });
    std::fs::write(pair.mount(Side::A).join("before"), "both have it").unwrap();
    pair.check_trees_equal();
    let serve_alone = |pair: &mut Cluster, side: Side, file: &str| {
        pair.wait_mode(side, Mode::Frozen);
        assert_eq!(takeover(pair, side, true), Ok(Answer::Done));
        pair.wait_serving(side);
        let path = pair.mount(side).join(file);
        within(ANSWER_LIMIT, "a write on a forced node", move || std::fs::write(path, "only here")).unwrap();
    };
    pair.kill(Side::A);
    serve_alone(&mut pair, Side::B, "on-b");
    let applied = pair.ask(Side::B, &Request::ConsistencyPoint { volume: "v".to_owned() });
    assert!(matches!(applied, Ok(Answer::ConsistencyPoint(_))), "{applied:?}");
    pair.kill(Side::B);
    // The other side is forced too: from here on both hold what was answered to a client and the other lacks.
    pair.start_node(Side::A);
    pair.wait_volume(Side::A, "waiting", |volume| volume.role == Role::None);
    assert_eq!(takeover(&pair, Side::A, true), Ok(Answer::Done));
    pair.wait_serving(Side::A);
    std::fs::write(pair.mount(Side::A).join("on-a"), "only here").unwrap();
    pair.start_node(Side::B);
    let split =
        |volume: &VolumeStatus| volume.detail.contains("both nodes acknowledged what the other lacks");
    let b = pair.wait_volume(Side::B, "a split", split);
    assert_eq!(b.mode, Mode::Split);
    assert!(!b.eligible);
    let a = pair.wait_volume(Side::A, "a split", split);
    assert_eq!(a.role, Role::Primary, "the side that serves serves on");
    std::fs::write(pair.mount(Side::A).join("later"), "still serves").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(pair.base(Side::B).join("on-b").exists(), "the other side keeps what only it has");
    assert!(!pair.base(Side::B).join("on-a").exists() && !pair.mount(Side::A).join("on-b").exists());
}
