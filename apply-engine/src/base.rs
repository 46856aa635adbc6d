//! The base: a volume's local directory tree, an ordinary tree that anybody can read, addressed by OID.
//!
//! Every inode in it carries a [`Label`]; the index finds inodes by OID and is checked against the labels. The
//! hidden directory `.twinfiler` in the root holds what is ours:
//!
//! ```text
//! .twinfiler/label        which volume this is; its lock keeps a second process out; its xattr the next OID
//! .twinfiler/index.redb   OID → file handle, a cache
//! .twinfiler/staging/     objects on their way to another slot, during a consistency point only
//! .twinfiler/probe/       what the filesystem can hold is tried here, at a start only
//! .twinfiler/orphans/     objects without a name that somebody has open, named by OID
//! .twinfiler/remainder/   what the filesystem has refused (see `crate::remainder`), if it has:
//!     names/OID/          names that it refuses in the directory of that OID, and what they lead to
//!     names/OID.NUMBER/   likewise, those that it refuses in the former, too
//!     objects/OID         record of the values that it refuses of the object
//! ```
//!
//! Invariants: nothing outside of the root is reached (one component at a time, no symlink followed, no mount
//! point crossed); only a consistency point changes the tree; an OID that was given is never given again.
//!
//! What can go wrong: a foreign tree, a second process, objects put there behind our back (refused or not
//! shown, never touched), a missing or corrupt index (rebuilt by a walk), I/O errors ([`TreeError`]).

mod adopt;
pub(crate) mod allocated;
mod btrfs;
mod cache;
mod enclosure;
mod error;
pub(crate) mod flags;
pub mod handles;
mod hidden;
mod index;
pub(crate) mod inode;
mod inode_reserve;
mod label;
pub mod limits;
pub(crate) mod mounted_over;
mod private_mount;
mod reader;
pub(crate) mod remainder;
mod root;
#[cfg(test)]
pub(crate) mod tests;
mod xfs;

pub use adopt::{ADOPTED_GENERATION, AdoptReport};
pub use btrfs::MetadataSpace;
pub use enclosure::{EnclosureError, check_enclosed, how_to_close, is_for_tree_alone};
pub use error::{OpenError, TreeError};
pub use index::IndexError;
pub use inode::is_xattr_of_clients;
pub use label::{LABEL_BYTES, LABEL_XATTR, Label, LabelError};
pub use reader::BaseSpace;
pub use remainder::{FULL_BYTES, FULL_METADATA_BYTES};

use ids::{BaseLimits, LogPoint, Oid, VolumeId};
use parking_lot::Mutex;
use rustix::fs::Stat;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cache::DescriptorCache;
use handles::FileHandle;
use hidden::Hidden;
use index::Index;
use inode::Inode;
use inode_reserve::InodeReserve;

use crate::remainder::Remainder;
use crate::view::BaseReader;

/// The directory in the root that holds what is ours.
pub const HIDDEN_NAME: &str = ".twinfiler";
/// What mkfs.ext4 makes in a root; never part of a volume.
pub const LOST_AND_FOUND_NAME: &str = "lost+found";
/// The xattr of the label file that holds the next free OID.
const NEXT_OID_XATTR: &str = "trusted.twinfiler.next";
/// Likewise, that holds the number of the index's last commit: an index with a lower one is older than the tree.
const INDEX_XATTR: &str = "trusted.twinfiler.index";
/// Likewise, that holds where in the log the tree stands: LSN and CRC of the last record that is applied, little-endian.
const APPLIED_XATTR: &str = "trusted.twinfiler.applied";
/// Likewise, that holds what was measured of the filesystem when there was room to do it.
const LIMITS_XATTR: &str = "trusted.twinfiler.limits";
/// The index, in the hidden directory.
const INDEX_NAME: &str = "index.redb";

/// Whether clients can neither see nor make this name in the root directory.
pub fn is_reserved_in_root(name: &[u8]) -> bool {
    name == HIDDEN_NAME.as_bytes() || name == LOST_AND_FOUND_NAME.as_bytes()
}

/// See the module. Made with [`Base::create`], [`Base::adopt`] or [`Base::open`].
pub struct Base {
    path: PathBuf,
    volume: VolumeId,
    next_oid: AtomicU64,
    /// Where in the log the tree stands, or will with the next sync.
    applied: Mutex<Option<LogPoint>>,
    store: Store,
}

/// Where the tree is.
enum Store {
    Local(Box<Local>),
    #[cfg(any(test, feature = "simulation"))]
    Simulated(crate::simulation::SimDisk),
}

/// A directory of this machine.
struct Local {
    root: OwnedFd,
    hidden: Hidden,
    staging: OwnedFd,
    orphans: OwnedFd,
    label_file: OwnedFd,
    index: Index,
    /// The index has failed since it was opened.
    index_failed: AtomicBool,
    /// The index file's inode, to see whether it is still there.
    index_inode: Option<u64>,
    /// What happened to the index and nobody was told yet.
    index_trouble: Mutex<Option<String>>,
    remainder: Remainder,
    /// What the label file says of it.
    marked: Mutex<root::RootMark>,
    cache: DescriptorCache,
    /// Names of one hash share an item of bounded size.
    is_btrfs: bool,
    limits: BaseLimits,
    /// Where inodes may run out before the disk is full.
    inode_reserve: Option<InodeReserve>,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("path", &self.path).field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl Base {
    /// The volume that the tree belongs to.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The root directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it can hold, as measured when it was opened.
    pub fn limits(&self) -> BaseLimits {
        #[cfg(any(test, feature = "simulation"))]
        if self.simulation().is_some() {
            return crate::simulation::LIMITS;
        }
        self.local().limits
    }

    /// The first OID that no applied record has given; what is still in the log may have given more.
    pub fn next_oid(&self) -> Oid {
        Oid(self.next_oid.load(Ordering::Acquire))
    }

    /// OIDs before `next` have been given. Durable with the next [`Base::sync`].
    pub fn raise_next_oid(&self, next: Oid) {
        self.next_oid.fetch_max(next.0, Ordering::AcqRel);
    }

    /// Where in the log the tree stood when it was last flushed; `None` in one that nothing was applied to.
    pub fn applied(&self) -> Option<LogPoint> {
        *self.applied.lock()
    }

    /// The tree holds everything before `point`. Durable with the next [`Base::sync`].
    pub fn set_applied(&self, point: LogPoint) {
        *self.applied.lock() = Some(point);
    }

    /// Number of objects in the tree, orphans and the root included.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn object_count(&self) -> Result<u64, IndexError> {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(disk) = self.simulation() {
            return Ok(disk.object_count());
        }
        self.local().index.len()
    }

    /// The tree as merged reads see it.
    pub fn reader(self: &Arc<Base>) -> Arc<dyn BaseReader> {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(disk) = self.simulation() {
            return Arc::new(disk.clone());
        }
        self.clone()
    }

    /// A base whose tree is simulated.
    #[cfg(any(test, feature = "simulation"))]
    pub fn simulated(disk: crate::simulation::SimDisk, volume: VolumeId) -> Base {
        let (next_oid, applied) = (AtomicU64::new(disk.next_oid().0), Mutex::new(disk.applied()));
        Base { path: "simulated".into(), volume, next_oid, applied, store: Store::Simulated(disk) }
    }

    /// The simulated tree, if it is one.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn simulation(&self) -> Option<&crate::simulation::SimDisk> {
        match &self.store {
            Store::Local(_) => None,
            Store::Simulated(disk) => Some(disk),
        }
    }

    fn local(&self) -> &Local {
        match &self.store {
            Store::Local(local) => local,
            #[cfg(any(test, feature = "simulation"))]
            Store::Simulated(_) => unreachable!("every way in asks first whether the tree is simulated"),
        }
    }

    /// Makes everything that was applied durable: next OID, place in the log, index, and the filesystem (`syncfs`).
    /// After it the log's tail may move.
    ///
    /// # Errors
    /// When something could not be written; a later call may not report it again, so the caller applies again
    /// before it trims.
    pub fn sync(&self) -> Result<(), TreeError> {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(disk) = self.simulation() {
            return disk.flush(self.next_oid(), self.applied());
        }
        let next = self.next_oid().0.to_le_bytes();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&self.local().label_file, NEXT_OID_XATTR, &next, flags)
            .map_err(TreeError::at("keep the next object id of", self.path.display()))?;
        let commits = self.local().index.commit().map_err(|error| self.index_failed(&error))?;
        rustix::fs::fsetxattr(&self.local().label_file, INDEX_XATTR, &commits.to_le_bytes(), flags)
            .map_err(TreeError::at("keep the number of the index of", self.path.display()))?;
        if let Some(LogPoint { lsn, crc }) = self.applied() {
            let point = [&lsn.0.to_le_bytes()[..], &crc.0.to_le_bytes()].concat();
            rustix::fs::fsetxattr(&self.local().label_file, APPLIED_XATTR, &point, flags)
                .map_err(TreeError::at("keep the place in the log of", self.path.display()))?;
        }
        rustix::fs::syncfs(&self.local().root)
            .map_err(TreeError::at("flush the filesystem of", self.path.display()))?;
        // After it: what a record gave up to the tree is there now.
        self.store_remainder()?;
        self.fill_inode_reserve();
        self.look_at_index_file();
        Ok(())
    }

    /// What creates took of the reserve is put back, if it can be.
    fn fill_inode_reserve(&self) {
        if let Some(reserve) = &self.local().inode_reserve
            && !reserve.is_whole()
            && let Ok(space) = self.filesystem_space()
        {
            reserve.fill(space.free_bytes);
        }
    }

    /// Does something that makes an inode; where the filesystem finds no place for one, out of the reserve.
    pub(crate) fn making_inode<T>(&self, act: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match &self.local().inode_reserve {
            Some(reserve) => reserve.giving(|| remainder::has_room(self, 0), act),
            None => act(),
        }
    }

    /// The open index works on when its file is taken away; the next start will miss it.
    fn look_at_index_file(&self) {
        let local = self.local();
        if local.hidden.inode_of(INDEX_NAME) != local.index_inode {
            self.index_trouble("its file was removed or replaced; the next start rebuilds it");
        }
    }

    fn index_trouble(&self, what: &str) {
        tracing::warn!(path = %self.path.display(), what, "the volume's index");
        *self.local().index_trouble.lock() = Some(what.to_owned());
    }

    /// What happened to the index since this was last asked, for people.
    pub fn take_index_trouble(&self) -> Option<String> {
        #[cfg(any(test, feature = "simulation"))]
        if self.simulation().is_some() {
            return None;
        }
        self.local().index_trouble.lock().take()
    }

    /// The index does not know an object that must be there: finds every object by a walk.
    ///
    /// # Errors
    /// When the tree cannot be read, or the index not be written.
    pub fn mend_index(&self) -> Result<(), OpenError> {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(disk) = self.simulation() {
            disk.reindex();
            return Ok(());
        }
        self.rebuild_index()?;
        self.index_trouble("it lacked objects of the tree and was rebuilt");
        Ok(())
    }

    /// Opens the index again if it has failed, and finds every object by a walk. Nobody may change the tree meanwhile.
    ///
    /// # Errors
    /// When it still cannot be used, or the tree not be read.
    pub fn revive_index(&self) -> Result<(), TreeError> {
        #[cfg(any(test, feature = "simulation"))]
        if self.simulation().is_some() {
            return Ok(());
        }
        let local = self.local();
        if !local.index_failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let absent = || TreeError {
            doing: "open",
            at: local.hidden.path_of(INDEX_NAME).display().to_string(),
            errno: Errno::NOENT,
        };
        let file = match local.hidden.file(INDEX_NAME) {
            Ok(file) => file.ok_or_else(absent)?,
            Err(error) => {
                tracing::error!(%error, "the index could not be opened again");
                return Err(absent());
            }
        };
        local.index.reopen(file).map_err(|error| self.index_failed(&error))?;
        local.index_failed.store(false, Ordering::Release);
        self.rebuild_index().map_err(|error| {
            local.index_failed.store(true, Ordering::Release);
            match error {
                OpenError::Tree(error) => error,
                other => {
                    tracing::error!(path = %self.path.display(), error = %other, "the index could not be rebuilt");
                    TreeError { doing: "rebuild the index of", at: self.path.display().to_string(), errno: Errno::IO }
                }
            }
        })?;
        self.index_trouble("it had failed, and was opened again and rebuilt");
        Ok(())
    }

    /// The label file was replaced, its lock with it.
    fn relock(&mut self, label_file: OwnedFd) {
        match &mut self.store {
            Store::Local(local) => local.label_file = label_file,
            #[cfg(any(test, feature = "simulation"))]
            Store::Simulated(_) => unreachable!("a simulated tree has no label file"),
        }
    }

    pub(crate) fn root_fd(&self) -> BorrowedFd<'_> {
        self.local().root.as_fd()
    }
    pub(crate) fn staging_fd(&self) -> BorrowedFd<'_> {
        self.local().staging.as_fd()
    }
    pub(crate) fn orphans_fd(&self) -> BorrowedFd<'_> {
        self.local().orphans.as_fd()
    }

    /// The inode of an object. `ENOENT`: the tree does not hold it.
    pub(crate) fn inode(&self, oid: Oid) -> Result<Arc<Inode>, TreeError> {
        if let Some(inode) = self.local().cache.get(oid) {
            return Ok(inode);
        }
        let absent = || TreeError { doing: "find", at: oid.to_string(), errno: Errno::NOENT };
        let handle =
            self.local().index.get(oid).map_err(|error| self.index_failed(&error))?.ok_or_else(absent)?;
        let fd = match handle.open(self.root_fd()) {
            Err(Errno::STALE | Errno::NOENT) => return Err(absent()),
            other => other.map_err(TreeError::at("open by handle", oid))?,
        };
        let (stat, label) = examine(fd.as_fd(), &oid)?;
        match label {
            Some(label) if label.oid == oid && stat.st_nlink > 0 => self.keep(fd, &stat, label),
            _ => Err(absent()),
        }
    }

    /// Keeps an open, labelled inode for later calls.
    pub(crate) fn keep(&self, fd: OwnedFd, stat: &Stat, label: Label) -> Result<Arc<Inode>, TreeError> {
        if let Some(inode) = self.local().cache.get(label.oid).filter(|inode| inode.number() == stat.st_ino) {
            return Ok(inode);
        }
        let inode = Arc::new(Inode::new(fd, stat, label.oid).map_err(TreeError::at("use", label.oid))?);
        self.local().cache.insert(inode.clone());
        Ok(inode)
    }

    /// Makes an inode findable by its OID.
    pub(crate) fn remember(&self, inode: &Inode) -> Result<(), TreeError> {
        let handle = FileHandle::of(inode.fd()).map_err(TreeError::at("get the handle of", inode.oid()))?;
        self.local().index.set(inode.oid(), Some(handle)).map_err(|error| self.index_failed(&error))
    }

    /// From now on this is the object of that OID.
    pub(crate) fn install(&self, inode: Inode) -> Result<(), TreeError> {
        self.remember(&inode)?;
        self.local().cache.insert(Arc::new(inode));
        Ok(())
    }

    /// OIDs that the index knows, ascending from `from` on.
    pub(crate) fn known(&self, from: Oid, max: usize) -> Result<Vec<Oid>, IndexError> {
        self.local().index.known(from, max)
    }

    /// The object of one OID is from now on that of another one.
    pub(crate) fn renumber(&self, from: Oid, to: Oid) -> Result<(), TreeError> {
        let inode = self.inode(from)?;
        let label = inode.label().map_err(TreeError::at("read the label of", from))?;
        let label = Label { oid: to, ..label };
        match inode.set_label(&label) {
            Err(Errno::PERM) if flags::take_away(inode.fd(), &from) == Ok(true) => inode.set_label(&label),
            other => other,
        }
        .map_err(TreeError::at("label", from))?;
        let handle = FileHandle::of(inode.fd()).map_err(TreeError::at("get the handle of", from))?;
        self.forget(from)?;
        self.local().index.set(to, Some(handle)).map_err(|error| self.index_failed(&error))
    }

    /// Finds every labelled object by a walk.
    pub(crate) fn rebuild_index(&self) -> Result<(), OpenError> {
        adopt::rebuild_index(self)
    }

    /// What is kept open of it is not used any more.
    pub(crate) fn evict(&self, oid: Oid) {
        self.local().cache.remove(oid);
    }

    /// The object is gone.
    pub(crate) fn forget(&self, oid: Oid) -> Result<(), TreeError> {
        self.local().cache.remove(oid);
        self.local().index.set(oid, None).map_err(|error| self.index_failed(&error))
    }

    fn index_failed(&self, error: &IndexError) -> TreeError {
        tracing::error!(path = %self.path.display(), %error, "the volume's index failed");
        self.local().index_failed.store(true, Ordering::Release);
        let errno = if error.is_no_space() { Errno::NOSPC } else { Errno::IO };
        TreeError { doing: "use the index of", at: self.path.display().to_string(), errno }
    }
}

/// `stat` and label of what a descriptor names. A label that cannot be read is an I/O error.
pub(crate) fn examine(
    fd: BorrowedFd<'_>,
    at: &dyn std::fmt::Display,
) -> Result<(Stat, Option<Label>), TreeError> {
    let stat = rustix::fs::fstat(fd).map_err(TreeError::at("stat", at))?;
    let label = inode::read_label(fd).map_err(TreeError::at("read the label of", at))?;
    match label {
        Ok(label) => Ok((stat, label)),
        Err(why) => {
            tracing::error!(%at, %why, "an object's label cannot be used");
            Err(TreeError { doing: "use the label of", at: at.to_string(), errno: Errno::IO })
        }
    }
}
