//! What a consistency point has left in the tree, read back.
//!
//! For each object that the Delta touched: identity, attributes, the xattrs that it set, what the slots that it touched
//! hold, and the content of ranges that it wrote. An object that is gone, and a slot that is empty, count nothing, so it
//! does not matter whether a Delta remembers what vanished in it ([`crate::Vanished`]).
//!
//! Of much, only a part is read back: of an object with much new content some blocks ([`WHOLE_BYTES`],
//! [`SAMPLE_ONE_IN`]), of a Delta with many objects, or a directory with many touched slots, some of those
//! ([`ALL_OBJECTS`], [`SAMPLE_OBJECTS_ONE_IN`]). Reading back every one costs a third of applying it. What is chosen
//! follows from the records alone and changes with each: an apply fault that is systematic is seen at once, a single
//! wrong object or block among thousands by `twinfiler verify`.
//!
//! What can go wrong: an object cannot be read, or is not there although it should be. It counts as
//! [`UNREADABLE`] and so differs from the other node's.

use ids::{Lsn, Oid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::content::content;
use super::object::{Digest, label_of, of_attributes};
use super::part::UNREADABLE;
use crate::delta::{Delta, ObjectDelta, ObjectState};
use crate::extents::Source;
use crate::pool;
use crate::resync::ResyncError;
use crate::resync::site::Site;
use crate::tree::{Parent, Place};

/// New content of an object that is read back whole.
const WHOLE_BYTES: u64 = 128 << 10;
/// Of more than that, one block in so many.
const SAMPLE_ONE_IN: u64 = 32;
/// Length of such a block.
const BLOCK_BYTES: u64 = 64 << 10;
/// Objects of a Delta, and slots of a directory, that are all looked at.
const ALL_OBJECTS: usize = 256;
/// Of more than that, one in so many.
const SAMPLE_OBJECTS_ONE_IN: u64 = 16;
/// Objects that are kept one by one, so that a difference can be named.
const MAX_NAMED: usize = 1 << 18;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// The records that were applied: from here.
    pub first: Lsn,
    /// To here.
    pub end: Lsn,
    /// Sum over all objects.
    pub digest: u64,
    /// Objects, ascending; empty when there were too many to keep.
    pub objects: Vec<(Oid, u64)>,
}

/// Objects that two nodes have left differently. Both applied the same records.
#[must_use]
pub fn differing(ours: &[(Oid, u64)], theirs: &[(Oid, u64)]) -> Vec<Oid> {
    let mut sums: BTreeMap<Oid, (Option<u64>, Option<u64>)> = BTreeMap::new();
    ours.iter().for_each(|(oid, digest)| sums.entry(*oid).or_default().0 = Some(*digest));
    theirs.iter().for_each(|(oid, digest)| sums.entry(*oid).or_default().1 = Some(*digest));
    sums.into_iter().filter(|(_, (one, other))| one != other).map(|(oid, _)| oid).collect()
}

/// See [`super::applied`].
pub(super) fn applied(site: &impl Site, delta: &Delta) -> Applied {
    let mut touched: Vec<Oid> = delta.objects().map(|(oid, _)| oid).chain(delta.directories()).collect();
    // What vanished does not count: a Delta may remember it or not.
    let many = delta.objects().filter(|(_, object)| object.state != ObjectState::Dead).count() > ALL_OBJECTS;
    if many {
        touched.retain(|oid| {
            let last_lsn = delta.object(*oid).map_or(Lsn::ZERO, |object| object.last_lsn);
            // Of directories only some slots are looked at, so there is no need to leave them out.
            delta.slots_of(*oid).any(|(_, slot)| slot.target.is_some())
                || is_chosen(&[oid.0, last_lsn.0], &[], SAMPLE_OBJECTS_ONE_IN)
        });
    }
    touched.sort_unstable();
    touched.dedup();
    let one = |oid: &Oid| {
        let digest = object(site, delta, *oid).unwrap_or_else(|error| {
            tracing::warn!(%oid, %error, "an object that was just applied cannot be read");
            Some(UNREADABLE)
        });
        Ok::<_, std::convert::Infallible>(digest)
    };
    let Ok(digests) = pool::map(&touched, one);
    let mut objects: Vec<(Oid, u64)> =
        touched.into_iter().zip(digests).filter_map(|(oid, digest)| Some((oid, digest?))).collect();
    let digest = objects.iter().fold(0_u64, |sum, (oid, digest)| {
        let mut hash = Digest::default();
        hash.number(oid.0);
        hash.number(*digest);
        sum.wrapping_add(hash.end())
    });
    if objects.len() > MAX_NAMED {
        objects = Vec::new();
    }
    Applied { first: delta.first(), end: delta.end(), digest, objects }
}

/// `None`: it is gone, as it should be.
fn object(site: &impl Site, delta: &Delta, oid: Oid) -> Result<Option<u64>, ResyncError> {
    let change = delta.object(oid);
    let label = label_of(site, oid)?;
    if change.is_some_and(|change| change.state == ObjectState::Dead) {
        // Something of it has stayed.
        return Ok(label.map(|_| UNREADABLE));
    }
    let Some(label) = label else { return Ok(Some(UNREADABLE)) };
    let attributes = site.reader().attributes(oid).map_err(|error| ResyncError::Read(oid, error))?;
    let mut hash = Digest::default();
    hash.number(u64::from(attributes.kind.format_bits()));
    hash.number(label.generation);
    hash.number(label.last_lsn.0);
    hash.number(of_attributes(&attributes, &label));
    if let Some(change) = change {
        let failed = |error| ResyncError::Read(oid, error);
        for (name, wanted) in &change.xattrs {
            let value = site.reader().xattr(oid, name).map_err(failed)?;
            if wanted.is_some() || value.is_some() {
                hash.bytes(name);
                hash.bytes(&value.unwrap_or_default());
            }
        }
        written(site, oid, change, &mut hash)?;
    }
    let many = delta.slots_of(oid).filter(|(_, slot)| slot.target.is_some()).count() > ALL_OBJECTS;
    for (name, slot) in delta.slots_of(oid) {
        if many && !is_chosen(&[oid.0, label.last_lsn.0], name.as_bytes(), SAMPLE_OBJECTS_ONE_IN) {
            continue;
        }
        let occupant = site.seen(&Place::new(Parent::Object(oid), name.clone()))?;
        if slot.target.is_some() || occupant.is_some() {
            hash.bytes(name.as_bytes());
            let now = occupant.and_then(|occupant| occupant.label).map(|label| label.oid);
            hash.number(now.map_or(u64::MAX, |now| now.0));
        }
    }
    Ok(Some(hash.end()))
}

/// The ranges that the Delta wrote, punched or zeroed.
fn written(site: &impl Site, oid: Oid, change: &ObjectDelta, hash: &mut Digest) -> Result<(), ResyncError> {
    let whole = change.extents.iter().map(|extent| extent.len_bytes).sum::<u64>() <= WHOLE_BYTES;
    for extent in change.extents.iter() {
        let mut at = extent.offset;
        while at < extent.end() {
            // Blocks lie at the same places whatever an extent begins with.
            let end = ((at / BLOCK_BYTES + 1) * BLOCK_BYTES).min(extent.end());
            let chosen = whole
                || matches!(extent.source, Source::Log(_))
                    && is_chosen(&[oid.0, at / BLOCK_BYTES, change.last_lsn.0], &[], SAMPLE_ONE_IN);
            if chosen {
                hash.number(at);
                hash.content(content(site, oid, at, end - at)?);
            }
            at = end;
            if !whole && !matches!(extent.source, Source::Log(_)) {
                break;
            }
        }
    }
    Ok(())
}

/// One in so many, by a rule that both nodes share.
fn is_chosen(numbers: &[u64], name: &[u8], one_in: u64) -> bool {
    let mut hash = Digest::default();
    numbers.iter().for_each(|number| hash.number(*number));
    hash.bytes(name);
    hash.end() % one_in == 0
}
