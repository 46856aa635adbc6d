//! Volumes that clients fill to the last block: they are told in time, by the smaller of both disks, whatever it is
//! that fills it; applying never meets a full disk, and room comes back.

use crate::harness::{ANSWER_LIMIT, Cluster, Side, Spec, run, within};
use admin_api::control::{Answer, Request};
use admin_api::status::Mode;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest time to fill a volume: close to the end an operation waits for consistency points of both nodes.
const FILL_LIMIT: Duration = Duration::from_secs(150);
/// More files than any of these disks holds.
const MANY: usize = 100_000;
/// What a full volume may have left over: margins on both nodes, and what was in flight and needed less.
const LEFT_BYTES: u64 = 32 << 20;

fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::StorageFull
}

/// Does `step` again and again until the volume is full; how often it could.
fn until_full(what: &str, step: impl Fn(usize) -> io::Result<()> + Send + 'static) -> usize {
    let what = what.to_owned();
    let (number, error) = within(FILL_LIMIT, &what.clone(), move || {
        (0..MANY)
            .find_map(|number| step(number).err().map(|error| (number, error)))
            .expect("it is never full")
    });
    assert!(is_full(&error), "{what}: {number} times, then {error}");
    number
}

/// Directories that grow by files with long names, content that some filesystems keep beside the names, and an xattr.
fn small_files(root: PathBuf) -> impl Fn(usize) -> io::Result<()> + Send + 'static {
    move |number| {
        let directory = root.join(format!("d{}", number / 500));
        if number.is_multiple_of(500) {
            fs::create_dir(&directory)?;
        }
        let path = directory.join(format!("{number}-{}", "n".repeat(180)));
        fs::write(&path, vec![number as u8; 1 + number * 37 % 3000])?;
        if number.is_multiple_of(7) {
            let value = vec![number as u8; 1500];
            rustix::fs::setxattr(&path, "user.filler", &value, rustix::fs::XattrFlags::empty())?;
        }
        Ok(())
    }
}

/// One file that grows by pieces, from the end of what is there.
fn one_file(path: PathBuf, piece_bytes: usize) -> impl Fn(usize) -> io::Result<()> + Send + 'static {
    move |_| File::options().create(true).append(true).open(&path)?.write_all(&vec![9; piece_bytes])
}

/// Takes most of a large disk at once, so that the rest of the test is short.
fn set_aside(path: &Path, leave_bytes: u64) {
    let vfs = rustix::fs::statvfs(path.parent().unwrap()).unwrap();
    let free_bytes = vfs.f_bavail * vfs.f_frsize;
    let Some(len) = free_bytes.checked_sub(leave_bytes) else { return };
    let file = File::create(path).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
    // What was only promised counts at once: the same is not promised twice.
    let twice = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), len, free_bytes);
    assert_eq!(twice, Err(rustix::io::Errno::NOSPC));
}

fn apply_all(pair: &Cluster) {
    for side in Side::BOTH {
        let answer = pair.ask(side, &Request::ConsistencyPoint { volume: "v".to_owned() });
        assert!(matches!(answer, Ok(Answer::ConsistencyPoint(_))), "{answer:?}\n{}", pair.diagnosis());
    }
}

/// Nothing was ever met while applying, not even for a moment.
fn expect_no_fault(pair: &Cluster) {
    for side in Side::BOTH {
        let output = fs::read_to_string(pair.output(side)).unwrap();
        let fault = output.lines().find(|line| line.contains("applying to the base filesystem fails"));
        assert!(fault.is_none(), "node {}: {fault:?}", side.name());
        assert_eq!(pair.volume(side).unwrap().mode, Mode::Mirrored);
    }
}

/// Fills a volume with small things, then to its last block, makes room, and goes on.
fn fill(pair: &mut Cluster, leave_bytes: u64, metadata_apart: bool) {
    let mount = pair.mount(Side::A);
    set_aside(&mount.join("set-aside"), leave_bytes);
    let files = until_full("small files", small_files(mount.clone()));
    apply_all(pair);
    expect_no_fault(pair);
    assert!(files > 500, "only {files} small files were let in");
    // Describing and removing work on a full volume.
    for entry in fs::read_dir(mount.join("d0")).unwrap().map(Result::unwrap) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        within(ANSWER_LIMIT, "chmod and rm", move || {
            fs::set_permissions(entry.path(), mode)?;
            fs::remove_file(entry.path())
        })
        .unwrap();
    }
    apply_all(pair);
    until_full("one file by large pieces", one_file(mount.join("big"), 1 << 20));
    until_full("one file by blocks", one_file(mount.join("big"), 4096));
    apply_all(pair);
    expect_no_fault(pair);
    let left_bytes = pair.volume(Side::A).unwrap().space.unwrap().free_bytes;
    // On a small btrfs the room for metadata is what names and short files have used up, not that for contents.
    assert!(metadata_apart || left_bytes < LEFT_BYTES, "{left_bytes} bytes are free on a full volume");
    for directory in 1..=files / 500 {
        let directory = mount.join(format!("d{directory}"));
        let removed = within(ANSWER_LIMIT, "rm -r", move || fs::remove_dir_all(directory));
        // The last one may have been what did not fit.
        assert!(removed.is_ok() || removed.unwrap_err().kind() == ErrorKind::NotFound);
    }
    let removed = fs::remove_file(mount.join("big"));
    assert!(removed.is_ok() || metadata_apart, "{removed:?}: not even its name found room");
    // XFS and btrfs give removed files' room back a little later.
    let probe = mount.join("probe");
    pair.wait("room again", |_| fs::write(&probe, vec![1; 4 << 20]).ok());
    let again = until_full("small files again", small_files(mount.join("d0")));
    assert!(again > files / 4, "{files} files, then {again}");
    expect_no_fault(pair);
    pair.check_trees_equal();
}

fn pair_of(filesystem: &'static str, disk_mib: [Option<u64>; 2]) -> Cluster {
    // Seldom: much is let in between two looks at the disks.
    let consistency_point = "interval = \"2s\"\n";
    let filesystem = [filesystem, filesystem];
    Cluster::start(Spec { filesystem, disk_mib, consistency_point, ..Spec::default() })
}

#[test]
fn ext4_full_on_the_primary() {
    fill(&mut pair_of("ext4", [Some(64), None]), 24 << 20, false);
}

#[test]
fn xfs_full_on_the_partner() {
    fill(&mut pair_of("xfs", [None, Some(320)]), 24 << 20, false);
}

#[test]
fn btrfs_full_on_both() {
    fill(&mut pair_of("btrfs", [Some(256), Some(256)]), 56 << 20, true);
}

#[test]
fn ext4_out_of_inodes() {
    let spec = Spec { disk_mib: [None, Some(256)], mkfs: [&[], &["-N", "800"]], ..Spec::default() };
    let mut pair = Cluster::start(spec);
    let mount = pair.mount(Side::A);
    let files =
        until_full("empty files", move |number| File::create(mount.join(format!("f{number}"))).map(drop));
    assert!((700..800).contains(&files), "{files} files in 800 inodes");
    apply_all(&pair);
    expect_no_fault(&pair);
    // Content still has room; a removed file gives its inode back.
    let mount = pair.mount(Side::A);
    fs::write(mount.join("f1"), vec![1; 1 << 20]).unwrap();
    fs::remove_file(mount.join("f2")).unwrap();
    let new = mount.join("new");
    pair.wait("an inode", |_| File::create(&new).ok());
    pair.check_trees_equal();
    expect_no_fault(&pair);
}

/// What the old primary let in, and no disk has yet, is counted by the new one too.
#[test]
fn a_new_primary_counts_what_is_not_applied_yet() {
    let spec = Spec {
        disk_mib: [Some(96), Some(96)],
        capacity: "256MiB",
        consistency_point: "interval = \"60s\"\nbytes = \"128MiB\"\n",
        ..Spec::default()
    };
    let mut pair = Cluster::start(spec);
    let mount = pair.mount(Side::A);
    for number in 0..8 {
        let path = mount.join(format!("f{number}"));
        within(ANSWER_LIMIT, "a write", move || fs::write(path, vec![1; 4 << 20])).unwrap();
    }
    let mut b = pair.config(Side::B).display().to_string();
    run(env!("CARGO_BIN_EXE_twinfiler"), &["--config", &b, "takeover", "v"]);
    pair.wait_serving(Side::B);
    b = pair.mount(Side::B).join("more").display().to_string();
    until_full("one file on the new primary", one_file(PathBuf::from(b), 1 << 20));
    apply_all(&pair);
    expect_no_fault(&pair);
    pair.wait_mirrored();
    pair.check_trees_equal();
}

/// A pair of full disks: a file of 24 MiB that is reserved and not written, and one of 8 MiB that is written.
fn full_of_promises(filesystem: &'static str, mib: u64) -> Cluster {
    let pair = pair_of(filesystem, [Some(mib), Some(mib)]);
    let mount = pair.mount(Side::A);
    let reserved = File::create(mount.join("reserved")).unwrap();
    rustix::fs::fallocate(&reserved, rustix::fs::FallocateFlags::empty(), 0, 24 << 20).unwrap();
    fs::write(mount.join("written"), vec![1; 8 << 20]).unwrap();
    apply_all(&pair);
    // Much of it at once, and enough for XFS to keep some behind a file that grows.
    let set_aside = File::create(mount.join("set-aside")).unwrap();
    let (flags, len) = (rustix::fs::FallocateFlags::empty(), 4 << 20);
    let reserve = |number| rustix::fs::fallocate(&set_aside, flags, number * len, len);
    let _is_full = (0..20).try_for_each(reserve);
    until_full("one file by large pieces", one_file(mount.join("big"), 1 << 20));
    until_full("one file by blocks", one_file(mount.join("big"), 4096));
    apply_all(&pair);
    pair
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Writes pieces in place; what the first one that is refused says.
fn overwrite(path: &Path, range: std::ops::Range<u64>, byte: u8) -> io::Result<()> {
    let path = path.to_owned();
    within(FILL_LIMIT, "overwriting", move || {
        let file = open(&path);
        for at in range.step_by(64 << 10) {
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![byte; 64 << 10], at)?;
        }
        file.sync_all()
    })
}

fn what_was_promised_can_be_written(filesystem: &'static str, mib: u64) {
    let mut pair = full_of_promises(filesystem, mib);
    let mount = pair.mount(Side::A);
    let (reserved, written) = (mount.join("reserved"), mount.join("written"));
    overwrite(&reserved, 0..24 << 20, 2).unwrap();
    overwrite(&written, 0..8 << 20, 3).unwrap();
    let to = format!("of={}", written.display());
    run("dd", &["if=/dev/zero", &to, "bs=64k", "count=32", "oflag=direct", "conv=notrunc", "status=none"]);
    // Zeros in the place of blocks, of both kinds.
    for (path, at) in [(&reserved, 12 << 20), (&written, 6 << 20)] {
        let zero = rustix::fs::FallocateFlags::ZERO_RANGE;
        rustix::fs::fallocate(open(path), zero, at, 1 << 20).unwrap();
    }
    apply_all(&pair);
    overwrite(&reserved, 12 << 20..13 << 20, 2).unwrap();
    // posix_fallocate of what is there, and its write-back from a mapping's pages.
    let file = open(&reserved);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 24 << 20).unwrap();
    run("python3", &["-c", STORE, &reserved.display().to_string()]);
    // Nothing else has room, neither what was given up nor what is new.
    file.set_len(20 << 20).unwrap();
    file.set_len(24 << 20).unwrap();
    let end = overwrite(&reserved, 20 << 20..24 << 20, 4);
    // What was cut off is free again when it is applied.
    assert!(end.is_ok() || is_full(end.as_ref().unwrap_err()), "{end:?}");
    apply_all(&pair);
    expect_no_fault(&pair);
    let read = fs::read(&reserved).unwrap();
    assert!(read[..4096] == [8; 4096] && read[4096..19 << 20].iter().all(|byte| *byte == 2));
    let read = fs::read(&written).unwrap();
    let is = |range: std::ops::Range<usize>, byte: u8| read[range].iter().all(|there| *there == byte);
    assert!(is(2 << 20..6 << 20, 3) && is(6 << 20..7 << 20, 0) && is(7 << 20..8 << 20, 3));
    pair.check_trees_equal();
}

/// Stores into a shared mapping.
const STORE: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    pages = mmap.mmap(file.fileno(), 4096)
    pages[:] = bytes([8]) * 4096
    pages.flush()
";

#[test]
fn ext4_full_takes_what_it_has_promised() {
    what_was_promised_can_be_written("ext4", 96);
}

#[test]
fn xfs_full_takes_what_it_has_promised() {
    what_was_promised_can_be_written("xfs", 320);
}

#[test]
fn a_partner_keeps_what_was_promised_through_a_resync() {
    let mut pair = full_of_promises("ext4", 96);
    let config = pair.config(Side::B).display().to_string();
    run(env!("CARGO_BIN_EXE_twinfiler"), &["--config", &config, "resync", "v"]);
    pair.wait_volume(Side::B, "a resync", |volume| volume.mode != Mode::Mirrored);
    pair.wait_mirrored();
    overwrite(&pair.mount(Side::A).join("reserved"), 0..24 << 20, 2).unwrap();
    apply_all(&pair);
    expect_no_fault(&pair);
    pair.check_trees_equal();
}

/// The partner's blocks are not those of the primary: somebody has dug holes there, say.
#[test]
fn room_that_only_the_primary_has_is_none() {
    let mut pair = full_of_promises("ext4", 96);
    let at_b = open(&pair.base(Side::B).join("reserved"));
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&at_b, punch, 8 << 20, 8 << 20).unwrap();
    at_b.sync_all().unwrap();
    let foreign = File::create(pair.disk_path(Side::B).join("foreign")).unwrap();
    rustix::fs::fallocate(&foreign, rustix::fs::FallocateFlags::empty(), 0, 8 << 20).unwrap();
    let reserved = pair.mount(Side::A).join("reserved");
    overwrite(&reserved, 0..8 << 20, 2).unwrap();
    assert!(is_full(&overwrite(&reserved, 8 << 20..9 << 20, 2).unwrap_err()));
    overwrite(&reserved, 16 << 20..24 << 20, 2).unwrap();
    apply_all(&pair);
    expect_no_fault(&pair);
    pair.check_trees_equal();
}
