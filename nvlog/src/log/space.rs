//! Space: which part of the ring may be overwritten, and moving the tail.
//!
//! Invariants: the tail only moves forward, to a point of the chain that is durable; nothing at or after
//! `min(space floor, tail, hold)` is overwritten. Trimming does not erase: what lies between
//! [`Log::oldest_retained`] and the tail can still be read and sent to a partner that was away.
//! What can go wrong: a hold that comes too late ([`Trimmed`]); the medium fails while the superblock is
//! written (the tail stays).

use super::errors::{TailError, Trimmed};
use super::{Log, NO_HOLD};
use crate::recovery::{Depth, Walker};
use crate::superblock::Superblock;
use ids::{Epoch, LogPoint, Lsn};
use std::io;
use std::sync::atomic::Ordering;

impl Log {
    /// The oldest position that is still needed.
    pub(super) fn needed_from(&self) -> Lsn {
        let floor = self.floor.load(Ordering::Acquire).min(self.hold.load(Ordering::Acquire));
        Lsn(floor.min(self.tail().lsn.0))
    }

    pub(super) fn free_after(&self, reserved: Lsn) -> u64 {
        self.capacity_bytes().saturating_sub(reserved.since(self.needed_from()))
    }

    /// Bytes that can be reserved now, headers and padding included.
    pub fn free_bytes(&self) -> u64 {
        self.free_after(self.reserved())
    }

    /// Everything before `floor` may be overwritten as far as the owner is concerned: the smaller of what is
    /// trimmed here and at the partner. It starts at the tail and never has effect beyond the tail.
    pub fn set_space_floor(&self, floor: Lsn) {
        self.floor.store(floor.0, Ordering::Release);
    }

    /// Oldest position that this process knows not to be overwritten by its own records. After a restart older
    /// bytes may be gone too; [`Log::continues_from`] checks.
    pub fn oldest_retained(&self) -> Lsn {
        Lsn(self.oldest.load(Ordering::Acquire))
    }

    /// Keeps everything from `from` on, whatever is trimmed meanwhile, until the next call. For a partner that
    /// catches up. `None` lets go.
    ///
    /// # Errors
    /// [`Trimmed`] when `from` is overwritten already or lies after the end; the hold is then unchanged.
    pub fn hold(&self, from: Option<Lsn>) -> Result<(), Trimmed> {
        // Under the lock no slot is reserved between the check and the hold.
        let _reserving = self.reserving.lock();
        if let Some(lsn) = from
            && (lsn < self.oldest_retained() || lsn > self.end().lsn)
        {
            return Err(Trimmed { lsn, oldest: self.oldest_retained(), end: self.end().lsn });
        }
        self.hold.store(from.map_or(NO_HOLD, |lsn| lsn.0), Ordering::Release);
        Ok(())
    }

    /// Moves the tail: everything before `to` is applied and flushed. Durable on return. The space floor is the
    /// owner's and does not move with it.
    ///
    /// # Errors
    /// [`TailError`]; the tail is then where it was.
    pub fn advance_tail(&self, to: LogPoint) -> Result<(), TailError> {
        let end = self.end();
        let mut stored = self.superblock.lock();
        let tail = stored.superblock.tail;
        if to == tail {
            return Ok(());
        }
        if to.lsn <= tail.lsn || !self.is_point(to, end) {
            return Err(TailError::NotAPoint { to, tail, end });
        }
        if self.persisted() < to.lsn {
            return Err(TailError::NotDurable { to, persisted: self.persisted() });
        }
        let new = Superblock { tail: to, ..stored.superblock.clone() };
        stored.write(&self.ring, new, self.persisted())?;
        self.tail.set(to);
        Ok(())
    }

    /// From now on the base tree may hold effects of records before `end`; durable on return, and to be called before the
    /// first of them is applied. Everything that an earlier call told must be before `end` too, or applied and flushed.
    ///
    /// # Errors
    /// When the medium fails; nothing may be applied then.
    pub fn begin_applying(&self, end: Lsn) -> io::Result<()> {
        let mut stored = self.superblock.lock();
        if stored.superblock.applying_end == Some(end) {
            return Ok(());
        }
        let new = Superblock { applying_end: Some(end), ..stored.superblock.clone() };
        stored.write(&self.ring, new, self.persisted())
    }

    /// The base tree holds nothing of what lies at or after this: where [`Log::begin_applying`] said, as far as the log
    /// still goes; the log's end where that is not known.
    pub fn applying_end(&self) -> Lsn {
        let (tail, end) = (self.tail().lsn, self.end().lsn);
        let told = self.superblock.lock().superblock.applying_end;
        told.map_or(end, |told| told.clamp(tail, end))
    }

    /// Whether a record of the log, which ends at `end`, begins right after `point` and continues it: one look
    /// at one header, because callers hold points that this log gave them.
    fn is_point(&self, point: LogPoint, end: LogPoint) -> bool {
        if point.lsn >= end.lsn || !point.lsn.0.is_multiple_of(ids::RECORD_ALIGN_BYTES) {
            return point == end;
        }
        let mut walker = Walker { at: point, epoch: Epoch(0), limit: end.lsn };
        walker.step(&*self.ring, Depth::Header).is_ok()
    }
}
