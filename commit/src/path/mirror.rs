//! Who sits in the driver's seat: starting and stopping to mirror, and moving what nobody waits for.
//!
//! The lock of the mirror is the seat. A driver keeps it while its own record is not committed, which may be for as
//! long as the partner's ring has no room; so whoever wants the seat for good says so ([`CommitPath::take_seat`]), and
//! drivers leave it. Invariant: whoever takes the seat and leaves it wakes the next, because those who found it wanted
//! have parked. What can go wrong: the link does not take the sender, or fails while it is driven.

use super::{CommitPath, Mirror};
use ids::{AckRule, AnswerFrom, LogPoint};
use rdma_transport::{LinkError, MirrorSender};
use runtime::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl CommitPath {
    /// Starts to mirror over `sender` what lies after `from`, which the partner has durably. What it acknowledges further
    /// on is in its memory, if answers come `from` there, else in its log.
    ///
    /// # Errors
    /// When the link does not take it.
    pub fn start_mirror(
        &self,
        link: u64,
        mut sender: Box<dyn MirrorSender>,
        from: LogPoint,
        answers: AnswerFrom,
    ) -> Result<(), LinkError> {
        let Some(mut mirror) = self.take_seat() else { return Err(LinkError::Closed) };
        let started = sender.start(from);
        if started.is_ok() {
            let from_memory = answers == AnswerFrom::Memory;
            *mirror = Some(Mirror { link, sender, sent: from, from_memory });
            self.partner_starts(link, from, from_memory);
            self.posted.store(from.lsn.0, Ordering::Relaxed);
        }
        drop(mirror);
        self.wake_next();
        started
    }

    /// Stops to mirror, and gives the sender back. Waits for a driver that is polling, for at most
    /// the time of one poll.
    pub fn stop_mirror(&self) -> Option<(u64, Box<dyn MirrorSender>)> {
        let stopped = self.take_seat().and_then(|mut mirror| self.partner_ended(mirror.take()));
        self.wake_next();
        stopped.map(|mirror| (mirror.link, mirror.sender))
    }

    /// Like [`CommitPath::stop_mirror`], if the mirror uses this link.
    pub fn stop_mirror_of(&self, link: u64) -> Option<Box<dyn MirrorSender>> {
        let stopped = self
            .take_seat()
            .and_then(|mut mirror| self.partner_ended(mirror.take_if(|mirror| mirror.link == link)));
        self.wake_next();
        stopped.map(|mirror| mirror.sender)
    }

    /// Moves records that nobody waits for, and feeds a partner that catches up. Returns whether there is more.
    pub fn pump(&self) -> bool {
        let both = self.rule().waits_for_partner();
        let mut more = false;
        if let Some(mut mirror) = self.try_seat()
            && let Some(link) = mirror.as_mut()
        {
            // Clients drive under the rule `both`; under `local` nobody else uses the link.
            let wait = if both { Duration::ZERO } else { Duration::from_millis(5) };
            match self.exchange(link, wait) {
                Ok(_) => more = link.sent.lsn < self.log.end().lsn || link.sender.in_flight() > 0,
                Err(error) => self.lose_mirror(mirror, error),
            }
        } else if self.rule() == AckRule::Local {
            self.persist_all();
        }
        self.wake_next();
        more
    }

    /// The log's device answers no more: nobody waits for it, or for a driver that does, from now on. Nobody may be served.
    pub fn give_log_up(&self) {
        self.log_given_up.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_log_given_up(&self) -> bool {
        self.log_given_up.load(Ordering::SeqCst)
    }

    /// Waits for a driver to leave its seat, for at most the time of one poll and one write to the log's device. `None`: the
    /// log was given up meanwhile.
    fn take_seat(&self) -> Option<MutexGuard<'_, Option<Mirror>>> {
        self.seat_wanted.fetch_add(1, Ordering::SeqCst);
        let mirror = match self.is_log_given_up() {
            false => Some(self.mirror.lock()),
            true => self.mirror.try_lock(),
        };
        self.seat_wanted.fetch_sub(1, Ordering::SeqCst);
        mirror
    }

    /// The seat, if it is free and nobody waits for it to take the link away.
    pub(super) fn try_seat(&self) -> Option<MutexGuard<'_, Option<Mirror>>> {
        if self.is_seat_wanted() { None } else { self.mirror.try_lock() }
    }

    pub(super) fn is_seat_wanted(&self) -> bool {
        self.seat_wanted.load(Ordering::SeqCst) > 0
    }
}
