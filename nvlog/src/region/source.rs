//! The bytes of a region for somebody who only looks: read-only, no lock, damaged places read as zeros.
//!
//! Files and block devices are read with pread, so that a bad sector is a finding and not a SIGBUS; devdax
//! devices can only be mapped.

use crate::region::sys::{Mapping, devdax_bytes};
use rustix::fs::{Mode, OFlags, open};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes read ahead at once; headers are read one by one.
const BUFFER_BYTES: usize = 64 * 1024;

/// A readable region.
pub(crate) struct Source {
    backing: Backing,
    len_bytes: u64,
    unreadable: Cell<u64>,
    buffer: RefCell<Buffer>,
}

enum Backing {
    File(File),
    Mapped(Mapping),
}

struct Buffer {
    start: u64,
    bytes: Vec<u8>,
}

impl Source {
    pub(crate) fn open(path: &Path) -> io::Result<Source> {
        let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
        let devdax = devdax_bytes(fd.as_fd(), path).map_err(io::Error::other)?;
        let (backing, len_bytes) = match devdax {
            Some(len_bytes) => (Backing::Mapped(Mapping::read_only(fd.as_fd(), len_bytes)?), len_bytes),
            None => {
                let len_bytes = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0))?;
                let file = File::from(fd);
                if file.metadata()?.is_dir() {
                    return Err(io::Error::from_raw_os_error(libc::EISDIR));
                }
                (Backing::File(file), len_bytes)
            }
        };
        let buffer = RefCell::new(Buffer { start: 0, bytes: Vec::new() });
        Ok(Source { backing, len_bytes, unreadable: Cell::new(0), buffer })
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Reads that failed so far.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable.get()
    }

    /// Fills `target` from `offset` on; what cannot be read is zero.
    pub(crate) fn read(&self, offset: u64, target: &mut [u8]) {
        let complete = match &self.backing {
            Backing::Mapped(mapping) => mapping.copy_out(offset, target).is_some(),
            Backing::File(file) => self.read_file(file, offset, target),
        };
        if !complete {
            target.fill(0);
            self.unreadable.set(self.unreadable.get() + 1);
        }
    }

    fn read_file(&self, file: &File, offset: u64, target: &mut [u8]) -> bool {
        let mut buffer = self.buffer.borrow_mut();
        let held = buffer.start..buffer.start + buffer.bytes.len() as u64;
        let end = offset.saturating_add(target.len() as u64);
        if offset < held.start || end > held.end {
            let wanted = self.len_bytes.saturating_sub(offset).min(BUFFER_BYTES as u64) as usize;
            buffer.bytes.resize(wanted, 0);
            buffer.start = offset;
            if wanted < target.len() || file.read_exact_at(&mut buffer.bytes, offset).is_err() {
                // One bad sector must not hide its neighbours: read just what is asked for.
                buffer.bytes.clear();
                return file.read_exact_at(target, offset).is_ok();
            }
        }
        let from = (offset - buffer.start) as usize;
        target.copy_from_slice(&buffer.bytes[from..from + target.len()]);
        true
    }
}
