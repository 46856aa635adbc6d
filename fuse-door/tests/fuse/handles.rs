//! Objects opened by the handle alone, as servers and backup programs do, also when the kernel has forgotten them.

use super::mounted;
use apply_engine::base::handles::FileHandle;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

fn path_only(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap()
}

/// Every cached inode and entry that nobody uses is dropped.
fn forget_everything() {
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}

#[test]
fn every_kind_of_object_is_opened_by_its_handle() {
    let m = mounted();
    fs::create_dir_all(m.path("a/b")).unwrap();
    fs::write(m.path("a/b/file"), b"x").unwrap();
    std::os::unix::fs::symlink("nowhere", m.path("a/soft")).unwrap();
    rustix::fs::mknodat(CWD, m.path("a/fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::write(m.path("dead"), b"x").unwrap();
    fs::write(m.path("held"), b"x").unwrap();
    let root = File::open(m.path("")).unwrap();
    let paths = ["a", "a/b", "a/b/file", "a/soft", "a/fifo", "dead", "held"];
    let handles = paths.map(|name| {
        let path = m.path(name);
        (FileHandle::of(path_only(&path).as_fd()).unwrap(), fs::symlink_metadata(&path).unwrap().ino())
    });
    let held = File::open(m.path("held")).unwrap();
    fs::remove_file(m.path("dead")).unwrap();
    fs::remove_file(m.path("held")).unwrap();
    for round in 0..2 {
        forget_everything();
        for (name, (handle, ino)) in paths.iter().zip(&handles) {
            let opened = handle.open(root.as_fd());
            if *name == "dead" {
                assert_eq!(opened.unwrap_err(), rustix::io::Errno::STALE, "round {round}");
                continue;
            }
            let opened = opened.unwrap_or_else(|error| panic!("{name}, round {round}: {error}"));
            assert_eq!(rustix::fs::fstat(&opened).unwrap().st_ino, *ino, "{name}");
            if *name == "a/b/file" {
                // Usable, not only known: through the descriptor's own path.
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
                assert_eq!(fs::read(path).unwrap(), b"x");
            }
        }
    }
    drop(held);
}

fn through(held: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(held)).into()
}

/// Nobody has it open, so it is gone; a kernel still refers to it.
#[test]
fn a_removed_object_that_only_a_path_descriptor_holds_has_attributes() {
    let m = mounted();
    fs::create_dir(m.dir.path().join("plain")).unwrap();
    type Make = fn(&Path);
    let kinds: [Make; 3] = [
        |path| fs::write(path, b"x").unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap(),
    ];
    for (number, make) in kinds.into_iter().enumerate() {
        let name = format!("{number}");
        let [expected, got] = [m.dir.path().join("plain").join(&name), m.path(&name)].map(|path| {
            make(&path);
            let held = path_only(&path);
            let at = through(&held);
            if path.is_dir() {
                fs::remove_dir(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            fs::set_permissions(&at, fs::Permissions::from_mode(0o4711)).unwrap();
            std::os::unix::fs::chown(&at, Some(61_001), Some(62_000)).unwrap();
            let time = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, &at, &times, rustix::fs::AtFlags::empty()).unwrap();
            let xattr = rustix::fs::getxattr(&at, "trusted.a", &mut [0_u8; 8]);
            let listed = rustix::fs::listxattr(&at, &mut [0_u8; 64]);
            let removed = rustix::fs::removexattr(&at, "trusted.a");
            let shown = fs::metadata(&at).unwrap();
            (shown.mode(), shown.uid(), shown.gid(), shown.nlink(), shown.mtime(), xattr, listed, removed)
        });
        assert_eq!(got, expected, "{name}");
    }
    // What docs/posix.md tells of: it is not there any more.
    let path = m.path("file");
    fs::write(&path, b"x").unwrap();
    let held = path_only(&path);
    fs::remove_file(&path).unwrap();
    let errno = |error: std::io::Error| Errno::from_io_error(&error);
    assert_eq!(File::open(through(&held)).map_err(errno).unwrap_err(), Some(Errno::STALE));
    let set = rustix::fs::setxattr(through(&held), "trusted.a", b"1", XattrFlags::empty());
    assert_eq!(set, Err(Errno::STALE));
}
