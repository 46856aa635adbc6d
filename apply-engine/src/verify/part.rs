//! A walk over all objects in OID order, in parts that two nodes cut at the same places while their trees are the same.
//!
//! Invariant: where a part ends follows from the tree and the bounds alone. Trees that differ may cut differently; then
//! only what both parts cover is compared, and both go on there.

use ids::Oid;
use serde::{Deserialize, Serialize};

use super::object::{aspects, contents, label_of};
use crate::attributes::ObjectKind;
use crate::pool;
use crate::resync::ResyncError;
use crate::resync::site::Site;

/// Files longer than this are compared in pieces of this length.
pub const PIECE_BYTES: u64 = 1 << 20;
/// Stands for the digest of what can not be read.
pub const UNREADABLE: u64 = 0;
/// What looking at an object costs, in bytes of content that could be read instead.
const OBJECT_COST_BYTES: u64 = 8 << 10;

/// Where a walk stands, and what a digest is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Key {
    /// The object.
    pub oid: Oid,
    /// 0: the object itself, with its content when that is one piece; else a piece of its content, counted from 1.
    pub piece: u64,
}

impl Key {
    /// Before every object.
    pub const FIRST: Key = Key { oid: Oid(0), piece: 0 };
}

/// Digests of a run of objects.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// Ascending.
    pub seen: Vec<(Key, u64)>,
    /// Where the next part begins; `None` at the end of the tree.
    pub next: Option<Key>,
    /// File content that was read.
    pub read_bytes: u64,
}

struct Unit {
    key: Key,
    len_bytes: u64,
}

/// See [`super::part`].
pub(super) fn part(
    site: &impl Site,
    from: Key,
    max_objects: usize,
    max_bytes: u64,
) -> Result<Part, ResyncError> {
    let known = site.known(from.oid, max_objects)?;
    let beyond = known.last().filter(|_| known.len() == max_objects).map(|last| last.0.checked_add(1));
    let mut next = beyond.flatten().map(|oid| Key { oid: Oid(oid), piece: 0 });
    // An object whose length can not be told is read all the same, and found to be unreadable then.
    let lengths = pool::map(&known, |oid| Ok::<_, ResyncError>(length(site, *oid).unwrap_or(Some(0))))?;
    let (mut units, mut cost) = (Vec::new(), 0);
    'objects: for (&oid, length) in known.iter().zip(lengths) {
        let Some(len_bytes) = length else { continue };
        let pieces = if len_bytes > PIECE_BYTES { len_bytes.div_ceil(PIECE_BYTES) } else { 0 };
        let first = if oid == from.oid { from.piece } else { 0 };
        for piece in first..=pieces {
            let key = Key { oid, piece };
            if cost >= max_bytes.max(1) {
                next = Some(key);
                break 'objects;
            }
            let len_bytes = match piece {
                0 if pieces == 0 => len_bytes,
                0 => 0,
                piece => PIECE_BYTES.min(len_bytes - (piece - 1) * PIECE_BYTES),
            };
            cost += len_bytes + if piece == 0 { OBJECT_COST_BYTES } else { 0 };
            units.push(Unit { key, len_bytes });
        }
    }
    let digest = |unit: &Unit| Ok::<_, ResyncError>(digest(site, unit));
    let digests = match units.iter().any(|unit| unit.len_bytes >= PIECE_BYTES / 4) {
        true => pool::spread(&units, digest),
        false => pool::map(&units, digest),
    }?;
    let seen = units.iter().zip(digests).filter_map(|(unit, digest)| Some((unit.key, digest?))).collect();
    Ok(Part { seen, next, read_bytes: units.iter().map(|unit| unit.len_bytes).sum() })
}

/// Length of a file, 0 for everything else; `None` for what is not there.
fn length(site: &impl Site, oid: Oid) -> Result<Option<u64>, ResyncError> {
    if label_of(site, oid)?.is_none() {
        return Ok(None);
    }
    let attributes = site.reader().attributes(oid).map_err(|error| ResyncError::Read(oid, error))?;
    Ok(Some(if attributes.kind == ObjectKind::File { attributes.size } else { 0 }))
}

fn digest(site: &impl Site, unit: &Unit) -> Option<u64> {
    let Key { oid, piece } = unit.key;
    let found = match piece {
        0 => aspects(site, oid).map(|aspects| aspects.map(|aspects| aspects.digest())),
        piece => contents(site, oid, (piece - 1) * PIECE_BYTES, unit.len_bytes).map(Some),
    };
    found.unwrap_or_else(|error| {
        tracing::warn!(%oid, %error, "an object can not be read to be compared");
        Some(UNREADABLE)
    })
}
