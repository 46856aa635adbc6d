//! The primitive effects that a consistency point is made of, as a trait: the real base tree implements it with
//! system calls, tests with a tree in memory that crashes anywhere and loses any part of what was done.
//!
//! Slots are addressed by the directory's OID wherever that directory is at the moment, so no step depends on
//! a path. Every effect is all-or-nothing. An effect never replaces anything: a target slot must be empty.

use std::fmt;

use ids::{Lsn, Oid};

use crate::attributes::{ObjectKind, Timestamp};
use crate::base::{Label, TreeError};
use crate::delta::Birth;
use crate::name::Name;
use crate::remainder::Remainder;

/// A directory that holds slots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Parent {
    /// A directory of the volume.
    Object(Oid),
    /// Where objects wait between two slots.
    Staging,
    /// Where objects without a name live, named by OID.
    Orphans,
    /// A directory in staging that is to be taken apart.
    Staged(Name),
    /// Where names live that the tree has refused in a directory of the volume.
    Refused(Oid),
}

/// A slot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Place {
    pub parent: Parent,
    pub name: Name,
}

impl Place {
    pub fn new(parent: Parent, name: Name) -> Place {
        Place { parent, name }
    }
    /// What stands for a slot that the tree refuses.
    pub fn refused(&self) -> Option<Place> {
        match self.parent {
            Parent::Object(directory) => Some(Place::new(Parent::Refused(directory), self.name.clone())),
            _ => None,
        }
    }
    /// Where an object waits for its slot.
    pub fn staged(oid: Oid) -> Place {
        Place::new(Parent::Staging, decimal_name(oid))
    }
    /// Where an object without a name lives.
    pub fn orphan(oid: Oid) -> Place {
        Place::new(Parent::Orphans, decimal_name(oid))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.parent {
            Parent::Object(oid) => write!(f, "{oid}/{:?}", self.name),
            Parent::Staging => write!(f, ".twinfiler/staging/{:?}", self.name),
            Parent::Orphans => write!(f, ".twinfiler/orphans/{:?}", self.name),
            Parent::Refused(oid) => write!(f, ".twinfiler/remainder/names/{}/{:?}", oid.0, self.name),
            Parent::Staged(above) => write!(f, ".twinfiler/staging/{above:?}/{:?}", self.name),
        }
    }
}

fn decimal_name(oid: Oid) -> Name {
    Name::new(oid.0.to_string().as_bytes()).expect("decimal digits are a legal name")
}

/// The OID that an entry of staging or orphans is named after.
pub(crate) fn oid_of_name(name: &Name) -> Option<Oid> {
    std::str::from_utf8(name.as_bytes()).ok()?.parse().ok().map(Oid)
}

/// What stands in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Occupant {
    /// Tells two inodes apart.
    pub inode: u64,
    pub kind: ObjectKind,
    pub label: Option<Label>,
    /// Names that the local filesystem counts.
    pub local_nlink: u64,
    /// Owner and mode are those of an inode that an attempt of ours has just made.
    pub fresh: bool,
}

/// What the local filesystem says of an object, as far as applying asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LocalAttributes {
    pub kind: ObjectKind,
    pub size: u64,
    /// Anywhere, also behind its end.
    pub has_blocks: bool,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub label: Label,
}

/// Log bytes for a range of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileWrite {
    pub offset: u64,
    pub len_bytes: u64,
    pub from: Lsn,
}

/// What a range becomes without data. None of them changes the file's length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fill {
    /// No blocks.
    Hole,
    /// Zeros with blocks.
    Zero,
    /// Blocks, and no byte changed.
    Allocate,
}

type Done<T = ()> = Result<T, TreeError>;

/// See the module. The tree itself, without what it has refused, but for what says otherwise, and labels ([`Tree::whole_label`]) of
/// objects that are found by OID. Effects on an object that is not there fail with `ENOENT`.
pub(crate) trait Tree: Sync {
    /// What stands in a slot; `None` also when the directory is not there.
    fn occupant(&self, at: &Place) -> Done<Option<Occupant>>;
    /// Those names in a directory that are wanted.
    fn list_some(&self, parent: &Parent, wanted: &dyn Fn(&[u8]) -> bool) -> Done<Vec<Name>>;
    /// All of them.
    fn list(&self, parent: &Parent) -> Done<Vec<Name>> {
        self.list_some(parent, &|_| true)
    }
    /// An object wherever it is.
    fn find(&self, oid: Oid) -> Done<Option<Occupant>>;
    /// From now on `oid` is what stands there.
    fn bind(&self, oid: Oid, at: &Place) -> Done;
    /// The object is gone.
    fn forget(&self, oid: Oid) -> Done;

    /// Makes a labelled object (the label may be lost in a crash).
    fn create(&self, at: &Place, birth: &Birth, label: &Label) -> Done;
    /// Labels what stands there.
    fn adopt(&self, at: &Place, label: &Label) -> Done;
    /// Moves a name.
    fn rename(&self, from: &Place, to: &Place) -> Done;
    /// One more name.
    fn link(&self, oid: Oid, to: &Place) -> Done;
    /// Moves a directory from wherever it is to its place in staging.
    fn stage_directory(&self, oid: Oid) -> Done;
    /// Takes a name away. Nothing there is fine; a directory that is not empty is `ENOTEMPTY`.
    fn remove(&self, at: &Place, kind: ObjectKind) -> Done;
    /// What was done so far happens before what follows, also in a crash.
    fn barrier(&self) -> Done;

    fn attributes(&self, oid: Oid) -> Done<LocalAttributes>;
    /// To a length that it does not exceed, this gives back what is set aside behind that; making it longer does not.
    fn truncate(&self, oid: Oid, size: u64) -> Done;
    fn fill(&self, oid: Oid, offset: u64, len_bytes: u64, fill: Fill) -> Done;
    /// Writes ranges that are in order and do not overlap.
    fn write(&self, oid: Oid, writes: &[FileWrite]) -> Done;
    fn xattr_names(&self, oid: Oid) -> Done<Vec<Vec<u8>>>;
    /// `None`: it has no such.
    fn xattr(&self, oid: Oid, name: &[u8]) -> Done<Option<Vec<u8>>>;
    fn set_xattr(&self, oid: Oid, name: &[u8], value: &[u8]) -> Done;
    /// Removing what is not there is fine.
    fn remove_xattr(&self, oid: Oid, name: &[u8]) -> Done;
    /// Writes bytes into a file.
    fn write_bytes(&self, oid: Oid, offset: u64, bytes: &[u8]) -> Done;
    /// The bytes at an LSN, which lie in one payload.
    fn log_bytes(&self, from: Lsn, len_bytes: usize) -> Done<Vec<u8>>;
    fn set_owner(&self, oid: Oid, uid: u32, gid: u32) -> Done;
    fn set_mode(&self, oid: Oid, mode: u32) -> Done;
    fn set_times(&self, oid: Oid, atime: Option<Timestamp>, mtime: Option<Timestamp>) -> Done;
    fn set_label(&self, oid: Oid, label: &Label) -> Done;

    /// What the tree has refused.
    fn remainder(&self) -> &Remainder;
    /// A label with what the tree has refused to write of it.
    fn whole_label(&self, label: Label) -> Label {
        match self.remainder().object(label.oid).and_then(|refused| refused.label) {
            Some(kept) => kept.over(label),
            None => label,
        }
    }
    /// Whether this is for good, and not because the disk is full (it has to have so much room beside) or fails.
    fn is_refusal(&self, error: &TreeError, needs_bytes: u64) -> bool;
    /// Notes which refused names there are, and takes away what held those that are gone.
    fn prune_refused(&self) -> Done;

    /// What stands in a slot as readers see it; and what carries no label, where nothing does that.
    fn seen(&self, at: &Place) -> Done<Option<Occupant>> {
        let kept = match (&at.parent, at.refused()) {
            (Parent::Object(directory), Some(kept)) if self.remainder().has_names(*directory) => {
                self.occupant(&kept)?
            }
            _ => None,
        };
        match kept {
            Some(occupant) if occupant.label.is_some() => Ok(kept),
            _ => Ok(self.occupant(at)?.or(kept)),
        }
    }

    /// Names in a directory of the volume likewise.
    fn seen_names(&self, directory: Oid) -> Done<Vec<Name>> {
        self.seen_some_names(directory, &|_| true)
    }

    /// Those that are wanted.
    fn seen_some_names(&self, directory: Oid, wanted: &dyn Fn(&[u8]) -> bool) -> Done<Vec<Name>> {
        let mut names = self.list_some(&Parent::Object(directory), wanted)?;
        if self.remainder().has_names(directory) {
            names.extend(self.list_some(&Parent::Refused(directory), wanted)?);
            names.sort_unstable();
            names.dedup();
        }
        Ok(names)
    }
}
