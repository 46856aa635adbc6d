//! Merged reads: active Delta, then the sealed ones (newest first), then the base.
//!
//! Whatever a Delta says of an object or a slot wins over everything below it, so a sealed Delta hides a base
//! to which it is being applied. A reader takes an `Arc<Layers>` and keeps it for as long as it reads: the
//! owner publishes a new one when it seals or drops a Delta, starts changing the base for a Delta only when
//! nobody holds Layers in which that Delta is not sealed, and frees log space and drops a Delta only when
//! nobody holds Layers that could still read below it.
//!
//! One call is not atomic against writers: the caller (the volume) holds its own lock on the object.
//!
//! What can go wrong: I/O errors of the base ([`ViewError::Base`]), an object that is gone
//! ([`ViewError::NoObject`]), and log bytes that were freed too early ([`ViewError::Log`], a program error
//! that must reach the client as EIO and never as wrong bytes).

mod listing;
mod merge;
mod read;

pub use listing::{DirCookie, Listing, ListingEntry};
pub use read::{Segment, SegmentSource};

use crate::attributes::{Attributes, ObjectKind};
use crate::delta::{Delta, RecordPosition, Target, Vanished};
use crate::name::NameRef;
use crate::op::Operation;
use ids::{Lsn, Oid};
use parking_lot::RwLock;
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// One entry of a base directory.
#[derive(Clone, Copy, Debug)]
pub struct BaseEntry<'a> {
    /// Its name.
    pub name: NameRef<'a>,
    /// The object.
    pub oid: Oid,
    /// What it is.
    pub kind: ObjectKind,
}

/// What merged reads need from the base tree. Hidden things (staging, labels) are not shown.
///
/// Every method but `lookup` answers `io::ErrorKind::NotFound` for an object that the base does not hold.
pub trait BaseReader: Send + Sync {
    /// The object in a slot; `None` when the slot is empty or the base does not hold the directory.
    fn lookup(&self, parent: Oid, name: NameRef<'_>) -> io::Result<Option<Target>>;
    /// All attributes.
    fn attributes(&self, oid: Oid) -> io::Result<Attributes>;
    /// The directory that holds this directory; the root holds itself.
    fn parent(&self, directory: Oid) -> io::Result<Oid>;
    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    fn read_at(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Likewise, for whoever goes over everything once: what was not in the page cache before is not after, where the
    /// filesystem knows.
    fn read_once(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read_at(oid, offset, buf)
    }
    /// Shows every entry but `.` and `..`, in any order, until `visit` breaks.
    fn readdir(
        &self,
        directory: Oid,
        visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()>;
    /// Likewise, only those whose names are wanted: nothing is asked about the others.
    fn readdir_some(
        &self,
        directory: Oid,
        wanted: &dyn Fn(&[u8]) -> bool,
        visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.readdir(directory, &mut |entry| match wanted(entry.name.as_bytes()) {
            true => visit(entry),
            false => ControlFlow::Continue(()),
        })
    }
    /// Target of a symbolic link.
    fn readlink(&self, oid: Oid) -> io::Result<Vec<u8>>;
    /// Value of an xattr; `None` when it has no such.
    fn xattr(&self, oid: Oid, name: &[u8]) -> io::Result<Option<Vec<u8>>>;
    /// Full names of all xattrs, without the volume's own label.
    fn xattr_names(&self, oid: Oid) -> io::Result<Vec<Vec<u8>>>;
    /// First byte of data at or past `offset`; `None` when there is none.
    fn seek_data(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>>;
    /// First byte at or past `offset` that is in a hole, the end of the file being one; `None` past the end.
    fn seek_hole(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>>;
    /// Have all bytes of a range blocks that a write goes to, so that it takes no room?
    fn is_allocated(&self, _oid: Oid, _range: Range<u64>) -> io::Result<bool> {
        Ok(false)
    }
    /// The parts of a range that have no blocks which a write could go to, in order.
    fn unallocated(&self, _oid: Oid, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        Ok(vec![range])
    }
    /// Objects without a name that are kept because somebody had them open.
    fn orphans(&self) -> io::Result<Vec<Oid>>;
}

/// Log bytes that are not there any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("log bytes at LSN {lsn} have been overwritten")]
pub struct Overwritten {
    /// Where the bytes stood.
    pub lsn: Lsn,
}

/// What merged reads need from the log.
pub trait LogBytes: Send + Sync {
    /// Copies the bytes at `lsn`, which lie in one payload.
    ///
    /// # Errors
    /// When they were, or may have been during the copy, overwritten.
    fn copy_out(&self, lsn: Lsn, dst: &mut [u8]) -> Result<(), Overwritten>;
}

impl LogBytes for nvlog::Log {
    fn copy_out(&self, lsn: Lsn, dst: &mut [u8]) -> Result<(), Overwritten> {
        nvlog::Log::copy_out(self, lsn, dst).map_err(|trimmed| Overwritten { lsn: trimmed.lsn })
    }
}

impl<T: LogBytes + ?Sized> LogBytes for &T {
    fn copy_out(&self, lsn: Lsn, dst: &mut [u8]) -> Result<(), Overwritten> {
        T::copy_out(self, lsn, dst)
    }
}

impl<T: LogBytes + ?Sized> LogBytes for Arc<T> {
    fn copy_out(&self, lsn: Lsn, dst: &mut [u8]) -> Result<(), Overwritten> {
        T::copy_out(self, lsn, dst)
    }
}

/// A merged read that failed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// There is no such object (any more): ENOENT or ESTALE.
    #[error("{0} does not exist")]
    NoObject(Oid),
    /// The base could not be read: EIO, or what the error says.
    #[error("the base tree could not be read for {oid}: {source}")]
    Base {
        /// Which object.
        oid: Oid,
        /// Why.
        source: io::Error,
    },
    /// Log bytes were freed while a Delta still pointed to them. A program error; answer EIO.
    #[error(transparent)]
    Log(#[from] Overwritten),
}

/// One state of the stack of Deltas over the base. See the module for who may hold it how long.
#[derive(Clone)]
pub struct Layers {
    /// The Delta that takes new records. The lock is held for a lookup or an absorb, never while bytes are
    /// copied. Shared by all Layers between two seals.
    pub active: Arc<RwLock<Arc<Delta>>>,
    /// Sealed Deltas, oldest first.
    pub sealed: Vec<Arc<Delta>>,
    /// The local tree.
    pub base: Arc<dyn BaseReader>,
    /// The log that the Deltas point into.
    pub log: Arc<dyn LogBytes>,
}

impl Layers {
    /// `sealed` (oldest first) over `base`, and `active` on top.
    pub fn new(
        active: Delta,
        sealed: Vec<Arc<Delta>>,
        base: Arc<dyn BaseReader>,
        log: Arc<dyn LogBytes>,
    ) -> Layers {
        Layers { active: Arc::new(RwLock::new(Arc::new(active))), sealed, base, log }
    }

    /// Absorbs one record into the active Delta. Records come in log order, one at a time.
    ///
    /// # Panics
    /// When this state's active Delta has been sealed: the record would be lost.
    pub fn absorb(&self, at: RecordPosition, operation: &Operation<'_>) {
        let mut active = self.active.write();
        let delta = Arc::get_mut(&mut active).expect("a record came for a Delta that is already sealed");
        delta.absorb(at, operation);
    }

    /// The state with the active Delta sealed and an empty one on top. The caller keeps records away between
    /// this and publishing the new state; readers of the old one go on seeing the same.
    pub fn seal(&self) -> Layers {
        let sealed = Arc::clone(&self.active.read());
        let active = Delta::new(sealed.end(), Vanished::Forget);
        let mut all = self.sealed.clone();
        all.push(sealed);
        Layers::new(active, all, Arc::clone(&self.base), Arc::clone(&self.log))
    }

    /// The state without the oldest sealed Delta, once the base holds it. The active Delta is the same one.
    pub fn without_oldest(&self) -> Layers {
        Layers { sealed: self.sealed.get(1..).unwrap_or_default().to_vec(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests;
