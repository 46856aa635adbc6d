//! Serving those who wait without a thread: see [`crate::attempt`].
//!
//! Two kinds of threads do it, and the node starts them. One drives for answers that are owed: it is one more waiter of
//! the commit path, which waits for the last of them. Some try parked requests again. Those never read the base, which
//! may hang; what has to goes on to further threads that do nothing else ([`CommitPath::serve_base`]).

use super::{
    Answer, Ask, Client, CommitPath, Denied, Hindrance, Journal, LEASE_PATIENCE, NotServing, Parked, Refused,
    Step, Wait, in_attempt,
};
use crate::Admission;
use crate::base_reads::{self, Place};
use crate::patience::Attempt;
use crate::queue::{Next, Seen};
use ids::Lsn;
use runtime::Instant;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Answers that may be owed at once. Whoever brings one more waits for it on its own thread.
const MAX_OWED: usize = 1 << 16;
/// How long a request has to wait before its client is asked whether it is still there, and how often.
const ASK_CLIENTS_EVERY: Duration = Duration::from_secs(1);
/// How long a thread that tries parked requests sleeps when there are none; it is rung for the first.
const IDLE_LOOK: Duration = Duration::from_secs(10);
/// How often the first in line asks for a consistency point that makes room in the log.
const STAND_BEHIND: Duration = Duration::from_millis(50);

impl CommitPath {
    pub(super) fn admit_attempt(&self, ask: Ask, starved: impl Fn()) -> Result<Admission, Refused> {
        let step = in_attempt(|attempt| {
            if attempt.wait.is_some() {
                // It could not find out all that it asked the base: nothing may come of it.
                return Err(NotServing::MustWait.into());
            }
            let step = match !attempt.has_waited && self.queue.has_line() {
                true => Ok(Step::Wait(behind(ask))),
                false => self.gate.try_admit(ask, &mut attempt.progress, || self.log.reserved(), starved),
            }?;
            if let Step::Wait(hindrance) = &step {
                attempt.wait = Some(Wait::Admission(*hindrance));
            }
            Ok::<Step, Refused>(step)
        });
        match step.unwrap_or(Err(NotServing::Stopping.into()))? {
            Step::In(admission) => Ok(admission),
            Step::Wait(_) => Err(NotServing::MustWait.into()),
        }
    }

    /// Drives for as long as the partner usually takes, then owes the rest.
    pub(super) fn drive_or_owe(&self, lsn: Lsn) -> Result<(), NotServing> {
        while self.drive(lsn, true) && self.answerable() < lsn {
            self.check_open()?;
        }
        if self.answerable() >= lsn {
            return Ok(());
        }
        self.check_open()?;
        in_attempt(|attempt| attempt.owed = attempt.owed.max(lsn));
        Ok(())
    }

    /// There is no lease: the attempt waits for one, unless it has for long enough.
    pub(super) fn wait_for_lease(&self, attempt: &mut Attempt) -> Result<(), NotServing> {
        self.check_open()?;
        let now = Instant::now();
        let until = *attempt.lease_patience.get_or_insert(now + LEASE_PATIENCE);
        if now >= until {
            return Err(NotServing::Frozen);
        }
        attempt.wait = Some(Wait::Lease { until });
        Err(NotServing::MustWait)
    }

    pub(super) fn answer_when_answerable(&self, lsn: Lsn, client: Client, answer: Answer) {
        if self.answers.len() >= MAX_OWED {
            return answer(self.wait_answerable(lsn).map_err(Denied::from));
        }
        self.answers.add(lsn, client, answer);
        let answerable = self.answerable();
        if answerable >= lsn {
            self.answers.give(answerable);
        }
        match self.check_open() {
            // Whoever has the seat looks for answers that are owed when it leaves.
            Ok(()) if self.can_drive() => self.owing.ring_always(),
            Ok(()) => {}
            Err(why) => self.answers.deny_all(why.into()),
        }
    }

    pub(super) fn park_request(&self, request: Parked) {
        if let Err(refused) = self.queue.add(request) {
            tracing::warn!("a request is refused: too many wait already");
            return refused.deny(Denied::TooMany);
        }
        self.wake_for_parked();
    }

    /// After a request was parked.
    fn wake_for_parked(&self) {
        if let Err(why) = self.check_open() {
            self.queue.deny_all(why.into());
        }
        if self.queue.last_commit().is_some() {
            self.owing.ring_always();
        }
        self.base_bell.ring_always();
        self.gate.bell().mute(false);
        self.gate.bell().ring_always();
    }

    /// Tells all who wait without a thread that they are not served.
    pub(super) fn deny_waiting(&self, why: NotServing) {
        self.answers.give(self.answerable());
        self.answers.deny_all(why.into());
        self.syncs.give(self.committed());
        self.syncs.deny_all(why.into());
        self.queue.deny_all(why.into());
    }

    /// How many requests wait without a thread: to go on, and to be answered.
    pub fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.answers.len() + self.syncs.len())
    }

    /// Drives for answers that are owed, until [`CommitPath::end_serving`].
    pub fn drive_for_answers(&self) {
        let mut asked = Instant::now();
        while !self.ended.load(Ordering::SeqCst) {
            if asked.elapsed() >= ASK_CLIENTS_EVERY {
                self.answers.let_go(ASK_CLIENTS_EVERY);
                self.syncs.let_go(ASK_CLIENTS_EVERY);
                self.queue.let_go(ASK_CLIENTS_EVERY);
                asked = Instant::now();
            }
            let wanted = self.answers.last().max(self.syncs.last()).max(self.queue.last_commit());
            if let Some(lsn) = wanted {
                self.drive_on(lsn);
            }
            self.answers.give(self.answerable());
            if let Err(why) = self.check_open() {
                self.deny_waiting(why);
            }
            self.owing.sleep_until(Instant::now() + ASK_CLIENTS_EVERY);
        }
    }

    /// Drives for others as long as the partner answers. The seat may be taken; then that driver goes on, and rings when
    /// it leaves.
    fn drive_on(&self, lsn: Lsn) {
        while self.answerable() < lsn && self.drive(lsn, true) && self.check_open().is_ok() {}
        if self.answerable() < lsn && !self.is_held(lsn) && self.can_drive() {
            self.owing.ring_always();
        }
    }

    /// Tries parked requests again that have to read the base, until [`CommitPath::end_serving`]. If that hangs, so do the
    /// threads here, and nobody else.
    pub fn serve_base(&self) {
        base_reads::be(Place::Base);
        while !self.ended.load(Ordering::SeqCst) {
            let Some((request, more)) = self.queue.next_for_base() else {
                self.base_bell.sleep_until(Instant::now() + IDLE_LOOK);
                continue;
            };
            if more {
                self.base_bell.ring_always();
            }
            self.try_again(request);
        }
        // For the next of these threads.
        self.base_bell.ring_always();
    }

    fn try_again(&self, request: Parked) {
        if let Some(again) = request.try_again() {
            self.queue.add_again(again);
            self.wake_for_parked();
        }
    }

    /// Tries other parked requests again when they may go on, until [`CommitPath::end_serving`]. Several threads may be
    /// here.
    pub fn serve_parked(&self) {
        base_reads::be(Place::Parked);
        let bell = self.gate.bell();
        while !self.ended.load(Ordering::SeqCst) {
            let seen = Seen {
                gate: &self.gate,
                reserved: self.log.reserved(),
                answerable: self.answerable(),
                has_lease: self.now_ms() < self.lease_until_ms.load(Ordering::SeqCst),
            };
            let at = match self.queue.next(&seen) {
                Next::Try(request) => {
                    if !self.queue.is_empty() {
                        // The next one need not wait for this one.
                        bell.ring_always();
                    }
                    self.try_again(request);
                    continue;
                }
                Next::At(at) => at,
                Next::Idle => {
                    bell.mute(true);
                    if !self.queue.is_empty() {
                        bell.mute(false);
                        continue;
                    }
                    Instant::now() + IDLE_LOOK
                }
            };
            bell.sleep_until(at);
        }
        // For the next of these threads.
        bell.ring_always();
    }

    /// Ends the threads that serve those who wait without one.
    pub fn end_serving(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.owing.ring_always();
        self.flushing.ring_always();
        self.gate.bell().ring_always();
        self.base_bell.ring_always();
    }
}

/// Who has not waited yet stands behind those who have.
fn behind(ask: Ask) -> Hindrance {
    Hindrance::LogFull { log_bytes: ask.payload_bytes, ask_again: Instant::now() + STAND_BEHIND }
}
