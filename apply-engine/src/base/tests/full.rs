//! Filesystems that are full, or nearly so: what they refuse for good is told from what they have no room for.

use ids::Oid;
use std::fs::File;
use std::path::Path;

use super::Image;
use super::remainder::{chattr, link, reopened};
use super::room::{create, delta_of, point, set, volume};
use crate::base::Base;
use crate::consistency::{ApplyError, apply_to};
use crate::executor::base_tree::BaseTree;
use crate::op::NewKind;
use crate::oracle::MemoryLog;

const FILE: Oid = Oid(20);
/// Clients may leave less than a 64th of this.
const LARGE_BYTES: u64 = 1 << 30;
/// What clients leave at least is 12 MiB and 16 inodes.
const LEFT_BYTES: u64 = 14 << 20;
const LEFT_INODES: u64 = 20;

/// Takes inodes until so many are left.
fn take_inodes(image: &Image, left: u64) {
    let directory = image.directory("inodes");
    let free = || rustix::fs::statvfs(image.path()).expect("tells").f_favail;
    (0..free() - left).for_each(|number| drop(File::create(directory.join(number.to_string()))));
    assert_eq!(free(), left);
}

/// Reserves bytes until so many are left.
fn take_bytes(image: &Image, left: u64) {
    let file = File::create(image.path().join("bytes")).expect("makes a file");
    let space = rustix::fs::statvfs(image.path()).expect("tells");
    let taken = space.f_bavail * space.f_frsize - left;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken).expect("reserves");
}

#[test]
fn a_name_that_its_directory_cannot_take_is_kept_when_the_disk_is_nearly_full() {
    const PER_POINT: u64 = 4000;
    /// A little less than the directory takes.
    const EASY: u64 = 16_000;
    let image = Image::with("ext4", LARGE_BYTES, &["-b", "1024", "-N", "1024"], "");
    let (base, log) = (volume(&image), MemoryLog::default());
    point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[][..])]);
    let mut count = 0;
    while base.held(1).1 == 0 {
        assert!(count < 60_000, "this filesystem takes them all");
        if count == EASY {
            take_inodes(&image, LEFT_INODES);
            take_bytes(&image, LEFT_BYTES);
        }
        let names: Vec<Vec<u8>> =
            (count..count + PER_POINT).map(|number| format!("{number:0>247}").into_bytes()).collect();
        count += PER_POINT;
        let links: Vec<_> = names.iter().map(|name| (link(name, count + 1), &[][..])).collect();
        point(&base, &log, &links);
    }
    assert!(base.space().expect("tells").free_bytes < LARGE_BYTES / 64, "it is nearly full");
    assert!(count > EASY);
}

#[test]
fn an_xattr_without_room_is_kept_when_the_disk_is_nearly_full() {
    let image = Image::with("ext4", LARGE_BYTES, &["-b", "4096", "-N", "2048"], "");
    let (base, log) = (volume(&image), MemoryLog::default());
    point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[][..])]);
    take_inodes(&image, LEFT_INODES);
    take_bytes(&image, LEFT_BYTES);
    let large = &[7; 3000];
    let both = [set(FILE, b"user.a", large), set(FILE, b"user.b", large)];
    point(&base, &log, &both.map(|operation| (operation, &[][..])));
    assert_eq!(base.held(9).1, 1, "{:?}", base.held(9));
}

fn names_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("lists").count()
}

/// Neither names nor values of a full disk are taken for refused; they have their places when it has room again.
#[test]
fn a_full_disk_has_refused_nothing() {
    let image = Image::with("ext4", 64 << 20, &["-m", "0"], "");
    let (base, log) = (volume(&image), MemoryLog::default());
    point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[][..])]);
    take_bytes(&image, 1 << 20);
    let mut filler = File::create(image.path().join("rest")).expect("makes a file");
    while std::io::Write::write_all(&mut filler, &[7; 1024]).is_ok() {}
    filler.sync_all().expect("syncs");
    let names: Vec<Vec<u8>> = (0..100).map(|number| format!("{number:0>247}").into_bytes()).collect();
    let links: Vec<_> = names.iter().map(|name| (link(name, 101), &[][..])).collect();
    let delta = delta_of(&log, &links);
    let apply = |base: &Base| apply_to(&BaseTree::new(base, &log), &delta).map(drop);
    for _ in 0..2 {
        let failed = apply(&base);
        assert!(matches!(failed, Err(ApplyError::NoSpace(_))), "{failed:?}");
        assert_eq!(base.held(9), (Vec::new(), 0));
    }
    let value = delta_of(&log, &[(set(FILE, b"user.a", &[7; 900]), &[][..])]);
    let failed = apply_to(&BaseTree::new(&base, &log), &value).map(drop);
    assert!(matches!(failed, Err(ApplyError::NoSpace(_))), "{failed:?}");
    for filler in ["bytes", "rest"] {
        std::fs::remove_file(image.path().join(filler)).expect("removes");
    }
    apply(&base).expect("there is room");
    base.sync().expect("syncs");
    assert_eq!(base.held(9), (Vec::new(), 0));
    // The file, and what is hidden.
    assert_eq!(names_in(&image.path().join("volume")), names.len() + 2);
}

/// Leaves half of the disk free, in single blocks.
fn scatter(image: &Image) {
    use rustix::fs::{FallocateFlags, fallocate};
    let (file, mut end) = (File::create(image.path().join("scattered")).expect("makes a file"), 0);
    for len_bytes in [1 << 20, 64 << 10, 4096] {
        while fallocate(&file, FallocateFlags::empty(), end, len_bytes).is_ok() {
            end += len_bytes;
        }
    }
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    (0..end).step_by(8192).for_each(|at| fallocate(&file, punch, at, 4096).expect("punches"));
}

/// Takes every inode that XFS makes of what is scattered.
fn take_scattered_inodes(image: &Image) {
    let others = image.directory("others");
    let made = (0..100_000).take_while(|number| File::create(others.join(number.to_string())).is_ok());
    assert!(made.count() < 100_000, "XFS finds places for inodes here");
}

/// XFS makes inodes from blocks that lie side by side only.
#[test]
fn what_is_answered_is_made_where_the_disk_is_scattered() {
    let image = Image::new("xfs");
    let (base, log) = (volume(&image), MemoryLog::default());
    let space = || base.space().expect("tells");
    let whole = space();
    assert!(whole.certain_inodes >= Some(1000) && whole.free_inodes > whole.certain_inodes, "{whole:?}");
    scatter(&image);
    take_scattered_inodes(&image);
    assert!(space().free_bytes > 50 << 20, "{:?}", space());

    let (mut made, mut certain) = (0, space().certain_inodes.expect("a number"));
    assert!(certain >= 1000, "{:?}", space());
    // Where a piece lies well it serves for more.
    while certain >= 64 {
        let names: Vec<String> = (made..made + certain).map(|number| format!("n{number}")).collect();
        let object = |(name, oid): (_, u64)| {
            let kind = if oid % 2 == 0 { NewKind::File } else { NewKind::Directory };
            (create(Oid(oid), str::as_bytes(name), kind), &[][..])
        };
        let objects: Vec<_> = names.iter().map(String::as_str).zip(100 + made..).map(object).collect();
        point(&base, &log, &objects);
        (made, certain) = (made + certain, space().certain_inodes.expect("a number"));
        assert!(made < 50_000, "they come to an end");
    }
    assert_eq!(base.held(9), (Vec::new(), 0));
    assert_eq!(names_in(&image.path().join("volume")), made as usize + 1);
    assert_eq!(space().free_inodes, Some(certain), "nobody is told of more");
    assert!(space().free_bytes > 50 << 20, "{:?}", space());

    // What is free again is kept for the next ones.
    std::fs::remove_file(image.path().join("scattered")).expect("removes");
    let base = reopened(&image, base);
    assert!(base.space().expect("tells").certain_inodes >= Some(1000));
}

/// A record takes an inode, and the first one takes two directories, too.
#[test]
fn what_is_refused_is_stored_where_the_disk_is_scattered() {
    let image = Image::new("xfs");
    let (base, log) = (volume(&image), MemoryLog::default());
    point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[][..])]);
    chattr(&image, "+i", "file");
    scatter(&image);
    take_scattered_inodes(&image);
    point(&base, &log, &[(set(FILE, b"user.a", b"value"), &[][..])]);
    assert_eq!(base.held(9).1, 1, "{:?}", base.held(9));
    let base = reopened(&image, base);
    assert_eq!(base.held(9).1, 1, "it was stored");
    chattr(&image, "-i", "file");
}
