//! A volume mounted for real: programs' calls through the kernel, and leaving a mount in every situation.
//!
//! Needs root and /dev/fuse, like the product.

// Helpers of tests fail as loudly as tests.
#![allow(clippy::unwrap_used)]

mod attributes;
mod cache;
mod handles;
mod holes;
mod lease;
mod mounts;
mod privileges;
mod refused;
mod waiting;

use commit::{Admission, Ask, Journal, NotServing, Refused, SpaceBudget};
use fuse_door::{Left, MountError, MountHandle, MountOptions, MountState, abort_connection, mount};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use volume::solo::{Solo, SoloJournal};

const LOG_BYTES: u64 = 16 << 20;
const GRACE: Duration = Duration::from_millis(300);
/// Nothing about a mount may ever take longer.
const NEVER: Duration = Duration::from_secs(10);

struct Mounted {
    handle: Option<MountHandle>,
    solo: Solo,
    dir: TempDir,
}

impl Mounted {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    /// RELEASE is not waited for by close(2).
    fn wait_until_closed(&self) {
        let begun = Instant::now();
        while self.solo.volume.open_objects() > 0 {
            assert!(begun.elapsed() < NEVER, "something is open");
            std::thread::yield_now();
        }
    }

    fn leave(&mut self) -> Left {
        self.handle.take().unwrap().unmount(GRACE)
    }
}

fn mounted_with(options: MountOptions) -> Mounted {
    mounted_between(options, |journal| journal)
}

/// With something between the volume and its journal.
fn mounted_between<J: Journal + 'static>(
    options: MountOptions,
    between: impl FnOnce(Arc<SoloJournal>) -> Arc<J>,
) -> Mounted {
    assert!(rustix::process::geteuid().is_root(), "this test mounts: run it as root");
    assert!(std::path::Path::new("/dev/fuse").exists(), "this test mounts: load the module fuse");
    let dir = tempfile::tempdir().unwrap();
    let (base, mountpoint) = (dir.path().join("base"), dir.path().join("mnt"));
    fs::create_dir(&base).unwrap();
    fs::create_dir(&mountpoint).unwrap();
    let interval = Some(Duration::from_millis(50));
    let solo = Solo::start_with(&base, ids::VolumeId([9; 16]), LOG_BYTES, interval, between).unwrap();
    let handle = mount(solo.volume.clone(), &mountpoint, &options).unwrap();
    Mounted { handle: Some(handle), solo, dir }
}

fn mounted() -> Mounted {
    mounted_with(MountOptions { threads: 4, ..MountOptions::default() })
}

#[test]
fn calls_of_programs_arrive_as_they_were_meant() {
    let mut m = mounted();
    let path = m.path("dir/file");
    fs::create_dir(m.path("dir")).unwrap();
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(&path).unwrap();
    file.write_all(b"hello").unwrap();
    file.sync_all().unwrap();
    let mut appender = OpenOptions::new().append(true).open(&path).unwrap();
    appender.write_all(b" world").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello world");

    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mode(), meta.nlink(), meta.len()), (0o100_640, 1, 11));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&path, m.path("hard")).unwrap();
    std::os::unix::fs::symlink("dir/file", m.path("soft")).unwrap();
    assert_eq!(fs::read(m.path("soft")).unwrap(), b"hello world");
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 2);
    rustix::fs::mknodat(
        CWD,
        m.path("null"),
        rustix::fs::FileType::CharacterDevice,
        Mode::RUSR,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    assert_eq!(fs::metadata(m.path("null")).unwrap().rdev(), rustix::fs::makedev(1, 3));

    rustix::fs::setxattr(&path, "user.a", b"value", XattrFlags::CREATE).unwrap();
    let mut value = [0; 16];
    assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut value[..]), Ok(5));
    let times = |secs, nanos| rustix::fs::Timespec { tv_sec: secs, tv_nsec: nanos };
    let set = rustix::fs::Timestamps { last_access: times(-2, 500_000_000), last_modification: times(7, 9) };
    rustix::fs::utimensat(CWD, &path, &set, AtFlags::empty()).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()), (-2, 500_000_000, 7, 9));

    let mut names: Vec<_> = fs::read_dir(m.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["dir", "hard", "null", "soft"]);
    fs::rename(m.path("hard"), m.path("dir/moved")).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(fs::read(m.path("dir/moved")).unwrap(), b"hello world");
    let space = rustix::fs::statvfs(m.path("")).unwrap();
    assert!(space.f_blocks > 0 && space.f_bfree > 0 && space.f_namemax == 255);
    drop((file, appender));
    assert_eq!(m.leave(), Left::Clean);
    m.solo.checkpoint().unwrap();
    assert_eq!(fs::read(m.dir.path().join("base/dir/moved")).unwrap(), b"hello world");
}

/// Where data begins in a file that its last writer has just closed: RELEASE is not waited for by close(2).
fn first_data(path: &std::path::Path) -> rustix::io::Result<u64> {
    let (file, begun) = (File::open(path).unwrap(), Instant::now());
    loop {
        match rustix::fs::seek(&file, SeekFrom::Data(0)) {
            Ok(0) => assert!(begun.elapsed() < NEVER, "all of it is data"),
            found => return found,
        }
    }
}

#[test]
fn large_sparse_and_mapped_files() {
    let mut m = mounted();
    let data: Vec<u8> = (0..5_u32 << 20).map(|i| (i >> 3) as u8).collect();
    fs::write(m.path("big"), &data).unwrap();
    assert_eq!(fs::read(m.path("big")).unwrap(), data);
    fs::copy(m.path("big"), m.path("copy")).unwrap();
    assert_eq!(fs::read(m.path("copy")).unwrap(), data);

    let sparse = OpenOptions::new().read(true).write(true).create_new(true).open(m.path("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(b"x", 8 << 20).unwrap();
    drop(sparse);
    assert!(first_data(&m.path("sparse")).unwrap() > 0);
    let sparse = OpenOptions::new().write(true).open(m.path("sparse")).unwrap();
    rustix::fs::fallocate(&sparse, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8 << 20, 4096)
        .unwrap();
    let collapse = rustix::fs::fallocate(&sparse, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(rustix::io::Errno::OPNOTSUPP));
    drop(sparse);
    assert_eq!(first_data(&m.path("sparse")), Err(rustix::io::Errno::NXIO));

    let unnamed = rustix::fs::open(m.path("gone"), OFlags::CREATE | OFlags::RDWR, Mode::RUSR).unwrap();
    fs::remove_file(m.path("gone")).unwrap();
    assert_eq!(rustix::io::pwrite(&unnamed, b"alive", 0), Ok(5));
    let mut back = [0; 5];
    assert_eq!((rustix::io::pread(&unnamed, &mut back, 0), &back), (Ok(5), b"alive"));
    drop(unnamed);
    assert_eq!(m.leave(), Left::Clean);
    // RELEASE is not waited for by close(2), but by the end of the session.
    assert_eq!(m.solo.volume.open_objects(), 0);
}

#[test]
fn clients_that_hold_files_open_do_not_hold_up_leaving() {
    let mut m = mounted();
    let mut file = File::create(m.path("held")).unwrap();
    let begun = Instant::now();
    assert_eq!(m.leave(), Left::Forced);
    assert!(begun.elapsed() < NEVER);
    assert!(file.write_all(b"x").is_err(), "the connection is gone");
    assert_eq!(fs::read_dir(m.path("")).unwrap().count(), 0, "the mount point is free again");
}

#[test]
fn aborting_and_dropping_leave_at_once() {
    let mut m = mounted();
    let _held = File::create(m.path("held")).unwrap();
    let begun = Instant::now();
    assert_eq!(m.handle.take().unwrap().abort(), Left::Forced);
    let mountpoint = m.path("");
    drop(mount(m.solo.volume.clone(), &mountpoint, &MountOptions::default()).unwrap());
    assert_eq!(fs::read_dir(&mountpoint).unwrap().count(), 0);
    // Somebody else unmounts.
    let handle = mount(m.solo.volume.clone(), &mountpoint, &MountOptions::default()).unwrap();
    rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::empty()).unwrap();
    while !handle.has_ended() {
        assert!(begun.elapsed() < NEVER);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(handle.unmount(GRACE), Left::AlreadyGone);
    assert!(begun.elapsed() < NEVER);
}

#[test]
fn what_can_not_be_mounted_is_refused_and_named() {
    let mut m = mounted();
    let volume = || m.solo.volume.clone();
    let options = MountOptions::default();
    let missing = mount(volume(), &m.dir.path().join("missing"), &options);
    assert!(matches!(missing, Err(MountError::MountpointMissing { .. })));
    let no_threads = MountOptions { threads: 0, ..options };
    assert!(matches!(mount(volume(), &m.path(""), &no_threads), Err(MountError::Threads { threads: 0 })));
    assert_eq!(m.leave(), Left::Clean);
}

#[test]
fn with_a_writeback_cache_fsync_means_it() {
    let options = MountOptions { threads: 4, writeback_cache: true, ..MountOptions::default() };
    let mut m = mounted_with(options);
    let file = File::create(m.path("f")).unwrap();
    for i in 0..100_u64 {
        file.write_all_at(&[i as u8; 100], i * 100).unwrap();
    }
    file.sync_all().unwrap();
    // Past the kernel's cache: what the volume has.
    let oid = m.solo.volume.lookup(ids::Oid::ROOT, b"f").unwrap();
    assert_eq!(oid.size, 10_000);
    let mut data = vec![0; 10_000];
    assert_eq!(m.solo.volume.read(oid.oid, 0, &mut data), Ok(10_000));
    assert!(data.chunks(100).enumerate().all(|(i, chunk)| chunk.iter().all(|byte| *byte == i as u8)));
    drop(file);
    assert_eq!(m.leave(), Left::Clean);
}

/// A journal that gives no read lease, as on a node that has just become primary and is frozen at once.
struct Frozen(Arc<SoloJournal>, Arc<AtomicBool>);

impl Journal for Frozen {
    fn admit(&self, ask: Ask) -> Result<Admission, Refused> {
        self.0.admit(ask)
    }
    fn log(&self) -> &Arc<nvlog::Log> {
        self.0.log()
    }
    fn wait_answerable(&self, lsn: ids::Lsn) -> Result<(), NotServing> {
        self.0.wait_answerable(lsn)
    }
    fn answerable(&self) -> ids::Lsn {
        self.0.answerable()
    }
    fn check_lease(&self) -> Result<(), NotServing> {
        while self.1.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
    fn space(&self) -> SpaceBudget {
        self.0.space()
    }
}

/// A thread that waits inside the process whose answer it waits for cannot even be killed: mounting must not
/// ask the mount anything.
#[test]
fn mounting_a_frozen_volume_does_not_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (base, mountpoint) = (dir.path().join("base"), dir.path().join("mnt"));
    fs::create_dir(&base).unwrap();
    fs::create_dir(&mountpoint).unwrap();
    let frozen = Arc::new(AtomicBool::new(true));
    let between = |journal| Arc::new(Frozen(journal, frozen.clone()));
    let solo = Solo::start_with(&base, ids::VolumeId([8; 16]), LOG_BYTES, None, between).unwrap();
    let (volume, place) = (solo.volume.clone(), mountpoint.clone());
    let (done, mounted) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(mount(volume, &place, &MountOptions::default())).unwrap());
    let in_time = mounted.recv_timeout(NEVER);
    frozen.store(false, Ordering::SeqCst);
    let handle = in_time.expect("mounting waited for an answer of the mount itself").unwrap();
    assert!(fs::metadata(&mountpoint).unwrap().is_dir());
    handle.abort();
}
