//! The link between two nodes that both live, and both reach the witness, is cut.

use crate::harness::{ANSWER_LIMIT, Cluster, Load, Side, Spec, Wire, check_all, within};
use admin_api::status::{Mode, Role};
use rdma_transport::tls::PrivateKey;
use std::time::Duration;

#[test]
fn a_cut_link_leaves_one_node_serving_and_heals() {
    cut_link(true);
}

/// Both nodes and the witness as they are on one machine without keys.
#[test]
fn without_keys_a_cut_link_heals_too() {
    cut_link(false);
}

fn cut_link(keys: bool) {
    let (mut pair, wire) = Wire::between(Spec { capacity: "256MiB", keys, ..Spec::default() });
    let mut primary = pair.wait_mirrored();
    for round in 0..3 {
        let load = Load::start(&pair.mount(primary), &format!("r{round}-"), 2);
        load.wait_for(30);
        wire.cut();
        let serving = pair.wait("one node to serve alone", |pair| {
            Side::BOTH.into_iter().find(|side| {
                pair.volume(*side).is_some_and(|v| v.role == Role::Primary && v.mode == Mode::Solo)
            })
        });
        std::thread::sleep(Duration::from_secs(3));
        let other = pair.volume(serving.other()).unwrap();
        assert!(other.acknowledgement.is_none(), "both acknowledge: {other:?}");
        let outcomes = if serving == primary {
            load.wait_for(20);
            load.finish()
        } else {
            load.join()
        };
        wire.mend();
        primary = pair.wait_mirrored();
        assert_eq!(primary, serving);
        check_all(&pair.mount(primary), &outcomes);
        pair.check_trees_equal();
    }
}

/// A node believes only who proves the configured key; both then say what to compare.
#[test]
fn a_partner_with_another_key_is_no_partner() {
    let mut pair = Cluster::prepare(Spec::default());
    let right = std::fs::read_to_string(pair.config(Side::A)).unwrap();
    let key = PrivateKey::load(&pair.node_dir(Side::B).join("key")).unwrap();
    let [key, other] = [key, PrivateKey::generate().unwrap()].map(|key| key.public().to_string());
    let wrong = right.replace(&key, &other);
    assert_ne!(right, wrong);
    std::fs::write(pair.config(Side::A), wrong).unwrap();
    for side in Side::BOTH {
        pair.start_node(side);
    }
    pair.wait("the reason in the log of node a", |pair| {
        let output = std::fs::read_to_string(pair.output(Side::A)).ok()?;
        output.contains("it proved another key than the configured `public_key`").then_some(())
    });
    assert_eq!(pair.volume(Side::A).map(|volume| volume.transport.connects), Some(0));
    assert!(pair.terminate(Side::A).success());
    std::fs::write(pair.config(Side::A), right).unwrap();
    pair.start_node(Side::A);
    pair.wait_mirrored();
    let link = pair.volume(Side::A).unwrap().transport;
    assert!(link.tls, "{link:?}");
}

/// So that a stall shows soon.
fn impatient(capacity: &'static str) -> Spec {
    let link = || "[volume.link]\ndead_peer_timeout = \"1600ms\"\n".to_owned();
    Spec { capacity, keys: false, more: [link(), link()], ..Spec::default() }
}

/// The partner's receiver hangs, or what it answers is lost on the way, while both nodes hear each other well.
#[test]
fn a_partner_that_lives_and_acknowledges_nothing_is_given_up() {
    const LOG_MIB: usize = 16;
    let (mut pair, wire) = Wire::between(impatient("16MiB"));
    assert_eq!(pair.wait_mirrored(), Side::A);
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(50);
    wire.swallow_acknowledgements(true);
    pair.wait_volume(Side::A, "acknowledgements by one node", |volume| {
        volume.acknowledgement.as_ref().is_some_and(|level| level.peer.is_none())
    });
    load.wait_for(50);
    // It comes back, and nobody waits for its answers; but what it misses is kept for it in the log.
    pair.wait_mode(Side::A, Mode::CatchingUp);
    let large = pair.mount(Side::A).join("large");
    for written in 0..4 * LOG_MIB {
        let large = large.clone();
        within(ANSWER_LIMIT, &format!("a write after {written} MiB"), move || {
            std::fs::write(large, vec![written as u8; 1 << 20]).unwrap();
        });
    }
    load.wait_for(50);
    let mut outcomes = load.finish();
    assert_eq!(pair.volume(Side::A).unwrap().role, Role::Primary);
    wire.swallow_acknowledgements(false);
    assert_eq!(pair.wait_mirrored(), Side::A);
    let load = Load::start(&pair.mount(Side::A), "d", 2);
    load.wait_for(50);
    outcomes.extend(load.finish());
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
}

/// So little is written that it seems to miss next to nothing whenever it comes back.
#[test]
fn clients_seldom_wait_for_a_partner_that_acknowledges_nothing() {
    let (mut pair, wire) = Wire::between(impatient("16MiB"));
    assert_eq!(pair.wait_mirrored(), Side::A);
    wire.swallow_acknowledgements(true);
    let (output, file) = (pair.output(Side::A), pair.mount(Side::A).join("file"));
    let waited_for = move || {
        let output = std::fs::read_to_string(&output).unwrap();
        output.lines().filter(|line| line.contains("SetAckRule(Both)")).count()
    };
    // One write at a time; each may have to wait for the end of a stall.
    let write = move |times: u32| {
        for _ in 0..times {
            let file = file.clone();
            within(ANSWER_LIMIT, "a small write", move || std::fs::write(file, b"a little").unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let before = waited_for();
    pair.wait("clients that wait for it again", |_| {
        write(5);
        (waited_for() > before).then_some(())
    });
    write(100);
    let times = waited_for() - before;
    assert!(times <= 2, "while a hundred small writes were made, clients waited for it {times} times");
    wire.swallow_acknowledgements(false);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
}
