//! The acknowledgement path: from a published record to "both logs hold it".
//!
//! There is no commit thread. The client thread that needs an answer drives: it seals what has been
//! published (its own record and everybody else's), sends that to the partner, makes it durable here while it
//! is on the wire, and polls for the partner's answer. Other client threads find the driver's lock taken and
//! park; one wakes when it is satisfied or chosen to drive next. So a batch gathers while another is in
//! flight, an idle pair sends at once, and a lone write wakes no other thread of its node. A thread of its
//! own that all writers hand over to was not chosen: it costs two wake-ups for each write.
//!
//! Invariants: `committed` and `answerable` only move as [`Cursors`] allows, under its lock; an acknowledgement rule change
//! takes that lock too, so after `set_rule(Nobody)` returns nothing more is released. What can go wrong: the
//! link fails under the driver (it reports once and parks like the others until the rule changes or a new
//! link comes), the log's memory fails (the volume stops serving).

mod drive;
mod mirror;
mod serve;
mod synced;
mod trace;

use super::answers::Answers;
use super::base_reads;
use super::bell::Bell;
use super::gate::{Hindrance, Step};
use super::patience::{Wait, in_attempt, is_attempt};
use super::queue::Queue;
use super::waiters::Waiters;
use super::{
    Admission, Answer, Ask, Client, Denied, Gate, Journal, NotServing, Parked, Refused, SpaceBudget,
};
use admin_api::metrics::{Stage, VolumeMetrics};
use ids::{AckRule, CursorError, Cursors, LogPoint, Lsn, Oid};
use nvlog::{Log, Trimmed, TruncateError};
use rdma_transport::{LinkError, MirrorSender};
use runtime::{Instant, Mutex, Uptime, mark, planted};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use synced::Behind;
use trace::{Reached, Sampler, Trace};

/// Batches on the wire at once: one travels while the next gathers and follows.
const MAX_IN_FLIGHT: usize = 2;
/// Records that are counted for status, one after the other.
const MAX_COUNTED_RECORDS: usize = 100_000;
/// How long a read waits for a lease to be renewed before the client is told.
const LEASE_PATIENCE: Duration = Duration::from_secs(30);

/// Problems the node's runtime has to hear of.
pub trait CommitEvents: Send + Sync {
    /// The mirror link numbered `link` failed.
    fn mirror_lost(&self, link: u64, error: LinkError);
    /// This node's log cannot be written any more.
    fn log_failed(&self, error: String);
    /// Space runs out: a consistency point would help.
    fn want_consistency_point(&self);
    /// The partner's log should have everything before `lsn` soon: somebody waits for it.
    fn want_partner_durable(&self, _lsn: Lsn) {}
    /// Has the partner blocks for a range of a file, after what was `committed`? False also when it does not answer.
    fn partner_has_room(&self, _committed: Lsn, _oid: Oid, _range: Range<u64>) -> bool {
        false
    }
}

struct Mirror {
    link: u64,
    sender: Box<dyn MirrorSender>,
    sent: LogPoint,
    /// What the partner acknowledges is in its memory; what is in its log it tells otherwise.
    from_memory: bool,
}

/// What is known of the partner's log.
struct Partner {
    /// It catches up: what it has not got yet must stay in the log.
    holding: bool,
    /// The last point that it acknowledged.
    at: LogPoint,
    /// When it did, to within the time that a driver waits for an answer; or was seen to lack nothing since.
    seen: Instant,
}

const OPEN: u8 = 0;

/// The commit path of one volume on one node.
pub struct CommitPath {
    log: Arc<Log>,
    gate: Arc<Gate>,
    metrics: Arc<VolumeMetrics>,
    events: Box<dyn CommitEvents>,
    cursors: Mutex<Cursors>,
    committed: AtomicU64,
    answerable: AtomicU64,
    /// Everything before it is durable here. The lock is held while persisting.
    local: Mutex<LogPoint>,
    mirror: Mutex<Option<Mirror>>,
    /// Everything before it was sent over the mirror's link; 0: there is none.
    posted: AtomicU64,
    /// Threads that wait for `mirror` to start or stop mirroring; drivers make way.
    seat_wanted: AtomicUsize,
    /// See [`CommitPath::give_log_up`].
    log_given_up: AtomicBool,
    waiters: Waiters,
    /// Ready, and waiting to be answerable.
    answers: Answers,
    /// Those who wait for an fsync: threads, and answers that are ready.
    sync_waiters: Waiters,
    syncs: Answers,
    /// Wakes the thread that writes behind answers.
    flushing: Bell,
    /// Somebody waits until everything before it is durable here; and at the partner, who was told so.
    wanted: AtomicU64,
    hastened: AtomicU64,
    /// The link over which the partner acknowledges out of memory; 0: there is none.
    memory_link: AtomicU64,
    behind: Mutex<Behind>,
    /// Wakes the thread that drives for answers which no thread waits for.
    owing: Bell,
    /// Requests that wait without a thread.
    queue: Queue,
    /// Wakes a thread for those that have to read the base.
    base_bell: Bell,
    /// The threads that serve those who wait without one are to end.
    ended: AtomicBool,
    partner: Mutex<Partner>,
    /// `OPEN`, or why nobody is served (see [`code`]).
    closed: AtomicU8,
    rule: AtomicU8,
    started: Uptime,
    lease_until_ms: AtomicU64,
    admissions: Sampler,
    commits: Sampler,
    trace: Trace,
}

impl CommitPath {
    /// The path over `log`, whose sealed and durable end is `cursors.local_durable()`. Serves nobody yet.
    pub fn new(
        log: Arc<Log>,
        cursors: Cursors,
        gate: Arc<Gate>,
        metrics: Arc<VolumeMetrics>,
        events: Box<dyn CommitEvents>,
        started: Uptime,
    ) -> CommitPath {
        let log_end = log.end();
        CommitPath {
            gate,
            metrics,
            events,
            committed: AtomicU64::new(cursors.committed().0),
            answerable: AtomicU64::new(cursors.answerable().0),
            local: Mutex::new(log_end),
            log,
            cursors: Mutex::new(cursors),
            mirror: Mutex::new(None),
            posted: AtomicU64::new(0),
            seat_wanted: AtomicUsize::new(0),
            log_given_up: AtomicBool::new(false),
            waiters: Waiters::default(),
            answers: Answers::default(),
            sync_waiters: Waiters::default(),
            syncs: Answers::default(),
            flushing: Bell::new(),
            wanted: AtomicU64::new(0),
            hastened: AtomicU64::new(0),
            memory_link: AtomicU64::new(0),
            behind: Mutex::new(Behind::none()),
            owing: Bell::new(),
            queue: Queue::default(),
            base_bell: Bell::new(),
            ended: AtomicBool::new(false),
            partner: Mutex::new(Partner { holding: false, at: log_end, seen: Instant::now() }),
            closed: AtomicU8::new(code(NotServing::NotPrimary)),
            rule: AtomicU8::new(AckRule::Nobody as u8),
            started,
            lease_until_ms: AtomicU64::new(0),
            admissions: Sampler::default(),
            commits: Sampler::default(),
            trace: Trace::new(),
        }
    }

    /// A copy of the cursors.
    pub fn cursors(&self) -> Cursors {
        *self.cursors.lock()
    }

    /// The gate in front of the log.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Changes what acknowledgements wait for. When it returns, the old rule releases nothing any more.
    pub fn set_rule(&self, rule: AckRule) -> Result<(), CursorError> {
        let released = {
            let mut behind = self.behind.lock();
            *behind = Behind::none();
            let mut cursors = self.cursors.lock();
            cursors.hold_answers(false)?;
            cursors.set_rule(rule)?;
            self.rule.store(rule as u8, Ordering::SeqCst);
            (cursors.committed(), cursors.answerable())
        };
        self.publish(released);
        self.waiters.wake_all();
        self.sync_waiters.wake_all();
        self.owing.ring_always();
        Ok(())
    }

    /// Lets clients in.
    pub fn open(&self) {
        self.closed.store(OPEN, Ordering::SeqCst);
        self.gate.open();
    }

    /// Holds new operations back; those that are inside run to their end.
    pub fn pause(&self) {
        self.gate.pause();
    }

    /// After [`CommitPath::pause`]: has every operation that was let in been committed?
    pub fn is_drained(&self) -> bool {
        self.gate.is_empty() && self.log.reserved() == self.committed()
    }

    /// Serves nobody any more; everybody who waits gets `why`.
    pub fn close(&self, why: NotServing) {
        self.closed.store(code(why), Ordering::SeqCst);
        self.gate.close(why);
        self.waiters.wake_all();
        self.sync_waiters.wake_all();
        self.deny_waiting(why);
    }

    /// Reads may be answered until `until_ms` on the node's clock.
    pub fn set_lease(&self, until_ms: u64) {
        self.lease_until_ms.store(until_ms, Ordering::SeqCst);
        self.gate.bell().ring();
    }

    /// Until when reads may be answered, on the node's clock.
    pub fn lease_until_ms(&self) -> u64 {
        self.lease_until_ms.load(Ordering::SeqCst)
    }

    /// Milliseconds since the node started, the clock of leases.
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Keeps the log from `from` on, and lets go of it as the partner gets it; `None` lifts it.
    ///
    /// # Errors
    /// When it is overwritten already.
    pub fn set_hold(&self, from: Option<Lsn>) -> Result<(), Trimmed> {
        let mut partner = self.partner.lock();
        self.hold_from(from)?;
        partner.holding = from.is_some();
        Ok(())
    }

    fn hold_from(&self, from: Option<Lsn>) -> Result<(), Trimmed> {
        self.log.hold(from)?;
        self.gate.set_hold(from);
        Ok(())
    }

    /// A primary's partner hears what is committed.
    pub fn committed_by_primary(&self, to: Lsn) -> Result<(), CursorError> {
        self.move_cursors(|cursors| {
            let to = to.min(cursors.local_durable()).max(cursors.committed());
            cursors.set_committed_by_primary(to)
        })
    }

    /// The log was extended by others than clients (ingested, or an epoch's first record), and holds
    /// everything before `to` durably.
    pub fn extended(&self, to: LogPoint) -> Result<(), CursorError> {
        let mut local = self.local.lock();
        if to.lsn > local.lsn {
            let mut cursors = self.cursors.lock();
            cursors.set_reserved(to.lsn)?;
            cursors.set_appended(to.lsn)?;
            cursors.set_local_durable(to.lsn)?;
            drop(cursors);
            *local = to;
            // It came from there.
            self.partner.lock().at = to;
        }
        Ok(())
    }

    /// Could the log be cut at `to`?
    pub fn check_truncation(&self, to: Lsn) -> Result<(), CursorError> {
        let mut cursors = self.cursors();
        cursors.truncate(to)
    }

    /// The log was cut at `to`.
    pub fn truncated(&self, to: LogPoint) -> Result<(), CursorError> {
        let mut local = self.local.lock();
        let mut cursors = self.cursors.lock();
        cursors.truncate(to.lsn)?;
        self.answerable.store(cursors.answerable().0, Ordering::SeqCst);
        drop(cursors);
        *local = to;
        let at = &mut self.partner.lock().at;
        if at.lsn > to.lsn {
            *at = to;
        }
        Ok(())
    }

    /// Empties the log, which begins anew at `at`. Whoever makes durable what came before sees it as it was or as it is;
    /// [`CommitPath::begun_anew`] follows. Nobody may be served.
    ///
    /// # Errors
    /// See [`Log::reset`].
    pub fn reset_log(&self, at: LogPoint) -> Result<(), TruncateError> {
        let mut local = self.local.lock();
        self.log.reset(at)?;
        *local = at;
        Ok(())
    }

    /// The log begins anew at `at`, empty, and the base tree stands there. Nobody may be served.
    pub fn begun_anew(&self, at: LogPoint) -> Result<(), CursorError> {
        let mut local = self.local.lock();
        let floor = {
            let mut cursors = self.cursors.lock();
            *cursors = Cursors::new(cursors.capacity_bytes(), at.lsn, at.lsn, at.lsn)?;
            self.committed.store(at.lsn.0, Ordering::SeqCst);
            self.answerable.store(at.lsn.0, Ordering::SeqCst);
            self.wanted.store(0, Ordering::SeqCst);
            cursors.space_floor()
        };
        *local = at;
        self.partner.lock().at = at;
        self.log.set_space_floor(floor);
        self.gate.set_floor(floor);
        Ok(())
    }

    /// Changes the cursors that consistency points move, and tells gate and log what may be overwritten.
    pub fn update(
        &self,
        change: impl FnOnce(&mut Cursors) -> Result<(), CursorError>,
    ) -> Result<(), CursorError> {
        let floor = {
            let mut cursors = self.cursors.lock();
            change(&mut cursors)?;
            cursors.space_floor()
        };
        self.log.set_space_floor(floor);
        self.gate.set_floor(floor);
        Ok(())
    }

    /// What this log holds and the last partner's does not, and for how long that partner has neither advanced nor been
    /// without a lack. At most 100,000 are counted.
    pub fn partner_lag(&self) -> (u64, u64, Duration) {
        let (at, seen) = {
            let partner = self.partner.lock();
            (partner.at, partner.seen)
        };
        let end = self.log.end().lsn;
        let records = self.log.records(at, end).take(MAX_COUNTED_RECORDS).take_while(Result::is_ok).count();
        let behind = if end > at.lsn { seen.elapsed() } else { Duration::ZERO };
        (records as u64, end.since(at.lsn), behind)
    }

    /// Looks whether the partner lacks something; now and then, for [`partner_lag`](Self::partner_lag).
    pub fn look_at_partner(&self) {
        let mut partner = self.partner.lock();
        if self.log.end().lsn <= partner.at.lsn {
            partner.seen = Instant::now();
        }
    }

    /// The end of what the partner was sent over the link that it joined by; 0 when there is none. What its ring has no
    /// room for is not sent.
    pub fn posted(&self) -> Lsn {
        Lsn(self.posted.load(Ordering::Relaxed))
    }

    /// The rule in force.
    pub fn rule(&self) -> AckRule {
        match self.rule.load(Ordering::SeqCst) {
            r if r == AckRule::Both as u8 => AckRule::Both,
            r if r == AckRule::Local as u8 => AckRule::Local,
            r if r == AckRule::Memory as u8 => AckRule::Memory,
            _ => AckRule::Nobody,
        }
    }

    /// Everything before this is durable wherever it has to be.
    pub fn committed(&self) -> Lsn {
        Lsn(self.committed.load(Ordering::SeqCst))
    }

    fn check_open(&self) -> Result<(), NotServing> {
        match self.closed.load(Ordering::SeqCst) {
            OPEN => Ok(()),
            closed => Err(reason(closed)),
        }
    }
}

impl Journal for CommitPath {
    fn admit(&self, ask: Ask) -> Result<Admission, Refused> {
        self.check_open()?;
        let starved = || self.events.want_consistency_point();
        let begun = self.admissions.is_sampled().then(Instant::now);
        let admission = match is_attempt() {
            true => self.admit_attempt(ask, starved)?,
            false => self.gate.admit(ask, || self.log.reserved(), starved)?,
        };
        if admission.slowed {
            self.metrics.throttled.add(1);
        }
        if let Some(begun) = begun {
            self.metrics.stages.observe(Stage::Admitted, begun.elapsed());
        }
        Ok(admission)
    }

    fn log(&self) -> &Arc<Log> {
        &self.log
    }

    fn wait_answerable(&self, lsn: Lsn) -> Result<(), NotServing> {
        if self.answerable() >= lsn {
            return Ok(());
        }
        if is_attempt() {
            return self.drive_or_owe(lsn);
        }
        loop {
            while self.drive(lsn, false) && self.answerable() < lsn {
                self.check_open()?;
            }
            if self.answerable() >= lsn {
                return Ok(());
            }
            self.check_open()?;
            self.waiters.register(lsn);
            let idle = self.answerable() < lsn
                && self.check_open().is_ok()
                && (self.rule() == AckRule::Nobody || self.is_held(lsn) || !self.can_drive());
            if idle {
                runtime::park();
            }
            self.waiters.unregister();
        }
    }

    fn require_answerable(&self, lsn: Lsn) -> Result<(), NotServing> {
        self.wait_answerable(lsn)?;
        if self.answerable() >= lsn {
            return Ok(());
        }
        in_attempt(|attempt| attempt.wait = Some(Wait::Commit(lsn)));
        Err(NotServing::MustWait)
    }

    fn require_patience(&self) -> Result<(), NotServing> {
        base_reads::require_patience()
    }

    fn commit(&self, end: Lsn) -> Result<(), NotServing> {
        let begun = Instant::now();
        if self.commits.is_sampled() {
            self.trace.follow(end, begun);
        }
        self.wait_answerable(end)?;
        self.trace.goes_on(end, &self.metrics.stages);
        self.metrics.commit.observe(begun.elapsed());
        self.metrics.operations.add(1);
        Ok(())
    }

    fn answerable(&self) -> Lsn {
        Lsn(self.answerable.load(Ordering::SeqCst))
    }

    fn sync(&self, lsn: Lsn) -> Result<(), NotServing> {
        self.sync_to(lsn)
    }

    fn check_lease(&self) -> Result<(), NotServing> {
        if self.now_ms() < self.lease_until_ms.load(Ordering::SeqCst) || planted!(LeaseIgnored) {
            return self.check_open();
        }
        mark!("read waited for a lease");
        if let Some(without) = in_attempt(|attempt| self.wait_for_lease(attempt)) {
            return without;
        }
        let patience = Instant::now() + LEASE_PATIENCE;
        while self.now_ms() >= self.lease_until_ms.load(Ordering::SeqCst) {
            self.check_open()?;
            if Instant::now() >= patience {
                return Err(NotServing::Frozen);
            }
            runtime::sleep(Duration::from_millis(2));
        }
        self.check_open()
    }

    fn lease_left(&self) -> Option<Duration> {
        let until_ms = self.lease_until_ms();
        (until_ms != u64::MAX).then(|| Duration::from_millis(until_ms.saturating_sub(self.now_ms())))
    }

    fn space(&self) -> SpaceBudget {
        self.gate.space()
    }

    fn partner_has_room(&self, oid: Oid, range: Range<u64>) -> bool {
        !self.gate.has_peer() || self.events.partner_has_room(self.committed(), oid, range)
    }

    fn when_answerable(&self, lsn: Lsn, client: Client, answer: Answer) {
        self.answer_when_answerable(lsn, client, answer);
    }

    fn when_synced(&self, lsn: Lsn, client: Client, answer: Answer) {
        self.answer_when_synced(lsn, client, answer);
    }

    fn park(&self, request: Parked) {
        self.park_request(request);
    }
}

fn code(why: NotServing) -> u8 {
    match why {
        NotServing::NotPrimary => 1,
        NotServing::Frozen => 2,
        NotServing::Stopping => 3,
        NotServing::LogFailed => 4,
        // Nobody closes a path so.
        NotServing::MustWait => 1,
    }
}

fn reason(code: u8) -> NotServing {
    match code {
        2 => NotServing::Frozen,
        3 => NotServing::Stopping,
        4 => NotServing::LogFailed,
        _ => NotServing::NotPrimary,
    }
}
