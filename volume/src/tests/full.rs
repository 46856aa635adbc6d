//! A full volume: what has its room already can be written, what gives room always works, and `df` tells the truth.

use super::bases::Image;
use super::*;

const MIB: u64 = 1 << 20;
const RESERVE: AllocateMode = AllocateMode::Reserve { keep_size: false };

/// A volume with a file of 32 MiB that is reserved and not written, one of 4 MiB that is written, and no room for more.
fn full(kind: &str) -> (Image, Oid, Oid) {
    let image = Image::new(kind, &[]);
    let reserved = image.make("reserved", NodeKind::File).unwrap();
    assert_eq!(image.allocate(&Root, reserved, RESERVE, 0, 32 * MIB), Ok(()));
    let written = image.make("written", NodeKind::File).unwrap();
    write(&image, written, 0, 4 * MIB, 1).unwrap();
    image.make("old name", NodeKind::File).unwrap();
    image.set(written, "user.long", &[7; 900]).unwrap();
    image.apply();
    fill(&image);
    (image, reserved, written)
}

/// Writes in pieces, applied when the log is half full.
fn write(image: &Image, oid: Oid, from: u64, to: u64, byte: u8) -> Result<()> {
    let piece = vec![byte; 128 << 10];
    for at in (from..to).step_by(piece.len()) {
        if at % MIB == 0 {
            image.apply();
        }
        assert_eq!(image.write(oid, WriteAt::Offset(at), &piece, None)?, piece.len());
    }
    Ok(())
}

fn fill(image: &Image) {
    let filler = image.make("filler", NodeKind::File).unwrap();
    for len in [4 * MIB, MIB, 64 << 10, 4096] {
        let mut at = image.getattr(filler).unwrap().size;
        // Reserved, which is quicker than written.
        while image.allocate(&Root, filler, RESERVE, at, len).is_ok() {
            at += len;
            image.apply();
            std::thread::sleep(std::time::Duration::from_millis(110));
        }
    }
    // What is left is too little for any of those, and gone until the next consistency point.
    let refused = (0..1000).any(|n| image.make(&format!("small {n}"), NodeKind::File).is_err());
    assert!(refused, "there is room without end");
}

fn read(image: &Image, oid: Oid, at: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xEE; len];
    assert_eq!(image.read(oid, at, &mut data), Ok(len));
    data
}

#[test]
fn a_full_volume_takes_what_has_room_already() {
    for kind in ["ext4", "xfs"] {
        let (image, reserved, written) = full(kind);
        let new = image.make("new", NodeKind::File);
        assert_eq!(new, Err(Errno::ENOSPC), "{kind}");
        assert_eq!(image.write(written, WriteAt::End, &[1; 8192], None), Err(Errno::ENOSPC), "{kind}");
        // What was promised, what stands there, both again before it is applied, and a part of a block at the end.
        assert_eq!(write(&image, reserved, 0, 32 * MIB, 2), Ok(()), "{kind}");
        assert_eq!(write(&image, written, 0, 4 * MIB, 3), Ok(()), "{kind}");
        assert_eq!(image.write(written, WriteAt::Offset(5), b"again", None), Ok(5), "{kind}");
        // posix_fallocate of what is there.
        assert_eq!(image.allocate(&Root, written, RESERVE, 0, 4 * MIB), Ok(()), "{kind}");
        assert_eq!(image.allocate(&Root, written, RESERVE, MIB, 4 * MIB), Err(Errno::ENOSPC), "{kind}");
        image.apply();
        assert_eq!(read(&image, reserved, 31 * MIB, 4096), [2; 4096], "{kind}");
        assert_eq!(read(&image, written, 3, 9), b"\x03\x03again\x03\x03", "{kind}");
        let free = image.space().unwrap().without_margin().free_bytes;
        assert!(free < 16 << 10, "{kind}: {free}");
    }
}

#[test]
fn room_that_was_given_up_is_none() {
    for kind in ["ext4", "xfs"] {
        let (image, reserved, written) = full(kind);
        // Given up and taken by somebody else, as far as the base knows nothing of it yet.
        image.allocate(&Root, reserved, AllocateMode::PunchHole, MIB, MIB).unwrap();
        let cut = SetAttributes { size: Some(MIB), ..SetAttributes::default() };
        image.setattr(&Root, written, cut).unwrap();
        for at in [MIB, 2 * MIB - 4096] {
            assert_eq!(image.write(reserved, WriteAt::Offset(at), &[1; 4096], None), Err(Errno::ENOSPC));
        }
        assert_eq!(image.write(reserved, WriteAt::Offset(MIB - 4096), &[1; 4096], None), Ok(4096));
        assert_eq!(image.write(written, WriteAt::Offset(2 * MIB), &[1; 4096], None), Err(Errno::ENOSPC));
        image.apply();
    }
}

#[test]
fn what_gives_room_works_on_a_full_volume() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let (image, reserved, written) = full(kind);
        let times =
            SetAttributes { mtime: Some(SetTime::Now), mode: Some(0o600), ..SetAttributes::default() };
        image.setattr(&Root, written, times).unwrap();
        image.set(written, "user.long", &[8; 900]).unwrap();
        image.set(written, "user.long", &[8; 10]).unwrap();
        assert_eq!(image.set(written, "user.other", &[8; 10]), Err(Errno::ENOSPC), "{kind}");
        let over = |from: &str, to: &str| {
            let (from, to) = ((Oid::ROOT, from.as_bytes()), (Oid::ROOT, to.as_bytes()));
            image.rename(&Root, from, to, RenameMode::Replace)
        };
        assert_eq!(over("old name", "a new name"), Err(Errno::ENOSPC), "{kind}");
        assert_eq!(over("written", "old name"), Ok(()), "{kind}");
        image.apply();
        let cut = SetAttributes { size: Some(MIB), ..SetAttributes::default() };
        image.setattr(&Root, written, cut).unwrap();
        image.allocate(&Root, reserved, AllocateMode::PunchHole, 0, 32 * MIB).unwrap();
        image.unlink(Oid::ROOT, b"filler").unwrap();
        image.apply();
        std::thread::sleep(std::time::Duration::from_millis(110));
        let free = image.space().unwrap().without_margin().free_bytes;
        assert!(free > 32 * MIB, "{kind}: {free}");
        image.make("new", NodeKind::File).unwrap();
    }
}
