//! What stat shows after changes whose answer the kernel keeps: block counts and times.

use super::holes::{Mapper, both_modes, sparse};
use super::{Mounted, NEVER, mounted, mounted_with};
use fuse_door::MountOptions;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// A day in 2001.
const LONG_AGO: i64 = 1_000_000_000;

fn set_mtime(path: &Path, secs: i64) -> rustix::io::Result<()> {
    let at = Timespec { tv_sec: secs, tv_nsec: 0 };
    let times = Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())
}

type Change = fn(&Path);

const CHANGES: [(&str, Change); 6] = [
    ("chmod", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap()),
    ("chown", |path| std::os::unix::fs::chown(path, Some(1), Some(1)).unwrap()),
    ("chown to nobody else", |path| std::os::unix::fs::chown(path, None, None).unwrap()),
    ("utimensat", |path| set_mtime(path, LONG_AGO).unwrap()),
    ("link", |path| fs::hard_link(path, path.with_extension("link")).unwrap()),
    ("truncate", |path| OpenOptions::new().write(true).open(path).unwrap().set_len(MIB as u64 / 2).unwrap()),
];

#[test]
fn a_full_file_shows_its_blocks_whatever_was_changed_last() {
    both_modes(|m, writeback| {
        fs::create_dir(m.dir.path().join("plain")).unwrap();
        for (what, change) in CHANGES {
            // At once, and when the bytes have left the log.
            for wait in [0, 120] {
                let name = format!("{what} {wait}");
                let [expected, got] = [m.dir.path().join("plain").join(&name), m.path(&name)].map(|path| {
                    let mut file = File::create(&path).unwrap();
                    file.write_all(&vec![7; MIB]).unwrap();
                    std::thread::sleep(Duration::from_millis(wait));
                    drop(file);
                    change(&path);
                    fs::metadata(&path).unwrap().blocks()
                });
                assert_eq!(got, expected, "{name}, write-back cache: {writeback}");
            }
        }
    });
}

#[test]
fn a_file_that_is_being_written_is_not_without_blocks() {
    both_modes(|m, writeback| {
        let path = m.path("new");
        let mut file = File::create(&path).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        let shown = fs::metadata(&path).unwrap();
        assert_eq!(shown.len(), 100_000);
        assert!(shown.blocks() > 0, "tar takes it for zeros; write-back cache: {writeback}");
        let path = m.path("empty");
        File::create(&path).unwrap();
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        assert!(fs::metadata(&path).unwrap().blocks() > 0, "opened again; write-back cache: {writeback}");
    });
}

#[test]
fn a_time_that_was_set_outlives_the_write_back_of_what_was_stored_before() {
    both_modes(|m, writeback| {
        for closing in [false, true] {
            let path = sparse(m, &format!("mapped-{closing}"));
            let mapper = Mapper::start(&path, closing);
            set_mtime(&path, LONG_AGO).unwrap();
            mapper.end();
            let what = format!("closed: {closing}, write-back cache: {writeback}");
            assert_eq!(fs::metadata(&path).unwrap().mtime(), LONG_AGO, "{what}");
            OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"x", 0).unwrap();
            assert!(fs::metadata(&path).unwrap().mtime() > LONG_AGO, "a later write: {what}");
        }
    });
}

#[test]
fn a_write_after_a_time_was_set_takes_it_away_also_while_pages_wait() {
    both_modes(|m, writeback| {
        let path = sparse(m, "mapped");
        let mapper = Mapper::start(&path, false);
        set_mtime(&path, LONG_AGO).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"x", 0).unwrap();
        mapper.end();
        assert!(fs::metadata(&path).unwrap().mtime() > LONG_AGO, "write-back cache: {writeback}");
    });
}

/// In a thread of its own: what a request has killed answers nobody.
fn within_time<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(act()));
    outcome.recv_timeout(NEVER).expect("it is answered")
}

#[test]
fn the_first_and_the_last_second_are_answered_as_on_ext4() {
    let m = mounted();
    fs::create_dir(m.dir.path().join("plain")).unwrap();
    for secs in [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1] {
        let [expected, got] = [m.dir.path().join("plain/f"), m.path("f")].map(|path| {
            File::create(&path).unwrap();
            let at = path.clone();
            within_time(move || set_mtime(&at, secs)).unwrap();
            fs::metadata(&path).unwrap().mtime()
        });
        assert_eq!(got, expected, "{secs}");
    }
}

#[test]
fn an_xattr_that_must_be_there_and_must_not_is_refused_as_on_ext4() {
    let m = mounted();
    let flags = XattrFlags::CREATE | XattrFlags::REPLACE;
    let path = m.path("f");
    File::create(&path).unwrap();
    let set = |flags| rustix::fs::setxattr(&path, "user.a", b"1", flags);
    assert_eq!(set(flags), Err(Errno::NODATA));
    set(XattrFlags::empty()).unwrap();
    assert_eq!(set(flags), Err(Errno::EXIST));
    assert_eq!(set(XattrFlags::from_bits_retain(4)), Err(Errno::INVAL));
}

/// The kernel then shows its own times; docs/posix.md tells so.
#[test]
fn with_a_writeback_cache_a_time_out_of_range_is_shown_until_the_kernel_forgets_it() {
    const FAR: i64 = 1 << 40;
    let shown = |m: &Mounted| fs::metadata(m.path("f")).unwrap().mtime();
    let set = |m: &Mounted| {
        File::create(m.path("f")).unwrap();
        set_mtime(&m.path("f"), FAR).unwrap();
        shown(m)
    };
    let clamped = set(&mounted());
    assert!(clamped < FAR);
    let writeback =
        mounted_with(MountOptions { threads: 4, writeback_cache: true, ..MountOptions::default() });
    assert_eq!(set(&writeback), FAR);
    let begun = Instant::now();
    while shown(&writeback) == FAR {
        assert!(begun.elapsed() < NEVER, "the kernel does not forget it");
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    }
    assert_eq!(shown(&writeback), clamped);
}
