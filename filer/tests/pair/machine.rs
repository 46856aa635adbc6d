//! What the machine below a node does to it: its log device goes.

use crate::harness::{Cluster, Disk, Load, Side, Spec, check_all, twinfiler};
use filer::status::Role;
use std::fs;
use std::path::PathBuf;

const CAPACITY: &str = "32MiB";

/// Node A's log is a file on a disk of its own, written directly.
fn with_block_log() -> (Cluster, Disk, PathBuf) {
    let mut pair = Cluster::prepare(Spec { capacity: CAPACITY, ..Spec::default() });
    let (at, image) = (pair.node_dir(Side::A).join("log-disk"), pair.node_dir(Side::A).join("log-image"));
    fs::create_dir(&at).unwrap();
    let disk = Disk::make("ext4", &[], &image, 128, &at);
    let log = at.join("log").display().to_string();
    let base = pair.base(Side::A).display().to_string();
    let id = "00112233445566778899aabbccddeeff";
    let made = twinfiler(&[
        "init",
        "--name",
        "v",
        "--volume-id",
        id,
        "--base",
        &base,
        "--log",
        &log,
        "--log-kind",
        "block",
        "--capacity",
        CAPACITY,
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = fs::read_to_string(pair.config(Side::A)).unwrap();
    let emulated = format!("kind = \"emulated\", path = \"{}\"", pair.log(Side::A).display());
    assert!(text.contains(&emulated));
    let text = text.replace(&emulated, &format!("kind = \"block\", path = \"{log}\""));
    fs::write(pair.config(Side::A), text).unwrap();
    for side in Side::BOTH {
        pair.start_node(side);
    }
    (pair, disk, image)
}

#[test]
fn a_log_device_that_goes_hands_over_and_comes_back_with_the_device() {
    let (mut pair, disk, image) = with_block_log();
    assert_eq!(pair.wait_mirrored(), Side::A);
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(100);
    disk.shut_down();
    pair.wait_serving(Side::B);
    let outcomes = load.join();
    check_all(&pair.mount(Side::B), &outcomes);
    let failed = pair.volume(Side::A).unwrap();
    assert!(failed.role == Role::None && !failed.eligible, "{failed:?}");
    assert!(!failed.faults.is_empty() || !failed.detail.is_empty(), "it says why");
    let more = Load::start(&pair.mount(Side::B), "m", 2);
    more.wait_for(50);
    // The operator ends it, and gives it its device back.
    pair.kill(Side::A);
    drop(disk);
    let _disk = Disk::mount("ext4", &image, &pair.node_dir(Side::A).join("log-disk"));
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    let outcomes: Vec<_> = outcomes.into_iter().chain(more.finish()).collect();
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
    pair.kill(Side::B);
    pair.wait_serving(Side::A);
    check_all(&pair.mount(Side::A), &outcomes);
    pair.kill(Side::A);
}
