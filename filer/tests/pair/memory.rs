//! Volumes whose answers come out of memory (`answer = "memory"`), with logs on devices: what is answered survives the loss of
//! either node, what is synced that of both.

use crate::faults::{wait_fault, wait_over};
use crate::harness::{Cluster, Disk, Load, Side, Spec, check_all};
use admin_api::status::{AckLevel, FaultKind};
use ids::Durability;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const CAPACITY: &str = "32MiB";

/// Both nodes have logs on disks of their own, and answer out of memory.
fn answering_from_memory() -> (Cluster, [Disk; 2]) {
    let mut pair = Cluster::prepare(Spec { capacity: CAPACITY, ..Spec::default() });
    let disks = Side::BOTH.map(|side| pair.use_block_log(side, "answer = \"memory\"\n").0);
    for side in Side::BOTH {
        pair.start_node(side);
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    (pair, disks)
}

#[test]
fn nodes_that_disagree_on_answer_wait_for_both_devices_and_say_so() {
    let mut pair = Cluster::prepare(Spec { capacity: CAPACITY, ..Spec::default() });
    let _disks = Side::BOTH.map(|side| pair.use_block_log(side, "answer = \"memory\"\n").0);
    let alike = fs::read_to_string(pair.config(Side::B)).unwrap();
    fs::write(pair.config(Side::B), alike.replace("answer = \"memory\"\n", "")).unwrap();
    for side in Side::BOTH {
        pair.start_node(side);
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    let status = pair.volume(Side::A).unwrap();
    let power = AckLevel { local: Durability::Power, peer: Some(Durability::Power) };
    assert_eq!(status.acknowledgement, Some(power), "{status:?}");
    for side in Side::BOTH {
        let fault = wait_fault(&mut pair, side, FaultKind::AnswerDiffers);
        assert!(
            fault.what.contains("disagree on `answer`") && fault.remedy.contains("both nodes"),
            "{fault:?}"
        );
    }
    assert!(pair.terminate(Side::B).success());
    fs::write(pair.config(Side::B), alike).unwrap();
    pair.start_node(Side::B);
    pair.wait_mirrored();
    wait_over(&mut pair, Side::A, FaultKind::AnswerDiffers);
}

/// Files that somebody has waited for in each way there is: by `fsync`, by writing with `O_SYNC`, and as names by `fsync` of
/// their directory.
fn write_and_sync(mount: &Path) -> Vec<&'static str> {
    let mut synced = File::create(mount.join("fsync")).unwrap();
    synced.write_all(b"fsync").unwrap();
    synced.sync_all().unwrap();
    let mut data = File::create(mount.join("fdatasync")).unwrap();
    data.write_all(b"fdatasync").unwrap();
    data.sync_data().unwrap();
    let mut options = OpenOptions::new();
    options.write(true).create(true).custom_flags(libc::O_SYNC);
    options.open(mount.join("o_sync")).unwrap().write_all(b"o_sync").unwrap();
    fs::create_dir(mount.join("dir")).unwrap();
    fs::write(mount.join("dir/name"), "dir/name").unwrap();
    File::open(mount.join("dir")).unwrap().sync_all().unwrap();
    File::open(mount).unwrap().sync_all().unwrap();
    vec!["fsync", "fdatasync", "o_sync", "dir/name"]
}

#[test]
fn an_answer_out_of_memory_survives_the_primary() {
    let (mut pair, _disks) = answering_from_memory();
    let status = pair.volume(Side::A).unwrap();
    let on_both = |level| Some(AckLevel { local: level, peer: Some(level) });
    assert_eq!(status.acknowledgement, on_both(Durability::Memory), "{status:?}");
    assert_eq!(status.synced, on_both(Durability::Power), "{status:?}");
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(200);
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    let outcomes = load.join();
    check_all(&pair.mount(Side::B), &outcomes);
    let alone = pair.volume(Side::B).unwrap();
    let power = Some(AckLevel { local: Durability::Power, peer: None });
    assert_eq!(
        (alone.acknowledgement, alone.synced),
        (power, power),
        "alone it answers when its device has it"
    );
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
}

#[test]
fn what_is_synced_survives_both_nodes() {
    let (mut pair, _disks) = answering_from_memory();
    let synced = write_and_sync(&pair.mount(Side::A));
    // What nobody has waited for may be lost, and is in nobody's way.
    fs::write(pair.mount(Side::A).join("answered"), "answered").unwrap();
    pair.kill(Side::A);
    pair.kill(Side::B);
    for side in Side::BOTH {
        pair.start_node(side);
    }
    let primary = pair.wait_mirrored();
    for name in synced {
        assert_eq!(fs::read_to_string(pair.mount(primary).join(name)).unwrap(), name);
    }
    pair.check_trees_equal();
}
