//! Volumes on filesystems of all kinds, in image files: what is answered can be applied, and a volume takes about as much
//! as its base does. The oracle is a plain directory of the same filesystem.
//!
//! Needs root, loop devices and the `mkfs` programs.

use super::*;
use rustix::fs::{XattrFlags, lsetxattr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Smallest that mkfs.xfs takes; sparse.
const IMAGE_BYTES: u64 = 320 << 20;

/// A mounted filesystem, with a volume and a plain directory in it.
pub(super) struct Image {
    volume: Option<Solo>,
    dir: TempDir,
}

impl std::ops::Deref for Image {
    type Target = Volume;
    fn deref(&self) -> &Volume {
        &self.volume.as_ref().unwrap().volume
    }
}

impl Image {
    pub(super) fn new(kind: &str, arguments: &[&str]) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let (image, mounted) = (dir.path().join("image"), dir.path().join("mounted"));
        std::fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        std::fs::create_dir(&mounted).unwrap();
        run(Command::new(format!("mkfs.{kind}")).arg("-q").args(arguments).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &mounted]));
        for name in ["volume", "plain"] {
            std::fs::create_dir(mounted.join(name)).unwrap();
        }
        let volume = Some(Solo::start(&mounted.join("volume"), volume_id(), LOG_BYTES, None).unwrap());
        Image { volume, dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("mounted").join(name)
    }

    pub(super) fn make(&self, name: &str, kind: NodeKind<'_>) -> Result<Oid> {
        self.make_in(Oid::ROOT, name, kind)
    }

    fn make_in(&self, parent: Oid, name: &str, kind: NodeKind<'_>) -> Result<Oid> {
        let node = Node { kind, mode: 0o755, umask: 0, open: false };
        self.create(&Root, parent, name.as_bytes(), node).map(|made| made.oid)
    }

    pub(super) fn set(&self, oid: Oid, name: &str, value: &[u8]) -> Result<()> {
        self.set_xattr(&Root, oid, name.as_bytes(), value, XattrMode::Set)
    }

    pub(super) fn apply(&self) {
        self.volume.as_ref().unwrap().checkpoint().expect("what was answered can be applied");
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        drop(self.volume.take());
        let _gone = Command::new("umount").arg("-l").arg(self.at("")).status();
    }
}

fn run(command: &mut Command) {
    let outcome = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(outcome.status.success(), "{command:?}: {}", String::from_utf8_lossy(&outcome.stderr));
}

/// How many xattrs of `len` bytes a plain file takes, and how many one of the volume.
fn counts(image: &Image, len: usize) -> (usize, usize) {
    // So many that the log holds all of it before it is applied.
    let most = 300.min((2 << 20) / len.max(1));
    let (name, value) = (|n| format!("user.a{n:03}"), vec![b'v'; len]);
    let plain = image.at("plain").join(format!("f{len}"));
    std::fs::write(&plain, "").unwrap();
    let plain_takes = |n: &usize| lsetxattr(&plain, name(*n), &value, XattrFlags::empty()).is_ok();
    let oid = image.make(&format!("f{len}"), NodeKind::File).unwrap();
    let plain = (0..most).take_while(plain_takes).count();
    let ours = (0..most).take_while(|n| image.set(oid, &name(*n), &value).is_ok()).count();
    image.apply();
    for n in 0..ours {
        assert_eq!(image.xattr(oid, name(n).as_bytes()).as_deref(), Ok(&value[..]), "{len} {n}");
    }
    (plain, ours)
}

#[test]
fn as_many_xattrs_fit_as_the_base_takes() {
    for (kind, arguments) in [
        ("ext4", &["-b", "4096"][..]),
        ("ext4", &["-b", "1024"][..]),
        ("ext4", &["-I", "1024"][..]),
        ("ext4", &["-O", "inline_data"][..]),
        ("ext3", &[][..]),
        ("xfs", &[][..]),
        ("btrfs", &[][..]),
    ] {
        let image = Image::new(kind, arguments);
        for len in [0, 9, 90, 900, 3000, 4040, 12_000] {
            let (plain, ours) = counts(&image, len);
            // The label takes 76 bytes, and where inode and block both have room, as much as one may stay unused.
            // With inline data a directory's label lies in the block, and files are counted like directories.
            let label = if arguments.contains(&"inline_data") { 2 * 76 } else { 76 };
            let cost = 16 + 4 + len.next_multiple_of(4);
            assert!(ours <= plain, "{kind} {arguments:?}, {len}: {ours} of {plain}");
            assert!((plain - ours) * cost <= label + cost, "{kind} {arguments:?}, {len}: {ours} of {plain}");
        }
    }
}

#[test]
fn ext4_holds_112_small_xattrs_and_one_of_4040_bytes() {
    let image = Image::new("ext4", &["-b", "4096", "-I", "256"]);
    let oid = image.make("small", NodeKind::File).unwrap();
    let taken = (0..200).take_while(|n| image.set(oid, &format!("user.{n:04}"), b"0123456789abcdef").is_ok());
    assert_eq!(taken.count(), 112);
    let big = image.make("big", NodeKind::File).unwrap();
    assert_eq!(image.set(big, "user.z", &[7; 4041]), Err(Errno::ENOSPC));
    image.set(big, "user.z", &[7; 4040]).unwrap();
    image.apply();
    assert_eq!(image.xattr(big, b"user.z"), Ok(vec![7; 4040]));
    // Below a directory that gives its entries an ACL: that must not take the label's place in the inode.
    let parent = image.make("parent", NodeKind::Directory).unwrap();
    image.set(parent, "system.posix_acl_default", &acl(1)).unwrap();
    image.apply();
    let below = image.make_in(parent, "below", NodeKind::File).unwrap();
    image.set(below, "user.z", &[8; 3990]).unwrap();
    image.apply();
    assert_eq!(image.xattr(below, b"user.z"), Ok(vec![8; 3990]));
}

#[test]
fn a_large_xattr_takes_the_place_of_another() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let image = Image::new(kind, &[]);
        let (oid, most) =
            (image.make("f", NodeKind::File).unwrap(), image.limits.max_xattr_value_bytes as usize);
        for (round, len) in [most, most / 2, most, most - 1, 0, most].into_iter().enumerate() {
            let value = vec![round as u8; len.min(image.limits.max_xattr_bytes as usize - 6)];
            image.set(oid, "user.z", &value).unwrap();
            image.apply();
            assert_eq!(image.xattr(oid, b"user.z"), Ok(value), "{kind} {len}");
        }
    }
}

/// btrfs keeps them together, in as much room as one of them could have.
#[test]
fn xattrs_whose_names_have_one_hash_fit_or_are_refused() {
    const NAMES: [&str; 3] = ["user.000099nXtP", "user.000139F9dO", "user.0001977uMY"];
    let image = Image::new("btrfs", &[]);
    let oid = image.make("f", NodeKind::File).unwrap();
    image.set(oid, NAMES[0], &[1; 9000]).unwrap();
    assert_eq!(image.set(oid, NAMES[1], &[2; 9000]), Err(Errno::ENOSPC));
    image.apply();
    assert_eq!(image.set(oid, NAMES[1], &[2; 9000]), Err(Errno::ENOSPC));
    // As much as there is room for beside it.
    let most = (0..9000).rev().find(|len| image.set(oid, NAMES[1], &vec![2; *len]).is_ok()).unwrap();
    assert!(most > 7000, "{most}");
    assert_eq!(image.set(oid, NAMES[2], &[3; 100]), Err(Errno::ENOSPC));
    image.apply();
    assert_eq!(image.volume.as_ref().unwrap().base().held(0).1, 0, "the base takes what was answered");
    image.set(oid, NAMES[0], &[1; 10]).unwrap();
    image.set(oid, NAMES[2], &[3; 8000]).unwrap();
    image.apply();
    assert_eq!(image.volume.as_ref().unwrap().base().held(0).1, 0);
    assert_eq!(image.xattr(oid, NAMES[2].as_bytes()), Ok(vec![3; 8000]));
}

#[test]
fn large_xattrs_in_inodes_of_their_own_cost_their_entries() {
    let image = Image::new("ext4", &["-b", "4096", "-O", "ea_inode"]);
    let oid = image.make("f", NodeKind::File).unwrap();
    for n in 0..150 {
        image.set(oid, &format!("user.{n:03}"), &[n; 5000]).unwrap();
    }
    image.apply();
    assert_eq!(image.xattr(oid, b"user.149"), Ok(vec![149; 5000]));
    let (plain, ours) = counts(&image, 9);
    assert!(ours <= plain && ours + 4 >= plain, "{ours} of {plain}");
}

/// An access control list with that many named users.
fn acl(users: u32) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let mut entry = |tag: u16, id: u32| {
        bytes.extend([tag.to_le_bytes(), 7_u16.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    };
    entry(1, u32::MAX);
    (0..users).for_each(|user| entry(2, 1000 + user));
    [4, 0x10, 0x20].into_iter().for_each(|tag| entry(tag, u32::MAX));
    bytes
}

#[test]
fn acls_are_as_long_as_the_base_takes_them() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let image = Image::new(kind, &[]);
        let (oid, plain) = (image.make("f", NodeKind::File).unwrap(), image.at("plain").join("f"));
        std::fs::write(&plain, "").unwrap();
        let name = "system.posix_acl_access";
        let counts: Vec<u32> = (1..4093).collect();
        let longest = |takes: &dyn Fn(&[u8]) -> bool| counts.partition_point(|users| takes(&acl(*users)));
        let taken = longest(&|value| {
            let _first = rustix::fs::lremovexattr(&plain, name);
            lsetxattr(&plain, name, value, XattrFlags::empty()).is_ok()
        });
        let ours = longest(&|value| image.set(oid, name, value).is_ok());
        image.apply();
        // The label may have left less room in the inode.
        assert!(ours <= taken && ours + 10 >= taken, "{kind}: {ours} of {taken}");
    }
}

#[test]
fn an_inherited_acl_must_find_room_too() {
    let image = Image::new("ext4", &["-b", "1024"]);
    let parent = image.make("parent", NodeKind::Directory).unwrap();
    image.set(parent, "system.posix_acl_default", &acl(70)).unwrap();
    image.make_in(parent, "file", NodeKind::File).unwrap();
    assert_eq!(
        image.make_in(parent, "directory", NodeKind::Directory),
        Err(Errno::ENOSPC),
        "it takes it twice"
    );
    image.apply();
}

#[test]
fn a_list_of_xattrs_that_nobody_could_read_is_refused() {
    let image = Image::new("xfs", &[]);
    let oid = image.make("f", NodeKind::File).unwrap();
    image.set(oid, "system.posix_acl_access", &acl(1)).unwrap();
    let name = |n: usize| format!("user.{n:0>250}");
    let taken = (0..400).take_while(|n| image.set(oid, &name(*n), b"v") == Ok(())).count();
    assert_eq!(taken, 255, "names of 256 bytes with their ends, in 64 KiB with what is not shown");
    assert_eq!(image.set(oid, &name(taken), b"v"), Err(Errno::ENOSPC));
    image.set(oid, &name(3), b"again").unwrap();
    image.apply();
    let mut list = vec![0; 65_536];
    let listed = rustix::fs::llistxattr(image.at("volume/f"), &mut list[..]).expect("the base can list it");
    assert!(listed > taken * 256);
    assert_eq!(image.xattr_names(&Root, oid).map(|names| names.len()), Ok(taken * 256 + 24));
}

#[test]
fn what_xfs_shows_of_acls_once_more_is_not_there() {
    let image = Image::new("xfs", &[]);
    let oid = image.make("d", NodeKind::Directory).unwrap();
    image.set(oid, "system.posix_acl_access", &acl(2)).unwrap();
    image.set(oid, "system.posix_acl_default", &acl(2)).unwrap();
    let names = image.xattr_names(&Root, oid);
    for round in 0..2 {
        for alias in ["trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"] {
            assert_eq!(image.xattr(oid, alias.as_bytes()), Err(Errno::ENODATA), "{round}");
            assert_eq!(image.set(oid, alias, b"\0\0\0\0"), Err(Errno::EPERM));
            assert_eq!(image.remove_xattr(&Root, oid, alias.as_bytes()), Err(Errno::ENODATA));
        }
        assert_eq!(image.xattr_names(&Root, oid), names, "{round}");
        assert_eq!(image.xattr(oid, b"system.posix_acl_access"), Ok(acl(2)));
        image.apply();
    }
}

#[test]
fn files_end_where_the_base_ends_them() {
    for (kind, arguments) in [
        ("ext4", &["-b", "4096"][..]),
        ("ext4", &["-b", "1024"][..]),
        ("ext4", &["-O", "^extents,^64bit"][..]),
        ("ext3", &[][..]),
        ("xfs", &[][..]),
        ("btrfs", &[][..]),
    ] {
        let image = Image::new(kind, arguments);
        let plain = std::fs::File::create(image.at("plain").join("f")).unwrap();
        let reaches =
            |end: u64| plain.set_len(end).is_ok() && rustix::io::pwrite(&plain, b"x", end - 1).is_ok();
        let (end, oid) = (image.limits.max_file_bytes, image.make("f", NodeKind::File).unwrap());
        assert!(reaches(end) && (end == i64::MAX as u64 || !reaches(end + 1)), "{kind} {arguments:?}: {end}");
        plain.set_len(0).unwrap();
        assert_eq!(image.write(oid, WriteAt::Offset(end), b"x", None), Err(Errno::EFBIG));
        assert_eq!(image.write(oid, WriteAt::Offset(end - 1), b"x", None), Ok(1));
        let truncated = image.make("t", NodeKind::File).unwrap();
        image.setattr(&Root, truncated, SetAttributes { size: Some(end), ..Default::default() }).unwrap();
        let allocated = image.make("a", NodeKind::File).unwrap();
        let end = image.limits.max_allocate_bytes;
        for mode in [AllocateMode::Reserve { keep_size: true }, AllocateMode::Zero { keep_size: true }] {
            let outcome = image.allocate(&Root, allocated, mode, end - 4096, 4096);
            assert!(outcome == Ok(()) || outcome == Err(Errno::EOPNOTSUPP), "{kind}: {outcome:?}");
            assert_eq!(outcome.is_ok(), image.limits.allocates);
        }
        image.allocate(&Root, allocated, AllocateMode::PunchHole, end - 4096, 4096).unwrap();
        image.apply();
    }
}

#[test]
fn device_numbers_are_those_that_the_base_keeps() {
    for (kind, wide) in [("ext4", true), ("xfs", false), ("btrfs", true)] {
        let image = Image::new(kind, &[]);
        for (name, device, narrow) in
            [("a", (511, 262_143), true), ("b", (512, 0), false), ("c", (1, 262_144), false)]
        {
            let device = rustix::fs::makedev(device.0, device.1);
            let made = image.make(name, NodeKind::CharDevice(device));
            assert_eq!(made.err(), (!wide && !narrow).then_some(Errno::EINVAL), "{kind} {name}");
        }
        image.apply();
    }
}

#[test]
fn a_volume_starts_on_a_base_that_is_full() {
    let mut image = Image::new("ext4", &[]);
    let limits = image.limits;
    drop(image.volume.take());
    fill(&image.at("plain"));
    let volume =
        Solo::start(&image.at("volume"), volume_id(), LOG_BYTES, None).expect("what was measured counts");
    assert_eq!(volume.volume.limits, limits);
    image.volume = Some(volume);
}

/// One byte far out takes blocks for the way there where files have no extents.
#[test]
fn a_far_byte_needs_room_for_the_map_of_its_file() {
    const LEFT_BYTES: u64 = (12 << 20) + 20_480;
    let image = Image::new("ext3", &["-b", "4096"]);
    let oid = image.make("f", NodeKind::File).unwrap();
    image.apply();
    let filler = std::fs::File::create(image.at("plain").join("filler")).unwrap();
    let free = || rustix::fs::statvfs(image.at("")).map(|space| space.f_bavail * space.f_frsize).unwrap();
    for piece in [vec![7; 1 << 20], vec![7; 4096]] {
        while free() >= LEFT_BYTES + piece.len() as u64 {
            std::io::Write::write_all(&mut &filler, &piece).unwrap();
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(110));
    assert_eq!(image.write(oid, WriteAt::Offset(1 << 40), b"x", None), Err(Errno::ENOSPC));
    image.make("a name needs less", NodeKind::File).unwrap();
}

fn fill(directory: &Path) {
    let file = std::fs::File::create(directory.join("full")).unwrap();
    let block = [7; 1 << 16];
    while std::io::Write::write(&mut &file, &block).is_ok_and(|len| len > 0) {}
}
