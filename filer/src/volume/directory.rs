//! Reading directories.
//!
//! An open directory shows the listing of the moment of its first page, and a new one after a rewind. The
//! position after an entry depends on its name alone, so a reader goes on where it was after a takeover, too.

use super::Volume;
use super::data::Access;
use super::errno::{Errno, Result};
use crate::runtime::Mutex;
use apply_engine::view::{DirCookie, Listing};
use apply_engine::{Attributes, ObjectKind};
use ids::Oid;
use std::sync::Arc;

const AFTER_DOT: u64 = 1;
const AFTER_DOT_DOT: u64 = 2;

/// An open directory. Give it back with [`Volume::close_directory`].
#[derive(Debug)]
pub struct DirectoryStream {
    oid: Oid,
    /// It had been removed before it was opened: a kernel still refers to it.
    gone: bool,
    listing: Mutex<Option<Arc<Listing>>>,
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
            return Ok(DirectoryStream { oid, gone: true, listing: Mutex::new(None) });
        }
        if !self.known(oid)?.attributes.kind.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        self.open(oid, Access::Read)?;
        Ok(DirectoryStream { oid, gone: false, listing: Mutex::new(None) })
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
    /// When the base can not be read, or the node does not serve any more.
    pub fn read_directory(
        &self,
        stream: &DirectoryStream,
        position: u64,
        mut visit: impl FnMut(Shown<'_>) -> bool,
    ) -> Result<()> {
        let listing = self.listing(stream, position == 0)?;
        let dots = [(&b"."[..], AFTER_DOT), (b"..", AFTER_DOT_DOT)];
        for (name, after) in dots.into_iter().filter(|(_, after)| position < *after) {
            let oid = if after == AFTER_DOT { stream.oid } else { self.parent_or_self(stream.oid) };
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
    /// When the base can not be read, or the node does not serve any more.
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
        gate.is_none_or(|gate| self.journal.committed() >= gate)
    }

    fn parent_or_self(&self, oid: Oid) -> Oid {
        self.stack.snapshot().parent(oid).unwrap_or(oid)
    }

    fn listing(&self, stream: &DirectoryStream, anew: bool) -> Result<Arc<Listing>> {
        if stream.gone {
            return Ok(Arc::default());
        }
        let mut kept = stream.listing.lock();
        if let Some(listing) = kept.as_ref().filter(|_| !anew) {
            return Ok(Arc::clone(listing));
        }
        let listing = Arc::new(match self.stack.snapshot().listing(stream.oid) {
            Ok(listing) => listing,
            // Removed while open.
            Err(apply_engine::ViewError::NoObject(_)) => Listing::default(),
            Err(error) => return Err(error.into()),
        });
        self.show(self.gate(stream.oid)?)?;
        *kept = Some(Arc::clone(&listing));
        Ok(listing)
    }
}
