//! A node ends at once: the other one serves, and it comes back.

use crate::harness::{Cluster, Load, Side, Spec, check_all};
use admin_api::status::Mode;

#[test]
fn sigkill_of_the_primary_loses_nothing_acknowledged() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(300);
    pair.kill(Side::A);
    let before = load.join();
    let volume = pair.wait_serving(Side::B);
    assert_eq!(volume.last_takeover.expect("a takeover is told").reason, "partner lost");
    assert_eq!(volume.mode, Mode::Solo);
    check_all(&pair.mount(Side::B), &before);
    // It serves on, and the node that was killed follows.
    let load = Load::start(&pair.mount(Side::B), "d", 2);
    load.wait_for(100);
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    load.wait_for(100);
    let after = load.finish();
    assert!(after.iter().all(|outcome| outcome.error.is_none()), "{after:?}");
    check_all(&pair.mount(Side::B), &before);
    check_all(&pair.mount(Side::B), &after);
    pair.check_trees_equal();
}

/// Reports how long it takes, and asserts nothing of it: that is the benches' business.
#[test]
fn takeover_on_default_timers() {
    // The timers of a configuration that sets none.
    let mut pair = Cluster::start(Spec { timers: "", ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 1);
    load.wait_for(20);
    pair.kill(Side::A);
    let before = load.join();
    // A busy machine may have made A go on alone just before; then B must not serve.
    let volume = pair.wait("node b to serve, or to know that it may not", |pair| {
        let volume = pair.volume(Side::B)?;
        (volume.mounted_at.is_some() || volume.mode == Mode::Outdated).then_some(volume)
    });
    if volume.mode == Mode::Outdated {
        println!("the machine was too busy: A had gone on alone before it was killed");
        return;
    }
    check_all(&pair.mount(Side::B), &before);
    let takeover = pair.wait_volume(Side::B, "its takeover", |v| v.last_takeover.is_some()).last_takeover;
    println!("{takeover:?}, in all {:?} us", takeover.as_ref().map(|takeover| takeover.total_us()));
}

#[test]
fn sigkill_of_the_partner_goes_solo_and_it_rejoins_by_catching_up() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(200);
    pair.kill(Side::B);
    let volume = pair.wait_mode(Side::A, Mode::Solo);
    assert_eq!(
        volume.acknowledgement.map(|level| level.nodes()),
        Some(1),
        "status says how weak an answer is"
    );
    load.wait_for(200);
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    load.wait_for(100);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
    check_all(&pair.base(Side::B), &outcomes);
}

fn both_killed_at_once(first: Side) {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(300);
    pair.signal(Side::A, rustix::process::Signal::KILL);
    pair.signal(Side::B, rustix::process::Signal::KILL);
    Side::BOTH.into_iter().for_each(|side| pair.kill(side));
    let before = load.join();
    pair.start_node(first);
    let volume = pair.wait_serving(first);
    assert_eq!(volume.mode, Mode::Solo, "one node is enough when its log is up to date");
    check_all(&pair.mount(first), &before);
    pair.start_node(first.other());
    assert_eq!(pair.wait_mirrored(), first);
    pair.check_trees_equal();
    check_all(&pair.base(first.other()), &before);
}

#[test]
fn sigkill_of_both_then_the_primary_returns_first() {
    both_killed_at_once(Side::A);
}

#[test]
fn sigkill_of_both_then_the_partner_returns_first() {
    both_killed_at_once(Side::B);
}
