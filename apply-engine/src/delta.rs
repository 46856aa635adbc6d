//! The net effect of a run of log records, in memory.
//!
//! For each touched object its final attributes, xattrs and replaced ranges (pointing into the log, nothing
//! is copied); for each touched directory slot (parent, name) its final object or emptiness. What was
//! overwritten is not known any more, and an object born and dead in the run leaves no trace
//! ([`Vanished::Forget`]) unless the Delta is made for a base that may already hold part of the run
//! ([`Vanished::Keep`]).
//!
//! Invariants:
//! - every value is final and absolute: absorbing a record again changes nothing;
//! - an object with a [`Birth`] is described here completely: nothing below is ever asked about it;
//! - file bytes at or past `base_valid_below` never come from below, whatever lies there.
//!
//! What can go wrong: records that contradict each other (a program error on the primary). Absorbing then
//! does what the record says and never panics.

mod absorb;
mod memory;

use crate::attributes::{AttrPatch, ObjectKind};
use crate::extents::{ExtentMap, RangeSet};
use crate::name::{Name, NameRef};
use crate::oid_map::OidMap;
use ids::{Lsn, Oid};
use std::collections::BTreeMap;

/// Where a record stands in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordPosition {
    /// Its first byte.
    pub lsn: Lsn,
    /// One past its last byte.
    pub end: Lsn,
    /// First byte of its payload, which is contiguous in the ring.
    pub payload_lsn: Lsn,
}

/// What a Delta remembers of objects that were born and died in it, and of slots that were filled and emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vanished {
    /// Nothing: they cost nothing. Only right when no record of the run can have been applied before.
    Forget,
    /// That they are gone: the object as [`ObjectState::Dead`], the slot as empty. For recovery, where the
    /// base may hold any part of the run: one Delta over all records from the log's tail to the last one that
    /// may have been committed before the restart.
    Keep,
}

/// How an object came into being in this Delta.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Birth {
    /// What it is.
    pub kind: ObjectKind,
    /// Its generation.
    pub generation: u64,
    /// Device number, 0 for what is no device.
    pub rdev: u64,
    /// Target of a symbolic link, else empty.
    pub target: Box<[u8]>,
}

/// Whether an object can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectState {
    /// It has a name.
    Linked,
    /// It has no name but somebody has it open.
    Orphan,
    /// It is gone.
    Dead,
}

/// What became of one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectDelta {
    /// Set when it was created here.
    pub born: Option<Birth>,
    /// Whether it can be reached. `Linked` also stands for "not touched in this respect".
    pub state: ObjectState,
    /// Final attributes; all of them when it was born here.
    pub attrs: AttrPatch,
    /// Final xattrs by full name; `None` is removed.
    pub xattrs: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    /// Replaced ranges. May reach past the size ([`crate::Source::Zero`] with keep-size).
    pub extents: ExtentMap,
    /// Ranges that want blocks reserved and no byte changed. May reach past the size.
    pub allocated: RangeSet,
    /// Bytes below this that no extent replaces come from below; at or past it they are zeros. Applying
    /// truncates the file here first, which gives back room that was set aside behind it. `u64::MAX` when never truncated, 0 when born here.
    pub base_valid_below: u64,
    /// For a directory that was created or moved here: where it is now.
    pub parent: Option<Oid>,
    /// The last record that changed it.
    pub last_lsn: Lsn,
}

impl ObjectDelta {
    pub(crate) fn untouched(lsn: Lsn) -> ObjectDelta {
        ObjectDelta {
            born: None,
            state: ObjectState::Linked,
            attrs: AttrPatch::default(),
            xattrs: BTreeMap::new(),
            extents: ExtentMap::default(),
            allocated: RangeSet::default(),
            base_valid_below: u64::MAX,
            parent: None,
            last_lsn: lsn,
        }
    }

    /// Whether the file's bytes, reservations or length differ from below.
    pub fn changes_content(&self) -> bool {
        !self.extents.is_empty()
            || !self.allocated.is_empty()
            || self.base_valid_below != u64::MAX
            || self.attrs.size.is_some()
    }
}

/// The object that a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Which object.
    pub oid: Oid,
    /// What it is, so that a listing needs no look at it.
    pub kind: ObjectKind,
}

/// A touched directory slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// What it finally holds; `None` is empty.
    pub target: Option<Target>,
    /// Whether it held something before the first record of this Delta that touched it.
    pub occupied_below: bool,
}

/// Counters of a Delta.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeltaStats {
    /// Records absorbed.
    pub records: u64,
    /// Bytes of log that those records take.
    pub logged_bytes: u64,
    /// File content in them, overwritten bytes included.
    pub logged_data_bytes: u64,
    /// Objects that the records made, those that came and went included.
    pub made: u64,
    /// Bytes that the records set aside without content (fallocate), overlaps counted twice.
    pub allocated_bytes: u64,
    /// Objects that it changes.
    pub objects: usize,
    /// Directories in which it changes slots.
    pub directories: usize,
    /// Memory that it takes, about.
    pub memory_bytes: usize,
}

type Slots = BTreeMap<Name, Slot>;

/// The net effect of the records in `[first, end)`.
#[derive(Clone, Debug)]
pub struct Delta {
    first: Lsn,
    end: Lsn,
    vanished: Vanished,
    // Boxed: growing the table must not move the objects while a client waits.
    objects: OidMap<Box<ObjectDelta>>,
    directories: OidMap<Slots>,
    records: u64,
    made: u64,
    allocated_bytes: u64,
    logged_data_bytes: u64,
    memory_bytes: usize,
}

impl Delta {
    /// The effect of no record yet; the first one will be at `first`.
    pub fn new(first: Lsn, vanished: Vanished) -> Delta {
        Delta {
            first,
            end: first,
            vanished,
            objects: OidMap::default(),
            directories: OidMap::default(),
            records: 0,
            made: 0,
            allocated_bytes: 0,
            logged_data_bytes: 0,
            memory_bytes: 0,
        }
    }

    /// Puts an object in that no record describes.
    pub(crate) fn describe(&mut self, oid: Oid, object: ObjectDelta) {
        self.put(oid, object);
    }

    /// Likewise a slot.
    pub(crate) fn describe_slot(&mut self, parent: Oid, name: Name, slot: Slot) {
        let bytes = memory::of_slot(name.as_bytes());
        if self.directories.entry(parent).or_default().insert(name, slot).is_none() {
            self.memory_bytes += bytes;
        }
    }

    fn put(&mut self, oid: Oid, object: ObjectDelta) {
        self.memory_bytes += memory::of_whole(&object);
        if let Some(old) = self.objects.insert(oid, Box::new(object)) {
            self.memory_bytes -= memory::of_whole(&old);
        }
    }

    /// Where its run of records begins.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// Where its run of records ends.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Whether it changes nothing (it may still span records).
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.directories.is_empty()
    }

    /// What became of `oid`; `None` when it is not touched.
    pub fn object(&self, oid: Oid) -> Option<&ObjectDelta> {
        self.objects.get(&oid).map(Box::as_ref)
    }

    /// All touched objects, in no order.
    pub fn objects(&self) -> impl Iterator<Item = (Oid, &ObjectDelta)> {
        self.objects.iter().map(|(&oid, object)| (oid, object.as_ref()))
    }

    /// What the slot holds: `None` not touched, `Some(None)` empty.
    pub fn slot(&self, parent: Oid, name: NameRef<'_>) -> Option<Option<Target>> {
        self.directories.get(&parent)?.get(name.as_bytes()).map(|slot| slot.target)
    }

    /// The touched slots of a directory, by name.
    pub fn slots_of(&self, parent: Oid) -> impl Iterator<Item = (&Name, &Slot)> {
        self.directories.get(&parent).into_iter().flatten()
    }

    /// The directories with touched slots, in no order.
    pub fn directories(&self) -> impl Iterator<Item = Oid> {
        self.directories.keys().copied()
    }

    /// Counters.
    pub fn stats(&self) -> DeltaStats {
        DeltaStats {
            records: self.records,
            made: self.made,
            allocated_bytes: self.allocated_bytes,
            logged_bytes: self.end.since(self.first),
            logged_data_bytes: self.logged_data_bytes,
            objects: self.objects.len(),
            directories: self.directories.len(),
            memory_bytes: self.memory_bytes,
        }
    }

    /// File content that applying must write. Looks at every object.
    pub fn net_data_bytes(&self) -> u64 {
        self.objects.values().map(|object| object.extents.data_bytes()).sum()
    }
}

#[cfg(test)]
mod tests;
