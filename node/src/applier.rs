//! Consistency points: the sealed Delta goes to the local filesystem, then the log's tail moves.
//!
//! Order, each step durable before the next: seal → everything before the seal is committed → nobody reads a
//! state in which it was not sealed → apply → flush the filesystem → move the tail → nobody reads the state in
//! which the Delta existed → its log space may be overwritten. A crash anywhere leaves the tail where it was,
//! and recovery applies the same records again (invariant 5).
//!
//! What can go wrong: the filesystem is full or broken. Then the Delta stays, it is tried again at growing
//! intervals, the node says so, the log fills and slows its clients, and the pair hands over to a healthy
//! partner.

use super::event::NodeEvent;
use super::shared::Shared;
use super::verify::Seal;
use admin_api::status::{ConsistencyPointStatus, FaultKind};
use apply_engine::Delta;
use apply_engine::consistency::ApplyError;
use commit::stack::{RETIRED_POLL, Retired};
use ids::Lsn;
use pair::{LocalFault, RoleName};
use runtime::{Condvar, Instant, Mutex, MutexGuard, mark, planted};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// First and longest pause between two attempts at a filesystem that fails.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A disk that was too slow is trusted again when a consistency point takes less than this ...
const QUICK: Duration = Duration::from_secs(1);
/// ... and it has been suspected for so long.
const SUSPECTED: Duration = Duration::from_secs(20);
/// How often a disk with such a fault is tried while there is nothing to apply.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How often a wait looks around.
const POLL: Duration = Duration::from_millis(1);
/// How soon a partner absorbs what was committed.
const ABSORB_INTERVAL: Duration = Duration::from_millis(20);
/// So much of what the base filesystem refuses is named.
const REFUSED_NAMED: usize = 8;

#[derive(Debug, Default)]
struct Wanted {
    now: bool,
    finished: u64,
    failed: u64,
    /// Those in [`ApplierState::request_and_wait`].
    waiting: usize,
}

/// What the applier's thread shares with the others.
#[derive(Debug, Default)]
pub(super) struct ApplierState {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    /// Held from sealing to dropping.
    working: Mutex<()>,
    /// Since when there has been something to apply, to the nearest look of the applier.
    behind_since: Mutex<Option<Instant>>,
    /// The end of the consistency point that is being applied, or that waits for readers of the state before it.
    under_way: Mutex<Option<Lsn>>,
    /// The state in which the Delta that is to be applied was not sealed, until nobody reads it any more.
    unsealed: Mutex<Option<Retired>>,
    /// The state in which the Delta that was applied last existed, and its end: until nobody reads it any more, the log
    /// space before that is not given back.
    dropped: Mutex<Option<(Lsn, Retired)>>,
    /// Since when the disk has been suspected to be too slow.
    suspected: Mutex<Option<Instant>>,
    /// When it was last tried, with nothing to apply.
    tried: Mutex<Option<Instant>>,
    /// Raised by those who want the lock, so that a wait inside gives it up.
    interrupted: AtomicU64,
    /// The base tree may stand between two consistency points: one failed, or was cut off before a restart.
    half_applied: AtomicBool,
    /// The last attempt failed.
    failing: AtomicBool,
}

/// No consistency point runs while this lives, and none is half done, except one that failed.
pub(super) struct Exclusive<'a> {
    state: &'a ApplierState,
    _working: MutexGuard<'a, ()>,
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.state.interrupted.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ApplierState {
    /// After a restart: with records in the log, some of them may be half applied.
    pub fn new(may_be_half_applied: bool) -> ApplierState {
        ApplierState { half_applied: AtomicBool::new(may_be_half_applied), ..ApplierState::default() }
    }

    /// Whether the base tree may stand between two consistency points. Steady under [`ApplierState::exclusive`].
    pub fn is_half_applied(&self) -> bool {
        self.half_applied.load(Ordering::Acquire)
    }

    /// Did the last attempt fail?
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Asks for a consistency point now.
    pub fn request(&self) {
        self.wanted.lock().now = true;
        self.wake.notify_all();
    }

    /// Asks for consistency points until one that began after the call is finished and all is `applied` that was meant, or
    /// they fail. One alone need not be enough: a partner's ends where its primary's did, and a long replay has many.
    pub fn request_and_wait(&self, limit: Duration, applied: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut wanted = self.wanted.lock();
        // One may be running that sealed before the call: wait for the one after it.
        let (finished, failed) = (wanted.finished + 2, wanted.failed + 2);
        wanted.waiting += 1;
        let done = loop {
            let began_later = wanted.finished >= finished;
            if began_later && applied() {
                break true;
            }
            if began_later {
                // The rest comes with the primary's next word, or with the next piece.
                self.wake.wait_for(&mut wanted, ABSORB_INTERVAL);
            }
            // Again when it was begun; but whoever else waits here is not woken for nothing, and wakes this one in turn.
            if !wanted.now {
                wanted.now = true;
                self.wake.notify_all();
            }
            if wanted.failed >= failed || self.wake.wait_until(&mut wanted, deadline).timed_out() {
                break false;
            }
        };
        wanted.waiting -= 1;
        done
    }

    /// The Deltas begin anew: no reader of before is waited for.
    pub fn begin_anew(&self) {
        *self.unsealed.lock() = None;
    }

    /// Pauses before the next attempt; a shorter pause when somebody waits for it.
    fn failed(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut wanted = self.wanted.lock();
        wanted.failed += 1;
        self.wake.notify_all();
        let earliest = Instant::now() + RETRY_MIN;
        while Instant::now() < if wanted.waiting > 0 { earliest } else { until } {
            let next = if wanted.waiting > 0 { earliest } else { until };
            self.wake.wait_until(&mut wanted, next);
        }
    }

    /// Keeps consistency points away; waits for the one that runs, or breaks off its waiting.
    pub fn exclusive(&self) -> Exclusive<'_> {
        self.interrupted.fetch_add(1, Ordering::AcqRel);
        Exclusive { state: self, _working: self.working.lock() }
    }

    /// How long there has been something to apply.
    pub fn behind_for(&self) -> Duration {
        self.behind_since.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The end of what is being applied at this moment.
    pub fn under_way(&self) -> Option<Lsn> {
        *self.under_way.lock()
    }

    /// The disk is too slow.
    pub fn suspect(&self) {
        *self.suspected.lock() = Some(Instant::now());
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire) > 0
    }

    fn finished(&self) {
        self.wanted.lock().finished += 1;
        self.wake.notify_all();
    }
}

/// Takes consistency points until everything that is committed now is in the base tree; on a partner everything that its log
/// holds, for that has been answered, whether its primary has told it or not. False: not within `limit`, or it cannot be
/// written. A tree that is being replaced by another node's holds nothing of this log, and is not waited for.
pub(super) fn apply_all(shared: &Shared, limit: Duration) -> bool {
    let is_partner = || shared.pair.lock().as_ref().is_some_and(|pair| pair.role == RoleName::Partner);
    let (committed, end) = (shared.path.committed(), shared.log.end().lsn);
    let applied = || {
        let end = if is_partner() { end } else { committed };
        // What an epoch begins with is in no tree.
        let absorbed = shared.follower.absorbed().is_none_or(|absorbed| absorbed >= end);
        shared.path.cursors().applied() >= end
            || absorbed && shared.unapplied_records() == 0
            || shared.resync.is_replacing()
    };
    shared.applier.request_and_wait(limit, applied)
}

/// The applier's thread.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut last = Instant::now();
    let mut retry = RETRY_MIN;
    let mut mended = false;
    report_index(shared);
    report_refused(shared);
    while !shared.is_stopping() {
        if shared.resync.is_replacing() {
            // The base tree is another node's: nothing of this log belongs there.
            shared.applier.finished();
            runtime::sleep(ABSORB_INTERVAL);
            continue;
        }
        let to = shared.verify.absorb_to(shared.path.committed());
        let is_full = match shared.absorb(to) {
            Ok(all) => {
                shared.faults.clear(FaultKind::LogUnreadable);
                !all
            }
            Err(error) => {
                let remedy = "bring both nodes to the same version, or resync this node";
                shared.faults.raise(FaultKind::LogUnreadable, &error.to_string(), remedy);
                false
            }
        };
        note_what_is_behind(shared);
        let interval = shared.config.consistency_point.interval;
        let due = match follows(shared) {
            // The Delta takes as much memory as it may, and more is to come.
            _ if is_full => Duration::ZERO,
            // Where the primary's Delta ended, and nowhere else as long as there is room.
            Some(Seal::Here) => Duration::ZERO,
            Some(Seal::Wait) if !log_is_half_full(shared) => ABSORB_INTERVAL,
            _ if wants_point(shared) => Duration::ZERO,
            _ => interval.saturating_sub(last.elapsed()),
        };
        {
            let mut wanted = shared.applier.wanted.lock();
            if !wanted.now && !due.is_zero() {
                shared.applier.wake.wait_for(&mut wanted, due.min(ABSORB_INTERVAL));
                if !wanted.now {
                    continue;
                }
            }
            wanted.now = false;
        }
        let outcome = consistency_point(shared);
        *shared.applier.under_way.lock() = None;
        match outcome {
            Ok(()) => {
                retry = RETRY_MIN;
                mended = false;
                shared.applier.failing.store(false, Ordering::Release);
                shared.replay.look(shared);
                report_index(shared);
                report_refused(shared);
                last = Instant::now();
                shared.applier.finished();
            }
            // Not now: somebody resets the Deltas, or what was applied before is not all committed again.
            Err(ApplyFailure::Interrupted) => runtime::sleep(ABSORB_INTERVAL),
            Err(ApplyFailure::Failed(ApplyError::Missing(oid))) if !mended => {
                // Perhaps it is only the index that lacks it. Once, until applying works again.
                mended = true;
                tracing::warn!(volume = shared.name(), %oid, "not in the index: looking for it by a walk");
                if let Err(error) = shared.base.mend_index() {
                    let what = format!("the index could not be rebuilt: {error}");
                    shared.faults.raise(FaultKind::BaseIndex, &what, "check the disk");
                }
            }
            Err(ApplyFailure::Failed(error)) => {
                report_failure(shared, &error);
                shared.applier.failed(retry);
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

fn report_failure(shared: &Shared, error: &ApplyError) {
    shared.metrics.apply_failures.add(1);
    shared.applier.failing.store(true, Ordering::Release);
    let full = matches!(error, ApplyError::NoSpace(_));
    mark!("consistency point failed");
    let remedy = match error {
        _ if full => "free space in the base filesystem",
        error if error.is_other_tree() => {
            "make the other node primary (`twinfiler switchover VOLUME`), then `twinfiler resync VOLUME` here"
        }
        _ => "check the disk and the kernel's log",
    };
    let what = format!("applying to the base filesystem fails: {error}");
    shared.faults.raise(FaultKind::BaseFailed, &what, remedy);
    // The partner hears with the next heartbeat how much room there really is.
    shared.local_space();
    shared.tell(NodeEvent::Fault(if full { LocalFault::BaseFull } else { LocalFault::BaseIo }));
}

fn report_index(shared: &Shared) {
    if let Some(trouble) = shared.base.take_index_trouble() {
        let remedy = "nothing is lost; if nobody touched `.twinfiler/index.redb`, check the disk";
        shared.faults.raise(FaultKind::BaseIndex, &format!("the base's index: {trouble}"), remedy);
    }
}

/// One fault for all that the base has refused for good. Nothing of it is lost, and nothing waits for it.
fn report_refused(shared: &Shared) {
    let (named, count) = shared.base.held(REFUSED_NAMED);
    if count == 0 {
        shared.faults.clear(FaultKind::BaseRefuses);
        return;
    }
    let mut list: Vec<String> = named.iter().map(ToString::to_string).collect();
    if count > list.len() {
        list.push(format!("and {} more", count - list.len()));
    }
    let things = if count == 1 { "thing" } else { "things" };
    let what = format!(
        "the base filesystem does not hold {count} {things} of this volume, which this node keeps beside it: {}",
        list.join("; ")
    );
    shared.faults.raise(
        FaultKind::BaseRefuses,
        &what,
        "nothing is lost; through the mount, give what is named a shape that this filesystem holds (another name or \
         directory, fewer or smaller xattrs, a shorter file), or move the base to another filesystem; it is tried again \
         when it changes and at each start",
    );
}

fn note_what_is_behind(shared: &Shared) {
    let mut since = shared.applier.behind_since.lock();
    match shared.unapplied_records() {
        0 => *since = None,
        _ => *since = since.or_else(|| Some(Instant::now())),
    }
}

enum ApplyFailure {
    /// Somebody resets the Deltas; nothing was done.
    Interrupted,
    Failed(ApplyError),
}

impl From<ApplyError> for ApplyFailure {
    fn from(error: ApplyError) -> ApplyFailure {
        ApplyFailure::Failed(error)
    }
}

/// On a node that follows: what it does with its Delta.
fn follows(shared: &Shared) -> Option<Seal> {
    let position = shared.follower.absorbed()?;
    Some(shared.verify.seal(position, shared.config.consistency_point.interval))
}

/// Is the log filling, or much logged since the last one?
fn wants_point(shared: &Shared) -> bool {
    let logged = shared.path.committed().since(shared.path.cursors().applied());
    logged >= shared.config.consistency_point.bytes
        || shared.stack.active_memory() as u64 >= shared.config.consistency_point.memory
        || log_is_half_full(shared)
}

fn log_is_half_full(shared: &Shared) -> bool {
    let cursors = shared.path.cursors();
    shared.path.committed().since(cursors.applied()) >= cursors.capacity_bytes() / 2
}

/// Seals the active Delta, on both nodes at the same LSN where that can be. `None`: it spans no record.
fn seal(shared: &Shared) -> Option<(Arc<Delta>, Retired)> {
    if shared.follower.absorbed().is_some() {
        let here = follows(shared) == Some(Seal::Here);
        let sealed = shared.stack.seal();
        let end = sealed.as_ref().map_or_else(|| shared.path.cursors().applied(), |(delta, _)| delta.end());
        shared.verify.partner_sealed(end, here);
        return sealed;
    }
    let mirrored = shared.path.cursors().rule().waits_for_partner();
    let paused = mirrored && !shared.stack.is_fresh() && shared.verify.pause_partner();
    let sealed = shared.stack.seal()?;
    shared.verify.primary_sealed(sealed.0.end(), paused);
    Some(sealed)
}

fn consistency_point(shared: &Shared) -> Result<(), ApplyFailure> {
    let _working = shared.applier.working.lock();
    if shared.applier.is_interrupted() || shared.resync.is_replacing() || !shared.follower.may_seal() {
        return Err(ApplyFailure::Interrupted);
    }
    give_space_back(shared)?;
    // One that failed before is still sealed, and goes first.
    if shared.stack.snapshot().sealed.is_empty() {
        let before = shared.log.reserved();
        let Some((sealed, retired)) = seal(shared) else {
            shared.gate.nothing_sealed(|| shared.log.reserved() == before, shared.local_space());
            shared.applier.half_applied.store(false, Ordering::Release);
            return try_disk(shared);
        };
        shared.gate.sealed(sealed.end());
        // Readers may hang with the disk: that is told as if applying hung.
        *shared.applier.under_way.lock() = Some(sealed.end());
        *shared.applier.unsealed.lock() = Some(retired);
    }
    // Waited for anew if it was broken off.
    if let Some(retired) = &*shared.applier.unsealed.lock() {
        wait_for_readers(shared, retired)?;
    }
    *shared.applier.unsealed.lock() = None;
    loop {
        // On its own line: the snapshot must be gone before the state that it shows is waited for.
        let oldest = shared.stack.snapshot().sealed.first().cloned();
        let Some(sealed) = oldest else { return Ok(()) };
        wait_committed(shared, sealed.end())?;
        apply(shared, &sealed)?;
    }
}

/// Lets log space be overwritten that nobody reads any more. Done anew if it was broken off.
fn give_space_back(shared: &Shared) -> Result<(), ApplyFailure> {
    let mut dropped = shared.applier.dropped.lock();
    let Some((end, retired)) = &*dropped else { return Ok(()) };
    wait_for_readers(shared, retired)?;
    // The log may have begun anew meanwhile.
    if *end > shared.path.cursors().trimmed() {
        shared.path.update(|cursors| cursors.set_trimmed(*end)).expect("the tail follows what is applied");
    }
    *dropped = None;
    Ok(())
}

fn wait_for_readers(shared: &Shared, retired: &Retired) -> Result<(), ApplyFailure> {
    while retired.is_read() {
        if shared.applier.is_interrupted() || shared.is_stopping() {
            return Err(ApplyFailure::Interrupted);
        }
        runtime::sleep(RETIRED_POLL);
    }
    Ok(())
}

fn wait_committed(shared: &Shared, end: Lsn) -> Result<(), ApplyFailure> {
    while shared.path.committed() < end && !planted!(ApplyBeforeCommit) {
        if shared.applier.is_interrupted() || shared.is_stopping() {
            return Err(ApplyFailure::Interrupted);
        }
        runtime::sleep(POLL);
    }
    Ok(())
}

fn apply(shared: &Shared, delta: &Delta) -> Result<(), ApplyFailure> {
    let started = Instant::now();
    *shared.applier.under_way.lock() = Some(delta.end());
    shared.resync.tracker.note(delta);
    shared.applier.half_applied.store(true, Ordering::Release);
    shared.base.revive_index().map_err(ApplyError::from)?;
    if let Err(error) = shared.log.begin_applying(delta.end()) {
        shared.tell(NodeEvent::LogFailed(error.to_string()));
        return Err(ApplyFailure::Interrupted);
    }
    let report = apply_engine::consistency::apply(&shared.base, &shared.log, delta)?;
    let digests = shared.verify.digest(shared, delta);
    shared.base.raise_next_oid(shared.next_oid());
    let end = delta.end();
    let Some(point) = shared.log.point_at(end) else {
        unreachable!("a Delta ends where a record ends");
    };
    shared.base.set_applied(point);
    if !planted!(TailBeforeFlush) {
        shared.base.sync().map_err(ApplyError::from)?;
    }
    shared.path.update(|cursors| cursors.set_applied(end)).expect("only what is committed was applied");
    if let Err(error) = shared.log.advance_tail(point) {
        shared.tell(NodeEvent::LogFailed(error.to_string()));
        return Err(ApplyFailure::Interrupted);
    }
    if planted!(TailBeforeFlush) {
        shared.base.sync().map_err(ApplyError::from)?;
    }
    shared.applier.half_applied.store(false, Ordering::Release);
    digests.into_iter().for_each(|applied| shared.verify.tell(applied));
    // Looked at before the Delta is dropped: until then its needs are counted beside what is free.
    let space = shared.local_space();
    *shared.applier.dropped.lock() = Some((end, shared.stack.drop_oldest()));
    shared.tell_unapplied_memory();
    *shared.applier.behind_since.lock() = None;
    shared.gate.set_local_space(end, space);
    shared.metrics.apply.observe(started.elapsed());
    shared.metrics.consistency_points.add(1);
    shared.metrics.commit.cut();
    mark!("consistency point");
    shared.metrics.applied_bytes.add(report.written_bytes);
    *shared.last_point.lock() = Some(ConsistencyPointStatus {
        at_unix_ms: runtime::unix_ms(),
        duration_us: started.elapsed().as_micros() as u64,
        objects: report.objects,
        bytes: report.written_bytes,
        applied: end,
    });
    forget_faults(shared, started.elapsed());
    give_space_back(shared)
}

/// Nothing is to be applied, which would show whether a disk that failed, or was too slow, is well again: a flush does.
fn try_disk(shared: &Shared) -> Result<(), ApplyFailure> {
    if !shared.faults.has(FaultKind::BaseFailed) && !shared.faults.has(FaultKind::BaseSlow) {
        return Ok(());
    }
    let begun = Instant::now();
    let mut tried = shared.applier.tried.lock();
    if tried.is_some_and(|at| begun.duration_since(at) < TRY_EVERY) {
        return Ok(());
    }
    *tried = Some(begun);
    drop(tried);
    mark!("disk tried");
    shared.base.revive_index().map_err(ApplyError::from)?;
    shared.base.sync().map_err(ApplyError::from)?;
    forget_faults(shared, begun.elapsed());
    Ok(())
}

/// Applying works again. A disk that was too slow has to be quick for a while: roles must not go to and fro.
fn forget_faults(shared: &Shared, took: Duration) {
    let faults = &shared.faults;
    let had = faults.has(FaultKind::BaseFailed) || faults.has(FaultKind::BaseSlow);
    faults.clear(FaultKind::BaseFailed);
    let suspected = *shared.applier.suspected.lock();
    if took < QUICK && suspected.is_some_and(|since| since.elapsed() >= SUSPECTED) {
        faults.clear(FaultKind::BaseSlow);
    }
    if had {
        shared.healed();
    }
}
