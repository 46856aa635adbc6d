//! A disk that answers nobody, neither who writes nor who reads.

use crate::harness::{ANSWER_LIMIT, Cluster, Device, Disk, Interface, Side, Spec, within};
use admin_api::status::{Mode, Role};
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::channel;

/// Readers of what is on the disk only: far more than the mount has threads, and than may hang for them.
const READERS: usize = 24;

/// The pair with the primary's disk behind a device that can hang, with nothing of it in memory.
fn pair_on_a_device(device: &mut Option<Device>, pair: &mut Cluster) {
    let mount = pair.mount(Side::A);
    for number in 0..READERS {
        let path = mount.join(format!("cold{number}"));
        within(ANSWER_LIMIT, "a write", move || fs::write(path, vec![7; 256 << 10])).unwrap();
    }
    pair.check_trees_equal();
    assert!(pair.terminate(Side::A).success());
    pair.wait_serving(Side::B);
    let (image, at) = (pair.image(Side::A), pair.disk_path(Side::A));
    pair.disk(Side::A).take().unwrap().unmount(&image);
    let served = device.insert(Device::serve(&image)).path();
    *pair.disk(Side::A) = Some(Disk::mount("ext4", &served, &at));
    pair.start_node(Side::A);
    pair.wait_mirrored();
    assert!(pair.terminate(Side::B).success());
    pair.wait_serving(Side::A);
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
}

#[test]
fn a_disk_that_answers_nobody_stops_only_who_needs_it_and_is_handed_over() {
    let mut device = None;
    let mut pair = Cluster::start(Spec { disk_mib: [Some(128), None], ..Spec::default() });
    pair_on_a_device(&mut device, &mut pair);
    let mount = pair.mount(Side::A);
    let warm = mount.join("warm");
    let mut file = File::create(&warm).unwrap();
    file.write_all(b"before ").unwrap();
    fs::metadata(&warm).unwrap();
    let suspended = device.as_ref().unwrap().suspend();
    let (answers, answered) = channel();
    for number in 0..READERS {
        let (path, answers) = (mount.join(format!("cold{number}")), answers.clone());
        std::thread::spawn(move || answers.send(fs::read(path)));
    }
    // A reader has come as far as the disk, and the rest wait behind it.
    let waiting: PathBuf = mount.clone();
    let free = within(ANSWER_LIMIT, "df", move || rustix::fs::statvfs(&waiting)).unwrap();
    assert!(free.f_bavail > 0);
    let mut answered_bytes = Vec::from(*b"before ");
    for number in 0..50 {
        let line = format!("line {number}\n");
        answered_bytes.extend_from_slice(line.as_bytes());
        let (mut writes, path) = (file.try_clone().unwrap(), mount.clone());
        within(ANSWER_LIMIT, "a write, an fsync and a df", move || {
            writes.write_all(line.as_bytes())?;
            writes.sync_all()?;
            rustix::fs::statvfs(&path)?;
            Ok::<(), std::io::Error>(())
        })
        .unwrap();
    }
    assert!(answered.try_recv().is_err(), "nobody can have read what is on the disk only");
    assert_eq!(pair.volume(Side::A).unwrap().role, Role::Primary, "status is told");
    // The partner has applied it long ago.
    pair.wait_serving(Side::B);
    let volume = pair.volume(Side::A).unwrap();
    assert_eq!((volume.role, volume.mode), (Role::Partner, Mode::Mirrored), "its log still takes part");
    for _ in 0..READERS {
        let outcome = answered.recv_timeout(ANSWER_LIMIT).expect("the mount is given up");
        assert!(outcome.is_err(), "of a disk that hangs");
    }
    drop(file);
    let path = pair.mount(Side::B).join("warm");
    assert_eq!(within(ANSWER_LIMIT, "a read", move || fs::read(path)).unwrap(), answered_bytes);
    let path = pair.mount(Side::B).join("cold3");
    assert_eq!(within(ANSWER_LIMIT, "a read", move || fs::read(path)).unwrap().len(), 256 << 10);
    drop(suspended);
    pair.wait_volume(Side::A, "everything applied", |volume| volume.apply_lag.seconds < 1.0);
    // Quick consistency points show it.
    let tick = pair.mount(Side::B).join("tick");
    pair.wait("no fault any more", |pair| {
        fs::write(&tick, b"tick").unwrap();
        pair.volume(Side::A)?.faults.is_empty().then_some(())
    });
    pair.check_trees_equal();
}

/// After a takeover the disk is looked at for what has no name any more; clients who come by the address do not wait for that.
#[test]
fn a_node_whose_disk_hangs_takes_the_floating_address_all_the_same() {
    const ADDRESS: &str = "192.0.2.33/24";
    let interface = Interface::new("twd");
    let more = [String::new(), interface.carries(ADDRESS)];
    let mut device = None;
    let mut pair = Cluster::start(Spec { disk_mib: [None, Some(128)], more, ..Spec::default() });
    let unlinked = pair.mount(Side::A).join("unlinked");
    let file = File::create(&unlinked).unwrap();
    fs::remove_file(&unlinked).unwrap();
    pair.check_trees_equal();
    assert!(pair.terminate(Side::B).success());
    let (image, at) = (pair.image(Side::B), pair.disk_path(Side::B));
    pair.disk(Side::B).take().unwrap().unmount(&image);
    let served = device.insert(Device::serve(&image)).path();
    *pair.disk(Side::B) = Some(Disk::mount("ext4", &served, &at));
    pair.start_node(Side::B);
    pair.wait_mirrored();
    let suspended = device.as_ref().unwrap().suspend();
    pair.kill(Side::A);
    pair.wait_volume(Side::B, "a mount", |volume| volume.mounted_at.is_some());
    pair.wait("the address", |_| interface.has(ADDRESS).then_some(()));
    // And to leave again needs no disk either.
    pair.signal(Side::B, Signal::TERM);
    pair.wait("the address is given up", |_| (!interface.has(ADDRESS)).then_some(()));
    drop((suspended, file));
}
