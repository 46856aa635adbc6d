//! Local filesystems that are full or broken, and logs that fill because of them.

use crate::harness::{ANSWER_LIMIT, Cluster, Disk, Frozen, Load, Memory, Side, Spec, check_all, within};
use admin_api::control::{Answer, Request};
use admin_api::status::{Mode, Role, VolumeStatus};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NO_SPACE: i32 = 28;

fn write(path: PathBuf, len: usize) -> std::io::Result<()> {
    within(ANSWER_LIMIT, "a write", move || fs::write(path, vec![7; len]))
}

fn has_fault(volume: &VolumeStatus) -> bool {
    volume.faults.iter().any(|fault| fault.what.contains("applying to the base filesystem fails"))
}

fn consistency_point(pair: &Cluster, side: Side) {
    let answer = pair.ask(side, &Request::ConsistencyPoint { volume: "v".to_owned() });
    assert!(matches!(answer, Ok(Answer::ConsistencyPoint(_))), "{answer:?}\n{}", pair.diagnosis());
}

/// Takes all of the space that is left.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for len in [1 << 20, 1 << 10] {
        while file.write_all(&vec![1; len]).is_ok() {}
    }
    let _nothing_left = file.sync_all();
}

#[test]
fn a_full_base_is_told_to_clients_and_never_met_while_applying() {
    // The smaller one of both binds.
    let mut pair = Cluster::start(Spec { disk_mib: [Some(96), Some(64)], ..Spec::default() });
    let mount = pair.mount(Side::A);
    let refused = (0..1000).find_map(|number| {
        let error = write(mount.join(format!("f{number}")), 256 << 10).err()?;
        Some((number, error))
    });
    let (number, error) = refused.expect("64 MiB do not hold 250 MiB");
    assert_eq!(error.raw_os_error(), Some(NO_SPACE), "{error}");
    assert!(number > 80, "only {number} files of 256 KiB were let in");
    for side in Side::BOTH {
        consistency_point(&pair, side);
        let volume = pair.volume(side).unwrap();
        assert!(volume.faults.is_empty(), "{:?}", volume.faults);
    }
    let free = pair.volume(Side::A).unwrap().space.unwrap().free_bytes;
    // Margins, and what was in flight and turned out to need less.
    assert!(free < 12 << 20, "refused after {number} files although {free} bytes are free");
    // Removing works on a full volume, and makes room.
    for number in 0..number.min(60) {
        fs::remove_file(mount.join(format!("f{number}"))).unwrap();
    }
    pair.wait("room again", |pair| {
        let free = pair.volume(Side::A)?.space?.free_bytes;
        (free > 8 << 20).then_some(())
    });
    write(mount.join("again"), 4 << 20).unwrap();
    pair.check_trees_equal();
}

/// Nothing is applied in the first seconds, unless it is asked for.
fn rarely() -> Spec {
    Spec { consistency_point: "interval = \"6s\"\n", capacity: "64MiB", ..Spec::default() }
}

#[test]
fn enospc_while_applying_hands_over_and_heals() {
    let mut pair = Cluster::start(Spec { disk_mib: [Some(64), None], ..rarely() });
    let mount = pair.mount(Side::A);
    for number in 0..8 {
        write(mount.join(format!("f{number}")), 1 << 20).unwrap();
    }
    // Somebody else takes the space that was promised to clients.
    let foreign = pair.disk_path(Side::A).join("foreign");
    fill(&foreign);
    let ask = Request::ConsistencyPoint { volume: "v".to_owned() };
    let refused = pair.ask(Side::A, &ask);
    assert!(matches!(&refused, Ok(Answer::Error(error)) if error.message.contains("faults")), "{refused:?}");
    let volume = pair.wait_volume(Side::A, "the fault in its status", has_fault);
    let remedies: Vec<&str> = volume.faults.iter().map(|fault| fault.remedy.as_str()).collect();
    assert!(remedies.contains(&"free space in the base filesystem"), "{remedies:?}");
    let volume = pair.wait_serving(Side::B);
    assert_eq!(volume.mode, Mode::Mirrored, "the log of the full node is as good as ever");
    assert!(
        pair.wait_volume(Side::B, "its partner's fault", |v| v.partner.fault.is_some()).faults.is_empty()
    );
    for number in 0..8 {
        assert_eq!(fs::metadata(pair.mount(Side::B).join(format!("f{number}"))).unwrap().len(), 1 << 20);
    }
    // Nothing is accepted that one of the nodes cannot store.
    let refused = write(pair.mount(Side::B).join("more"), 4096);
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(NO_SPACE));
    fs::remove_file(foreign).unwrap();
    pair.wait_volume(Side::A, "no fault any more", |volume| !has_fault(volume));
    pair.wait_volume(Side::B, "a healthy partner", |volume| volume.partner.fault.is_none());
    let more = pair.mount(Side::B).join("more");
    pair.wait("space for clients again", |_| write(more.clone(), 4096).ok());
    pair.check_trees_equal();
}

#[test]
fn a_broken_base_hands_over_and_is_repaired_by_a_restart() {
    let mut pair = Cluster::start(Spec { disk_mib: [Some(64), None], ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(50);
    pair.disk(Side::A).as_ref().unwrap().break_it();
    pair.wait_serving(Side::B);
    let outcomes = load.join();
    check_all(&pair.mount(Side::B), &outcomes);
    let volume = pair.wait_volume(Side::A, "the fault in its status", has_fault);
    assert_eq!(volume.role, Role::Partner, "its log still takes part");
    write(pair.mount(Side::B).join("more"), 4096).unwrap();
    assert!(pair.terminate(Side::A).success());
    pair.wait_mode(Side::B, Mode::Solo);
    *pair.disk(Side::A) = None;
    let (image, at) = (pair.image(Side::A), pair.disk_path(Side::A));
    let _it_repairs =
        std::process::Command::new("fsck.ext4").args(["-p", "-f"]).arg(&image).output().unwrap();
    *pair.disk(Side::A) = Some(Disk::mount("ext4", &image, &at));
    pair.start_node(Side::A);
    pair.wait_mirrored();
    pair.check_trees_equal();
}

/// Every call answers EIO: XFS after a failed write of its own log.
#[test]
fn eio_from_the_base_hands_over_and_is_repaired_by_a_restart() {
    let filesystem = ["xfs", "xfs"];
    let mut pair = Cluster::start(Spec { disk_mib: [Some(320), None], filesystem, ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(50);
    pair.disk(Side::A).as_ref().unwrap().shut_down();
    pair.wait_serving(Side::B);
    let outcomes = load.join();
    check_all(&pair.mount(Side::B), &outcomes);
    pair.wait_volume(Side::A, "the fault in its status", has_fault);
    let more = Load::start(&pair.mount(Side::B), "m", 2);
    more.wait_for(50);
    // The operator takes it out; the other one goes on alone.
    pair.kill(Side::A);
    pair.wait_mode(Side::B, Mode::Solo);
    more.wait_for(50);
    let outcomes: Vec<_> = outcomes.into_iter().chain(more.finish()).collect();
    *pair.disk(Side::A) = None;
    *pair.disk(Side::A) = Some(Disk::mount("xfs", &pair.image(Side::A), &pair.disk_path(Side::A)));
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
}

/// Nobody writes, so no consistency point can show it.
#[test]
fn a_disk_that_fails_only_readers_hands_over() {
    let filesystem = ["xfs", "xfs"];
    let mut pair = Cluster::start(Spec { disk_mib: [Some(320), None], filesystem, ..Spec::default() });
    let read = |mount: PathBuf| {
        within(ANSWER_LIMIT, "a listing and a read", move || {
            fs::read_dir(&mount)?.collect::<Result<Vec<_>, _>>()?;
            fs::read(mount.join("file"))
        })
    };
    write(pair.mount(Side::A).join("file"), 100_000).unwrap();
    Side::BOTH.iter().for_each(|side| consistency_point(&pair, *side));
    pair.disk(Side::A).as_ref().unwrap().shut_down();
    let mount = pair.mount(Side::A);
    pair.wait("a hand-over", |pair| {
        let failed = read(mount.clone()).is_err();
        (failed && pair.volume(Side::B)?.role == Role::Primary).then_some(())
    });
    pair.wait_serving(Side::B);
    assert_eq!(read(pair.mount(Side::B)).unwrap(), vec![7; 100_000]);
    let told =
        |volume: &VolumeStatus| volume.faults.iter().any(|fault| fault.what.contains("reading the base"));
    pair.wait_volume(Side::A, "the fault in its status", told);
}

/// What cannot be read from a disk that fails is no difference between the trees: whoever compares is told of the disk,
/// and once that is repaired the node may take over.
#[test]
fn a_comparison_over_a_broken_disk_ends_and_finds_no_difference() {
    let filesystem = ["xfs", "xfs"];
    let mut pair = Cluster::start(Spec { disk_mib: [None, Some(320)], filesystem, ..rarely() });
    for number in 0..20 {
        write(pair.mount(Side::A).join(format!("{number}")), 10_000).unwrap();
    }
    Side::BOTH.iter().for_each(|side| consistency_point(&pair, *side));
    pair.disk(Side::B).as_ref().unwrap().shut_down();
    let result = crate::verify::run_on(&pair, Side::A, &[], 75);
    assert_eq!((result.differing, result.found.len()), (0, 0), "{result:?}");
    assert!(result.error.is_some(), "{result:?}");
    pair.kill(Side::B);
    *pair.disk(Side::B) = None;
    *pair.disk(Side::B) = Some(Disk::mount("xfs", &pair.image(Side::B), &pair.disk_path(Side::B)));
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.wait_volume(Side::B, "a partner that may take over", |volume| volume.eligible);
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
}

/// The device refuses writes: btrfs gives its transaction up and goes read-only.
#[test]
fn a_device_that_refuses_writes_under_btrfs_hands_over_and_is_repaired_by_a_restart() {
    let filesystem = ["btrfs", "btrfs"];
    let mut pair = Cluster::start(Spec { disk_mib: [Some(256), Some(256)], filesystem, ..Spec::default() });
    assert!(pair.terminate(Side::A).success());
    pair.wait_mode(Side::B, Mode::Solo);
    let (image, at) = (pair.image(Side::A), pair.disk_path(Side::A));
    pair.disk(Side::A).take().unwrap().unmount(&image);
    let memory = Memory::of(128, &pair.node_dir(Side::A).join("memory"));
    let image = memory.take_in(&image);
    *pair.disk(Side::A) = Some(Disk::mount("btrfs", &image, &at));
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    assert!(pair.terminate(Side::B).success());
    pair.wait_serving(Side::A);
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(50);
    let nothing_left = memory.at.join("nothing left");
    fill(&nothing_left);
    pair.wait_serving(Side::B);
    let outcomes = load.join();
    check_all(&pair.mount(Side::B), &outcomes);
    let volume = pair.wait_volume(Side::A, "the fault in its status", has_fault);
    assert_eq!(volume.role, Role::Partner, "its log still takes part");
    // The operator takes it out, and has the device repaired.
    pair.kill(Side::A);
    pair.wait_mode(Side::B, Mode::Solo);
    *pair.disk(Side::A) = None;
    fs::remove_file(nothing_left).unwrap();
    *pair.disk(Side::A) = Some(Disk::mount("btrfs", &image, &at));
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
}

/// The primary's disk hangs under load.
fn with_a_disk_that_hangs() -> (Cluster, Load, Frozen) {
    let filesystem = ["btrfs", "btrfs"];
    let spec = Spec { disk_mib: [Some(256), Some(256)], filesystem, ..Spec::default() };
    let mut pair = Cluster::start(Spec { capacity: "256MiB", ..spec });
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(50);
    let frozen = pair.disk(Side::A).as_ref().unwrap().freeze();
    (pair, load, frozen)
}

/// Whoever writes to the disk waits and gets no error.
#[test]
fn a_disk_that_hangs_hands_over_and_heals() {
    let (mut pair, load, frozen) = with_a_disk_that_hangs();
    let before = load.answered();
    pair.wait_serving(Side::B);
    let outcomes = load.join();
    check_all(&pair.mount(Side::B), &outcomes);
    let answered: usize = outcomes.iter().map(|outcome| outcome.there.len()).sum();
    assert!(answered as u64 > before / 2, "clients went on until the hand-over");
    let slow = |volume: &VolumeStatus| volume.faults.iter().any(|fault| fault.what.contains("too slow"));
    let volume = pair.wait_volume(Side::A, "the fault in its status", slow);
    assert_eq!((volume.role, volume.mode), (Role::Partner, Mode::Mirrored), "its log still takes part");
    pair.wait_volume(Side::B, "its partner's fault", |volume| volume.partner.fault.is_some());
    let more = Load::start(&pair.mount(Side::B), "m", 2);
    more.wait_for(50);
    drop(frozen);
    // Not at once: roles must not go to and fro.
    pair.wait_volume(Side::A, "everything applied", |volume| volume.apply_lag.seconds < 1.0);
    assert!(slow(&pair.volume(Side::A).unwrap()));
    pair.wait_volume(Side::A, "no fault any more", |volume| !slow(volume));
    pair.wait_volume(Side::B, "a healthy partner", |volume| volume.partner.fault.is_none());
    let outcomes: Vec<_> = outcomes.into_iter().chain(more.finish()).collect();
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
}

/// Nothing is left to apply by the time at which a disk that was too slow may be trusted again.
#[test]
fn a_disk_that_hung_heals_though_nobody_writes() {
    let (mut pair, load, frozen) = with_a_disk_that_hangs();
    pair.wait_serving(Side::B);
    let outcomes = load.join();
    let slow = |volume: &VolumeStatus| volume.faults.iter().any(|fault| fault.what.contains("too slow"));
    pair.wait_volume(Side::A, "the fault in its status", slow);
    drop(frozen);
    pair.wait_volume(Side::A, "everything applied", |volume| volume.apply_lag.seconds < 1.0);
    pair.wait_volume(Side::A, "no fault any more", |volume| !slow(volume));
    pair.wait_volume(Side::B, "a healthy partner", |volume| volume.partner.fault.is_none());
    let back = pair.ask(Side::B, &Request::Switchover { volume: "v".to_owned(), timeout_ms: 30_000 });
    assert!(matches!(back, Ok(Answer::Done)), "{back:?}");
    pair.wait_serving(Side::A);
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
}

/// Whoever writes to the disk gets somewhere, but late: first as late as a log can bear, then later than that.
#[test]
fn a_slow_disk_slows_clients_evenly_and_is_handed_over_when_it_is_bad() {
    let mut pair = Cluster::start(Spec { disk_mib: [Some(256), None], capacity: "8MiB", ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(50);
    let slow = pair.disk(Side::A).as_ref().unwrap().slow(Duration::from_secs(1));
    pair.wait_volume(Side::A, "a log more than half full", |volume| {
        volume.log.used_bytes > volume.log.capacity_bytes / 2
    });
    load.wait_for(300);
    let volume = pair.volume(Side::A).unwrap();
    assert_eq!((volume.role, volume.mode), (Role::Primary, Mode::Mirrored), "slow, and not bad enough");
    drop(slow);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    let answered = outcomes.iter().map(|outcome| outcome.there.len() + outcome.gone.len());
    let (least, most) = (answered.clone().min().unwrap(), answered.max().unwrap());
    assert!(most < 3 * least, "of three clients one was answered {most} times, one {least} times");

    let load = Load::start(&pair.mount(Side::A), "d", 3);
    load.wait_for(20);
    let slow = pair.disk(Side::A).as_ref().unwrap().slow(Duration::from_secs(8));
    pair.wait_serving(Side::B);
    let told = |volume: &VolumeStatus| volume.faults.iter().any(|fault| fault.what.contains("too slow"));
    let volume = pair.wait_volume(Side::A, "the fault in its status", told);
    assert_eq!(volume.mode, Mode::Mirrored, "its log still takes part");
    pair.wait_volume(Side::B, "its partner's fault", |volume| volume.partner.fault.is_some());
    drop(slow);
    let outcomes: Vec<_> = outcomes.into_iter().chain(load.join()).collect();
    check_all(&pair.mount(Side::B), &outcomes);
    pair.check_trees_equal();
}

#[test]
fn a_full_log_slows_clients_and_fails_none() {
    let mut pair = Cluster::start(Spec { capacity: "8MiB", disk_mib: [None, Some(64)], ..Spec::default() });
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(50);
    // The partner cannot apply: what it needs stays in both logs.
    pair.disk(Side::B).as_ref().unwrap().break_it();
    let volume = pair.wait_volume(Side::A, "a log more than half full", |volume| {
        volume.log.used_bytes > volume.log.capacity_bytes / 2 || used_by_partner(volume) > 0.5
    });
    assert_eq!(volume.role, Role::Primary, "a healthy primary stays primary");
    // Slower and slower, until nothing fits any more; nobody is refused.
    pair.wait("clients that wait", |_| {
        let before = load.answered();
        std::thread::sleep(Duration::from_secs(1));
        (load.answered() == before).then_some(())
    });
    assert!(used_by_partner(&pair.volume(Side::A).unwrap()) > 0.6);
    // The mirror and everything else goes on: reads are answered, and the fault is told.
    let root = pair.mount(Side::A);
    within(ANSWER_LIMIT, "a listing", move || fs::read_dir(root).unwrap().count());
    pair.wait_volume(Side::A, "its partner's fault", |volume| volume.partner.fault.is_some());
    pair.wait_volume(Side::B, "the fault", has_fault);
    // The operator takes the broken node out.
    assert!(pair.terminate(Side::B).success());
    pair.wait_mode(Side::A, Mode::Solo);
    load.wait_for(50);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    check_all(&pair.mount(Side::A), &outcomes);
}

fn used_by_partner(volume: &VolumeStatus) -> f64 {
    volume.partner.log_fill.unwrap_or(0.0)
}

/// Stops the node, does this to the image of its disk, and mounts that again.
fn with_image_of(pair: &mut Cluster, side: Side, change: impl FnOnce(&Path)) {
    let (image, at) = (pair.image(side), pair.disk_path(side));
    assert_eq!(pair.terminate(side).code(), Some(0));
    pair.disk(side).take().unwrap().unmount(&image);
    change(&image);
    *pair.disk(side) = Some(Disk::mount("ext4", &image, &at));
}

/// Yesterday's tree under today's log: a backup that was restored, a snapshot that was merged, the wrong disk.
#[test]
fn an_older_tree_that_was_brought_back_is_told_and_replaced() {
    let mut pair = Cluster::start(Spec { disk_mib: [None, Some(64)], ..Spec::default() });
    let older = pair.node_dir(Side::B).join("older");
    std::fs::write(pair.mount(Side::A).join("old"), "of both trees").unwrap();
    pair.check_trees_equal();
    with_image_of(&mut pair, Side::B, |image| {
        std::fs::copy(image, &older).unwrap();
    });
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    std::fs::write(pair.mount(Side::A).join("new"), "not of the older one").unwrap();
    pair.check_trees_equal();
    with_image_of(&mut pair, Side::B, |image| std::fs::rename(&older, image).unwrap());
    // Alone, it is not taken for what it was.
    pair.kill(Side::A);
    pair.start_node(Side::B);
    let volume = pair.wait_mode(Side::B, Mode::NeedsResync);
    assert!(!volume.eligible && volume.faults[0].what.contains("do not go together"), "{volume:?}");
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::A);
    let volume = pair.wait_volume(Side::B, "no fault", |volume| volume.faults.is_empty());
    assert!(volume.eligible, "{volume:?}");
    pair.check_trees_equal();
}
