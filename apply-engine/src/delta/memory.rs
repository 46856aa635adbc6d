//! How much memory a Delta takes, kept up with each record.
//!
//! An estimate from above for what there is most of (objects, slots, extents, xattrs), from the sizes of the types and
//! what the standard collections and an allocator add. The bytes that extents point to are the log's.

use super::{ObjectDelta, Slot};
use crate::name::Name;
use std::mem::size_of;

/// What an allocation takes beside its bytes, with its rounding.
const ALLOCATION: usize = 24;
/// A hash table is at least seven sixteenths full after it has grown.
const OBJECT: usize = size_of::<ObjectDelta>() + ALLOCATION + 40;
/// B-tree nodes are at least half full.
const SLOT: usize = 2 * (size_of::<Name>() + size_of::<Slot>()) + ALLOCATION;
const EXTENT: usize = 2 * 4 * size_of::<u64>();
const XATTR: usize = 2 * 4 * size_of::<usize>() + 2 * ALLOCATION;

/// Of an object that nothing is known of beyond its attributes.
pub(super) const fn of_object() -> usize {
    OBJECT
}

/// Of a slot with a name of so many bytes.
pub(super) fn of_slot(name: &[u8]) -> usize {
    SLOT + name.len()
}

/// Of an xattr.
pub(super) fn of_xattr(name: &[u8], value: Option<&[u8]>) -> usize {
    XATTR + name.len() + value.map_or(0, <[u8]>::len)
}

/// Of a file's ranges.
pub(super) fn of_content(object: &ObjectDelta) -> usize {
    (object.extents.len() + object.allocated.len()) * EXTENT
}

/// All of an object.
pub(super) fn of_whole(object: &ObjectDelta) -> usize {
    let target = object.born.as_ref().map_or(0, |birth| birth.target.len());
    let xattrs: usize = object.xattrs.iter().map(|(name, value)| of_xattr(name, value.as_deref())).sum();
    OBJECT + target + xattrs + of_content(object)
}
