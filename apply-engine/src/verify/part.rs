//! A walk over all objects in OID order, in parts that two nodes cut at the same places while their trees are the same.
//!
//! Invariant: where a part ends follows from the tree and the bounds alone. Trees that differ may cut differently; then
//! only what both parts cover is compared, and both go on there. Pieces of a long file that hold nothing but zeros are not
//! told: one node may have a hole where the other has allocated them.

use ids::Oid;
use serde::{Deserialize, Serialize};

use super::content::content;
use super::object::{aspects, label_of};
use crate::attributes::ObjectKind;
use crate::holes::next_data;
use crate::pool;
use crate::resync::ResyncError;
use crate::resync::site::Site;

/// Files longer than this are compared in pieces of this length.
pub const PIECE_BYTES: u64 = 1 << 20;
/// Stands for the digest of what cannot be read.
pub const UNREADABLE: u64 = 0;
/// What looking at an object or a piece costs, in bytes of content that could be read instead. It bounds how many of
/// them one part tells, too.
const OBJECT_COST_BYTES: u64 = 8 << 10;

/// Where a walk stands, and what a digest is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Key {
    /// The object.
    pub oid: Oid,
    /// 0: the object itself, with its content when that is one piece; else a piece of its content, counted from 1. Pieces
    /// that hold nothing but zeros are left out.
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

/// What a part is about, and what it costs so far.
#[derive(Default)]
struct Planned {
    units: Vec<Unit>,
    cost: u64,
    max_cost: u64,
}

impl Planned {
    /// One more; its content is charged for by [`Planned::charge`]. False: the part ends before it.
    fn add(&mut self, key: Key, len_bytes: u64) -> bool {
        let fits = self.cost < self.max_cost;
        if fits {
            self.cost += OBJECT_COST_BYTES;
            self.units.push(Unit { key, len_bytes });
        }
        fits
    }

    /// So much is to be read.
    fn charge(&mut self, bytes: u64) {
        self.cost = self.cost.saturating_add(bytes);
    }

    /// Those pieces of a long file, from the one with this number on, that hold data. Where the part ends, if it does so
    /// within the file.
    fn pieces(&mut self, site: &impl Site, oid: Oid, first: u64, size: u64) -> Option<Key> {
        let mut last = first.max(1) - 1;
        let mut at = last * PIECE_BYTES;
        while at < size {
            // What does not tell its holes is read, and found to be unreadable then.
            let data = next_data(site.reader(), oid, at, size).unwrap_or(Some(at..size))?;
            at = data.start;
            while at < data.end {
                let piece = at / PIECE_BYTES + 1;
                let begin = (piece - 1) * PIECE_BYTES;
                let end = (begin + PIECE_BYTES).min(data.end);
                let key = Key { oid, piece };
                if piece > last && !self.add(key, PIECE_BYTES.min(size - begin)) {
                    return Some(key);
                }
                self.charge(end - at);
                (last, at) = (piece, end);
            }
        }
        None
    }
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
    // An object whose length cannot be told is read all the same, and found to be unreadable then.
    let lengths = pool::map(&known, |oid| Ok::<_, ResyncError>(length(site, *oid).unwrap_or(Some((0, 0)))))?;
    let mut planned = Planned { max_cost: max_bytes.max(1), ..Planned::default() };
    for (&oid, length) in known.iter().zip(lengths) {
        let Some((len_bytes, allocated_bytes)) = length else { continue };
        let is_long = len_bytes > PIECE_BYTES;
        let first = if oid == from.oid { from.piece } else { 0 };
        let mut end = None;
        if first == 0 {
            let key = Key { oid, piece: 0 };
            end = (!planned.add(key, if is_long { 0 } else { len_bytes })).then_some(key);
            planned.charge(if is_long { 0 } else { len_bytes.min(allocated_bytes) });
        }
        if is_long && end.is_none() {
            end = planned.pieces(site, oid, first, len_bytes);
        }
        if end.is_some() {
            next = end;
            break;
        }
    }
    let units = planned.units;
    let digest = |unit: &Unit| Ok::<_, ResyncError>(digest(site, unit));
    let digests = match units.iter().any(|unit| unit.len_bytes >= PIECE_BYTES / 4) {
        true => pool::spread(&units, digest),
        false => pool::map(&units, digest),
    }?;
    let mut part = Part { seen: Vec::with_capacity(units.len()), next, read_bytes: 0 };
    for (unit, (digest, read_bytes)) in units.iter().zip(digests) {
        part.seen.extend(digest.map(|digest| (unit.key, digest)));
        part.read_bytes += read_bytes;
    }
    Ok(part)
}

/// Length of a file, and what of it is allocated; 0 for everything else, `None` for what is not there.
fn length(site: &impl Site, oid: Oid) -> Result<Option<(u64, u64)>, ResyncError> {
    if label_of(site, oid)?.is_none() {
        return Ok(None);
    }
    let attributes = site.reader().attributes(oid).map_err(|error| ResyncError::Read(oid, error))?;
    let is_file = attributes.kind == ObjectKind::File;
    Ok(Some(if is_file { (attributes.size, attributes.blocks_bytes) } else { (0, 0) }))
}

/// The digest, and how much was read for it. `None`: the object is not there, or the piece holds nothing but zeros, which
/// the other node may not have looked at.
fn digest(site: &impl Site, unit: &Unit) -> (Option<u64>, u64) {
    let Key { oid, piece } = unit.key;
    let found = match piece {
        0 => aspects(site, oid)
            .map(|found| found.map_or((None, 0), |(aspects, read)| (Some(aspects.digest()), read))),
        piece => content(site, oid, (piece - 1) * PIECE_BYTES, unit.len_bytes)
            .map(|content| (content.digest, content.read_bytes)),
    };
    found.unwrap_or_else(|error| {
        tracing::warn!(%oid, %error, "an object cannot be read to be compared");
        (Some(UNREADABLE), 0)
    })
}
