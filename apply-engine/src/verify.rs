//! Comparing two base trees that stand at the same LSN, and telling what a consistency point has really left in a
//! tree.
//!
//! Both nodes walk their objects in OID order ([`part`]): each yields digests of its objects, large files in pieces,
//! and [`compare`] says which objects differ. What of an object differs is told by its [`Aspects`], where it lies by
//! [`paths`]. [`applied`] digests what one Delta has touched, read back from the tree after it was applied.
//!
//! Invariants:
//! - a digest is made of what the tree holds, never of what the index or a label promises about it;
//! - two trees in which the same records were applied up to the same LSN yield the same digests, however the records
//!   were cut into consistency points, and whatever crashes came between;
//! - what differs between two healthy nodes by nature is left out: times of reading, block counts, what is a hole and what
//!   are zeros, SELinux labels, the root's own times, and change times of what was adopted and not changed since.
//!
//! What can go wrong: an object cannot be read. That is a finding ([`UNREADABLE`]), not the end of a walk. Only the
//! index ends one. The tree must stand still meanwhile; the caller sees to that.
//!
//! Digests are XXH3 with 64 bits: they find faults, not forgers.

mod applied;
mod compare;
mod content;
mod object;
mod part;
mod paths;

pub use applied::{Applied, differing};
pub use compare::{Compared, Finding, compare};
pub use object::Aspects;
pub use part::{Key, PIECE_BYTES, Part, UNREADABLE};
pub use paths::MAX_SOUGHT;

use ids::Oid;
use std::collections::{BTreeMap, BTreeSet};

use crate::base::Base;
use crate::delta::Delta;
use crate::executor::base_tree::BaseTree;
use crate::resync::install::NoPayload;
use crate::resync::site::Site;
use crate::resync::{ResyncError, at};
use crate::tree::Tree;

/// See [`names`].
pub type Names = Vec<(Vec<u8>, Option<Oid>)>;

/// The digests of the objects from `from` on: so many that about `max_bytes` of content were read, at most
/// `max_objects` objects; and where to go on.
///
/// # Errors
/// When the index cannot be read.
pub fn part(base: &Base, from: Key, max_objects: usize, max_bytes: u64) -> Result<Part, ResyncError> {
    at!(base, site => part::part(site, from, max_objects, max_bytes))
}

/// One object in detail. `None`: it is not there.
///
/// # Errors
/// When it cannot be read.
pub fn aspects(base: &Base, oid: Oid) -> Result<Option<Aspects>, ResyncError> {
    at!(base, site => Ok(object::aspects(site, oid)?.map(|(aspects, _)| aspects)))
}

/// What a directory holds, by name; `None` in place of an object stands for what is no object of the volume. `None`: it
/// is not there, or no directory.
///
/// # Errors
/// When it cannot be read.
pub fn names(base: &Base, oid: Oid) -> Result<Option<Names>, ResyncError> {
    at!(base, site => {
        let is_directory = site.find(oid)?.is_some_and(|found| found.kind.is_directory());
        Ok(if is_directory { Some(object::listing(site, oid)?.into_iter().collect()) } else { None })
    })
}

/// What the tree holds of everything that a Delta has touched, after it was applied and before anything else is.
#[must_use]
pub fn applied(base: &Base, delta: &Delta) -> Applied {
    at!(base, site => applied::applied(site, delta))
}

/// Where these objects lie, as paths below the root: one for each that a walk over all directories finds.
///
/// # Errors
/// When the root cannot be read; a directory that cannot be is passed over.
pub fn paths(base: &Base, sought: &BTreeSet<Oid>) -> Result<BTreeMap<Oid, Vec<u8>>, ResyncError> {
    at!(base, site => paths::paths(site.reader(), sought))
}

#[cfg(test)]
mod tests;
