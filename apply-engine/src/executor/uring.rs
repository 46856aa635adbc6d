//! Writing log memory straight to a file, without a copy of our own.
//!
//! Ranges that are neighbours in the file become one vectored write although the log has headers between their
//! bytes. Little data goes out with plain `pwritev` (one call costs no more than one submission); more of it
//! through an io_uring with a bounded number of writes in flight. Buffered on purpose: payloads are not aligned
//! to blocks, so `O_DIRECT` would need a copy, and `syncfs` follows anyway.
//!
//! Invariant: the bytes a write reads from stay pinned until its completion was seen, also when another write
//! failed. What can go wrong: ENOSPC, EIO (the first one is returned, nothing is in flight then), short writes
//! (continued), a kernel that refuses io_uring (plain writes then).

use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::tree::FileWrite;
use ids::Lsn;

/// Bytes that one vectored write carries at most.
const MAX_RUN_BYTES: u64 = 1 << 20;
/// Pieces that one vectored write carries at most (the kernel's limit is 1024).
const MAX_RUN_PIECES: usize = 256;
/// Writes in flight per file.
const QUEUE_DEPTH: usize = 8;
/// From here on a ring is worth its set-up.
const RING_BYTES: u64 = 2 << 20;

/// Bytes that stay where they are for as long as the value lives.
///
/// # Safety
/// `as_ptr()..as_ptr() + len()` is mapped and readable for the value's whole life, wherever the value moves.
/// The bytes may change meanwhile (log memory is shared with the partner).
pub(crate) unsafe trait PinnedBytes {
    fn as_ptr(&self) -> *const u8;
    fn len(&self) -> usize;
}

// SAFETY: a `LogSlice` keeps the ring mapped, and the ring never moves.
unsafe impl PinnedBytes for nvlog::LogSlice {
    fn as_ptr(&self) -> *const u8 {
        nvlog::LogSlice::as_ptr(self)
    }
    fn len(&self) -> usize {
        nvlog::LogSlice::len(self)
    }
}

/// Where the bytes of records are.
pub(crate) trait PayloadSource: Sync {
    type Bytes: PinnedBytes;
    /// The bytes at an LSN, which lie in one payload.
    fn bytes(&self, from: Lsn, len_bytes: usize) -> Result<Self::Bytes, Errno>;
    /// A copy of them.
    fn copy(&self, from: Lsn, len_bytes: usize) -> Result<Vec<u8>, Errno>;
}

impl PayloadSource for nvlog::Log {
    type Bytes = nvlog::LogSlice;
    fn bytes(&self, from: Lsn, len_bytes: usize) -> Result<nvlog::LogSlice, Errno> {
        self.payload_ptr(from, len_bytes).map_err(|trimmed| {
            tracing::error!(%from, len_bytes, ?trimmed, "a record was trimmed before it was applied");
            Errno::STALE
        })
    }
    fn copy(&self, from: Lsn, len_bytes: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; len_bytes];
        self.copy_out(from, &mut bytes).map_err(|_| Errno::STALE)?;
        Ok(bytes)
    }
}

/// One vectored write, on its way.
struct Run<B> {
    offset: u64,
    len_bytes: u64,
    vectors: Vec<libc::iovec>,
    /// What `vectors` point into.
    _pinned: Vec<B>,
}

/// Writes ranges that are in order and do not overlap.
pub(crate) fn write<S: PayloadSource>(
    source: &S,
    file: BorrowedFd<'_>,
    writes: &[FileWrite],
) -> Result<(), Errno> {
    let mut runs = Runs { source, writes: writes.iter().copied().peekable(), rest: None };
    let total: u64 = writes.iter().map(|write| write.len_bytes).sum();
    if total >= RING_BYTES
        && let Ok(ring) = IoUring::new(QUEUE_DEPTH as u32)
    {
        return write_with(ring, file, &mut runs);
    }
    runs.try_for_each(|run| finish(file, &run?, 0))
}

/// Cuts writes into runs.
struct Runs<'a, S, I: Iterator<Item = FileWrite>> {
    source: &'a S,
    writes: std::iter::Peekable<I>,
    /// What is left of a write that did not fit into the last run.
    rest: Option<FileWrite>,
}

impl<S: PayloadSource, I: Iterator<Item = FileWrite>> Runs<'_, S, I> {
    fn gather(&mut self, first: FileWrite) -> Result<Run<S::Bytes>, Errno> {
        let mut run = Run { offset: first.offset, len_bytes: 0, vectors: Vec::new(), _pinned: Vec::new() };
        let mut next = Some(first);
        while let Some(write) = next {
            let taken = write.len_bytes.min(MAX_RUN_BYTES - run.len_bytes);
            let bytes = self.source.bytes(write.from, taken as usize)?;
            run.vectors
                .push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
            run._pinned.push(bytes);
            run.len_bytes += taken;
            if taken < write.len_bytes {
                self.rest = Some(FileWrite {
                    offset: write.offset + taken,
                    len_bytes: write.len_bytes - taken,
                    from: write.from.plus(taken),
                });
                break;
            }
            let full = run.len_bytes == MAX_RUN_BYTES || run.vectors.len() == MAX_RUN_PIECES;
            let end = run.offset + run.len_bytes;
            next = self.writes.next_if(|write| !full && write.offset == end);
        }
        Ok(run)
    }
}

impl<S: PayloadSource, I: Iterator<Item = FileWrite>> Iterator for Runs<'_, S, I> {
    type Item = Result<Run<S::Bytes>, Errno>;
    fn next(&mut self) -> Option<Self::Item> {
        let first = self.rest.take().or_else(|| self.writes.next())?;
        Some(self.gather(first))
    }
}

fn write_with<B: PinnedBytes>(
    mut ring: IoUring,
    file: BorrowedFd<'_>,
    runs: &mut dyn Iterator<Item = Result<Run<B>, Errno>>,
) -> Result<(), Errno> {
    let mut slots: [Option<Run<B>>; QUEUE_DEPTH] = std::array::from_fn(|_| None);
    let mut outcome = Ok(());
    let mut in_flight = 0;
    loop {
        while outcome.is_ok()
            && let Some(free) = slots.iter().position(Option::is_none)
        {
            let run = match runs.next() {
                None => break,
                Some(Err(errno)) => {
                    outcome = Err(errno);
                    break;
                }
                Some(Ok(run)) => run,
            };
            let entry = opcode::Writev::new(
                types::Fd(file.as_raw_fd()),
                run.vectors.as_ptr(),
                run.vectors.len() as u32,
            )
            .offset(run.offset)
            .build()
            .user_data(free as u64);
            // The vector's buffer does not move with the run.
            slots[free] = Some(run);
            // SAFETY: the run, with its vectors and the bytes they point to, stays in `slots` until its
            // completion was taken below; the loop only ends when nothing is in flight.
            unsafe { ring.submission().push(&entry) }.expect("as many entries as slots");
            in_flight += 1;
        }
        if in_flight == 0 {
            return outcome;
        }
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            // The kernel still may read what was submitted, so the memory cannot be given back.
            Err(error) => panic!("io_uring stopped working with writes in flight: {error}"),
        }
        while let Some(completion) = ring.completion().next() {
            let run =
                slots[completion.user_data() as usize].take().expect("a completion of what was submitted");
            in_flight -= 1;
            let done = match completion.result() {
                n if n >= 0 => finish(file, &run, n as u64),
                error if -error == libc::EINTR || -error == libc::EAGAIN => finish(file, &run, 0),
                error => Err(Errno::from_raw_os_error(-error)),
            };
            outcome = outcome.and(done);
        }
    }
}

/// Writes what is left of a run after its first `done` bytes.
fn finish<B>(file: BorrowedFd<'_>, run: &Run<B>, mut done: u64) -> Result<(), Errno> {
    while done < run.len_bytes {
        let mut skip = done as usize;
        let mut vectors = run.vectors.clone();
        vectors.retain_mut(|vector| {
            let skipped = skip.min(vector.iov_len);
            skip -= skipped;
            // SAFETY: at most the vector's own length is skipped.
            vector.iov_base = unsafe { vector.iov_base.cast::<u8>().add(skipped) }.cast();
            vector.iov_len -= skipped;
            vector.iov_len > 0
        });
        // SAFETY: the vectors point into bytes that the run keeps pinned; the kernel only reads them.
        let written = unsafe {
            libc::pwritev(
                file.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len() as libc::c_int,
                (run.offset + done) as libc::off_t,
            )
        };
        match written {
            0 => return Err(Errno::IO),
            n if n > 0 => done += n as u64,
            _ => match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::INTR) => {}
                other => return Err(other.unwrap_or(Errno::IO)),
            },
        }
    }
    Ok(())
}
