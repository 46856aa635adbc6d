//! Bringing a base tree to the state of another one: compare by labels, send what differs, install it.
//!
//! Both sides use this module; what travels between them is the caller's business. The *source* shows the labels of
//! its objects ([`labels`]), describes single objects ([`capture`]) and gives out file contents ([`data_map`],
//! [`read`]). The *receiver* installs the names of a set of objects ([`install_names`]), then contents
//! ([`punch`], [`reserve`], [`write()`], [`finish_file`]), then labels ([`seal`]).
//!
//! Invariants:
//! - an object that was begun carries [`INCOMPLETE`] as its last LSN, which no source ever has, until everything of
//!   it is in place *and flushed*: so two objects whose labels agree are the same, whatever crash came between;
//! - names are installed by a consistency point over a Delta that describes the captures, so it is as idempotent
//!   and as safe against crashes as those are; a receiver that was cut off anywhere is compared and installed again;
//! - an object is only ever removed when the source said that it is gone, or that its OID belongs to another object.
//!
//! Which objects have to be compared is not remembered anywhere: no set can be lost. It costs reading labels on
//! both sides. What can go wrong: captures that contradict each other ([`ResyncError::Contradiction`]), and what
//! can go wrong with any consistency point.

mod capture;
mod content;
mod gradual;
pub(crate) mod install;
pub mod parts;
pub(crate) mod site;
mod sums;

pub use capture::{Capture, Entry, Surveyed};
pub use content::{FileMap, MAX_PIECE_BYTES, digest};
pub use gradual::{Identity, Installed, Telling};
pub use parts::{ENTRIES_AT_ONCE, MAX_PARTS, Part};
pub use sums::LabelSums;

use ids::{Lsn, Oid};
use serde::{Deserialize, Serialize};

use crate::base::{Base, IndexError, OpenError, TreeError};
use crate::consistency::{ApplyError, ApplyReport};
use crate::executor::base_tree::BaseTree;
use install::NoPayload;
use site::Site;

/// What follows, for the tree that the base is.
macro_rules! at {
    ($base:expr, $site:ident => $call:expr) => {{
        #[cfg(any(test, feature = "simulation"))]
        if let Some(disk) = $base.simulation() {
            let $site = &disk.tree(&NoPayload);
            return $call;
        }
        let $site = &BaseTree::new($base, &NoPayload);
        $call
    }};
}
pub(crate) use at;

/// Last LSN in the label of an object that is not whole yet. No record ever has it.
pub const INCOMPLETE: Lsn = Lsn(u64::MAX);
/// OIDs from here on are never given to objects: what has to make way gets one until it is removed.
pub const FIRST_CAST_OUT: Oid = Oid(1 << 63);

/// Why a tree could not be compared or installed.
#[derive(Debug, thiserror::Error)]
pub enum ResyncError {
    /// As in a consistency point.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A file or a directory could not be read.
    #[error("{0} cannot be read: {1}; check the disk")]
    Read(Oid, std::io::Error),
    /// The captures cannot all be true.
    #[error("the description of {0} contradicts itself or another one; it is compared again")]
    Contradiction(Oid),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The tree could not be walked.
    #[error(transparent)]
    Walk(#[from] Box<OpenError>),
}

impl From<TreeError> for ResyncError {
    fn from(error: TreeError) -> ResyncError {
        ResyncError::Apply(error.into())
    }
}

/// What two sides compare of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ObjectLabel {
    /// Which object.
    pub oid: Oid,
    /// Its generation.
    pub generation: u64,
    /// The last record that changed it, or [`INCOMPLETE`].
    pub last_lsn: Lsn,
}

impl ObjectLabel {
    /// 128 bits of it, for sums over many objects.
    pub fn digest(&self) -> u128 {
        let mut bytes = [0; 24];
        bytes[0..8].copy_from_slice(&self.oid.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.last_lsn.0.to_le_bytes());
        xxhash_rust::xxh3::xxh3_128(&bytes)
    }
}

/// The labels of the objects with the lowest OIDs from `from` on: at most `max` are looked at; and where to go on,
/// `None` at the end.
///
/// # Errors
/// When the index or a label cannot be read.
pub fn labels(base: &Base, from: Oid, max: usize) -> Result<(Vec<ObjectLabel>, Option<Oid>), ResyncError> {
    at!(base, site => site::labels(site, from, max))
}

fn sum_labels(base: &Base, sums: &mut LabelSums) -> Result<bool, ResyncError> {
    at!(base, site => sums.step_over(site))
}

/// One object as it is now, or that it is not there. A directory with more names than there is `room` for is to be told in
/// parts; one with fewer takes them.
///
/// # Errors
/// When it cannot be read.
pub fn capture(base: &Base, oid: Oid, room: &mut usize) -> Result<Surveyed, ResyncError> {
    at!(base, site => capture::capture(site, oid, room, ENTRIES_AT_ONCE))
}

/// A part of what a directory holds. `None`: it is not there any more, or has become much larger.
///
/// # Errors
/// When it cannot be read.
pub fn entries(base: &Base, directory: Oid, part: Part) -> Result<Option<Vec<Entry>>, ResyncError> {
    at!(base, site => parts::entries(site, directory, part, ENTRIES_AT_ONCE))
}

/// Makes the names, kinds, attributes and xattrs of these objects those of the captures. Every one of them is
/// incomplete afterwards; the contents of files are untouched, those of new files empty.
///
/// # Errors
/// See [`ResyncError`]. It can be done again, with these or newer captures.
pub fn install_names(base: &Base, survey: &[Surveyed]) -> Result<ApplyReport, ResyncError> {
    at!(base, site => install::names(site, survey))
}

/// Gives an OID that nobody uses to every object here that is another one at the source; before [`Installing`].
///
/// # Errors
/// As of any change of the tree.
pub fn make_way(base: &Base, identities: &[Identity]) -> Result<(), ResyncError> {
    at!(base, site => gradual::make_way(site, identities))
}

/// Installs names as [`install_names`] does, some objects at a time: memory is needed for those, not for all.
#[derive(Debug)]
pub struct Installing<'a> {
    base: &'a Base,
    gradual: gradual::Gradual,
}

fn begin_gradually(base: &Base) -> Result<gradual::Gradual, ResyncError> {
    at!(base, site => gradual::Gradual::begin(site))
}

impl<'a> Installing<'a> {
    /// Begins.
    ///
    /// # Errors
    /// As of any change of the tree.
    pub fn begin(base: &'a Base) -> Result<Installing<'a>, ResyncError> {
        Ok(Installing { base, gradual: begin_gradually(base)? })
    }

    /// Installs these objects, and makes what is missing in the directories among them. `telling` is asked for more.
    ///
    /// # Errors
    /// See [`ResyncError`], and those of `telling`.
    pub fn some<E: From<ResyncError>>(
        &mut self,
        survey: Vec<Surveyed>,
        telling: &mut dyn Telling<E>,
    ) -> Result<Installed, E> {
        at!(self.base, site => self.gradual.some(site, survey, telling))
    }

    /// Removes what is gone. Returns what the source has and nobody placed, because its tree changed meanwhile.
    ///
    /// # Errors
    /// See [`ResyncError`], and those of `telling`.
    pub fn end<E: From<ResyncError>>(self, telling: &mut dyn Telling<E>) -> Result<Vec<Oid>, E> {
        let Installing { base, gradual } = self;
        at!(base, site => gradual.end(site, telling))
    }
}

/// Where a file has data, and room that is set aside, at most `max` ranges of either from `from` on.
///
/// # Errors
/// When it cannot be read. A file that is gone has a size of 0.
pub fn data_map(base: &Base, oid: Oid, from: u64, max: usize) -> Result<FileMap, ResyncError> {
    at!(base, site => content::data_map(site.reader(), oid, from, max))
}

/// Bytes of a file; fewer where it ends, none when it is gone.
///
/// # Errors
/// When it cannot be read.
pub fn read(base: &Base, oid: Oid, offset: u64, len_bytes: usize) -> Result<Vec<u8>, ResyncError> {
    at!(base, site => content::read(site.reader(), oid, offset, len_bytes))
}

/// Makes a file no longer than it is at the source, with nothing set aside behind its end: of all files before anything is
/// written into one, so that there is room.
///
/// # Errors
/// As of any change of the tree.
pub fn shrink_file(base: &Base, file: &Capture) -> Result<(), ResyncError> {
    at!(base, site => content::shrink(site, file))
}

/// Makes a range of a file a hole.
///
/// # Errors
/// As of any change of the tree.
pub fn punch(base: &Base, oid: Oid, offset: u64, len_bytes: u64) -> Result<(), ResyncError> {
    at!(base, site => content::punch(site, oid, offset, len_bytes))
}

/// Makes a range of a file zeros that have blocks, behind its end too, if there is room: where there is none, a hole.
///
/// # Errors
/// As of any change of the tree.
pub fn reserve(base: &Base, oid: Oid, offset: u64, len_bytes: u64) -> Result<(), ResyncError> {
    at!(base, site => content::reserve(site, oid, offset, len_bytes))
}

/// Writes into a file.
///
/// # Errors
/// As of any change of the tree.
pub fn write(base: &Base, oid: Oid, offset: u64, bytes: &[u8]) -> Result<(), ResyncError> {
    at!(base, site => content::write(site, oid, offset, bytes))
}

/// The contents of a file are in place: its length, and what writing has changed beside.
///
/// # Errors
/// As of any change of the tree.
pub fn finish_file(base: &Base, file: &Capture) -> Result<(), ResyncError> {
    at!(base, site => content::finish(site, file))
}

/// Declares objects whole. Everything of them must have been flushed ([`Base::sync`]) since it was last changed.
///
/// # Errors
/// As of any change of the tree.
pub fn seal(base: &Base, objects: &[ObjectLabel]) -> Result<(), ResyncError> {
    at!(base, site => install::seal(site, objects))
}

/// Finds every labelled object again by a walk: before a tree is compared that an interrupted consistency point may
/// have left with objects that the index does not know.
///
/// # Errors
/// When the tree cannot be walked.
pub fn reindex(base: &Base) -> Result<(), ResyncError> {
    #[cfg(any(test, feature = "simulation"))]
    if let Some(disk) = base.simulation() {
        disk.reindex();
        return Ok(disk.flush(base.next_oid(), base.applied())?);
    }
    base.rebuild_index().map_err(|error| ResyncError::Walk(Box::new(error)))
}

#[cfg(test)]
pub(crate) mod tests;
