//! Objects opened by the handle alone, as servers and backup programs do, also when the kernel has forgotten them.

use super::mounted;
use apply_engine::base::handles::FileHandle;
use rustix::fs::{CWD, Mode, OFlags};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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
