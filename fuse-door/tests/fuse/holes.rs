//! What a copy sees of a file whose bytes only the kernel knows yet: a shared mapping, a write-back cache.

use super::{Mounted, NEVER, mounted_with};
use fuse_door::MountOptions;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const LEN: u64 = 1 << 20;
const STORED_AT: u64 = 512 << 10;
const STORED: usize = 4096;

/// A process that has stored into a shared mapping of a file, and keeps it. Whoever closes the file makes the
/// kernel write the pages, so the reader that has seen the store stays open.
pub struct Mapper {
    process: Child,
    _reader: File,
}

impl Mapper {
    /// `closing`: the descriptor is closed, the mapping stays.
    pub fn start(path: &Path, closing: bool) -> Mapper {
        let mut child = Command::new("xfs_io")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("xfs_io (package xfsprogs) maps files for this test");
        let close = if closing { "close\n" } else { "" };
        let commands = format!("mmap -rw 0 {LEN}\n{close}mwrite -S 97 {STORED_AT} {STORED}\n");
        child.stdin.as_mut().unwrap().write_all(commands.as_bytes()).unwrap();
        let (file, begun) = (File::open(path).unwrap(), Instant::now());
        let mut seen = [0; 1];
        while seen != *b"a" {
            assert!(begun.elapsed() < NEVER, "xfs_io did not store");
            file.read_exact_at(&mut seen, STORED_AT + STORED as u64 - 1).unwrap();
        }
        Mapper { process: child, _reader: file }
    }

    /// Unmaps, closes and ends.
    pub fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

pub fn sparse(m: &Mounted, name: &str) -> std::path::PathBuf {
    let path = m.path(name);
    File::create(&path).unwrap().set_len(LEN).unwrap();
    path
}

fn expected() -> Vec<u8> {
    let mut bytes = vec![0; LEN as usize];
    bytes[STORED_AT as usize..STORED_AT as usize + STORED].fill(b'a');
    bytes
}

pub fn both_modes(check: impl Fn(&Mounted, bool)) {
    for writeback_cache in [false, true] {
        let mut m = mounted_with(MountOptions { threads: 4, writeback_cache, ..MountOptions::default() });
        check(&m, writeback_cache);
        m.leave();
    }
}

#[test]
fn a_copy_has_what_a_shared_mapping_has_stored() {
    both_modes(|m, writeback| {
        for closing in [false, true] {
            for how in ["--sparse=auto", "--sparse=always", "--sparse=never", "within"] {
                let path = sparse(m, &format!("{how}-{closing}"));
                let mapper = Mapper::start(&path, closing);
                let what = format!("{how}, closed: {closing}, write-back cache: {writeback}");
                let blocks = fs::metadata(&path).unwrap().blocks();
                assert!(blocks > 0, "tar takes a file of 0 blocks for zeros: {what}");
                let copied = if how == "within" {
                    // By copy_file_range(2), on the same mount.
                    let within = m.path(&format!("copy-{closing}"));
                    fs::copy(&path, &within).unwrap();
                    fs::read(&within).unwrap()
                } else {
                    let copy = m.dir.path().join(format!("copy{how}-{closing}"));
                    let done = Command::new("cp").arg(how).arg(&path).arg(&copy).status().unwrap();
                    assert!(done.success());
                    fs::read(&copy).unwrap()
                };
                assert!(copied == expected(), "{what}");
                mapper.end();
                assert!(fs::read(&path).unwrap() == expected(), "{what}");
            }
        }
    });
}

#[test]
fn nothing_is_a_hole_while_a_writer_has_it_open() {
    both_modes(|m, writeback| {
        let path = sparse(m, "open");
        let reader = File::open(&path).unwrap();
        let writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for file in [&reader, &writer] {
            assert_eq!(rustix::fs::seek(file, SeekFrom::Data(0)), Ok(0));
            assert_eq!(rustix::fs::seek(file, SeekFrom::Data(5000)), Ok(5000));
            assert_eq!(rustix::fs::seek(file, SeekFrom::Hole(0)), Ok(LEN));
            assert_eq!(rustix::fs::seek(file, SeekFrom::Data(LEN)), Err(Errno::NXIO));
            assert_eq!(rustix::fs::seek(file, SeekFrom::Hole(LEN)), Err(Errno::NXIO));
        }
        // Longer, by what a write-back cache may still keep to itself.
        writer.write_all_at(b"end", 2 * LEN).unwrap();
        assert_eq!(rustix::fs::seek(&reader, SeekFrom::Data(2 * LEN)), Ok(2 * LEN));
        assert_eq!(rustix::fs::seek(&reader, SeekFrom::Hole(LEN)), Ok(2 * LEN + 3));
        writer.set_len(3 * LEN).unwrap();
        assert_eq!(rustix::fs::seek(&reader, SeekFrom::Hole(LEN)), Ok(3 * LEN));
        drop(writer);
        if !writeback {
            // RELEASE is not waited for by close(2).
            let begun = Instant::now();
            while rustix::fs::seek(&reader, SeekFrom::Data(0)) == Ok(0) {
                assert!(begun.elapsed() < NEVER, "holes are never told again");
            }
            assert_eq!(rustix::fs::seek(&reader, SeekFrom::Hole(0)), Ok(0));
            let data = rustix::fs::seek(&reader, SeekFrom::Data(0)).unwrap();
            assert!((1..=2 * LEN).contains(&data), "{data}");
        }
    });
}

#[test]
fn block_counts_are_not_zero_while_a_writer_may_hold_bytes() {
    both_modes(|m, writeback| {
        let path = sparse(m, "blocks");
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(fs::metadata(&path).unwrap().blocks() > 0, "write-back cache: {writeback}");
        drop(writer);
    });
}
