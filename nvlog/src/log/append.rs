//! Writing: reserve, publish, seal, persist.
//!
//! Threads reserve in turn (a short lock), copy and checksum their payloads at the same time, and one of them
//! seals: it chains the headers of all records that are published without a gap. Persisting writes back what
//! is not durable yet, a whole batch at once.
//!
//! Invariants: LSNs follow the order of `reserve`; a header is only written by the sealer, so a record without
//! its chain position never looks complete; a slot that is dropped becomes a no-op record, so a thread that
//! fails never stalls the chain.
//! What can go wrong: the ring is full or too many records are in flight (typed, nothing reserved); the medium
//! fails (the range stays dirty and the next persist tries again).
//!
//! Rejected: a lock-free reservation by fetch-and-add. It cannot take back an overrun of the ring, and the
//! uncontended lock costs about as much.

use super::cells::Published;
use super::errors::{PersistError, ReserveError, UpdateError};
use super::{Log, Reserving, Sealing};
use crate::format::{HEADER_BYTES, record_bytes};
use crate::record::{PayloadCrc, RecordKind, encode};
use crate::region::Stored;
use ids::{Epoch, EpochStart, LogPoint, Lsn};
use std::io;
use std::sync::atomic::Ordering;

/// Space for one record. Publish it soon: records after it cannot be sealed before.
#[must_use = "a slot that is dropped becomes a no-op record"]
pub struct Slot<'a> {
    log: &'a Log,
    index: u64,
    lsn: Lsn,
    payload_len: u32,
    epoch: Epoch,
    kind: RecordKind,
}

impl Slot<'_> {
    /// Start of the record.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// End of the record; the record is durable when [`Log::persisted`] reaches it.
    pub fn end_lsn(&self) -> Lsn {
        self.lsn.plus(record_bytes(u64::from(self.payload_len)))
    }

    /// Start of the payload, which is contiguous in the ring.
    pub fn payload_lsn(&self) -> Lsn {
        self.lsn.plus(HEADER_BYTES as u64)
    }

    /// The epoch that the record carries.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Copies `parts`, one after the other, and hands the record to the sealer.
    ///
    /// # Panics
    /// When the parts do not add up to the reserved length, which is a program bug.
    pub fn publish(self, parts: &[&[u8]]) {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        assert_eq!(total, self.payload_len as usize, "the parts of a payload add up to the reserved length");
        let mut crc = PayloadCrc::default();
        let stored = self.log.ring.store(self.payload_lsn(), parts, &mut |piece| crc.add(piece));
        let payload_crc = if total == 0 { 0 } else { crc.finish() };
        self.fill(self.kind, payload_crc, stored);
        std::mem::forget(self);
    }

    fn fill(&self, kind: RecordKind, payload_crc: u32, stored: Stored) {
        let (epoch, payload_len) = (self.epoch, self.payload_len);
        self.log.slot(self.index).fill(Published { kind, epoch, payload_len, payload_crc, stored });
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // The payload means nothing, so it is as durable as it needs to be.
        self.fill(RecordKind::Noop, 0, Stored::Durable);
    }
}

impl Log {
    /// Reserves space for a payload of `payload_len` bytes. Never waits for space. LSNs follow the order of the
    /// calls. At the ring's end a pad record is put in, so that payloads are contiguous.
    ///
    /// # Errors
    /// [`ReserveError`]; nothing is reserved then.
    pub fn reserve(&self, payload_len: usize) -> Result<Slot<'_>, ReserveError> {
        let mut reserving = self.reserving.lock();
        match self.reserve_locked(&mut reserving, payload_len, RecordKind::Data) {
            Err(ReserveError::TooManyInFlight) => {
                // Nobody has sealed for long: do it here, which frees the slots unless an old one is unpublished.
                drop(reserving);
                self.seal();
                self.reserve_locked(&mut self.reserving.lock(), payload_len, RecordKind::Data)
            }
            result => result,
        }
    }

    fn reserve_locked(
        &self,
        reserving: &mut Reserving,
        payload_len: usize,
        kind: RecordKind,
    ) -> Result<Slot<'_>, ReserveError> {
        let max_bytes = self.max_payload_bytes();
        if payload_len as u64 > max_bytes {
            return Err(ReserveError::TooLarge { payload_len: payload_len as u64, max_bytes });
        }
        let record_len = record_bytes(payload_len as u64);
        let to_ring_end = self.ring.to_ring_end(reserving.reserved);
        let pad_len = if record_len > to_ring_end { to_ring_end } else { 0 };
        let needs_bytes = pad_len + record_len;
        let free_bytes = self.free_after(reserving.reserved);
        if needs_bytes > free_bytes {
            return Err(ReserveError::Full { needs_bytes, free_bytes });
        }
        let in_flight = reserving.next_slot - self.sealed_slots.load(Ordering::Acquire);
        if in_flight + 2 > Log::MAX_IN_FLIGHT_RECORDS as u64 {
            return Err(ReserveError::TooManyInFlight);
        }
        if pad_len > 0 {
            self.slot(reserving.next_slot).fill(Published {
                kind: RecordKind::Pad,
                epoch: reserving.epoch,
                payload_len: (pad_len - HEADER_BYTES as u64) as u32,
                payload_crc: 0,
                stored: Stored::Durable,
            });
            reserving.next_slot += 1;
            reserving.reserved = reserving.reserved.plus(pad_len);
        }
        let slot = Slot {
            log: self,
            index: reserving.next_slot,
            lsn: reserving.reserved,
            payload_len: payload_len as u32,
            epoch: reserving.epoch,
            kind,
        };
        reserving.next_slot += 1;
        self.set_reserved(reserving, slot.end_lsn());
        self.receiving.store(false, Ordering::Relaxed);
        Ok(slot)
    }

    /// Moves `reserved` and what follows from it. The store is ordered before the writes that overwrite what is
    /// no longer retained: see [`Log::copy_out`].
    pub(super) fn set_reserved(&self, reserving: &mut Reserving, to: Lsn) {
        reserving.reserved = to;
        self.reserved.store(to.0, Ordering::Release);
        let oldest = to.0.saturating_sub(self.capacity_bytes());
        if oldest > self.oldest.load(Ordering::Relaxed) {
            self.oldest.store(oldest, Ordering::Relaxed);
            std::sync::atomic::fence(Ordering::Release);
        }
    }

    fn slot(&self, index: u64) -> &super::SlotCell {
        &self.slots[index as usize % Log::MAX_IN_FLIGHT_RECORDS]
    }

    /// Chains all records that are published without a gap, and returns the new end. Cheap when there are none.
    pub fn seal(&self) -> LogPoint {
        self.seal_locked(&mut self.sealing.lock())
    }

    /// [`Log::seal`] and [`Log::persist`] of all that is sealed then, for one lock less: for who mirrors
    /// nothing in between. Returns the end, which is durable.
    ///
    /// # Errors
    /// As [`Log::persist`]; the records are sealed then.
    pub fn seal_and_persist(&self) -> Result<LogPoint, PersistError> {
        if self.ring.region().persists_quickly() {
            let mut sealing = self.sealing.lock();
            let from = sealing.end.lsn;
            let end = self.seal_locked(&mut sealing);
            let done = self.persist_locked(&mut sealing);
            return done.map(|()| end).map_err(|source| PersistError { from, to: end.lsn, source });
        }
        let end = self.seal();
        self.persist(self.persisted(), end.lsn)?;
        Ok(end)
    }

    fn seal_locked(&self, sealing: &mut Sealing) -> LogPoint {
        let before = sealing.next_slot;
        while let Some(record) = self.slot(sealing.next_slot).take() {
            self.seal_one(sealing, record);
        }
        if sealing.next_slot != before {
            self.sealed_slots.store(sealing.next_slot, Ordering::Release);
            self.end.set(sealing.end);
        }
        sealing.end
    }

    fn seal_one(&self, sealing: &mut Sealing, record: Published) {
        let LogPoint { lsn, crc } = sealing.end;
        let (header, crc) =
            encode(record.kind, lsn, record.epoch, record.payload_len, record.payload_crc, crc);
        self.ring.write_header(lsn, &header);
        let end = lsn.plus(record_bytes(u64::from(record.payload_len)));
        let dirty_to = if record.stored == Stored::Durable { lsn.plus(HEADER_BYTES as u64) } else { end };
        sealing.note_dirty(lsn, dirty_to);
        sealing.end = LogPoint { lsn: end, crc };
        sealing.epoch = record.epoch;
        sealing.next_slot += 1;
    }

    /// Makes everything that is sealed or ingested before `to` durable, at the latest when it returns. What is
    /// already durable costs nothing, so `from` only names the range in errors.
    ///
    /// # Errors
    /// [`PersistError`]: the medium failed; nothing is taken for durable and the next call tries again.
    pub fn persist(&self, from: Lsn, to: Lsn) -> Result<(), PersistError> {
        if self.persisted() >= to {
            return Ok(());
        }
        // One at a time: who waits here finds, when its turn comes, that the work is done.
        let failed = |source| PersistError { from, to, source };
        if self.ring.region().persists_quickly() {
            let mut sealing = self.sealing.lock();
            check_sealed(&sealing, to).map_err(failed)?;
            return self.persist_locked(&mut sealing).map_err(failed);
        }
        let _turn = self.persisting.lock();
        if self.persisted() >= to {
            return Ok(());
        }
        let (mut ranges, end) = {
            let mut sealing = self.sealing.lock();
            check_sealed(&sealing, to).map_err(failed)?;
            (std::mem::take(&mut sealing.dirty), sealing.end.lsn)
        };
        match self.write_ranges(&ranges) {
            Ok(()) => {
                self.persisted.fetch_max(end.0, Ordering::AcqRel);
                Ok(())
            }
            Err(source) => {
                let mut sealing = self.sealing.lock();
                ranges.append(&mut sealing.dirty);
                sealing.dirty = ranges;
                Err(failed(source))
            }
        }
    }

    fn persist_locked(&self, sealing: &mut Sealing) -> io::Result<()> {
        self.write_ranges(&sealing.dirty)?;
        sealing.dirty.clear();
        self.persisted.store(sealing.end.lsn.0, Ordering::Release);
        Ok(())
    }

    fn write_ranges(&self, ranges: &[(Lsn, Lsn)]) -> io::Result<()> {
        ranges.iter().try_for_each(|(from, to)| self.ring.persist(*from, *to))
    }

    /// New records carry `epoch` from now on. [`Log::append_epoch_record`] does this and more.
    ///
    /// # Errors
    /// [`UpdateError::Epoch`] when it is lower than that of earlier records.
    pub fn set_epoch(&self, epoch: Epoch) -> Result<(), UpdateError> {
        let mut reserving = self.reserving.lock();
        if epoch < reserving.epoch {
            return Err(self.epoch_refused(epoch, &reserving));
        }
        reserving.epoch = epoch;
        Ok(())
    }

    /// Begins `epoch`: makes its entry in the epoch history durable, then writes its first record, of kind
    /// [`RecordKind::Epoch`], with `payload`. Returns the point after it, which is durable here.
    ///
    /// # Errors
    /// [`UpdateError`]. When the epoch does not ascend, records are in flight, or there is no space, nothing
    /// has changed; when the medium failed, a no-op record of the new epoch may stand in the log.
    pub fn append_epoch_record(&self, epoch: Epoch, payload: &[u8]) -> Result<LogPoint, UpdateError> {
        let end = self.seal();
        // What lies before the epoch is durable before its entry in the history is.
        self.persist(self.persisted(), end.lsn)?;
        {
            let mut reserving = self.reserving.lock();
            let began = self.superblock.lock().superblock.epoch_history.last();
            let start = EpochStart { epoch, first_lsn: reserving.reserved };
            let follows = began.is_none_or(|last| epoch > last.epoch && last.first_lsn <= start.first_lsn);
            if reserving.reserved != end.lsn || epoch < reserving.epoch || !follows {
                return Err(self.epoch_refused(epoch, &reserving));
            }
            let before = std::mem::replace(&mut reserving.epoch, epoch);
            let slot = match self.reserve_locked(&mut reserving, payload.len(), RecordKind::Epoch) {
                Ok(slot) => slot,
                Err(error) => {
                    reserving.epoch = before;
                    return Err(error.into());
                }
            };
            self.note_epoch_durably(start)?;
            slot.publish(&[payload]);
        }
        let end = self.seal();
        self.persist(self.persisted(), end.lsn)?;
        Ok(end)
    }

    fn note_epoch_durably(&self, start: EpochStart) -> Result<(), UpdateError> {
        let mut stored = self.superblock.lock();
        let mut new = stored.superblock.clone();
        let pushed = new.epoch_history.push(start);
        assert!(pushed.is_ok(), "the epoch was checked to ascend, and the log only grows");
        Ok(stored.write(&self.ring, new, self.persisted())?)
    }

    fn epoch_refused(&self, new: Epoch, reserving: &Reserving) -> UpdateError {
        UpdateError::Epoch { new, now: reserving.epoch, end: self.end().lsn, reserved: reserving.reserved }
    }
}

fn check_sealed(sealing: &Sealing, to: Lsn) -> io::Result<()> {
    if sealing.end.lsn < to {
        return Err(io::Error::other("records up to there are not sealed yet"));
    }
    Ok(())
}
