//! The log of one volume on one node: its state, and how it is made, opened and described.
//!
//! Who may do what: any thread reserves, publishes and reads; sealing, persisting and ingesting take a lock
//! each. A log is either written here (`reserve`) or received (`ingest`), never both at once.
//!
//! Invariants, with `tail ≤ persisted ≤ end ≤ reserved`:
//! - `[tail, end)` is a chain; `[tail, persisted)` survives what the region's durability names.
//! - Nothing at or after `min(space floor, tail, hold)` is overwritten.
//! - No line in `[end, tail + capacity)` carries a record header of that very LSN except those being written
//!   now, so nothing that was cut off can come back.
//!
//! What can go wrong: see [`errors`](self) types; every one leaves the log as it was, except a failing medium
//! in [`Log::truncate`] and [`Log::reset`], which says so.

mod append;
mod cells;
mod errors;
mod ingest;
mod open;
mod read;
mod slice;
mod space;

pub use append::Slot;
pub use errors::{
    ChainError, FormatError, OpenError, PersistError, ReadError, ReserveError, TailError, Trimmed,
    TruncateError, UpdateError,
};
pub use open::FormatOptions;
pub use read::{Record, Records};
pub use slice::LogSlice;

use crate::format::{FORMAT_VERSION, max_payload_bytes};
use crate::region::RegionKind;
use crate::region::ring::{Ring, write_superblock};
use crate::superblock::{Superblock, SuperblockDraft};
use cells::{PointCell, SlotCell};
use ids::{Durability, Epoch, LogMemory, LogPoint, Lsn};
use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// No hold is set.
const NO_HOLD: u64 = u64::MAX;

/// An open log. All methods take `&self`; share it in an `Arc`.
pub struct Log {
    ring: Arc<Ring>,
    slots: Box<[SlotCell]>,
    /// Lock order: `reserving`, `sealing`, `persisting`, `superblock`.
    reserving: Mutex<Reserving>,
    sealing: Mutex<Sealing>,
    persisting: Mutex<()>,
    superblock: SuperblockCell,
    sealed_slots: AtomicU64,
    end: PointCell,
    tail: PointCell,
    reserved: AtomicU64,
    persisted: AtomicU64,
    /// Oldest position that was never overwritten: the highest `reserved` ever − capacity, or where the log
    /// was reset.
    oldest: AtomicU64,
    floor: AtomicU64,
    hold: AtomicU64,
    receiving: AtomicBool,
}

/// What `reserve` changes.
struct Reserving {
    reserved: Lsn,
    next_slot: u64,
    epoch: Epoch,
}

/// What `seal` and `ingest` change.
struct Sealing {
    end: LogPoint,
    next_slot: u64,
    /// Epoch of the last record.
    epoch: Epoch,
    /// Ranges that are not durable yet, ascending, neighbours merged. At most one per sealed record that was
    /// stored durably, so bounded by the ring.
    dirty: Vec<(Lsn, Lsn)>,
}

impl Sealing {
    fn note_dirty(&mut self, from: Lsn, to: Lsn) {
        match self.dirty.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => self.dirty.push((from, to)),
        }
    }
}

/// The superblock: who writes it has it to himself, and who only wants to know waits for no device.
struct SuperblockCell {
    stored: Mutex<Stored>,
    told: Mutex<Superblock>,
}

impl SuperblockCell {
    fn lock(&self) -> Writing<'_> {
        Writing { stored: self.stored.lock(), told: &self.told }
    }
}

/// What it leaves is told from its end on.
struct Writing<'a> {
    stored: MutexGuard<'a, Stored>,
    told: &'a Mutex<Superblock>,
}

impl Deref for Writing<'_> {
    type Target = Stored;
    fn deref(&self) -> &Stored {
        &self.stored
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut Stored {
        &mut self.stored
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *self.told.lock() = self.stored.superblock.clone();
    }
}

/// The superblock, as both copies hold it.
struct Stored {
    /// A copy that holds the newest state that may be believed; the other is written first.
    copy: usize,
    /// Of the last attempt to write it: two states never have the same.
    generation: u64,
    superblock: Superblock,
}

impl Log {
    /// Records that may be reserved and not yet sealed at the same time.
    pub const MAX_IN_FLIGHT_RECORDS: usize = 1024;

    /// A log whose records end at `end`, all of them durable.
    fn assemble(ring: Ring, copy: usize, superblock: Superblock, end: LogPoint, epoch: Epoch) -> Log {
        let capacity_bytes = superblock.capacity_bytes;
        let begun = superblock.epoch_history.last().map_or(Epoch(0), |last| last.epoch);
        let log = Log {
            ring: Arc::new(ring),
            slots: (0..Log::MAX_IN_FLIGHT_RECORDS).map(|_| SlotCell::default()).collect(),
            reserving: Mutex::new(Reserving { reserved: end.lsn, next_slot: 0, epoch: epoch.max(begun) }),
            sealing: Mutex::new(Sealing { end, next_slot: 0, epoch, dirty: Vec::new() }),
            persisting: Mutex::new(()),
            sealed_slots: AtomicU64::new(0),
            end: PointCell::new(end),
            tail: PointCell::new(superblock.tail),
            reserved: AtomicU64::new(end.lsn.0),
            persisted: AtomicU64::new(end.lsn.0),
            oldest: AtomicU64::new(end.lsn.0.saturating_sub(capacity_bytes)),
            floor: AtomicU64::new(superblock.tail.lsn.0),
            hold: AtomicU64::new(NO_HOLD),
            receiving: AtomicBool::new(true),
            superblock: SuperblockCell {
                told: Mutex::new(superblock.clone()),
                stored: Mutex::new(Stored { copy, generation: superblock.generation, superblock }),
            },
        };
        assert!(log.tail().lsn <= end.lsn, "a log ends at or after its tail");
        log
    }

    /// The ring as memory, for transports.
    pub fn memory(&self) -> Arc<dyn LogMemory> {
        self.ring.clone()
    }

    /// The kind of medium.
    pub fn region_kind(&self) -> RegionKind {
        self.ring.region().kind()
    }

    /// What a persisted record survives.
    pub fn durability(&self) -> Durability {
        self.ring.region().durability()
    }

    /// Length of the ring.
    pub fn capacity_bytes(&self) -> u64 {
        self.ring.capacity_bytes()
    }

    /// The longest payload that [`Log::reserve`] takes.
    pub fn max_payload_bytes(&self) -> u64 {
        max_payload_bytes(self.capacity_bytes())
    }

    /// Where recovery begins.
    pub fn tail(&self) -> LogPoint {
        self.tail.get()
    }

    /// End of the sealed (or ingested) records.
    pub fn end(&self) -> LogPoint {
        self.end.get()
    }

    /// End of the space given to records.
    pub fn reserved(&self) -> Lsn {
        Lsn(self.reserved.load(Ordering::Acquire))
    }

    /// Is something being written to a device at the moment? Not where that takes no time.
    pub fn is_writing(&self) -> bool {
        self.persisting.try_lock().is_none()
    }

    /// End of what is durable at [`Log::durability`].
    pub fn persisted(&self) -> Lsn {
        Lsn(self.persisted.load(Ordering::Acquire))
    }

    /// The epoch that new records carry.
    pub fn epoch(&self) -> Epoch {
        self.reserving.lock().epoch
    }

    /// A copy of the superblock as it is durable, with the epochs that received records have begun since. Waits for no device.
    pub fn superblock(&self) -> Superblock {
        self.superblock.told.lock().clone()
    }

    /// Changes what the owner may change in the superblock; durable on return.
    ///
    /// # Errors
    /// [`UpdateError`]; the superblock is then what it was.
    pub fn update_superblock(&self, change: impl FnOnce(&mut SuperblockDraft)) -> Result<(), UpdateError> {
        let mut stored = self.superblock.lock();
        let superblock = stored.superblock.clone();
        let mut draft = SuperblockDraft {
            role_state: superblock.role_state.clone(),
            epoch_history: superblock.epoch_history.clone(),
            memory_lost: superblock.memory_lost,
        };
        change(&mut draft);
        if draft.role_state.len() > crate::format::MAX_ROLE_STATE_BYTES {
            return Err(UpdateError::RoleStateTooLong { len_bytes: draft.role_state.len() });
        }
        let new = Superblock {
            role_state: draft.role_state,
            epoch_history: draft.epoch_history,
            memory_lost: draft.memory_lost,
            ..superblock
        };
        Ok(stored.write(&self.ring, new, self.persisted())?)
    }
}

impl Stored {
    /// Writes `new` to both copies, with the end of what is durable. When the first write fails the state before it
    /// counts, when the second does, either; a log whose superblock cannot be written is of no use anyway.
    fn write(&mut self, ring: &Ring, mut new: Superblock, durable_end: Lsn) -> io::Result<()> {
        self.generation += 1;
        new.generation = self.generation;
        new.durable_end = durable_end;
        new.version = FORMAT_VERSION;
        let bytes = new.encode();
        for _ in 0..2 {
            let copy = 1 - self.copy;
            write_superblock(ring.region(), copy, &bytes)?;
            self.copy = copy;
        }
        self.superblock = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
