//! A node that is away, or stands still, for shorter and for longer than the pair can bear.

use crate::harness::{ANSWER_LIMIT, Cluster, Load, Side, Spec, check_all};
use filer::status::{Mode, Role};
use rustix::process::Signal;
use std::time::Duration;

#[test]
fn a_partner_away_for_longer_than_the_log_reaches_says_so() {
    const CAPACITY_BYTES: u64 = 2 << 20;
    let mut pair = Cluster::start(Spec { capacity: "2MiB", ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(20);
    pair.kill(Side::B);
    let solo = pair.wait_mode(Side::A, Mode::Solo);
    let left = solo.cursors.unwrap().reserved().0;
    pair.wait_volume(Side::A, "a log that went once around", |volume| {
        volume.cursors.is_some_and(|cursors| cursors.trimmed().0 > left + CAPACITY_BYTES)
    });
    pair.start_node(Side::B);
    let volume = pair.wait_mode(Side::B, Mode::NeedsResync);
    assert!(
        volume.detail.contains("away for longer than the primary's log reaches back"),
        "{}",
        volume.detail
    );
    assert!(!volume.eligible);
    load.wait_for(50);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    check_all(&pair.mount(Side::A), &outcomes);
    // It stays so, and never serves: not even when the only good node is gone.
    pair.kill(Side::A);
    std::thread::sleep(Duration::from_secs(4));
    let volume = pair.volume(Side::B).unwrap();
    assert!(volume.role == Role::None && volume.mounted_at.is_none(), "{volume:?}");
}

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
