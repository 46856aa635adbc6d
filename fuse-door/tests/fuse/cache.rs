//! Writes that bypass the kernel's cache or its idea of the end: what everybody reads afterwards.

use super::{Mounted, mounted_with};
use fuse_door::MountOptions;
use nvlog::region::{OpenMode, RegionKind};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{IoSlice, ReadWriteFlags};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

const BLOCK: usize = 4096;

fn direct(path: &std::path::Path) -> File {
    let flags = OFlags::DIRECT.bits() as i32;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .unwrap()
}

/// `len` bytes of `byte` that O_DIRECT takes.
fn with_aligned<T>(byte: u8, len: usize, act: impl FnOnce(&[u8]) -> T) -> T {
    let room = vec![byte; len + BLOCK];
    let from = room.as_ptr().align_offset(BLOCK);
    act(&room[from..from + len])
}

fn both_modes(check: impl Fn(&Mounted)) {
    for writeback_cache in [false, true] {
        let mut m = mounted_with(MountOptions { threads: 4, writeback_cache, ..MountOptions::default() });
        check(&m);
        m.leave();
    }
}

/// The region writes through io_uring with O_DIRECT, several writes at once.
#[test]
fn an_asynchronous_direct_write_leaves_no_old_bytes_in_the_cache() {
    const LEN: u64 = 2 << 20;
    both_modes(|m| {
        let path = m.path("log");
        let mode = OpenMode::Create { len_bytes: LEN };
        let region = nvlog::region::open(RegionKind::Block, &path, mode).unwrap();
        let reader = File::open(&path).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut buffer = vec![0; 64 << 10];
                    while !stop.load(Ordering::Relaxed) {
                        for at in (0..LEN).step_by(buffer.len()) {
                            reader.read_exact_at(&mut buffer, at).unwrap();
                        }
                    }
                });
            }
            for round in 1..=30_u8 {
                region.store(0, &[&vec![round; LEN as usize]], &mut |_| {});
                region.persist(0, LEN).unwrap();
                let mut now = vec![0; LEN as usize];
                reader.read_exact_at(&mut now, 0).unwrap();
                let old = now.iter().filter(|byte| **byte != round).count();
                if old > 0 {
                    stop.store(true, Ordering::Relaxed);
                }
                assert_eq!(old, 0, "bytes of earlier rounds are read after round {round}");
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn cached_pages_follow_what_is_written_around_them() {
    both_modes(|m| {
        let path = m.path("f");
        std::fs::write(&path, vec![b'o'; 16 * BLOCK]).unwrap();
        let reader = File::open(&path).unwrap();
        let read = || {
            let mut bytes = vec![0; 16 * BLOCK];
            reader.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        let mut expected = read();
        let writer = direct(&path);
        with_aligned(b'd', BLOCK, |bytes| writer.write_all_at(bytes, BLOCK as u64).unwrap());
        expected[BLOCK..2 * BLOCK].fill(b'd');
        assert!(read() == expected, "a direct write");
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&writer, punch, 3 * BLOCK as u64 + 100, BLOCK as u64).unwrap();
        expected[3 * BLOCK + 100..4 * BLOCK + 100].fill(0);
        assert!(read() == expected, "a hole");
        rustix::fs::fallocate(&writer, FallocateFlags::ZERO_RANGE, 6 * BLOCK as u64, 10).unwrap();
        expected[6 * BLOCK..6 * BLOCK + 10].fill(0);
        assert!(read() == expected, "zeros");
        std::fs::write(m.path("source"), vec![b'c'; BLOCK]).unwrap();
        let (source, mut at) = (File::open(m.path("source")).unwrap(), 8 * BLOCK as u64 + 7);
        assert_eq!(rustix::fs::copy_file_range(&source, None, &writer, Some(&mut at), BLOCK), Ok(BLOCK));
        expected[8 * BLOCK + 7..9 * BLOCK + 7].fill(b'c');
        assert!(read() == expected, "a copied range");
        with_aligned(b'e', BLOCK, |bytes| writer.write_all_at(bytes, 16 * BLOCK as u64).unwrap());
        let mut tail = vec![0; BLOCK];
        reader.read_exact_at(&mut tail, 16 * BLOCK as u64).unwrap();
        assert!(tail == vec![b'e'; BLOCK], "a direct write past the end");
        writer.set_len(BLOCK as u64).unwrap();
        writer.set_len(2 * BLOCK as u64).unwrap();
        reader.read_exact_at(&mut tail, BLOCK as u64).unwrap();
        assert!(tail == vec![0; BLOCK], "cut off and made longer");
    });
}

#[test]
fn a_write_that_does_not_append_lands_at_its_offset() {
    /// `RWF_NOAPPEND` of linux/fs.h, since 6.9; musl gives it with every pwrite.
    const NOAPPEND: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x20);
    both_modes(|m| {
        let path = m.path("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let mut appender = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        match rustix::io::pwritev2(&appender, &[IoSlice::new(b"ab")], 2, NOAPPEND) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                eprintln!("SKIPPED: a_write_that_does_not_append_lands_at_its_offset (kernel before 6.9)");
                return;
            }
            done => assert_eq!(done, Ok(2)),
        }
        appender.write_all(b"end").unwrap();
        assert_eq!(rustix::io::pwritev2(&appender, &[IoSlice::new(b"zz")], 20, NOAPPEND), Ok(2));
        appender.write_all(b"!").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"01ab456789end\0\0\0\0\0\0\0zz!");
    });
}

/// Each appender's blocks are told apart; none may cover another's.
#[test]
fn appends_of_several_writers_never_cover_each_other() {
    const WRITES: usize = 200;
    both_modes(|m| {
        for is_direct in [false, true] {
            let path = m.path(if is_direct { "direct" } else { "buffered" });
            let flags = if is_direct { OFlags::DIRECT.bits() as i32 } else { 0 };
            File::create(&path).unwrap();
            std::thread::scope(|scope| {
                for byte in b'a'..=b'd' {
                    let path = &path;
                    scope.spawn(move || {
                        let mut open = OpenOptions::new();
                        let mut file = open.append(true).custom_flags(flags).open(path).unwrap();
                        with_aligned(byte, BLOCK, |bytes| {
                            (0..WRITES).for_each(|_| file.write_all(bytes).unwrap());
                        });
                    });
                }
            });
            let written = std::fs::read(&path).unwrap();
            assert_eq!(written.len(), 4 * WRITES * BLOCK);
            for byte in b'a'..=b'd' {
                let whole = written.chunks(BLOCK).filter(|block| block.iter().all(|b| *b == byte)).count();
                assert_eq!(whole, WRITES, "blocks of {} (direct: {is_direct})", char::from(byte));
            }
        }
    });
}
