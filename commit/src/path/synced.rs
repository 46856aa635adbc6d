//! Answers out of memory: what is held is answered, and goes to both logs' devices behind that.
//!
//! Where the volume is configured so and both nodes hold it, nobody writes to a device on the way to an answer. One thread
//! of each node writes what has come since its last write ([`CommitPath::flush_behind`]); who needs an fsync does it at
//! once, and has the partner told to ([`CommitPath::hasten`]). One write is for all that wait meanwhile.
//!
//! Invariants: `committed` moves by what `persist` and the partner's word say, here as elsewhere; answers are never ahead
//! of it by more than [`Cursors`](ids::Cursors) allows, nor for longer than [`MAX_BEHIND`] twice. What can go wrong: a
//! device that is slow or hangs. Then answers wait for it, and the node is told as a partner that makes no progress is.

use super::{CommitPath, Mirror};
use crate::patience::{Answer, Client, Denied, in_attempt, is_attempt};
use crate::{Journal, NotServing};
use ids::{AckRule, LogPoint, Lsn};
use runtime::{Instant, planted};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time between two writes that nobody waits for.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);
/// How long what was answered at one look may take to be durable, before no more is answered.
const MAX_BEHIND: Duration = Duration::from_millis(50);

/// How far answers are behind the devices.
#[derive(Debug)]
pub(super) struct Behind {
    /// What was answered at the last look at which everything before it was durable.
    mark: Lsn,
    since: Instant,
    held: bool,
}

impl Behind {
    pub fn none() -> Behind {
        Behind { mark: Lsn::ZERO, since: Instant::now(), held: false }
    }
}

impl CommitPath {
    /// Both nodes hold everything before `lsn`: if it is not answerable, driving does not make it so.
    #[inline]
    pub(super) fn is_held(&self, lsn: Lsn) -> bool {
        // Asked several times for each commit.
        self.memory_link.load(Ordering::SeqCst) != 0 && self.is_held_out_of_memory(lsn)
    }

    #[cold]
    fn is_held_out_of_memory(&self, lsn: Lsn) -> bool {
        let cursors = self.cursors.lock();
        match self.rule() {
            AckRule::Memory => cursors.held() >= lsn,
            AckRule::Both => cursors.held().min(cursors.local_durable()) >= lsn,
            AckRule::Nobody | AckRule::Local => false,
        }
    }

    /// The partner holds everything before `held.lsn` in memory.
    pub(super) fn peer_held(&self, held: LogPoint) {
        self.move_cursors(|cursors| cursors.set_peer_held(held))
            .expect("the sender reports only what it was given");
    }

    /// The partner at the other end of `link` told that its log has everything before `durable.lsn`. News of a link that
    /// does not mirror any more, or that are old, are none.
    pub fn partner_is_durable(&self, link: u64, durable: LogPoint) {
        let released = {
            let mut partner = self.partner.lock();
            let mut cursors = self.cursors.lock();
            if self.memory_link.load(Ordering::SeqCst) != link || durable.lsn <= cursors.peer_durable() {
                return;
            }
            if let Err(error) = cursors.set_peer_durable(durable) {
                tracing::warn!(%error, "the partner's word is not believed");
                return;
            }
            let released = (cursors.committed(), cursors.answerable());
            drop(cursors);
            self.note_partner(&mut partner, durable, Instant::now());
            released
        };
        self.publish(released);
    }

    /// What landed here has come to be part of the log, in memory. Writes it at once if somebody waits for that.
    pub fn landed(&self, to: LogPoint) -> Result<(), ids::CursorError> {
        let durable = {
            let mut cursors = self.cursors.lock();
            cursors.set_sealed(to.lsn)?;
            cursors.local_durable()
        };
        if self.wanted.load(Ordering::SeqCst) > durable.0 {
            self.flushing.ring_always();
        }
        Ok(())
    }

    /// Somebody waits until everything before `lsn` is durable here.
    pub fn want_durable(&self, lsn: Lsn) {
        self.wanted.fetch_max(lsn.0, Ordering::SeqCst);
        self.flushing.ring_always();
    }

    /// Everything before `lsn` is to be durable soon: here on this thread, unless another one writes already.
    pub(super) fn hasten(&self, lsn: Lsn) {
        let link = self.memory_link.load(Ordering::SeqCst);
        if link != 0 && self.hastened.fetch_max(lsn.0, Ordering::SeqCst) < lsn.0 {
            self.events.want_partner_durable(lsn);
        }
        if self.cursors.lock().local_durable() >= lsn {
            return;
        }
        let is_free = self.local.try_lock().is_some();
        if is_free {
            self.persist_all();
        } else {
            self.want_durable(lsn);
        }
    }

    /// See [`Journal::sync`].
    pub(super) fn sync_to(&self, lsn: Lsn) -> Result<(), NotServing> {
        self.wait_answerable(lsn)?;
        if self.committed() >= lsn || planted!(FsyncBeforeDurable) {
            return Ok(());
        }
        self.hasten(lsn);
        if self.committed() >= lsn {
            return Ok(());
        }
        if is_attempt() {
            in_attempt(|attempt| attempt.owed_synced = attempt.owed_synced.max(lsn));
            return Ok(());
        }
        self.wait_synced(lsn)
    }

    fn wait_synced(&self, lsn: Lsn) -> Result<(), NotServing> {
        let begun = Instant::now();
        loop {
            self.sync_waiters.register(lsn);
            if self.committed() < lsn && self.check_open().is_ok() {
                runtime::park();
            }
            self.sync_waiters.unregister();
            if self.committed() >= lsn {
                self.metrics.sync.observe(begun.elapsed());
                return Ok(());
            }
            self.check_open()?;
            self.hasten(lsn);
        }
    }

    pub(super) fn answer_when_synced(&self, lsn: Lsn, client: Client, answer: Answer) {
        let (begun, metrics) = (Instant::now(), self.metrics.clone());
        let counted = move |come: Result<(), Denied>| {
            if come.is_ok() {
                metrics.sync.observe(begun.elapsed());
            }
            answer(come);
        };
        self.syncs.add(lsn, client, Box::new(counted));
        let committed = self.committed();
        if committed >= lsn {
            self.syncs.give(committed);
        }
        match self.check_open() {
            // Records that are not mirrored yet are driven like any other's.
            Ok(()) if self.answerable() < lsn => self.owing.ring_always(),
            Ok(()) => {}
            Err(why) => self.syncs.deny_all(why.into()),
        }
    }

    /// Writes to this log's device what has come since, again and again, until [`CommitPath::end_serving`]. `receiving`
    /// tells to whom the partner's part is played at the moment, and `tell` is given that back with what is durable.
    pub fn flush_behind<R>(&self, receiving: impl Fn() -> Option<R>, mut tell: impl FnMut(R, LogPoint)) {
        while !self.ended.load(Ordering::SeqCst) {
            // Looked at before: what was cut off meanwhile is told to nobody who receives after the cut.
            let to = receiving();
            self.persist_all();
            if let Some(to) = to {
                tell(to, *self.local.lock());
            }
            self.flushing.sleep_until(Instant::now() + FLUSH_INTERVAL);
        }
    }

    /// Holds answers back while what was given is not durable for too long. To be called every few milliseconds, by a
    /// thread that waits for no device.
    pub fn watch_behind(&self) {
        if self.rule() != AckRule::Memory {
            return;
        }
        let mut behind = self.behind.lock();
        let hold = if self.committed() >= behind.mark {
            (behind.mark, behind.since) = (self.answerable(), Instant::now());
            false
        } else {
            behind.held || behind.since.elapsed() >= MAX_BEHIND
        };
        if hold == behind.held {
            return;
        }
        behind.held = hold;
        let mark = behind.mark;
        drop(behind);
        self.move_cursors(|cursors| cursors.hold_answers(hold))
            .expect("holding back moves nothing, and letting go what is held");
        if hold {
            self.want_durable(mark);
        }
    }

    /// A link begins to mirror at `from`, which its partner has durably; `from_memory`: what it acknowledges is in memory.
    pub(super) fn partner_starts(&self, link: u64, from: LogPoint, from_memory: bool) {
        let released = {
            let mut partner = self.partner.lock();
            let mut cursors = self.cursors.lock();
            cursors.set_peer_start(from).expect("the partner joins within the log");
            self.memory_link.store(if from_memory { link } else { 0 }, Ordering::SeqCst);
            self.hastened.store(0, Ordering::SeqCst);
            let released = (cursors.committed(), cursors.answerable());
            drop(cursors);
            self.note_partner(&mut partner, from, Instant::now());
            released
        };
        self.publish(released);
    }

    /// Nothing that a partner still says counts.
    pub(super) fn partner_ended(&self, mirror: Option<Mirror>) -> Option<Mirror> {
        if mirror.is_some() {
            let _no_news_meanwhile = self.partner.lock();
            self.memory_link.store(0, Ordering::SeqCst);
            self.posted.store(0, Ordering::Relaxed);
        }
        mirror
    }
}
