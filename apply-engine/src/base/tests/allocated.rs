//! What files have room for on a full filesystem, and applying what needs no more.

use super::room::{NOW, VOLUME, create, point, volume};
use super::{FILESYSTEMS, Image};
use crate::base::Base;
use crate::base::allocated::gaps;
use crate::op::{NewKind, Operation};
use crate::oracle::MemoryLog;
use crate::resync::{Surveyed, capture, data_map, finish_file, reserve as reserve_in, shrink_file};
use crate::view::BaseReader;
use ids::Oid;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;
const FILE: Oid = Oid(20);

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("opens")
}

fn reserve(file: &File, offset: u64, len_bytes: u64) {
    let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, keep, offset, len_bytes).expect("has room");
}

/// Takes all of the space that is left but about `but_bytes`.
fn fill(image: &Image, but_bytes: u64) {
    let spare = open(&image.path().join("spare"));
    reserve(&spare, 0, but_bytes);
    let mut filler = open(&image.path().join("filler"));
    for len in [1 << 20, 4 << 10] {
        while filler.write_all(&vec![1; len]).is_ok() {}
    }
    filler.sync_all().expect("what was taken is there");
    std::fs::remove_file(image.path().join("spare")).expect("is there");
    rustix::fs::syncfs(&filler).expect("syncs");
}

#[test]
fn only_blocks_of_its_own_are_room_for_a_file() {
    for (kind, has) in [("ext4", true), ("xfs", true), ("btrfs", false)] {
        let image = Image::new(kind);
        let file = open(&image.path().join("file"));
        reserve(&file, MIB, MIB);
        file.write_all_at(&[7; 10_000], 4 * MIB).expect("has room");
        file.sync_all().expect("syncs");
        let gaps = |range: std::ops::Range<u64>| gaps(file.as_fd(), range, true).expect("tells");
        if !has {
            let all = 4 * MIB..4 * MIB + 10;
            assert_eq!(gaps(all.clone()), vec![all], "{kind}");
            continue;
        }
        assert_eq!(gaps(MIB..2 * MIB), [], "{kind}");
        assert_eq!(gaps(4 * MIB..4 * MIB + 10_000), [], "{kind}");
        let hole = 0..10;
        assert_eq!(gaps(hole.clone()), vec![hole], "{kind}");
        assert_eq!(gaps(MIB - 1..3 * MIB), [MIB - 1..MIB, 2 * MIB..3 * MIB], "{kind}");
        let behind = 4 * MIB + 16_384;
        assert_eq!(gaps(behind..behind + 1).len(), 1, "{kind}: nothing was asked for behind the end");
        reserve(&file, 8 * MIB, MIB);
        assert_eq!(gaps(8 * MIB..9 * MIB), [], "{kind}: reserved behind the end");
    }
}

#[test]
fn blocks_that_two_files_share_are_room_for_none() {
    let image = Image::new("xfs");
    let (path, copy) = (image.path().join("file"), image.path().join("copy"));
    std::fs::write(&path, vec![7; MIB as usize]).expect("has room");
    open(&path).sync_all().expect("syncs");
    assert_eq!(gaps(open(&path).as_fd(), 0..MIB, true).expect("tells"), []);
    let copied = Command::new("cp").arg("--reflink=always").args([&path, &copy]).status().expect("runs");
    assert!(copied.success());
    open(&copy).sync_all().expect("syncs");
    let all = 0..MIB;
    assert_eq!(gaps(open(&path).as_fd(), all.clone(), true).expect("tells"), vec![all]);
}

fn write<'a>(offset: u64, data: &'a [u8]) -> (Operation<'a>, &'a [u8]) {
    let (len_bytes, size_after) = (data.len() as u32, 64 * MIB);
    (Operation::Write { oid: FILE, offset, len_bytes, size_after, at: NOW }, data)
}

/// A file with 64 MiB reserved, of which the first MiB is written, on a filesystem with hardly anything else.
fn full(kind: &str) -> (Image, Base, MemoryLog) {
    let image = Image::new(kind);
    let (base, log) = (volume(&image), MemoryLog::default());
    let bytes = vec![3; MIB as usize];
    let allocate =
        Operation::Allocate { oid: FILE, offset: 0, len_bytes: 64 * MIB, size_after: 64 * MIB, at: NOW };
    point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[]), (allocate, &[]), write(0, &bytes)]);
    fill(&image, 4 * MIB);
    (image, base, log)
}

/// A crash after the blocks were reserved: the same Delta is applied again, when there is no more room for it.
#[test]
fn what_is_reserved_can_be_reserved_again_on_a_full_disk() {
    for kind in ["ext4", "xfs"] {
        let (_image, base, log) = full(kind);
        let bytes = vec![5; MIB as usize];
        let allocate =
            Operation::Allocate { oid: FILE, offset: 0, len_bytes: 64 * MIB, size_after: 64 * MIB, at: NOW };
        point(&base, &log, &[(allocate, &[]), write(MIB, &bytes)]);
        let mut read = vec![0; MIB as usize];
        assert_eq!(BaseReader::read_at(&base, FILE, MIB, &mut read).expect("reads"), read.len());
        assert_eq!(read, bytes, "{kind}");
    }
}

#[test]
fn reserved_blocks_are_written_on_a_full_disk() {
    for kind in ["ext4", "xfs"] {
        let (image, mut base, log) = full(kind);
        assert!(BaseReader::is_allocated(&base, FILE, 0..64 * MIB).expect("tells"), "{kind}");
        let piece = vec![9; 64 << 10];
        // Every second piece, so that each makes the reserved extent more of them.
        let scattered: Vec<_> = (0..512).map(|n| write(n * (128 << 10), &piece)).collect();
        point(&base, &log, &scattered);
        // Overwritten, also in part.
        point(&base, &log, &[write(1, &piece[..10]), write(MIB, &piece)]);
        drop(base);
        image.remount();
        base = Base::open(&image.path().join("volume"), VOLUME).expect("opens");
        for n in [0, 1, 255, 511] {
            let mut read = vec![0; piece.len()];
            BaseReader::read_at(&base, FILE, n * (128 << 10), &mut read).expect("reads");
            assert_eq!(read, piece, "{kind} {n}");
        }
    }
}

/// Also what was never written of it, and again after a crash.
#[test]
fn zeros_are_put_in_the_place_of_blocks_on_a_full_disk() {
    for kind in ["ext4", "xfs"] {
        let (image, base, log) = full(kind);
        let (offset, len_bytes, size_after) = (MIB / 2, 40 * MIB, 64 * MIB);
        let zero = Operation::ZeroRange { oid: FILE, offset, len_bytes, size_after, at: NOW };
        point(&base, &log, &[(zero.clone(), &[])]);
        point(&base, &log, &[(zero, &[])]);
        let mut read = vec![1; MIB as usize];
        BaseReader::read_at(&base, FILE, 0, &mut read).expect("reads");
        let (kept, zeros) = read.split_at(MIB as usize / 2);
        assert!(kept.iter().all(|byte| *byte == 3) && zeros.iter().all(|byte| *byte == 0), "{kind}");
        assert!(BaseReader::is_allocated(&base, FILE, 0..64 * MIB).expect("tells"), "{kind}");
        // Nobody else gets what it gave up.
        fill(&image, 4096);
        point(&base, &log, &[write(20 * MIB, &vec![4; MIB as usize])]);
    }
}

/// As ext4, XFS and btrfs do it themselves (xfstests generic/092).
#[test]
fn a_truncate_gives_back_what_is_set_aside_behind_the_end() {
    let reserve = |len_bytes| {
        let (offset, size_after) = (0, 0);
        (Operation::Allocate { oid: FILE, offset, len_bytes, size_after, at: NOW }, &[][..])
    };
    let truncate = |size| (Operation::Truncate { oid: FILE, size, at: NOW }, &[][..]);
    let cases: [(&[u64], u64); 3] = [(&[0], 0), (&[8192, 4096], 4096), (&[8192, 0], 0)];
    for kind in FILESYSTEMS {
        let image = Image::new(kind);
        for (number, (sizes, left_bytes)) in cases.into_iter().enumerate() {
            let base = Base::create(&image.directory(&number.to_string()), VOLUME).expect("creates");
            let log = MemoryLog::default();
            let blocks_bytes = || BaseReader::attributes(&base, FILE).expect("is there").blocks_bytes;
            point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[]), reserve(MIB)]);
            assert_eq!(blocks_bytes(), MIB, "{kind}: nothing is set aside");
            point(&base, &log, &sizes.iter().map(|size| truncate(*size)).collect::<Vec<_>>());
            assert_eq!(blocks_bytes(), left_bytes, "{kind}: truncated to {sizes:?}");
        }
    }
}

/// The receiver was away while it was given back.
#[test]
fn a_resync_gives_back_what_the_source_has_not_set_aside() {
    for kind in FILESYSTEMS {
        let image = Image::new(kind);
        let with_size = |name: &str, size, reserved_bytes| {
            let base = Base::create(&image.directory(name), VOLUME).expect("creates");
            let log = MemoryLog::default();
            let truncate = Operation::Truncate { oid: FILE, size, at: NOW };
            point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[]), (truncate, &[])]);
            if reserved_bytes > 0 {
                let (offset, len_bytes, size_after) = (0, reserved_bytes, size);
                let allocate = Operation::Allocate { oid: FILE, offset, len_bytes, size_after, at: NOW };
                point(&base, &log, &[(allocate, &[])]);
            }
            base
        };
        let source = with_size("source", 4096, 0);
        let Surveyed::Here(file) = capture(&source, FILE, &mut 9).expect("reads") else {
            panic!("it is there")
        };
        for size in [2048, 4096, 8192] {
            let receiver = with_size(&size.to_string(), size, MIB);
            shrink_file(&receiver, &file).expect("shrinks");
            finish_file(&receiver, &file).expect("ends it");
            let now = BaseReader::attributes(&receiver, FILE).expect("is there");
            assert_eq!(now.size, 4096, "{kind}: from {size}");
            assert!(now.blocks_bytes <= 4096, "{kind}: from {size}, {} bytes are left", now.blocks_bytes);
        }
    }
}

/// Room between what is written, and behind the end: databases and virtual machines set aside both.
#[test]
fn a_resync_sets_aside_what_the_source_has_set_aside() {
    for kind in ["ext4", "xfs"] {
        let images = [Image::new(kind), Image::new(kind)];
        let bases = images.each_ref().map(volume);
        for (index, base) in bases.iter().enumerate() {
            let log = MemoryLog::default();
            point(base, &log, &[(create(FILE, b"file", NewKind::File), &[])]);
            // What the receiver has instead of holes.
            let old = vec![9; MIB as usize];
            let all = (0..6).map(|n| Operation::Write {
                oid: FILE,
                offset: n * MIB,
                len_bytes: MIB as u32,
                size_after: (n + 1) * MIB,
                at: NOW,
            });
            if index == 1 {
                point(base, &log, &all.map(|write| (write, &old[..])).collect::<Vec<_>>());
                continue;
            }
            let data = vec![3; MIB as usize];
            let write =
                Operation::Write { oid: FILE, offset: 0, len_bytes: MIB as u32, size_after: MIB, at: NOW };
            let allocate = |offset: u64, len_bytes: u64, size_after: u64| Operation::Allocate {
                oid: FILE,
                offset,
                len_bytes,
                size_after,
                at: NOW,
            };
            let within = (allocate(2 * MIB, 2 * MIB, 5 * MIB), &[][..]);
            point(base, &log, &[(write, &data), within, (allocate(16 * MIB, MIB, 5 * MIB), &[])]);
        }
        let map = data_map(&bases[0], FILE, 0, 100).expect("reads");
        assert_eq!((map.size, &map.data[..], map.end), (5 * MIB, &[(0, MIB)][..], 5 * MIB), "{kind}");
        assert_eq!(map.reserved, [(2 * MIB, 2 * MIB), (16 * MIB, MIB)], "{kind}");
        // One range at a time tells the same.
        let (mut at, mut reserved) = (0, Vec::new());
        while at < 5 * MIB {
            let map = data_map(&bases[0], FILE, at, 1).expect("reads");
            assert!(map.end > at, "{map:?}");
            at = map.end;
            reserved.extend(map.reserved);
        }
        assert_eq!(reserved.first(), Some(&(2 * MIB, 2 * MIB)), "{kind}");
        for (offset, len_bytes) in map.reserved {
            reserve_in(&bases[1], FILE, offset, len_bytes).expect("has room");
        }
        let mut read = vec![1; 2 * MIB as usize];
        BaseReader::read_at(&bases[1], FILE, 2 * MIB, &mut read).expect("reads");
        assert!(read.iter().all(|byte| *byte == 0), "{kind}: what was there before");
        for range in [2 * MIB..4 * MIB, 16 * MIB..17 * MIB] {
            assert!(BaseReader::is_allocated(&bases[1], FILE, range).expect("tells"), "{kind}");
        }
        assert_eq!(BaseReader::attributes(&bases[1], FILE).expect("is there").size, 6 * MIB);
        // Where there is no room left it is a hole.
        fill(&images[1], 4096);
        reserve_in(&bases[1], FILE, 32 * MIB, 64 * MIB).expect("no more than a promise");
    }
}

/// A file that grows by pieces: XFS keeps the more behind its end the longer it is, and as long as it is open.
#[test]
fn what_xfs_keeps_behind_files_counts_as_free_when_it_is_scarce() {
    let image = Image::new("xfs");
    let (base, log) = (volume(&image), MemoryLog::default());
    let bytes = vec![3; MIB as usize];
    fill(&image, 60 * MIB);
    point(&base, &log, &[(create(FILE, b"file", NewKind::File), &[])]);
    for piece in 0..20 {
        let (offset, len_bytes, size_after) = (piece * MIB, MIB as u32, (piece + 1) * MIB);
        let write = Operation::Write { oid: FILE, offset, len_bytes, size_after, at: NOW };
        point(&base, &log, &[(write, &bytes)]);
    }
    let blocks_bytes = || BaseReader::attributes(&base, FILE).expect("is there").blocks_bytes;
    assert!(blocks_bytes() > 20 * MIB, "XFS keeps nothing: this shows nothing");
    let space = base.space().expect("tells");
    // A block that tells where the others are is the file's, too.
    assert!([20 * MIB, 20 * MIB + 4096].contains(&blocks_bytes()), "{}", blocks_bytes());
    assert_eq!(base.space().expect("tells").free_bytes, space.free_bytes);
}
