//! Who may read the base for a client: a disk may hang, and whoever reads it hangs too.
//!
//! A front door's threads serve also what needs no disk, so all but one of them may be in the base at a time
//! ([`BaseReads`]). An attempt that may not go there is given up, parked, and made again by a thread that serves nothing
//! else. The node's own threads, and a client that makes no attempt, read as ever.
//!
//! Invariant: an attempt that could not read something records nothing, whatever it made of the error: it is not let
//! in (`admit_attempt`), and reads nothing further. What can go wrong: as many threads hang as there are for this; then
//! those that need the disk wait in the queue, can be killed there, and are denied when the volume is served no more.

use super::NotServing;
use super::patience::{Wait, in_attempt};
use apply_engine::view::{BaseEntry, BaseReader};
use apply_engine::{Attributes, NameRef, Target};
use ids::Oid;
use runtime::Instant;
use rustix::io::Errno;
use std::cell::Cell;
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The number of the error that a read of the base ends with in an attempt whose request has to wait: `ERESTARTSYS`, which
/// no program ever sees.
pub const MUST_WAIT: i32 = 512;

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Door) };
}

/// What a thread that makes attempts is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// It takes requests in.
    Door,
    /// It tries requests again that need no disk.
    Parked,
    /// It may hang.
    Base,
}

/// This thread is one of these from now on.
pub(super) fn be(place: Place) {
    PLACE.set(place);
}

/// An attempt goes on only on a thread that may hang.
pub(super) fn require_patience() -> Result<(), NotServing> {
    if PLACE.get() == Place::Base || in_attempt(|attempt| attempt.wait = Some(Wait::Base)).is_none() {
        return Ok(());
    }
    Err(NotServing::MustWait)
}

/// How many threads of front doors may read the base of one volume at once, and how that goes.
#[derive(Debug)]
pub struct BaseReads {
    most: usize,
    now: AtomicUsize,
    started: Instant,
    /// Since when each of the threads that read now does so, in microseconds from `started`, and one more; 0: a free place.
    since: Box<[AtomicU64]>,
    /// When a read last failed as a broken disk fails, likewise.
    failed: AtomicU64,
}

/// Threads beside those of front doors whose reads are watched.
const OTHER_THREADS: usize = 16;

impl BaseReads {
    /// For doors with so many threads in all: one of them is always left.
    pub fn of_threads(threads: usize) -> Arc<BaseReads> {
        Arc::new(BaseReads {
            most: threads.saturating_sub(1),
            now: AtomicUsize::new(0),
            started: Instant::now(),
            since: (0..threads + OTHER_THREADS).map(|_| AtomicU64::new(0)).collect(),
            failed: AtomicU64::new(0),
        })
    }

    /// For how long the oldest read has not come back. A listing does not count: a long one takes its time.
    pub fn oldest(&self) -> Option<Duration> {
        let since =
            self.since.iter().map(|since| since.load(Ordering::Relaxed)).filter(|since| *since > 0).min()?;
        Some(self.ago(since))
    }

    /// How long ago a read last failed as a broken disk fails.
    pub fn last_failure(&self) -> Option<Duration> {
        Some(self.failed.load(Ordering::Relaxed)).filter(|failed| *failed > 0).map(|failed| self.ago(failed))
    }

    fn moment(&self) -> u64 {
        self.started.elapsed().as_micros() as u64 + 1
    }

    fn ago(&self, moment: u64) -> Duration {
        Duration::from_micros(self.moment().saturating_sub(moment))
    }

    /// Notes a read that begins. Where there are more than places, it is not watched.
    fn watch(&self) -> Option<Watched<'_>> {
        let moment = self.moment();
        let take = |place: &&AtomicU64| {
            place.load(Ordering::Relaxed) == 0
                && place.compare_exchange(0, moment, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        self.since.iter().find(take).map(Watched)
    }

    fn note_failure(&self, error: &io::Error) {
        let broken = [Errno::IO, Errno::NXIO, Errno::NODEV, Errno::UCLEAN].map(Errno::raw_os_error);
        if error.raw_os_error().is_some_and(|number| broken.contains(&number)) {
            self.failed.store(self.moment(), Ordering::Relaxed);
        }
    }

    fn enter(&self) -> io::Result<Option<Inside<'_>>> {
        let Some(has_to_wait) = in_attempt(|attempt| attempt.wait.is_some()) else { return Ok(None) };
        let inside = match PLACE.get() {
            _ if has_to_wait => None,
            Place::Base => return Ok(None),
            Place::Parked => None,
            Place::Door => self.try_enter(),
        };
        if inside.is_none() {
            in_attempt(|attempt| attempt.wait = attempt.wait.or(Some(Wait::Base)));
            return Err(io::Error::from_raw_os_error(MUST_WAIT));
        }
        Ok(inside)
    }

    fn try_enter(&self) -> Option<Inside<'_>> {
        let more = |now: usize| (now < self.most).then_some(now + 1);
        self.now.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Inside(self))
    }
}

struct Inside<'a>(&'a BaseReads);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A read that has not come back.
struct Watched<'a>(&'a AtomicU64);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A base that is read within these bounds.
pub struct PatientBase {
    base: Arc<dyn BaseReader>,
    reads: Arc<BaseReads>,
}

impl PatientBase {
    /// `base` as clients may read it.
    pub fn over(base: Arc<dyn BaseReader>, reads: Arc<BaseReads>) -> Arc<dyn BaseReader> {
        Arc::new(PatientBase { base, reads })
    }

    fn read<T>(&self, read: impl FnOnce(&dyn BaseReader) -> io::Result<T>) -> io::Result<T> {
        let _watched = self.reads.watch();
        self.list(read)
    }

    /// Likewise, of what may take long.
    fn list<T>(&self, read: impl FnOnce(&dyn BaseReader) -> io::Result<T>) -> io::Result<T> {
        let _inside = self.reads.enter()?;
        read(&*self.base).inspect_err(|error| self.reads.note_failure(error))
    }
}

impl BaseReader for PatientBase {
    fn lookup(&self, parent: Oid, name: NameRef<'_>) -> io::Result<Option<Target>> {
        self.read(|base| base.lookup(parent, name))
    }
    fn attributes(&self, oid: Oid) -> io::Result<Attributes> {
        self.read(|base| base.attributes(oid))
    }
    fn parent(&self, directory: Oid) -> io::Result<Oid> {
        self.read(|base| base.parent(directory))
    }
    fn read_at(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read(|base| base.read_at(oid, offset, buf))
    }
    fn read_once(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read(|base| base.read_once(oid, offset, buf))
    }
    fn readdir(
        &self,
        directory: Oid,
        visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.list(|base| base.readdir(directory, visit))
    }
    fn readlink(&self, oid: Oid) -> io::Result<Vec<u8>> {
        self.read(|base| base.readlink(oid))
    }
    fn xattr(&self, oid: Oid, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.read(|base| base.xattr(oid, name))
    }
    fn xattr_names(&self, oid: Oid) -> io::Result<Vec<Vec<u8>>> {
        self.read(|base| base.xattr_names(oid))
    }
    fn seek_data(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        self.read(|base| base.seek_data(oid, offset))
    }
    fn seek_hole(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        self.read(|base| base.seek_hole(oid, offset))
    }
    fn is_allocated(&self, oid: Oid, range: Range<u64>) -> io::Result<bool> {
        self.read(|base| base.is_allocated(oid, range))
    }
    fn orphans(&self) -> io::Result<Vec<Oid>> {
        self.list(|base| base.orphans())
    }
}
