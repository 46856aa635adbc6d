//! What a mount is told to be, and what happens to it without us.

use super::*;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;

fn options_of(mountpoint: &std::path::Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = format!(" {} ", mountpoint.display());
    let line = table.lines().rev().find(|line| line.contains(&place)).unwrap();
    line.split(' ').nth(5).unwrap().to_owned()
}

#[test]
fn a_stray_file_below_the_mount_point_is_hidden() {
    let mut m = mounted();
    assert_eq!(m.leave(), Left::Clean);
    fs::write(m.path("stray"), b"x").unwrap();
    let mountpoint = m.dir.path().join("mnt");
    let handle = mount(m.solo.volume.clone(), &mountpoint, &MountOptions::default()).unwrap();
    assert_eq!(fs::read_dir(&mountpoint).unwrap().count(), 0);
    fs::write(m.path("served"), b"y").unwrap();
    assert_eq!(handle.unmount(GRACE), Left::Clean);
    assert_eq!(fs::read(m.path("stray")).unwrap(), b"x");
}

#[test]
fn only_its_user_gets_into_a_mount_that_allows_no_other() {
    for (allow_other, gets_in) in [(true, true), (false, false)] {
        let m = mounted_with(MountOptions { allow_other, ..MountOptions::default() });
        fs::write(m.path("f"), b"x").unwrap();
        fs::set_permissions(m.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let looks = Command::new("stat").arg(m.path("f")).uid(65_534).gid(65_534).output().unwrap();
        assert_eq!(looks.status.success(), gets_in, "{looks:?}");
    }
}

#[test]
fn one_thread_serves_and_waits_for_none() {
    let mut m = mounted_with(MountOptions { threads: 1, ..MountOptions::default() });
    let writers: Vec<_> = (0..8)
        .map(|i| {
            let path = m.path(&format!("f{i}"));
            std::thread::spawn(move || fs::write(path, vec![i; 100_000]))
        })
        .collect();
    for writer in writers {
        writer.join().unwrap().unwrap();
    }
    assert_eq!(fs::read(m.path("f7")).unwrap(), vec![7; 100_000]);
    assert_eq!(m.leave(), Left::Clean);
}

#[test]
fn nosuid_nodev_and_ro_are_what_they_say() {
    let plain = mounted();
    let shown = options_of(&plain.dir.path().join("mnt"));
    assert!(!shown.contains("nosuid") && !shown.contains("nodev") && !shown.contains("ro,"), "{shown}");
    let careful =
        MountOptions { allow_suid: false, allow_devices: false, read_only: true, ..MountOptions::default() };
    let m = mounted_with(careful);
    let shown = options_of(&m.dir.path().join("mnt"));
    assert!(["nosuid", "nodev", "ro"].iter().all(|o| shown.split(',').any(|s| s == *o)), "{shown}");
    let refused = fs::write(m.path("f"), b"x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

/// Takes the mount away as `take_away` does; when that is noticed.
fn is_noticed(what: &str, take_away: impl FnOnce(&Mounted)) {
    let mut m = mounted();
    let (lost, noticed) = mpsc::channel();
    let handle = m.handle.take().unwrap();
    handle.watch(move |state| lost.send(state).unwrap()).unwrap();
    let open = File::create(m.path("f")).unwrap();
    let open = if what == "umount" {
        drop(open);
        None
    } else {
        Some(open)
    };
    take_away(&m);
    assert_eq!(noticed.recv_timeout(NEVER), Ok(MountState::Gone), "{what}");
    handle.abort();
    if let Some(open) = open {
        let asked = rustix::fs::fgetxattr(&open, "user.any", &mut [0; 8]);
        assert_eq!(asked, Err(Errno::NOTCONN), "{what}: the connection goes on");
    }
    let again = mount(m.solo.volume.clone(), &m.dir.path().join("mnt"), &MountOptions::default()).unwrap();
    assert!(fs::metadata(m.path("f")).unwrap().is_file(), "{what}");
    assert_eq!(again.unmount(GRACE), Left::Clean);
}

#[test]
fn a_mount_that_somebody_takes_away_is_noticed() {
    use rustix::mount::{UnmountFlags, unmount};
    let place = |m: &Mounted| m.dir.path().join("mnt");
    is_noticed("umount", |m| unmount(place(m), UnmountFlags::empty()).unwrap());
    is_noticed("umount -l", |m| unmount(place(m), UnmountFlags::DETACH).unwrap());
    is_noticed("abort", |m| {
        abort_connection(fs::metadata(place(m)).unwrap().dev()).unwrap();
    });
}

#[test]
fn a_mount_that_somebody_hides_or_makes_read_only_is_noticed() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
    let mut m = mounted();
    let place = m.dir.path().join("mnt");
    let (changed, noticed) = mpsc::channel();
    let handle = m.handle.take().unwrap();
    handle.watch(move |state| changed.send(state).unwrap()).unwrap();

    mount("over", &place, "tmpfs", MountFlags::empty(), None).unwrap();
    let hidden = MountState::Hidden { by: "over (tmpfs)".to_owned() };
    assert_eq!(noticed.recv_timeout(NEVER), Ok(hidden));
    unmount(&place, UnmountFlags::empty()).unwrap();
    assert_eq!(noticed.recv_timeout(NEVER), Ok(MountState::Good));

    mount_remount(&place, MountFlags::RDONLY, "").unwrap();
    assert_eq!(noticed.recv_timeout(NEVER), Ok(MountState::ReadOnly));
    mount_remount(&place, MountFlags::empty(), "").unwrap();
    assert_eq!(noticed.recv_timeout(NEVER), Ok(MountState::Good));
    assert_eq!(handle.unmount(GRACE), Left::Clean);
}

#[test]
fn leaving_on_purpose_tells_nobody() {
    let mut m = mounted();
    let (lost, noticed) = mpsc::channel();
    let handle = m.handle.take().unwrap();
    handle.watch(move |state| lost.send(state).unwrap()).unwrap();
    assert_eq!(handle.unmount(GRACE), Left::Clean);
    // The watcher has ended, and with it its end of the channel.
    assert_eq!(noticed.recv_timeout(NEVER), Err(mpsc::RecvTimeoutError::Disconnected));
}
