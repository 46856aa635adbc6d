//! Limits as measured on real filesystems, made and mounted in the ways that matter.

use super::super::tests::Image;
use super::super::{Base, OpenError};
use super::probe::stat;
use super::*;
use ids::{VolumeId, XattrRoom};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;

const VOLUME: VolumeId = VolumeId([7; 16]);

fn limits_of(kind: &str, arguments: &[&str]) -> BaseLimits {
    let image = Image::made(kind, arguments, "");
    Base::create(&image.directory("volume"), VOLUME).expect("a place for a volume").limits()
}

#[test]
fn limits_are_those_of_the_filesystem() {
    let ext4 = limits_of("ext4", &["-b", "4096", "-I", "256"]);
    let room =
        |block_bytes, inode_bytes| Some(XattrRoom { block_bytes, inode_bytes, outside_from_bytes: None });
    assert_eq!((ext4.max_file_bytes, ext4.max_allocate_bytes), (17_592_186_040_320, 17_592_186_040_320));
    assert_eq!((ext4.max_symlink_bytes, ext4.max_links, ext4.max_subdirectories), (4095, 65_000, u32::MAX));
    assert_eq!((ext4.seconds, ext4.max_device), ((-(1 << 31), 15_032_385_535), (0xFFF, 0xF_FFFF)));
    assert_eq!((ext4.max_xattr_value_bytes, ext4.xattr_room), (4040, room(4060, 0)));

    let small = limits_of("ext4", &["-b", "1024", "-I", "1024"]);
    assert_eq!((small.max_symlink_bytes, small.xattr_room), (1023, room(988, 780)));
    let inline = limits_of("ext4", &["-O", "inline_data", "-I", "512"]);
    assert!(inline.xattr_room.is_some_and(|room| room.inode_bytes == 0), "contents share it: {inline:?}");
    let outside = limits_of("ext4", &["-b", "4096", "-O", "ea_inode"]);
    assert_eq!(outside.max_xattr_value_bytes, 65_536);
    assert_eq!(
        outside.xattr_room.map(|room| (room.block_bytes, room.outside_from_bytes)),
        Some((4060, Some(4040)))
    );
    assert_eq!(limits_of("ext4", &["-O", "^dir_nlink"]).max_subdirectories, 64_998);

    let ext3 = limits_of("ext3", &["-b", "4096", "-I", "256"]);
    assert!(ext3.max_file_bytes < 3 << 40 && ext3.punches && !ext3.allocates, "{ext3:?}");
    let xfs = limits_of("xfs", &[]);
    assert_eq!(
        (xfs.max_symlink_bytes, xfs.max_links, xfs.max_device),
        (1023, i32::MAX as u32, (511, 262_143))
    );
    assert_eq!(
        (xfs.max_file_bytes, xfs.max_xattr_value_bytes, xfs.xattr_room),
        (i64::MAX as u64, 65_536, None)
    );
    let btrfs = limits_of("btrfs", &[]);
    assert_eq!((btrfs.max_links, btrfs.max_xattr_bytes, btrfs.xattr_room), (65_535, 16_228, None));
    assert!(limits_of("btrfs", &["-n", "4096"]).max_xattr_bytes < 4096);
}

/// What is counted for a write: its content and a block (`commit/src/needs.rs`), and the map of its file where there is one.
#[test]
fn a_write_far_out_takes_no_more_than_is_counted_for_it() {
    const BLOCK_BYTES: u64 = 4096;
    for (kind, arguments) in [
        ("ext3", &["-b", "4096"][..]),
        ("ext3", &["-b", "1024"][..]),
        ("ext4", &["-b", "4096", "-O", "^extents,^64bit"][..]),
        ("ext4", &["-b", "4096"][..]),
        ("xfs", &[][..]),
        ("btrfs", &[][..]),
    ] {
        let image = Image::made(kind, arguments, "");
        let limits = Base::create(&image.directory("volume"), VOLUME).expect("a place for a volume").limits();
        // Where the map of a file with blocks of 4096 bytes goes one level higher, and from one part of a level to the next.
        let (direct, one, two) = (12, 1024, 1024 * 1024);
        let borders = [direct, direct + one, direct + one + two, direct + one + 2 * two]
            .map(|blocks| blocks * BLOCK_BYTES - 1);
        let last = limits.max_file_bytes.min(1 << 40) - 2;
        for (number, at) in borders.into_iter().chain([0, last]).enumerate() {
            let file = std::fs::File::create(image.path().join(number.to_string())).expect("makes a file");
            assert_eq!(rustix::io::pwrite(&file, b"xy", at), Ok(2));
            file.sync_all().expect("syncs");
            let taken_bytes = stat(file.as_fd()).expect("stats").st_blocks as u64 * 512;
            let counted_bytes = 2 * BLOCK_BYTES + limits.map_bytes();
            assert!(taken_bytes <= counted_bytes, "{kind} {arguments:?} at {at}: {taken_bytes}");
        }
        assert_eq!(limits.map_bytes() == 0, limits.allocates);
    }
}

#[test]
fn what_programs_rely_on_is_demanded_with_a_remedy() {
    for (kind, arguments, options, lack) in [
        ("ext4", &["-I", "128"][..], "", Lack::Nanoseconds),
        ("ext4", &["-O", "bigalloc", "-C", "16384"][..], "", Lack::AllocationUnit(16_384)),
        ("ext4", &[][..], "nouid32", Lack::ShortIds),
        ("xfs", &["-m", "bigtime=0"][..], "", Lack::Years),
        ("xfs", &["-n", "size=65536"][..], "", Lack::DirectoryUnit(65_536)),
        // Where small directories fit into their inodes.
        ("xfs", &["-n", "size=65536", "-i", "size=2048"][..], "", Lack::DirectoryUnit(65_536)),
        ("xfs", &["-n", "size=8192"][..], "", Lack::DirectoryUnit(8192)),
        ("btrfs", &[][..], "noacl", Lack::Acls),
    ] {
        let image = Image::made(kind, arguments, options);
        let path = image.directory("volume");
        let error = Base::create(&path, VOLUME).expect_err(kind);
        assert!(
            matches!(&error, OpenError::Lacks { lack: found, .. } if *found == lack),
            "{kind} {options}: {error}"
        );
        assert!(error.to_string().contains(lack.remedy()), "{error}");
        assert_eq!(std::fs::read_dir(&path).expect("lists").count(), 0, "nothing is left");
        let adopted = Base::adopt(&path, VOLUME).expect_err(kind);
        assert!(matches!(adopted, OpenError::Lacks { .. }), "{kind} {options}: {adopted}");
    }
}

#[test]
fn what_the_mount_takes_away_is_seen_at_the_next_start() {
    // Of ext4, newer kernels know the option no more.
    let image = Image::new("btrfs");
    let path = image.directory("volume");
    drop(Base::create(&path, VOLUME).expect("creates"));
    image.remount_with("noacl");
    for found in [Base::open(&path, VOLUME).map(drop), Base::look(&path, VOLUME)] {
        assert!(matches!(found, Err(OpenError::Lacks { lack: Lack::Acls, .. })), "{found:?}");
    }
}

#[test]
fn a_base_in_another_project_than_its_staging_is_refused() {
    let image = Image::new("xfs");
    let path = image.directory("volume");
    drop(Base::create(&path, VOLUME).expect("creates"));
    let flag =
        std::process::Command::new("chattr").args(["+P", "-p", "42"]).arg(&path).output().expect("chattr");
    assert!(flag.status.success(), "{flag:?}");
    let moved = std::fs::File::create(path.join(".twinfiler/staging/f"))
        .and_then(|_| std::fs::rename(path.join(".twinfiler/staging/f"), path.join("f")));
    assert_eq!(
        moved.map_err(|error| error.kind()),
        Err(std::io::ErrorKind::CrossesDevices),
        "what it would meet"
    );
    let refused = Base::open(&path, VOLUME).map(drop);
    assert!(matches!(refused, Err(OpenError::Lacks { lack: Lack::Project, .. })), "{refused:?}");
}

fn btrfs(arguments: &[&str], path: &std::path::Path) {
    let done = std::process::Command::new("btrfs").args(arguments).arg(path).output().expect("btrfs-progs");
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

/// `statfs` does not tell of it: clients would be answered for more than it lets the base hold.
#[test]
fn a_subvolume_that_a_quota_group_limits_is_refused() {
    let image = Image::new("btrfs");
    let path = image.path().join("volume");
    btrfs(&["quota", "enable"], &image.path());
    btrfs(&["subvolume", "create"], &path);
    drop(Base::create(&path, VOLUME).expect("nothing limits it yet"));
    let found = || Base::open(&path, VOLUME).map(drop);
    let refused = |group: u64| {
        let found = found();
        let is_refused =
            matches!(&found, Err(OpenError::Lacks { lack: Lack::QuotaGroup(by), .. }) if *by == group);
        assert!(is_refused, "{found:?}");
    };
    let inode = rustix::fs::stat(&path).expect("stats");
    assert_eq!(inode.st_ino, 256, "the root of a subvolume");
    btrfs(&["qgroup", "limit", "100M"], &path);
    refused(256);
    let another = Base::create(&image.directory("another"), VOLUME).map(drop);
    assert!(another.is_ok(), "it lies in another subvolume: {another:?}");
    btrfs(&["qgroup", "limit", "none"], &path);
    found().expect("it is taken off");
    // One that it belongs to, and not alone.
    btrfs(&["qgroup", "create", "1/7"], &image.path());
    btrfs(&["qgroup", "assign", "--no-rescan", "0/256", "1/7"], &image.path());
    found().expect("nothing limits that group");
    btrfs(&["qgroup", "limit", "-e", "100M", "1/7"], &image.path());
    refused(1 << 48 | 7);
    btrfs(&["quota", "disable"], &image.path());
    found().expect("there are no quotas");
}

#[test]
fn a_full_base_counts_as_measured_before() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    let measured = Base::create(&path, VOLUME).expect("creates").limits();
    let mut rest = std::fs::File::create(image.path().join("rest")).expect("creates");
    while std::io::Write::write_all(&mut rest, &[7; 1 << 20]).is_ok() {}
    Base::look(&path, VOLUME).expect("it would open");
    assert_eq!(Base::open(&path, VOLUME).expect("opens").limits(), measured);
    let another = Base::create(&image.directory("another"), VOLUME).map(drop);
    assert!(matches!(another, Err(OpenError::Lacks { lack: Lack::Room, .. })), "{another:?}");
}

#[test]
fn a_probe_that_was_interrupted_is_cleared_and_never_followed() {
    let image = Image::new("ext4");
    let (path, precious) = (image.directory("volume"), image.directory("precious"));
    drop(Base::create(&path, VOLUME).expect("creates"));
    let probe = path.join(".twinfiler/probe");
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(probe.join("inner")).expect("makes");
    std::fs::write(probe.join("inner/left"), "").expect("writes");
    std::fs::write(precious.join("file"), "kept").expect("writes");
    std::os::unix::fs::symlink(&precious, probe.join("link")).expect("links");
    drop(Base::open(&path, VOLUME).expect("opens"));
    assert!(!probe.exists(), "nothing is left of either");
    std::os::unix::fs::symlink(&precious, &probe).expect("links");
    let refused = Base::open(&path, VOLUME).map(drop);
    assert!(matches!(refused, Err(OpenError::NotOurs { .. })), "{refused:?}");
    assert_eq!(std::fs::read(precious.join("file")).expect("reads"), b"kept");
}

#[test]
fn a_size_limit_of_the_process_is_none_of_the_filesystem() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    let measured = Base::create(&path, VOLUME).expect("creates").limits();
    setrlimit(Resource::Fsize, Rlimit { current: Some(1 << 20), maximum: None }).expect("lowers");
    assert_eq!(Base::open(&path, VOLUME).expect("opens").limits(), measured);
    assert_eq!(getrlimit(Resource::Fsize).current, None, "applying needs it too");
}
