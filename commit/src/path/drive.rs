//! Driving: what the thread does that needs an answer, and what the pump does for records that nobody waits for.
//!
//! Lock order: `mirror`, then `local`, then `cursors`. Whoever drives has the seat of [`super::mirror`].

use super::{CommitPath, MAX_IN_FLIGHT, Mirror, Partner, Reached};
use crate::{Journal, NotServing};
use ids::{AckRule, Cursors, LogPoint, Lsn};
use rdma_transport::LinkError;
use runtime::{Instant, MutexGuard, planted};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest run of records sent as one batch while catching up.
const CATCH_UP_BATCH_BYTES: u64 = 1 << 20;
/// Pause while the partner's ring is full and nothing travels.
const PEER_FULL_PAUSE: Duration = Duration::from_millis(1);
/// How long the driver blocks for the partner's answer before it looks around.
const POLL_WAIT: Duration = Duration::from_millis(20);

const NEVER_OVERRUN: &str = "the log never seals more than its capacity holds";

impl CommitPath {
    /// One step of driving: seal, send, persist, and hear the partner for up to `wait`. Returns whether the partner
    /// kept silent, or had no room.
    pub(super) fn exchange(&self, mirror: &mut Mirror, wait: Duration) -> Result<bool, LinkError> {
        let mut silent = false;
        let sealed = self.log.seal();
        let peer_room_end = self.note_sealed(sealed.lsn);
        self.reached(Reached::Sealed, sealed.lsn);
        if sealed.lsn > mirror.sent.lsn && mirror.sender.in_flight() < MAX_IN_FLIGHT {
            let to = self.batch_end(mirror.sent, sealed, peer_room_end);
            if to.lsn > mirror.sent.lsn {
                mirror.sender.write(to)?;
                mirror.sent = to;
                self.posted.store(to.lsn.0, Ordering::Relaxed);
                self.reached(Reached::Posted, to.lsn);
                if planted!(AckBeforePeerDurable) {
                    self.peer_durable(to, Instant::now());
                }
            } else if mirror.sender.in_flight() == 0 {
                runtime::sleep(PEER_FULL_PAUSE);
                silent = true;
            }
        }
        // Out of memory is answered without the device.
        let persisted_at = match self.rule() {
            AckRule::Memory => None,
            _ => self.persist_sealed(sealed),
        };
        if mirror.sender.in_flight() > 0 {
            match mirror.sender.poll(wait)? {
                Some(held) if mirror.from_memory => {
                    self.reached(Reached::There, held.lsn);
                    self.peer_held(held);
                }
                // Where there is no usable TSC, as in many guests, reading the clock costs more than all else here.
                Some(durable) if !planted!(AckBeforePeerDurable) => {
                    self.reached(Reached::There, durable.lsn);
                    self.peer_durable(durable, persisted_at.unwrap_or_else(Instant::now));
                }
                Some(_) => {}
                None => silent = true,
            }
        }
        Ok(silent)
    }

    /// Where a batch that starts at `from` ends: everything, unless that is far behind, or the partner's ring has
    /// no room. What the partner has not applied is kept by nothing but this from being overwritten there.
    fn batch_end(&self, from: LogPoint, sealed: LogPoint, room_end: Lsn) -> LogPoint {
        if sealed.lsn.since(from.lsn) <= CATCH_UP_BATCH_BYTES && sealed.lsn <= room_end {
            return sealed;
        }
        let mut end = from;
        for record in self.log.records(from, sealed.lsn) {
            // What cannot be read here the partner's chain check would refuse: let it say so.
            let Ok(record) = record else { return if end == from { sealed } else { end } };
            if record.point_after.lsn > room_end {
                break;
            }
            end = record.point_after;
            if end.lsn.since(from.lsn) >= CATCH_UP_BATCH_BYTES {
                break;
            }
        }
        end
    }

    /// Moves the cursors to what is sealed; tells where the room in the partner's ring ends.
    fn note_sealed(&self, sealed: Lsn) -> Lsn {
        let mut cursors = self.cursors.lock();
        cursors.set_sealed(sealed).expect(NEVER_OVERRUN);
        Lsn(cursors.peer_trimmed().0.saturating_add(cursors.capacity_bytes()))
    }

    /// Makes durable here what is sealed; tells when that was done, if there was something to do.
    pub(super) fn persist_sealed(&self, sealed: LogPoint) -> Option<Instant> {
        self.persist_locked(self.local.lock(), sealed)
    }

    /// Makes everything that is published durable here. The log is asked with `local` held: nobody cuts it or begins it anew
    /// meanwhile.
    pub fn persist_all(&self) {
        if self.is_log_given_up() {
            return;
        }
        let local = self.local.lock();
        let sealed = self.log.seal();
        self.persist_locked(local, sealed);
    }

    fn persist_locked(&self, mut local: MutexGuard<'_, LogPoint>, sealed: LogPoint) -> Option<Instant> {
        if sealed.lsn <= local.lsn {
            return None;
        }
        let begun = Instant::now();
        if let Err(error) = self.log.persist(local.lsn, sealed.lsn) {
            drop(local);
            self.close(NotServing::LogFailed);
            self.events.log_failed(error.to_string());
            return None;
        }
        let done = Instant::now();
        self.reached(Reached::Here, sealed.lsn);
        *local = sealed;
        let released = {
            let mut cursors = self.cursors.lock();
            // A solo node comes here without a look at its partner's ring.
            cursors.set_sealed(sealed.lsn).expect(NEVER_OVERRUN);
            cursors
                .set_local_durable(sealed.lsn)
                .expect("whoever persists holds `local` until the cursor has followed");
            (cursors.committed(), cursors.answerable())
        };
        drop(local);
        self.metrics.persist.observe(done.duration_since(begun));
        self.publish(released);
        Some(done)
    }

    pub(super) fn peer_durable(&self, durable: LogPoint, seen: Instant) {
        self.note_partner(&mut self.partner.lock(), durable, seen);
        self.move_cursors(|cursors| cursors.set_peer_durable(durable))
            .expect("the sender reports only what it was given");
    }

    /// What the partner has durably need not be kept for it any longer.
    pub(super) fn note_partner(&self, partner: &mut Partner, durable: LogPoint, seen: Instant) {
        if partner.holding
            && let Err(error) = self.hold_from(Some(durable.lsn))
        {
            tracing::warn!(%error, "the log no longer holds what the partner acknowledged");
        }
        (partner.at, partner.seen) = (durable, seen);
    }

    /// Moves the cursors, and tells those who wait for that.
    pub(super) fn move_cursors<T>(&self, change: impl FnOnce(&mut Cursors) -> T) -> T {
        let (outcome, released) = {
            let mut cursors = self.cursors.lock();
            let outcome = change(&mut cursors);
            (outcome, (cursors.committed(), cursors.answerable()))
        };
        self.publish(released);
        outcome
    }

    /// After the cursors moved: everything before these is committed, and answerable.
    pub(super) fn publish(&self, (committed, answerable): (Lsn, Lsn)) {
        // Looked at first: half of the time they have moved already, and a look is cheaper than a change.
        let moves = |shown: &AtomicU64, to: Lsn| {
            shown.load(Ordering::SeqCst) < to.0 && shown.fetch_max(to.0, Ordering::SeqCst) < to.0
        };
        if moves(&self.committed, committed) {
            self.sync_waiters.wake_satisfied(committed);
            self.syncs.give(committed);
        }
        if moves(&self.answerable, answerable) {
            self.reached(Reached::Answerable, answerable);
            self.waiters.wake_satisfied(answerable);
            self.answers.give(answerable);
            if self.queue.waits_for(answerable) {
                self.gate.bell().ring();
            }
        }
    }

    /// Everything before `to` has come so far, which is noted of the commit that is followed.
    fn reached(&self, what: Reached, to: Lsn) {
        self.trace.reached(what, to, &self.metrics.stages);
    }

    pub(super) fn lose_mirror(&self, mut mirror: MutexGuard<'_, Option<Mirror>>, error: LinkError) {
        if let Some(lost) = self.partner_ended(mirror.take()) {
            drop(mirror);
            self.events.mirror_lost(lost.link, error);
        }
    }

    /// Drives until `lsn` is answerable, the rule changes, or there is nothing to drive with; if it is `hasty`, also
    /// until the partner keeps silent for one poll. Returns whether the caller should look again at once.
    pub(super) fn drive(&self, lsn: Lsn, hasty: bool) -> bool {
        match self.rule() {
            AckRule::Nobody => false,
            AckRule::Local => {
                self.persist_sealed(self.log.seal());
                self.answerable() < lsn && self.rule() == AckRule::Local && {
                    // An earlier record is still being filled by another thread.
                    runtime::yield_now();
                    true
                }
            }
            // The devices have to follow, which others see to.
            _ if self.is_held(lsn) => {
                self.hasten(lsn);
                false
            }
            rule @ (AckRule::Both | AckRule::Memory) => {
                let Some(mut mirror) = self.try_seat() else { return false };
                let mut alive = true;
                while let Some(link) = mirror.as_mut() {
                    let over = self.answerable() >= lsn || self.rule() != rule || self.is_held(lsn);
                    if over || self.is_seat_wanted() || self.check_open().is_err() {
                        break;
                    }
                    match self.exchange(link, POLL_WAIT) {
                        Ok(true) if hasty => {
                            alive = false;
                            break;
                        }
                        Ok(_) => {}
                        Err(error) => {
                            self.lose_mirror(mirror, error);
                            self.wake_next();
                            return false;
                        }
                    }
                    if link.sender.in_flight() == 0 && self.answerable() < lsn {
                        runtime::yield_now();
                    }
                }
                let there = mirror.is_some();
                drop(mirror);
                // Whoever waits next finds the lock free, or was satisfied on the way.
                if there {
                    self.wake_next();
                }
                alive && there
            }
        }
    }

    /// Lets the next one drive: a thread that waits, or the one that drives for answers nobody waits for.
    pub(super) fn wake_next(&self) {
        self.waiters.wake_next();
        if !self.answers.is_empty() {
            self.owing.ring_always();
        }
    }

    /// Could a thread that looks now drive? Under `local` always; under `both` when a link is there and nobody
    /// has it.
    pub(crate) fn can_drive(&self) -> bool {
        match self.rule() {
            AckRule::Nobody => false,
            AckRule::Local => true,
            AckRule::Both | AckRule::Memory => self.try_seat().is_some_and(|mirror| mirror.is_some()),
        }
    }
}
