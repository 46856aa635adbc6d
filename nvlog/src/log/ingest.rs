//! Receiving: taking over what a peer has written into the ring, and cutting off what it shall not keep.
//!
//! Invariants: the end only moves over records whose chain and payload are right, read from private copies; on
//! any error nothing moves. What is cut off is invalidated on the medium before the call returns, first the
//! header at the cut, so that neither a crash in the middle nor new records of equal content can make an old
//! record continue the chain again.
//! What can go wrong: a peer that lies (typed), a medium that fails while cutting (open the log again).

use super::errors::{ChainError, TruncateError};
use super::{Log, Reserving, Sealing};
use crate::recovery::{CutReason, Depth, Walker};
use crate::superblock::Superblock;
use ids::{Epoch, EpochHistory, EpochStart, LogPoint, Lsn};
use std::io;
use std::sync::atomic::Ordering;

/// Notes in `history` that `epoch` has begun at `first_lsn`, unless it knows.
pub(super) fn note_epoch(history: &mut EpochHistory, epoch: Epoch, first_lsn: Lsn) {
    if history.last().is_none_or(|last| last.epoch < epoch && last.first_lsn <= first_lsn) {
        let pushed = history.push(EpochStart { epoch, first_lsn });
        assert!(pushed.is_ok(), "the order was just checked");
    }
}

impl Log {
    /// The bytes before `to` have landed in the ring: checks that they continue the chain and moves the end
    /// there. Not durable yet; call [`Log::persist`]. Epochs that begin in them enter the epoch history.
    ///
    /// # Errors
    /// [`ChainError`]; nothing has moved then, and what landed is not part of the log.
    pub fn ingest(&self, to: Lsn) -> Result<LogPoint, ChainError> {
        let mut reserving = self.reserving.lock();
        let mut sealing = self.receiving(&reserving)?;
        let end = sealing.end;
        let floor = self.needed_from();
        if to < end.lsn {
            return Err(ChainError::Backwards { end, to });
        }
        if to.since(floor) > self.capacity_bytes() {
            return Err(ChainError::Overrun { floor, to });
        }
        let mut walker = self.walker(&sealing, to);
        let mut epochs = Vec::new();
        while walker.at.lsn < to {
            let at = walker.at;
            let before = walker.epoch;
            match walker.step(&*self.ring, Depth::Payload) {
                Ok(link) if link.header.epoch > before => epochs.push((link.header.epoch, at.lsn)),
                Ok(_) => {}
                // The walker's limit is the claimed end: a record that does not fit under it straddles it, if
                // it fits into the ring at all.
                Err(CutReason::RingFull) => return Err(ChainError::NotABoundary { lsn: at.lsn, to }),
                Err(CutReason::ImpossibleLength) if self.fits_without_claim(at, &sealing) => {
                    return Err(ChainError::NotABoundary { lsn: at.lsn, to });
                }
                Err(reason) => return Err(ChainError::Broken { end, lsn: at.lsn, reason }),
            }
        }
        self.accept(&mut reserving, &mut sealing, &walker, &epochs);
        Ok(walker.at)
    }

    /// Takes over every complete record that continues the chain, as far as it goes: what a node does that
    /// takes over, after its peer can write here no more. Returns the new end and why it stopped there.
    /// [`Log::scrub_beyond_end`] must follow before this node writes in the epoch of those records; the first
    /// record of a new epoch begins a chain that nothing beyond the end can continue.
    ///
    /// # Errors
    /// [`ChainError::Writing`] only.
    pub fn ingest_all(&self) -> Result<(LogPoint, CutReason), ChainError> {
        let mut reserving = self.reserving.lock();
        let mut sealing = self.receiving(&reserving)?;
        let limit = self.needed_from().plus(self.capacity_bytes());
        let mut walker = self.walker(&sealing, limit);
        let mut epochs = Vec::new();
        let cut = loop {
            let (at, before) = (walker.at, walker.epoch);
            match walker.step(&*self.ring, Depth::Payload) {
                Ok(link) if link.header.epoch > before => epochs.push((link.header.epoch, at.lsn)),
                Ok(_) => {}
                Err(cut) => break cut,
            }
        };
        self.accept(&mut reserving, &mut sealing, &walker, &epochs);
        Ok((walker.at, cut))
    }

    fn receiving(&self, reserving: &Reserving) -> Result<parking_lot::MutexGuard<'_, Sealing>, ChainError> {
        let sealing = self.sealing.lock();
        if sealing.end.lsn != reserving.reserved {
            return Err(ChainError::Writing { reserved: reserving.reserved, end: sealing.end });
        }
        self.receiving.store(true, Ordering::Release);
        Ok(sealing)
    }

    fn walker(&self, sealing: &Sealing, limit: Lsn) -> Walker {
        Walker { at: sealing.end, epoch: sealing.epoch, limit }
    }

    fn fits_without_claim(&self, at: LogPoint, sealing: &Sealing) -> bool {
        let limit = self.needed_from().plus(self.capacity_bytes());
        Walker { at, epoch: sealing.epoch, limit }.step(&*self.ring, Depth::Header).is_ok()
    }

    fn accept(
        &self,
        reserving: &mut Reserving,
        sealing: &mut Sealing,
        walker: &Walker,
        epochs: &[(Epoch, Lsn)],
    ) {
        let from = sealing.end.lsn;
        if walker.at.lsn == from {
            return;
        }
        sealing.note_dirty(from, walker.at.lsn);
        sealing.end = walker.at;
        sealing.epoch = walker.epoch;
        reserving.epoch = reserving.epoch.max(walker.epoch);
        self.set_reserved(reserving, walker.at.lsn);
        self.end.set(walker.at);
        if !epochs.is_empty() {
            // In memory only: recovery finds the same by walking, and every move of the tail writes it down.
            let mut stored = self.superblock.lock();
            for (epoch, lsn) in epochs {
                note_epoch(&mut stored.superblock.epoch_history, *epoch, *lsn);
            }
        }
    }

    /// Drops everything after `to`, and every epoch that began at or after it. Durable on return: after that,
    /// nothing that was dropped can continue the chain again, whatever is written at its place.
    ///
    /// # Errors
    /// [`TruncateError`]. Nothing is changed unless the medium failed.
    pub fn truncate(&self, to: LogPoint) -> Result<(), TruncateError> {
        let mut reserving = self.reserving.lock();
        let _turn = self.persisting.lock();
        let mut sealing = self.sealing.lock();
        let (tail, end) = (self.tail(), sealing.end);
        if end.lsn != reserving.reserved {
            return Err(TruncateError::Writing { reserved: reserving.reserved, end });
        }
        let epoch = self.walk_to(to.lsn, end).filter(|walker| walker.at == to).map(|walker| walker.epoch);
        let epoch = epoch.ok_or(TruncateError::NotAPoint { to, tail, end })?;
        let mut stored = self.superblock.lock();
        let mut history = stored.superblock.epoch_history.clone();
        history.truncate(to.lsn);
        self.move_end(&mut reserving, &mut sealing, to, epoch, &history);
        // First the promise: a crash in the middle leaves fewer records than there were, and none is missed.
        let new = Superblock { epoch_history: history, ..stored.superblock.clone() };
        stored.write(&self.ring, new, self.persisted())?;
        self.scrub(to.lsn, tail.lsn)?;
        Ok(())
    }

    /// Invalidates records that have landed beyond the end and are not part of the log. Durable on return.
    ///
    /// # Errors
    /// [`TruncateError::Writing`], or the medium failed.
    pub fn scrub_beyond_end(&self) -> Result<u64, TruncateError> {
        let reserving = self.reserving.lock();
        let sealing = self.sealing.lock();
        if sealing.end.lsn != reserving.reserved {
            return Err(TruncateError::Writing { reserved: reserving.reserved, end: sealing.end });
        }
        Ok(self.scrub(sealing.end.lsn, self.tail().lsn)?)
    }

    /// Drops everything and begins again, empty, at `at`: before this node is filled from another one's state
    /// at that point. Durable on return. A crash in the middle leaves the old tail with fewer records.
    ///
    /// # Errors
    /// [`TruncateError::Writing`], [`TruncateError::NotAPoint`] for an impossible LSN, or the medium failed.
    pub fn reset(&self, at: LogPoint) -> Result<(), TruncateError> {
        let mut reserving = self.reserving.lock();
        let _turn = self.persisting.lock();
        let mut sealing = self.sealing.lock();
        let (tail, end) = (self.tail(), sealing.end);
        if end.lsn != reserving.reserved {
            return Err(TruncateError::Writing { reserved: reserving.reserved, end });
        }
        if !at.lsn.0.is_multiple_of(ids::RECORD_ALIGN_BYTES) || at.lsn.0 > crate::superblock::MAX_LSN {
            return Err(TruncateError::NotAPoint { to: at, tail, end });
        }
        let mut stored = self.superblock.lock();
        let history = EpochHistory::default();
        // The old log goes first, and before it the promise of it: a crash must not leave the old tail with records
        // that were half scrubbed.
        let promised = stored.superblock.clone();
        stored.write(&self.ring, promised, tail.lsn)?;
        self.ring.scrub(tail.lsn, tail.lsn.plus(self.capacity_bytes()))?;
        self.ring.scrub(at.lsn, at.lsn.plus(self.capacity_bytes()))?;
        let new = Superblock {
            tail: at,
            epoch_history: history.clone(),
            applying_end: Some(at.lsn),
            ..stored.superblock.clone()
        };
        stored.write(&self.ring, new, at.lsn)?;
        self.tail.set(at);
        self.floor.store(at.lsn.0, Ordering::Release);
        self.hold.store(super::NO_HOLD, Ordering::Release);
        self.move_end(&mut reserving, &mut sealing, at, Epoch(0), &history);
        self.oldest.store(at.lsn.0, Ordering::Release);
        Ok(())
    }

    fn move_end(
        &self,
        reserving: &mut Reserving,
        sealing: &mut Sealing,
        to: LogPoint,
        epoch: Epoch,
        history: &EpochHistory,
    ) {
        self.receiving.store(true, Ordering::Release);
        sealing.end = to;
        sealing.epoch = epoch;
        sealing.dirty.retain_mut(|(from, end)| {
            *end = (*end).min(to.lsn);
            *from < *end
        });
        let begun = history.last().map_or(Epoch(0), |last| last.epoch);
        reserving.epoch = begun.max(epoch);
        self.set_reserved(reserving, to.lsn);
        self.end.set(to);
        let persisted = if sealing.dirty.is_empty() { to.lsn } else { self.persisted().min(to.lsn) };
        self.persisted.store(persisted.0, Ordering::Release);
    }

    fn scrub(&self, from: Lsn, tail: Lsn) -> io::Result<u64> {
        self.ring.scrub(from, tail.plus(self.capacity_bytes()))
    }
}
