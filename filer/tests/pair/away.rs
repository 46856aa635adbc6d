//! A node that is away, or stands still, for shorter and for longer than the pair can bear.

use crate::harness::{ANSWER_LIMIT, Cluster, Load, Side, Spec, check_all};
use rustix::process::Signal;
use std::time::Duration;

#[test]
fn a_primary_that_stood_still_is_deposed_and_rejoins() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(200);
    pair.signal(Side::A, Signal::STOP);
    pair.wait_serving(Side::B);
    std::fs::write(pair.mount(Side::B).join("new"), "from the new primary").unwrap();
    pair.signal(Side::A, Signal::CONT);
    // Its clients get errors, and whatever they were answered is on the new primary.
    let outcomes = load.join();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_some()), "{outcomes:?}");
    assert_eq!(pair.wait_mirrored(), Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
    assert_eq!(std::fs::read_to_string(pair.base(Side::A).join("new")).unwrap(), "from the new primary");
}

#[test]
fn a_partner_that_stands_still_again_and_again_is_let_in_again() {
    // Long enough for what is written meanwhile.
    let mut pair = Cluster::start(Spec { capacity: "512MiB", ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(50);
    for stop_ms in [100, 500, 3_000, 300, 3_000] {
        pair.signal(Side::B, Signal::STOP);
        std::thread::sleep(Duration::from_millis(stop_ms));
        pair.signal(Side::B, Signal::CONT);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    load.wait_for(50);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| outcome.longest_wait < ANSWER_LIMIT));
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
}
