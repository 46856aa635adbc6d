//! The mount of a volume, and those who take it away.

use crate::harness::{ANSWER_LIMIT, Cluster, Side, Spec, within};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
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

#[test]
fn a_mount_that_somebody_hides_or_makes_read_only_is_a_fault_until_it_is_as_before() {
    let mut pair = Cluster::start(Spec::default());
    let place = pair.mount(Side::A);
    let fault = |pair: &mut Cluster, text: &'static str| {
        pair.wait_volume(Side::A, text, |volume| volume.faults.iter().any(|fault| fault.what.contains(text)));
    };
    let no_fault = |pair: &mut Cluster| {
        pair.wait_volume(Side::A, "no fault", |volume| {
            volume.faults.is_empty() && volume.mounted_at.is_some()
        });
    };
    rustix::mount::mount("over", &place, "tmpfs", MountFlags::empty(), None).unwrap();
    fault(&mut pair, "is hidden: somebody has mounted over (tmpfs) over it");
    unmount(&place, UnmountFlags::empty()).unwrap();
    no_fault(&mut pair);
    mount_remount(&place, MountFlags::RDONLY, "").unwrap();
    fault(&mut pair, "was made read-only");
    mount_remount(&place, MountFlags::empty(), "").unwrap();
    no_fault(&mut pair);
    write(place.join("after")).unwrap();

    // What lies over it stays when the volume goes.
    rustix::mount::mount("over", &place, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(place.join("theirs"), b"x").unwrap();
    pair.terminate(Side::A);
    pair.wait_serving(Side::B);
    assert_eq!(fs::read(place.join("theirs")).unwrap(), b"x");
    unmount(&place, UnmountFlags::empty()).unwrap();
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
