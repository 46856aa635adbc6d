//! What files have room for on a full filesystem, and applying what needs no more.

use super::Image;
use super::room::{NOW, VOLUME, create, point, volume};
use crate::base::Base;
use crate::base::allocated::gaps;
use crate::op::{NewKind, Operation};
use crate::oracle::MemoryLog;
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
    assert_eq!(blocks_bytes(), 20 * MIB);
    assert_eq!(base.space().expect("tells").free_bytes, space.free_bytes);
}
