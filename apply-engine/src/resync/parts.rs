//! Directories with more names than one description should hold: told part by part, by a hash of the names.
//!
//! No directory can be read in an order that both sides share, and neither should have to keep all of its names. So a part
//! is whatever names have a hash that belongs to it; each side goes over its own directory once for each part, and keeps only
//! those. The receiver chooses the seed, so that nobody can make names that all belong to one part.
//!
//! What changes between two parts is noted by the source like everything that changes, and comes again. What can go wrong: a
//! source that tells names of another part, a name twice, or too many of them ([`ResyncError::Contradiction`]).

use ids::Oid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::ResyncError;
use super::capture::Entry;
use super::site::Site;
use crate::base::is_reserved_in_root;
use crate::delta::Target;
use crate::name::Name;

/// Names in a description, of all directories of one question together; and in a part, about.
pub const ENTRIES_AT_ONCE: usize = 64 << 10;
/// Most parts that a directory may have: far more names than any filesystem takes.
pub const MAX_PARTS: u32 = 1 << 20;
/// A part may hold so many times as much as it should on average, and some more.
const UNEVEN: usize = 4;
const FEW: usize = 64;

/// Some of the names of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Which one, counted from 0.
    pub number: u32,
    /// Of how many.
    pub of: u32,
    /// Where hashing begins.
    pub seed: u64,
}

impl Part {
    /// Whether a name belongs to it.
    pub fn holds(&self, name: &[u8]) -> bool {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(name, self.seed);
        hash % u64::from(self.of.max(1)) == u64::from(self.number)
    }
}

/// How many parts that many names make; 0 for so few that they need none.
pub(super) fn parts_of(names: usize, at_once: usize) -> u32 {
    match names <= at_once {
        true => 0,
        false => u32::try_from(names.div_ceil(at_once.max(1))).unwrap_or(MAX_PARTS).min(MAX_PARTS),
    }
}

/// A part of a directory of the source. `None`: no such directory is there any more.
pub(super) fn entries(
    site: &impl Site,
    directory: Oid,
    part: Part,
    at_once: usize,
) -> Result<Option<Vec<Entry>>, ResyncError> {
    let most = at_once.saturating_mul(UNEVEN).saturating_add(FEW);
    let (mut entries, mut excess) = (Vec::new(), false);
    let keep = &mut |entry: crate::view::BaseEntry<'_>| {
        excess = entries.len() >= most;
        if excess {
            return ControlFlow::Break(());
        }
        entries.push(Entry { name: entry.name.as_bytes().to_vec(), oid: entry.oid, kind: entry.kind });
        ControlFlow::Continue(())
    };
    match site.reader().readdir_some(directory, &|name| part.holds(name), keep) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| ResyncError::Read(directory, error))?,
    }
    // It has grown since the parts were counted; it is among what changed.
    Ok((!excess).then_some(entries))
}

/// What the source says that these names of a directory should lead to.
pub(super) fn wanted(
    directory: Oid,
    part: Part,
    entries: Vec<Entry>,
) -> Result<BTreeMap<Name, Target>, ResyncError> {
    let mut wanted = BTreeMap::new();
    for Entry { name, oid, kind } in entries {
        let reserved = directory == Oid::ROOT && is_reserved_in_root(&name);
        let never = oid == Oid::ROOT || oid >= super::FIRST_CAST_OUT;
        let name = Name::new(&name).ok().filter(|name| part.holds(name.as_bytes()) && !reserved && !never);
        let name = name.ok_or(ResyncError::Contradiction(directory))?;
        if wanted.insert(name, Target { oid, kind }).is_some() {
            return Err(ResyncError::Contradiction(directory));
        }
    }
    Ok(wanted)
}
