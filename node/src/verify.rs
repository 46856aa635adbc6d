//! What the two base trees hold: digests of every consistency point, exchanged at once, and `twinfiler verify`.
//!
//! While the pair is mirrored the partner ends its Deltas where the primary does ([`align`]), so both trees pass
//! through the same states. After each consistency point both digest what the tree now holds of the objects that were
//! touched, and the primary compares ([`points`]). `verify` walks all objects of both sides while both stand at one LSN
//! ([`session`] asks and compares, [`answer`] answers). Why so: `docs/decisions/0006-compare-at-one-lsn.md`.
//!
//! Invariants: nothing that differs only because one side has applied further is ever reported; nothing here changes a
//! tree (repairs are resyncs of the named objects); the applier is kept waiting for a bounded time, and not at all while
//! the log fills.
//!
//! What can go wrong: words are lost or late (that point, or that part, is not compared, or compared again); an object
//! cannot be read (it is reported as differing).

mod align;
mod answer;
mod naming;
mod points;
mod progress;
mod repair;
mod round;
mod session;
mod wire;

use super::event::NodeEvent;
use super::room;
use super::shared::Shared;
use admin_api::status::{VerifyResult, VerifyStatus};
use align::Align;
use apply_engine::Delta;
use apply_engine::verify::Applied;
use ids::Lsn;
use points::Points;
pub(super) use points::{all_is_the_same, differ_since_long};
use progress::Progress;
use rdma_transport::Control;
use runtime::channel::{Receiver, Sender, bounded};
use runtime::{Condvar, Instant, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub(super) use align::Seal;
pub(super) use session::{Options, begin};
#[cfg(fuzzing)]
pub(super) use wire::try_message;
pub(super) use wire::{Word, is_about};

/// Longest wait of a primary, before it seals, for its partner's word.
const PAUSE_ANSWER_LIMIT: Duration = Duration::from_millis(50);
/// Words and points that may wait for the thread that looks at them; more are passed over.
const MAX_WAITING: usize = 64;
/// How often the thread looks whether it should end.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// So many times its own interval a partner waits for the primary's next consistency point, and this much more.
const PATIENCE_INTERVALS: u32 = 3;
const PATIENCE_MIN: Duration = Duration::from_secs(2);

/// What the thread of this module is told.
pub(crate) enum Task {
    /// The partner said something.
    Heard(Word),
    /// A consistency point was digested here.
    Digested(Lsn),
}

/// See the module: what a volume's threads share about it.
pub(super) struct VerifyState {
    align: Mutex<Align>,
    peer: Mutex<Option<(u64, Arc<dyn Control>)>>,
    /// The newest pause that the partner has answered, and a wake-up for who waits for it.
    paused: Mutex<u64>,
    answered: Condvar,
    pauses: AtomicU64,
    /// The newest Delta that ends at the same LSN on both sides.
    aligned: Mutex<Lsn>,
    points: Mutex<Points>,
    tasks: Sender<Task>,
    /// Answers to the session that runs here.
    answers: Mutex<Option<Sender<Word>>>,
    running: AtomicBool,
    runs: AtomicU64,
    progress: Mutex<Option<Progress>>,
    last: Mutex<Option<VerifyResult>>,
}

impl VerifyState {
    /// The state, and what its thread ([`run`]) is told.
    pub fn new() -> (VerifyState, Receiver<Task>) {
        let (tasks, to_do) = bounded(MAX_WAITING);
        let state = VerifyState {
            align: Mutex::default(),
            peer: Mutex::new(None),
            paused: Mutex::default(),
            answered: Condvar::new(),
            pauses: AtomicU64::new(0),
            aligned: Mutex::new(Lsn::ZERO),
            points: Mutex::default(),
            tasks,
            answers: Mutex::new(None),
            running: AtomicBool::new(false),
            runs: AtomicU64::new(0),
            progress: Mutex::new(None),
            last: Mutex::new(None),
        };
        (state, to_do)
    }

    /// Another link, or none.
    pub fn set_peer(&self, peer: Option<(u64, Arc<dyn Control>)>) {
        *self.peer.lock() = peer;
        *self.align.lock() = Align::default();
    }

    /// For status and metrics.
    pub fn status(&self) -> Option<VerifyStatus> {
        let running = self.progress.lock().as_ref().map(|progress| progress.status(Instant::now()));
        let status = VerifyStatus { running, last: self.last.lock().clone() };
        (status.running.is_some() || status.last.is_some()).then_some(status)
    }

    /// Notes progress, if a session is under way.
    fn note(&self, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = &mut *self.progress.lock() {
            change(progress);
        }
    }

    /// Says something to the partner. False when nobody is there.
    pub fn say(&self, word: &Word) -> bool {
        let peer = self.peer.lock().as_ref().map(|(_, control)| control.clone());
        peer.is_some_and(|control| control.send(&word.encode()).is_ok())
    }

    /// How far a partner absorbs now.
    pub fn absorb_to(&self, committed: Lsn) -> Lsn {
        self.align.lock().absorb_to(committed, Instant::now())
    }

    /// Whether a partner that has absorbed everything before `position` ends its Delta there.
    pub fn seal(&self, position: Lsn, interval: Duration) -> Seal {
        let patience = PATIENCE_MIN + interval * PATIENCE_INTERVALS;
        self.align.lock().seal(position, patience, Instant::now())
    }

    /// A partner has ended its Delta here; `here`: where the primary's ended.
    pub fn partner_sealed(&self, end: Lsn, here: bool) {
        self.align.lock().reached(end);
        if here {
            *self.aligned.lock() = end;
        }
    }

    /// On a primary, before it seals: asks the partner to absorb nothing more. True when it does not.
    pub fn pause_partner(&self) -> bool {
        let number = self.pauses.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.say(&Word::Pause { number }) {
            return false;
        }
        let deadline = Instant::now() + PAUSE_ANSWER_LIMIT;
        let mut paused = self.paused.lock();
        while *paused < number {
            if self.answered.wait_until(&mut paused, deadline).timed_out() {
                return *paused >= number;
            }
        }
        true
    }

    /// On a primary: its Delta ended here; `paused`: the partner can end its own there too.
    pub fn primary_sealed(&self, end: Lsn, paused: bool) {
        if paused {
            self.say(&Word::Sealed { end });
            *self.aligned.lock() = end;
        }
    }

    /// Digests what this Delta, just applied, has left in the tree, if the other side does so too. To be told when it has
    /// become a consistency point: what a disk that fails lets read is no difference.
    pub fn digest(&self, shared: &Shared, delta: &Delta) -> Option<Applied> {
        if *self.aligned.lock() != delta.end() || self.peer.lock().is_none() {
            return None;
        }
        let started = Instant::now();
        let applied = apply_engine::verify::applied(&shared.base, delta);
        shared.metrics.digest_us.add(started.elapsed().as_micros() as u64);
        Some(applied)
    }

    /// The consistency point of which these are the digests is flushed.
    pub fn tell(&self, applied: Applied) {
        let end = applied.end;
        self.points.lock().keep(applied);
        // Full: nobody looks at digests as fast as they come; later ones are.
        let _passed_over = self.tasks.try_send(Task::Digested(end));
    }
}

/// A word came over `link`. Quick: called by the thread that owns the pair.
pub(super) fn heard(shared: &Arc<Shared>, link: u64, bytes: &[u8]) {
    let state = &shared.verify;
    if state.peer.lock().as_ref().is_none_or(|(id, _)| *id != link) {
        return;
    }
    let word = match Word::decode(bytes) {
        Ok(word) => word,
        Err(error) => return tracing::warn!(volume = shared.name(), %error, "from the partner"),
    };
    match word {
        Word::Pause { number } => {
            state.align.lock().pause(shared.path.committed(), Instant::now());
            state.say(&Word::Paused { number });
        }
        Word::Paused { number } => {
            let mut paused = state.paused.lock();
            *paused = number.max(*paused);
            state.answered.notify_all();
        }
        Word::Sealed { end } => state.align.lock().sealed(end, Instant::now()),
        Word::Part { .. } | Word::Descriptions { .. } | Word::NotThere { .. } | Word::Located { .. } => {
            if let Some(answers) = &*state.answers.lock() {
                // A session that asked for less than it got is not there any more.
                let _nobody_waits = answers.try_send(word);
            }
        }
        Word::Allocated { asked, at, oid, range } => room::answer(shared, asked, at, oid, range),
        Word::IsAllocated { asked, is } => shared.room.answered(asked, is),
        word => {
            if state.tasks.try_send(Task::Heard(word)).is_err() {
                tracing::debug!(volume = shared.name(), "too many words about the trees: one is passed over");
            }
        }
    }
}

/// The thread that compares points and answers the partner.
pub(super) fn run(shared: &Arc<Shared>, tasks: &Receiver<Task>) {
    runtime::be_bulk();
    while !shared.is_stopping() {
        match tasks.recv_timeout(LOOK_AROUND) {
            Ok(Task::Digested(end)) => points::digested(shared, end),
            Ok(Task::Heard(word)) => match word {
                Word::Applied { first, end, digest } => points::heard(shared, first, end, digest),
                Word::Name { end, from } => points::name(shared, end, from),
                Word::Named { end, objects, next } => points::named(shared, end, objects, next),
                Word::Differs { what } => points::differ(shared, &what),
                Word::Same => points::same(shared),
                word => answer::answer(shared, word),
            },
            Err(error) if error.is_timeout() => {}
            Err(_) => return,
        }
    }
}

/// Tells the pair whether this tree is known to differ from the partner's.
fn tell(shared: &Shared, differ: bool) {
    shared.tell(NodeEvent::TreesDiffer(differ));
}
