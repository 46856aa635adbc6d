//! The mount of a volume, and those who take it away.

use crate::harness::{ANSWER_LIMIT, Cluster, Side, Spec, within};
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::path::PathBuf;

fn write(path: PathBuf) -> std::io::Result<()> {
    within(ANSWER_LIMIT, "a write", move || fs::write(path, b"x"))
}

#[test]
fn a_mount_that_somebody_takes_away_is_a_fault_and_comes_back() {
    let mut pair = Cluster::start(Spec::default());
    let mount = pair.mount(Side::A);
    write(mount.join("before")).unwrap();
    unmount(&mount, UnmountFlags::DETACH).unwrap();
    pair.wait_volume(Side::A, "a fault, and no mount in its status", |volume| {
        let told = volume.faults.iter().any(|fault| fault.what.starts_with("the mount went away"));
        told && volume.mounted_at.is_none()
    });
    pair.wait_volume(Side::A, "the mount again", |volume| {
        volume.mounted_at.is_some() && volume.faults.is_empty()
    });
    assert_eq!(fs::read(mount.join("before")).unwrap(), b"x");
    write(mount.join("after")).unwrap();
}

/// As systemd makes those of its mount units.
#[test]
fn a_mount_point_that_is_gone_is_made() {
    let mut pair = Cluster::start(Spec::default());
    write(pair.mount(Side::A).join("before")).unwrap();
    fs::remove_dir(pair.mount(Side::B)).unwrap();
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    assert_eq!(fs::read(pair.mount(Side::B).join("before")).unwrap(), b"x");
}

#[test]
fn a_stray_file_below_the_mount_point_stops_no_takeover() {
    let mut pair = Cluster::start(Spec::default());
    write(pair.mount(Side::A).join("before")).unwrap();
    fs::write(pair.mount(Side::B).join("stray"), b"x").unwrap();
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    assert_eq!(fs::read(pair.mount(Side::B).join("before")).unwrap(), b"x");
}
