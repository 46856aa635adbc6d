//! What real filesystems refuse for good.

use ids::Oid;

use super::Image;
use super::room::{NOW, VOLUME, create, point, remove, set, volume};
use crate::attributes::ObjectKind;
use crate::base::Base;
use crate::name::NameRef;
use crate::op::{Displaced, NewKind, Operation, Other};
use crate::oracle::MemoryLog;
use crate::resync::{Surveyed, capture, data_map, install_names};
use crate::verify;
use crate::view::BaseReader;

const FILE: Oid = Oid(20);
const BIG: &[u8] = &[7; 3000];

pub(super) fn reopened(image: &Image, base: Base) -> Base {
    drop(base);
    image.remount();
    Base::open(&image.path().join("volume"), VOLUME).expect("opens")
}

/// What the label file begins with.
pub(super) fn head(image: &Image) -> String {
    let label = std::fs::read_to_string(image.path().join("volume/.twinfiler/label")).expect("reads");
    label.lines().next().unwrap_or_default().to_owned()
}

/// A file that nothing may be changed of, not even its label.
#[test]
fn a_file_that_was_made_immutable_does_not_stop_the_others() {
    const NEXT: Oid = Oid(21);
    let image = Image::with_size("ext4", 600 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    let write = |oid| Operation::Write { oid, offset: 0, len_bytes: 3, size_after: 3, at: NOW };
    let made = [create(FILE, b"file", NewKind::File), create(NEXT, b"next", NewKind::File)];
    point(&base, &log, &made.map(|operation| (operation, &[][..])));
    let chattr = |flag| chattr(&image, flag, "file");
    chattr("+i");
    point(&base, &log, &[(write(FILE), b"one"), (write(NEXT), b"two")]);
    assert_eq!(base.held(9).1, 1);
    let read = |base: &Base, oid| {
        let mut buf = [0; 3];
        base.read_at(oid, 0, &mut buf).expect("reads");
        buf
    };
    let seen = |base: &Base| BaseReader::attributes(base, FILE).expect("is there");
    let before = seen(&base);
    let labels = |base: &Base| crate::resync::labels(base, Oid(0), 9).expect("reads").0;
    let labels_before = labels(&base);
    let base = reopened(&image, base);
    assert_eq!((read(&base, FILE), read(&base, NEXT)), (*b"one", *b"two"));
    assert_eq!((seen(&base).size, seen(&base).ctime, seen(&base).mtime), (3, before.ctime, before.mtime));
    assert_eq!(labels(&base), labels_before);
    let plain = || std::fs::read(image.path().join("volume/file")).expect("reads");
    assert_eq!(plain(), b"", "nothing of it is in the filesystem");
    chattr("-i");
    let last = Operation::Write { oid: FILE, offset: 3, len_bytes: 3, size_after: 6, at: NOW };
    point(&base, &log, &[(last, b"two")]);
    assert_eq!((base.held(9).1, plain()), (0, b"onetwo".to_vec()), "tried again when it changes");
    chattr("+i");
    let first = Operation::Write { oid: FILE, offset: 0, len_bytes: 3, size_after: 6, at: NOW };
    point(&base, &log, &[(first, b"six")]);
    assert_eq!((base.held(9).1, plain()), (1, b"onetwo".to_vec()));
    chattr("-i");
    let base = reopened(&image, base);
    base.sync().expect("syncs");
    assert_eq!((base.held(9).1, plain()), (0, b"sixtwo".to_vec()), "and at each start");
}

/// More than clients could write if they were told in time.
#[test]
fn content_beyond_every_bound_is_kept_and_clients_get_no_more() {
    const PIECE_BYTES: u64 = 1 << 20;
    const PIECES: u64 = 70;
    let image = Image::with_size("ext4", 600 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[][..])]);
    chattr(&image, "+i", "file");
    let bytes: Vec<Vec<u8>> = (0..PIECES).map(|piece| vec![piece as u8; PIECE_BYTES as usize]).collect();
    let write = |(piece, bytes)| {
        let offset = piece * PIECE_BYTES;
        let size_after = offset + PIECE_BYTES;
        let write =
            Operation::Write { oid: FILE, offset, len_bytes: PIECE_BYTES as u32, size_after, at: NOW };
        (write, bytes)
    };
    let writes: Vec<_> = (0..).zip(bytes.iter().map(Vec::as_slice)).map(write).collect();
    point(&base, &log, &writes);
    let is_whole = |base: &Base| {
        let mut read = vec![0xEE; PIECE_BYTES as usize];
        (0..).zip(&bytes).all(|(piece, bytes)| {
            base.read_at(FILE, piece * PIECE_BYTES, &mut read).expect("reads");
            read == *bytes
        })
    };
    let base = reopened(&image, base);
    assert!(is_whole(&base));
    assert_eq!((base.held(9).1, base.space().expect("tells").free_bytes), (1, 0));
    chattr(&image, "-i", "file");
    let base = reopened(&image, base);
    base.sync().expect("syncs");
    assert!(is_whole(&base) && base.space().expect("tells").free_bytes > 0);
    assert_eq!(base.held(9).1, 0);
}

pub(super) fn chattr(image: &Image, flag: &str, name: &str) {
    let at = image.path().join("volume").join(name);
    let done = std::process::Command::new("chattr").arg(flag).arg(at).status();
    assert!(done.expect("chattr runs").success());
}

/// A name that is kept goes to its directory at a start, and the directory's times are what they were.
#[test]
fn a_directory_that_takes_a_name_at_a_start_keeps_its_times() {
    let image = Image::with_size("ext4", 600 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[][..])]);
    chattr(&image, "+i", "");
    point(&base, &log, &[(create(Oid(21), b"late", NewKind::File), &[][..])]);
    let times = |base: &Base| {
        let root = BaseReader::attributes(base, Oid::ROOT).expect("is there");
        (root.atime, root.mtime)
    };
    let (before, held) = (times(&base), base.held(9).1);
    chattr(&image, "-i", "");
    let base = reopened(&image, base);
    base.sync().expect("syncs");
    assert_eq!((held, base.held(9).1, times(&base)), (2, 0, before));
    assert!(image.path().join("volume/late").exists());
}

const DIRECTORY: Oid = Oid(30);
const ROOT: Oid = Oid::ROOT;

fn name(name: &[u8]) -> NameRef<'_> {
    NameRef::new(name).expect("a name")
}

/// A file in [`DIRECTORY`].
fn inside(oid: Oid, name: &[u8]) -> Operation<'_> {
    match create(oid, name, NewKind::File) {
        Operation::Create { name, object, at, .. } => {
            Operation::Create { parent: DIRECTORY, name, object, parent_nlink: 2, at }
        }
        other => other,
    }
}

fn moved<'a>(
    oid: Oid,
    kind: ObjectKind,
    (from_parent, from): (Oid, &'a [u8]),
    (to_parent, to): (Oid, &'a [u8]),
) -> Operation<'a> {
    Operation::Rename {
        from_parent,
        from_name: name(from),
        to_parent,
        to_name: name(to),
        moved: Other { oid, kind, nlink: 1 },
        displaced: Displaced::Nothing,
        whiteout: None,
        from_parent_nlink: 2,
        to_parent_nlink: 2,
        at: NOW,
    }
}

fn gone(oid: Oid, kind: ObjectKind, parent: Oid, gone: &[u8]) -> Operation<'_> {
    Operation::Unlink {
        parent,
        name: name(gone),
        object: Other { oid, kind, nlink: 0 },
        reap: true,
        parent_nlink: 2,
        at: NOW,
    }
}

/// A consistency point of operations without data.
fn apply_to(base: &Base, log: &MemoryLog, operations: &[Operation<'_>]) {
    let with_nothing: Vec<_> = operations.iter().cloned().map(|operation| (operation, &[][..])).collect();
    point(base, log, &with_nothing);
}

/// What the plain tree holds.
fn plain(image: &Image) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for below in ["volume", "volume/d", "volume/e"] {
        let Ok(entries) = std::fs::read_dir(image.path().join(below)) else { continue };
        names.extend(entries.map(|entry| {
            let path = entry.expect("reads").path();
            path.strip_prefix(image.path().join("volume")).expect("below").display().to_string()
        }));
    }
    names.retain(|name| name != ".twinfiler");
    names.sort_unstable();
    names
}

/// Names that flags hold fast are moved and removed: those of files, of directories, and in directories.
#[test]
fn names_that_flags_hold_fast_are_moved_and_removed() {
    let image = Image::with_size("ext4", 600 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    let (file, directory) = (ObjectKind::File, ObjectKind::Directory);
    let apply = |operations: &[Operation<'_>]| apply_to(&base, &log, operations);
    apply(&[
        create(FILE, b"file", NewKind::File),
        create(Oid(21), b"linked", NewKind::File),
        create(DIRECTORY, b"d", NewKind::Directory),
        inside(Oid(31), b"a"),
        inside(Oid(32), b"b"),
        inside(Oid(33), b"c"),
    ]);
    for (flag, held) in [("+i", "file"), ("+i", "linked"), ("+i", "d/c"), ("+a", "d/b"), ("+i", "d")] {
        chattr(&image, flag, held);
    }
    // A new name is kept; those that go, and the directory itself, are not held.
    apply(&[inside(Oid(34), b"new")]);
    assert_eq!(base.held(9).1, 2, "the name, and the times of its directory: {:?}", base.held(9));
    let link = Operation::Link {
        object: Other { oid: Oid(21), kind: file, nlink: 2 },
        parent: ROOT,
        name: name(b"link"),
        at: NOW,
    };
    apply(&[
        moved(FILE, file, (ROOT, b"file"), (ROOT, b"moved")),
        link,
        moved(Oid(31), file, (DIRECTORY, b"a"), (ROOT, b"a")),
        gone(Oid(32), file, DIRECTORY, b"b"),
        moved(DIRECTORY, directory, (ROOT, b"d"), (ROOT, b"e")),
    ]);
    assert_eq!(plain(&image), ["a", "e", "e/c", "e/new", "link", "linked", "moved"]);
    assert_eq!(base.held(9).1, 0, "{:?}", base.held(9));
    chattr(&image, "+i", "e");
    apply(&[
        gone(Oid(33), file, DIRECTORY, b"c"),
        gone(Oid(34), file, DIRECTORY, b"new"),
        gone(DIRECTORY, directory, ROOT, b"e"),
    ]);
    assert_eq!(plain(&image), ["a", "link", "linked", "moved"]);
}

/// Mounts the image's root over something in the volume, as an administrator may.
fn mount_over(image: &Image, name: &str) {
    let at = image.path().join("volume").join(name);
    let what = if at.is_dir() { image.path() } else { image.path().join("volume/.twinfiler/label") };
    let done = std::process::Command::new("mount").arg("--bind").arg(what).arg(at).status();
    assert!(done.expect("mount runs").success());
}

fn mounts_below(image: &Image) -> usize {
    let all = std::fs::read_to_string("/proc/self/mountinfo").expect("reads");
    let below = format!("{}/", image.path().display());
    all.lines().filter(|line| line.split(' ').nth(4).is_some_and(|at| at.starts_with(&below))).count()
}

/// Names that something is mounted over are moved and removed: those of files, of directories, and in directories.
#[test]
fn names_that_a_mount_holds_fast_are_moved_and_removed() {
    let image = Image::with_size("ext4", 600 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    let (file, directory) = (ObjectKind::File, ObjectKind::Directory);
    let apply = |operations: &[Operation<'_>]| apply_to(&base, &log, operations);
    apply(&[
        create(FILE, b"file", NewKind::File),
        create(DIRECTORY, b"d", NewKind::Directory),
        inside(Oid(31), b"a"),
        inside(Oid(32), b"b"),
        create(Oid(40), b"f", NewKind::Directory),
    ]);
    // Some are held by a flag as well.
    for held in ["d/b", "f", "d"] {
        chattr(&image, "+i", held);
    }
    for over in ["file", "d/a", "d/b", "d", "f"] {
        mount_over(&image, over);
    }
    apply(&[
        moved(FILE, file, (ROOT, b"file"), (ROOT, b"moved")),
        moved(Oid(31), file, (DIRECTORY, b"a"), (ROOT, b"a")),
        gone(Oid(32), file, DIRECTORY, b"b"),
        moved(DIRECTORY, directory, (ROOT, b"d"), (ROOT, b"e")),
        gone(Oid(40), directory, ROOT, b"f"),
    ]);
    assert_eq!(base.held(9).1, 0, "{:?}", base.held(9));
    // What is mounted over a name that was moved moves along.
    assert_eq!(mounts_below(&image), 3);
    for left in ["moved", "a", "e"] {
        let done = std::process::Command::new("umount").arg(image.path().join("volume").join(left)).status();
        assert!(done.expect("umount runs").success(), "{left}");
    }
    assert_eq!(plain(&image), ["a", "e", "moved"]);
}

/// What is mounted over a directory is not what clients see there, also where mounts are shared as systemd makes them.
#[test]
fn what_is_mounted_over_a_tree_is_not_in_it() {
    let image = Image::with_size("ext4", 600 << 20);
    let done = std::process::Command::new("mount").arg("--make-shared").arg(image.path()).status();
    assert!(done.expect("mount runs").success());
    let (base, log) = (volume(&image), MemoryLog::default());
    point(&base, &log, &[(create(DIRECTORY, b"d", NewKind::Directory), &[][..])]);
    mount_over(&image, "d");
    point(&base, &log, &[(inside(Oid(31), b"a"), &[][..])]);
    let seen = BaseReader::lookup(&base, DIRECTORY, name(b"a")).expect("reads");
    assert!(seen.is_some_and(|seen| seen.oid == Oid(31)));
    let done = std::process::Command::new("umount").arg(image.path().join("volume/d")).status();
    assert!(done.expect("umount runs").success());
    assert_eq!(plain(&image), ["d", "d/a"]);
}

fn value(base: &Base, name: &[u8]) -> Option<Vec<u8>> {
    BaseReader::xattr(base, FILE, name).expect("reads")
}

/// Two values of 3,000 bytes on ext4, which has room for one.
#[test]
fn an_xattr_without_room_is_kept_until_there_is_some() {
    let image = Image::with_size("ext4", 600 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    let first = [create(FILE, b"file", NewKind::File), set(FILE, b"user.a", BIG), set(FILE, b"user.b", BIG)];
    point(&base, &log, &first.map(|operation| (operation, &[][..])));
    assert_eq!(base.held(9).1, 1);
    let base = reopened(&image, base);
    assert_eq!((value(&base, b"user.a"), value(&base, b"user.b")), (Some(BIG.to_vec()), Some(BIG.to_vec())));
    let mut names = BaseReader::xattr_names(&base, FILE).expect("reads");
    names.sort_unstable();
    assert_eq!(names, [b"user.a".to_vec(), b"user.b".to_vec()]);

    // As a source and as a receiver of a resync, and to verify, it is the object that clients know.
    let Surveyed::Here(file) = capture(&base, FILE, &mut 9).expect("reads") else { panic!("it is there") };
    let other_image = Image::with_size("ext4", 600 << 20);
    let other = volume(&other_image);
    let Surveyed::Here(root) = capture(&base, Oid::ROOT, &mut 9).expect("reads") else { panic!("a root") };
    install_names(&other, &[Surveyed::Here(root), Surveyed::Here(file)]).expect("installs");
    other.sync().expect("syncs");
    let aspects = |base| verify::aspects(base, FILE).expect("reads").expect("is there").xattrs;
    assert_eq!(aspects(&base), aspects(&other));

    assert_eq!(head(&image), "twinfiler base, version 2", "a program that would not read it refuses it");
    point(&base, &log, &[(remove(FILE, b"user.a"), &[][..])]);
    assert_eq!(base.held(9).1, 0, "there is room now");
    assert_eq!(head(&image), "twinfiler base, version 1");
    let base = reopened(&image, base);
    assert_eq!((value(&base, b"user.a"), value(&base, b"user.b")), (None, Some(BIG.to_vec())));
}

/// Without extents, files end at about 2 TiB.
#[test]
fn a_byte_beyond_the_format_of_a_base_is_kept() {
    const FAR: u64 = 3 << 40;
    let image = Image::with_size("ext3", 600 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    let write =
        |offset, size_after| Operation::Write { oid: FILE, offset, len_bytes: 1, size_after, at: NOW };
    point(
        &base,
        &log,
        &[
            (create(FILE, b"file", NewKind::File), &[][..]),
            (create(Oid(21), b"next", NewKind::File), &[][..]),
            (write(FAR, FAR + 1), b"z"),
            (write(5, FAR + 1), b"a"),
        ],
    );
    let base = reopened(&image, base);
    assert_eq!(base.held(9).1, 1);
    assert_eq!(BaseReader::attributes(&base, FILE).expect("is there").size, FAR + 1);
    let read = |at| {
        let mut buf = [9; 4];
        let len = base.read_at(FILE, at, &mut buf).expect("reads");
        buf[..len].to_vec()
    };
    assert_eq!((read(FAR), read(FAR - 2), read(4)), (b"z".to_vec(), b"\0\0z".to_vec(), b"\0a\0\0".to_vec()));
    let data = data_map(&base, FILE, 0, 9).expect("reads").data;
    assert!(data.first().is_some_and(|(at, _)| *at < 5) && data.last() == Some(&(FAR, 1)), "{data:?}");
    assert!(
        BaseReader::lookup(&base, Oid::ROOT, NameRef::new(b"next").expect("a name"))
            .expect("reads")
            .is_some()
    );
    point(&base, &log, &[(Operation::Truncate { oid: FILE, size: 6, at: NOW }, &[][..])]);
    assert_eq!(base.held(9).1, 0);
    assert_eq!((BaseReader::attributes(&base, FILE).expect("is there").size, read(4)), (6, b"\0a".to_vec()));
}

pub(super) fn link(name: &[u8], nlink: u64) -> Operation<'_> {
    let object = Other { oid: FILE, kind: ObjectKind::File, nlink: nlink as u32 };
    Operation::Link { object, parent: Oid::ROOT, name: NameRef::new(name).expect("a name"), at: NOW }
}

pub(super) fn unlink(name: &[u8]) -> Operation<'_> {
    let object = Other { oid: FILE, kind: ObjectKind::File, nlink: 9 };
    let name = NameRef::new(name).expect("a name");
    Operation::Unlink { parent: Oid::ROOT, name, object, reap: false, parent_nlink: 2, at: NOW }
}

/// A directory whose index cannot grow: ENOSPC in a filesystem with room for much more.
#[test]
fn a_name_that_its_directory_cannot_take_is_kept() {
    const PER_POINT: u64 = 4000;
    let image = Image::with_size("ext4", 200 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    let name = |number: u64| format!("{number:0>247}").into_bytes();
    point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[][..])]);
    let mut count = 0;
    while base.held(1).1 == 0 {
        assert!(count < 60_000, "this filesystem takes them all");
        let names: Vec<Vec<u8>> = (count..count + PER_POINT).map(name).collect();
        let links: Vec<_> = names.iter().map(|name| (link(name, count + PER_POINT + 1), &[][..])).collect();
        point(&base, &log, &links);
        count += PER_POINT;
    }
    let (_, held) = base.held(1);
    assert!(base.space().expect("reads").free_bytes > 20 << 20, "there is room");
    let listed = |base: &Base| {
        let mut listed = 0;
        let count = &mut |_: crate::view::BaseEntry<'_>| {
            listed += 1;
            std::ops::ControlFlow::Continue(())
        };
        base.readdir(Oid::ROOT, count).expect("lists");
        listed
    };
    assert_eq!(listed(&base), count + 1);
    let base = reopened(&image, base);
    assert_eq!((listed(&base), base.held(1).1), (count + 1, held));
    let last = name(count - 1);
    let found = BaseReader::lookup(&base, Oid::ROOT, NameRef::new(&last).expect("a name")).expect("reads");
    assert_eq!(found.map(|target| target.oid), Some(FILE));
    base.mend_index().expect("walks");

    // Room in nearly every block: where a name goes depends on its hash.
    let gone: Vec<Vec<u8>> = (0..count - PER_POINT / 2).map(name).collect();
    point(&base, &log, &gone.iter().map(|name| (unlink(name), &[][..])).collect::<Vec<_>>());
    assert_eq!(listed(&base), count + 1 - gone.len() as u64);
    assert!(base.held(1).1 < held, "what fits is in its directory now");
}
