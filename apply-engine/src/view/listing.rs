//! Directory listings with positions that survive changes and takeovers.
//!
//! A listing is a snapshot that the front door takes at opendir (and at rewinddir) and pages through, so a
//! large directory is merged and sorted once and not once per page. Entries are ordered by a hash of the
//! name, and the position after an entry (its [`DirCookie`]) is made from that hash: it depends on the name
//! alone, so a reader that comes back with an old position after a takeover, or to a newer snapshot, goes on
//! where it was and meets every entry that was there all the time exactly once.
//!
//! Not chosen: the order of the base (differs between the nodes), OIDs (one file can have many names in a
//! directory), a counter per open directory (dies with the node).
//!
//! What can go wrong: names whose 55-bit hashes are equal (10^-7 for 100 000 names). They get consecutive
//! positions in the order of their names; only if one of them goes away between two pages of a resumed
//! listing can its neighbour be skipped.

use super::{Layers, ViewError};
use crate::attributes::ObjectKind;
use crate::delta::{ObjectState, Target};
use crate::name::Name;
use ids::Oid;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// A position in a listing: that after the entry which carries it. Positive as an `i64`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DirCookie(pub u64);

impl DirCookie {
    /// Before the first entry.
    pub const START: DirCookie = DirCookie(0);
    /// The first that an entry can carry. The front door uses 1 and 2 for `.` and `..`.
    pub const FIRST: DirCookie = DirCookie(1 << Self::RANK_BITS);
    /// Low bits that tell names of equal hash apart.
    const RANK_BITS: u32 = 8;

    /// The position that belongs to a name as long as no other name has the same hash.
    pub fn of(name: &Name) -> DirCookie {
        // FNV-1a, then the finalizer of MurmurHash3 because FNV leaves the high bits of short names poor.
        // Part of what two program versions agree on: see the test with fixed values before changing it.
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        for byte in name.as_bytes() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
        hash ^= hash >> 33;
        let positive = (hash >> 1) >> Self::RANK_BITS << Self::RANK_BITS;
        DirCookie(positive).max(Self::FIRST)
    }
}

/// One entry of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListingEntry {
    /// The position after this entry.
    pub cookie: DirCookie,
    /// Its name.
    pub name: Name,
    /// The object.
    pub oid: Oid,
    /// What it is.
    pub kind: ObjectKind,
}

/// The entries of a directory, without `.` and `..`, at one moment, in the order of their cookies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    entries: Vec<ListingEntry>,
}

impl Listing {
    pub(super) fn new(found: impl Iterator<Item = (Name, Target)>) -> Listing {
        Listing::with_hash(found, DirCookie::of)
    }

    pub(super) fn with_hash(
        found: impl Iterator<Item = (Name, Target)>,
        hash: impl Fn(&Name) -> DirCookie,
    ) -> Listing {
        let mut entries: Vec<ListingEntry> = found
            .map(|(name, target)| {
                let cookie = hash(&name);
                ListingEntry { cookie, name, oid: target.oid, kind: target.kind }
            })
            .collect();
        entries.sort_unstable_by(|a, b| (a.cookie, &a.name).cmp(&(b.cookie, &b.name)));
        let mut last = DirCookie::START;
        for entry in &mut entries {
            entry.cookie = entry.cookie.max(DirCookie(last.0 + 1));
            last = entry.cookie;
        }
        Listing { entries }
    }

    /// All entries.
    pub fn entries(&self) -> &[ListingEntry] {
        &self.entries
    }

    /// The entries past a position, which may come from another listing of the same directory.
    pub fn after(&self, cookie: DirCookie) -> &[ListingEntry] {
        &self.entries[self.entries.partition_point(|entry| entry.cookie <= cookie)..]
    }
}

impl Layers {
    /// The entries of a directory. O(n log n) in what the base and the Deltas hold of it.
    ///
    /// # Errors
    /// When it does not exist, or the base cannot be read.
    pub fn listing(&self, directory: Oid) -> Result<Listing, ViewError> {
        let mut names: HashMap<Name, Option<Target>> = HashMap::new();
        self.visit_entries(directory, |name, target| {
            names.insert(name, Some(target));
            ControlFlow::Continue(())
        })?;
        Ok(Listing::new(names.into_iter().filter_map(|(name, target)| Some((name, target?)))))
    }

    /// Whether a directory has no entry. Stops at the first one it finds.
    ///
    /// # Errors
    /// When it does not exist, or the base cannot be read.
    pub fn is_empty_directory(&self, directory: Oid) -> Result<bool, ViewError> {
        let mut empty = true;
        self.visit_entries(directory, |_, _| {
            empty = false;
            ControlFlow::Break(())
        })?;
        Ok(empty)
    }

    /// Shows each entry once.
    fn visit_entries(
        &self,
        directory: Oid,
        mut visit: impl FnMut(Name, Target) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        let mut slots: HashMap<Name, Option<Target>> = HashMap::new();
        // Some(true): born in a Delta, the base knows nothing; Some(false): dead.
        let masked = self.walk(|delta| {
            for (name, slot) in delta.slots_of(directory) {
                if !slots.contains_key(name.as_bytes()) {
                    slots.insert(name.clone(), slot.target);
                }
            }
            match delta.object(directory) {
                Some(object) if object.state == ObjectState::Dead => ControlFlow::Break(false),
                Some(object) if object.born.is_some() => ControlFlow::Break(true),
                _ => ControlFlow::Continue(()),
            }
        });
        if masked == Some(false) {
            return Err(ViewError::NoObject(directory));
        }
        for (name, target) in &slots {
            if let Some(target) = target
                && visit(name.clone(), *target).is_break()
            {
                return Ok(());
            }
        }
        if masked.is_some() {
            return Ok(());
        }
        let mut forward = |entry: super::BaseEntry<'_>| match slots.contains_key(entry.name.as_bytes()) {
            true => ControlFlow::Continue(()),
            false => visit(entry.name.to_name(), Target { oid: entry.oid, kind: entry.kind }),
        };
        self.base.readdir(directory, &mut forward).map_err(Layers::base_error(directory))
    }
}
