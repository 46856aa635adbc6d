//! Reading directories.
//!
//! The position after an entry depends on its name alone: a reader goes on where it was in a newer listing, after a
//! takeover, too, and meets every entry once that was there all the time. So a directory has one listing, however many
//! have it open ([`Listings`]). A first page, and one after a rewind, shows the directory as it is then; a later one may
//! show it as it was when somebody last began.
//!
//! Invariant: a listing is kept no longer than the directory is open, and all together hold no more than
//! [`MAX_KEPT_ENTRIES`] beside the largest. What can go wrong: more are open; then some are read again for each page.

use super::Volume;
use super::data::Access;
use super::errno::{Errno, Result};
use apply_engine::view::{DirCookie, Listing};
use apply_engine::{Attributes, ObjectKind, OidMap};
use ids::{Lsn, Oid};
use runtime::Mutex;
use std::sync::{Arc, Weak};

const AFTER_DOT: u64 = 1;
const AFTER_DOT_DOT: u64 = 2;

/// An open directory. Give it back with [`Volume::close_directory`].
#[derive(Debug)]
pub struct DirectoryStream {
    oid: Oid,
    /// It had been removed before it was opened: a kernel still refers to it.
    gone: bool,
    shared: Arc<Shared>,
}

/// Entries of all listings that are kept, at most, beside those of the one that was made last.
const MAX_KEPT_ENTRIES: usize = 1 << 21;

/// A directory's last change, and how often the volume has forgotten what it knew of all objects.
type Version = (Lsn, u64);

/// The listings of directories that are open.
#[derive(Debug, Default)]
pub(super) struct Listings {
    open: Mutex<OidMap<Weak<Shared>>>,
}

/// What all have in common who have a directory open.
#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    /// The directory has not changed since this.
    version: Version,
    /// Before this is committed it may not be shown.
    gate: Lsn,
    listing: Arc<Listing>,
}

impl Listings {
    fn of(&self, oid: Oid) -> Arc<Shared> {
        let mut open = self.open.lock();
        if let Some(shared) = open.get(&oid).and_then(Weak::upgrade) {
            return shared;
        }
        open.retain(|_, shared| shared.strong_count() > 0);
        let shared = Arc::new(Shared::default());
        open.insert(oid, Arc::downgrade(&shared));
        shared
    }

    /// Forgets listings of others until what is kept is within bounds. Those in use at this moment are left alone.
    fn make_room(&self, mine: &Arc<Shared>) {
        let others: Vec<Arc<Shared>> = self.open.lock().values().filter_map(Weak::upgrade).collect();
        let mut entries = 0;
        for other in others.iter().filter(|other| !Arc::ptr_eq(other, mine)) {
            let Some(mut kept) = other.kept.try_lock() else { continue };
            entries += kept.as_ref().map_or(0, |kept| kept.listing.entries().len());
            if entries > MAX_KEPT_ENTRIES {
                *kept = None;
            }
        }
    }
}

impl DirectoryStream {
    /// The object that its opening is counted for; to be released in place of [`Volume::close_directory`].
    pub fn counted_object(&self) -> Option<Oid> {
        (!self.gone).then_some(self.oid)
    }
}

/// An entry as a page shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The object.
    pub oid: Oid,
    /// What it is.
    pub kind: ObjectKind,
    /// The position after it.
    pub after: u64,
}

impl Volume {
    /// Opens a directory.
    ///
    /// # Errors
    /// ENOTDIR; ESTALE for a directory that is gone.
    pub fn open_directory(&self, oid: Oid) -> Result<DirectoryStream> {
        if self.state.read().ghosts.contains_key(&oid) {
            return Ok(DirectoryStream { oid, gone: true, shared: Arc::default() });
        }
        if !self.known(oid)?.attributes.kind.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        self.open(oid, Access::Read)?;
        Ok(DirectoryStream { oid, gone: false, shared: self.listings.of(oid) })
    }

    /// Closes a directory.
    pub fn close_directory(&self, stream: &DirectoryStream) {
        if !stream.gone {
            self.release(stream.oid, Access::Read);
        }
    }

    /// Shows the entries past `position` (0 is the beginning) until `visit` says that there is no more room.
    ///
    /// # Errors
    /// When the base cannot be read, or the node does not serve any more.
    pub fn read_directory(
        &self,
        stream: &DirectoryStream,
        position: u64,
        mut visit: impl FnMut(Shown<'_>) -> bool,
    ) -> Result<()> {
        let listing = self.listing(stream, position == 0)?;
        // Asked before anything is shown: whoever has to wait for it begins the page anew.
        let parent = if position < AFTER_DOT_DOT { self.parent_or_self(stream.oid)? } else { stream.oid };
        let dots = [(&b"."[..], stream.oid, AFTER_DOT), (b"..", parent, AFTER_DOT_DOT)];
        for (name, oid, after) in dots.into_iter().filter(|(_, _, after)| position < *after) {
            if visit(Shown { name, oid, kind: ObjectKind::Directory, after }) {
                return Ok(());
            }
        }
        for entry in listing.after(DirCookie(position.max(AFTER_DOT_DOT))) {
            let shown = Shown {
                name: entry.name.as_bytes(),
                oid: entry.oid,
                kind: entry.kind,
                after: entry.cookie.0,
            };
            if visit(shown) {
                break;
            }
        }
        Ok(())
    }

    /// Attributes of an entry that a listing showed; `None` when it is gone since.
    ///
    /// # Errors
    /// When the base cannot be read, or the node does not serve any more.
    pub fn listed_attributes(&self, oid: Oid) -> Result<Option<Attributes>> {
        match self.shown(oid) {
            Ok(attributes) => Ok(Some(attributes)),
            Err(Errno::ESTALE | Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Is everything committed that an object's attributes show? Of one that is not known yet: nobody can say.
    pub fn is_committed(&self, oid: Oid) -> bool {
        let gate = self.state.read().inodes.get(&oid).map(|inode| inode.gate);
        gate.is_none_or(|gate| self.journal.answerable() >= gate)
    }

    fn parent_or_self(&self, oid: Oid) -> Result<Oid> {
        match self.stack.snapshot().parent(oid).map_err(Errno::from) {
            Err(Errno::MUST_WAIT) => Err(Errno::MUST_WAIT),
            // It has none any more.
            found => Ok(found.unwrap_or(oid)),
        }
    }

    pub(super) fn listing(&self, stream: &DirectoryStream, anew: bool) -> Result<Arc<Listing>> {
        if stream.gone {
            return Ok(Arc::default());
        }
        let mut kept = match stream.shared.kept.try_lock() {
            Some(kept) => kept,
            None => {
                // Somebody makes it, and may hang with the disk.
                self.journal.require_patience()?;
                stream.shared.kept.lock()
            }
        };
        let version = (self.gate(stream.oid)?, self.state.read().forgotten);
        let usable = kept.as_ref().filter(|kept| !anew || kept.version == version);
        let shown = match usable {
            Some(usable) => usable.clone(),
            None => {
                let made = Arc::new(self.merge(stream.oid)?);
                let gate = self.gate(stream.oid)?;
                let made = Kept { version, gate, listing: made };
                *kept = Some(made.clone());
                self.listings.make_room(&stream.shared);
                made
            }
        };
        drop(kept);
        self.show(shown.gate)?;
        Ok(shown.listing)
    }

    fn merge(&self, oid: Oid) -> Result<Listing> {
        match self.stack.snapshot().listing(oid) {
            // Removed while open.
            Err(apply_engine::ViewError::NoObject(_)) => Ok(Listing::default()),
            listing => Ok(listing?),
        }
    }
}
