//! What an operator does to a pair that is well: docs/operations.md, step by step.

use crate::harness::{Cluster, Load, Side, Spec, check_all};
use admin_api::control::{Answer, Request};
use admin_api::status::Mode;

const ID: &str = "00112233445566778899aabbccddeeff";

fn takeover(pair: &Cluster, side: Side, force: bool) {
    let wish = Request::Takeover { volume: "v".to_owned(), force };
    assert_eq!(pair.ask(side, &wish), Ok(Answer::Done), "{}", pair.diagnosis());
}

/// One node after the other, each while the other serves.
#[test]
fn both_nodes_are_restarted_and_no_answered_operation_is_lost() {
    let mut pair = Cluster::start(Spec::default());
    let mut outcomes = Vec::new();
    for (serves, restarted) in [(Side::A, Side::B), (Side::B, Side::A)] {
        let load = Load::start(&pair.mount(serves), serves.name(), 2);
        load.wait_for(50);
        assert_eq!(pair.terminate(restarted).code(), Some(0));
        load.wait_for(50);
        pair.start_node(restarted);
        assert_eq!(pair.wait_mirrored(), serves);
        takeover(&pair, restarted, false);
        outcomes.extend(load.join());
        assert_eq!(pair.wait_mirrored(), restarted);
        check_all(&pair.mount(restarted), &outcomes);
    }
    pair.check_trees_equal();
}

/// A machine with nothing on its disks, in the place of one that is gone, be it the partner's or the primary's.
#[test]
fn a_node_is_replaced_by_an_empty_one() {
    let mut pair = Cluster::start(Spec { capacity: "2MiB", ..Spec::default() });
    let mut outcomes = Vec::new();
    for (gone, stays) in [(Side::B, Side::A), (Side::A, Side::B)] {
        let load = Load::start(&pair.mount(stays), gone.name(), 2);
        load.wait_for(50);
        pair.kill(gone);
        std::fs::remove_dir_all(pair.base(gone)).unwrap();
        std::fs::remove_file(pair.log(gone)).unwrap();
        pair.wait_mode(stays, Mode::Solo);
        pair.init(gone, "v", ID, "2MiB");
        load.wait_for(50);
        pair.start_node(gone);
        assert_eq!(pair.wait_mirrored(), stays);
        outcomes.extend(load.finish());
        check_all(&pair.mount(stays), &outcomes);
        pair.check_trees_equal();
        takeover(&pair, gone, false);
        assert_eq!(pair.wait_mirrored(), gone);
        check_all(&pair.mount(gone), &outcomes);
    }
}

/// The logs of a pair have one length, so both are made anew; the tree of the node that stopped last holds everything.
#[test]
fn both_logs_are_made_longer() {
    let mut pair = Cluster::start(Spec { capacity: "2MiB", ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(100);
    let outcomes = load.finish();
    for side in [Side::B, Side::A] {
        assert_eq!(pair.terminate(side).code(), Some(0));
    }
    check_all(&pair.base(Side::A), &outcomes);
    pair.spec.capacity = "8MiB";
    for side in Side::BOTH {
        std::fs::remove_file(pair.log(side)).unwrap();
        pair.init(side, "v", ID, "8MiB");
        pair.write_config(side);
        pair.start_node(side);
    }
    let waits = pair.wait_mode(Side::A, Mode::NeedsResync);
    assert!(!waits.eligible, "it says by itself that it may miss something: {waits:?}");
    takeover(&pair, Side::A, true);
    assert_eq!(pair.wait_mirrored(), Side::A);
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
}

/// Whoever looks at a node's tree, or copies it, asks for one first.
#[test]
fn a_consistency_point_holds_all_that_was_answered_on_either_node() {
    let pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(50);
    for (number, side) in (0..30).zip(Side::BOTH.into_iter().cycle()) {
        let name = format!("file-{number}");
        std::fs::write(pair.mount(Side::A).join(&name), &name).unwrap();
        let point = pair.ask(side, &Request::ConsistencyPoint { volume: "v".to_owned() });
        assert!(matches!(point, Ok(Answer::ConsistencyPoint(_))), "{point:?}\n{}", pair.diagnosis());
        let there = std::fs::read_to_string(pair.base(side).join(&name));
        assert_eq!(there.ok().as_ref(), Some(&name), "in the tree of node {}", side.name());
    }
    check_all(&pair.mount(Side::A), &load.finish());
}
