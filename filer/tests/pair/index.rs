//! The index of a base is only a cache: removed, damaged, or an older one, it is made again from the tree, and told.

use crate::harness::{Cluster, Load, Side, Spec, check_all};
use admin_api::control::{Answer, Request};
use admin_api::status::VolumeStatus;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn index(pair: &Cluster, side: Side) -> PathBuf {
    pair.base(side).join(".twinfiler/index.redb")
}

fn told(volume: &VolumeStatus) -> bool {
    volume.faults.iter().any(|fault| fault.what.contains("index") && fault.what.contains("rebuilt"))
}

/// Something happens to the index of a node that is down, first of the partner, then of the primary.
fn survives(damage: impl Fn(&Path)) {
    let mut pair = Cluster::start(Spec::default());
    let mut primary = Side::A;
    let mut all = Vec::new();
    for (round, whom) in ["a", "b"].into_iter().zip([Side::B, Side::A]) {
        let load = Load::start(&pair.mount(primary), round, 2);
        load.wait_for(100);
        pair.kill(whom);
        damage(&index(&pair, whom));
        all.extend(if whom == primary { load.join() } else { load.finish() });
        pair.start_node(whom);
        primary = pair.wait_mirrored();
        pair.wait_volume(whom, "what happened to the index", told);
        // What only the index can find: objects that were there before.
        let more = Load::start(&pair.mount(primary), &format!("{round}-more-"), 2);
        more.wait_for(50);
        all.extend(more.finish());
        check_all(&pair.mount(primary), &all);
        pair.check_trees_equal();
    }
    pair.kill(primary);
    pair.wait_serving(primary.other());
    check_all(&pair.mount(primary.other()), &all);
}

#[test]
fn a_removed_index_is_rebuilt() {
    survives(|path| std::fs::remove_file(path).unwrap());
}

#[test]
fn an_overwritten_index_is_rebuilt() {
    survives(|path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let len = file.metadata().unwrap().len();
        // Everything but the header, which alone would be noticed by any reader.
        for at in (4096..len).step_by(1024) {
            file.write_all_at(&[0x5a; 512], at).unwrap();
        }
        file.set_len(len).unwrap();
    });
}

#[test]
fn an_older_index_is_noticed_and_rebuilt() {
    let mut pair = Cluster::start(Spec::default());
    let before = Load::start(&pair.mount(Side::A), "before", 2);
    before.wait_for(50);
    let mut all = before.finish();
    pair.check_trees_equal();
    assert!(pair.terminate(Side::B).success());
    let copy = pair.node_dir(Side::B).join("older-index");
    std::fs::copy(index(&pair, Side::B), &copy).unwrap();
    pair.start_node(Side::B);
    pair.wait_mirrored();
    let after = Load::start(&pair.mount(Side::A), "after", 2);
    after.wait_for(100);
    all.extend(after.finish());
    pair.check_trees_equal();
    assert!(pair.terminate(Side::B).success());
    std::fs::copy(&copy, index(&pair, Side::B)).unwrap();
    pair.start_node(Side::B);
    pair.wait_mirrored();
    pair.wait_volume(Side::B, "what happened to the index", told);
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    check_all(&pair.mount(Side::B), &all);
}

#[test]
fn an_index_that_is_removed_under_a_running_node_is_told_and_rebuilt_at_the_next_start() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(50);
    std::fs::remove_file(index(&pair, Side::A)).unwrap();
    pair.wait_volume(Side::A, "what happened to the index", |volume| {
        volume.faults.iter().any(|fault| fault.what.contains("removed or replaced"))
    });
    load.wait_for(50);
    let all = load.finish();
    let asked = pair.ask(Side::A, &Request::ConsistencyPoint { volume: "v".to_owned() });
    assert!(matches!(asked, Ok(Answer::ConsistencyPoint(_))), "{asked:?}");
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    pair.start_node(Side::A);
    pair.wait_mirrored();
    pair.wait_volume(Side::A, "a rebuilt index", told);
    check_all(&pair.mount(Side::B), &all);
    pair.check_trees_equal();
}
