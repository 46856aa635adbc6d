//! Requests that wait without a thread.
//!
//! A front door has few threads and many clients. So it does not call an operation and wait; it makes an [`attempt`]
//! of it. In an attempt nothing of the commit path waits for longer than the partner usually takes to acknowledge:
//! - what cannot begin yet (a full log, a full disk, no lease, a read of what is not committed) ends with
//!   [`NotServing::MustWait`] before it has changed anything, and the attempt tells for what it has to wait ([`Wait`]):
//!   the door parks the request ([`Journal::park`](super::Journal::park)), and another attempt is made when it may go on;
//! - what was done and is not answerable yet goes on as if it were, and the attempt owes that: the door hands its
//!   answer over ([`Journal::when_answerable`](super::Journal::when_answerable)), and whoever commits gives it;
//! - an fsync owes that everything before it is committed, in the same way.
//!
//! Invariant: an answer is given only when everything that its attempts owe has come. Whoever makes no attempt (the
//! node's own threads, benches, a simulation's clients) waits on its own thread as ever.
//!
//! Not chosen: a spare thread in place of each that waits (thousands of clients are thousands of threads), `async`
//! operations (see docs/decisions/0005). What can go wrong: more wait than memory is set aside for; they are refused
//! ([`Denied::TooMany`]).

use super::gate::{Hindrance, Progress};
use super::{Journal, NotServing};
use ids::Lsn;
use runtime::Instant;
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    static ATTEMPT: Cell<Option<Attempt>> = const { Cell::new(None) };
}

/// For what a request has to wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    /// To be let in.
    Admission(Hindrance),
    /// For the right to answer reads; then it is told that there is none.
    Lease { until: Instant },
    /// For a commit of others.
    Commit(Lsn),
    /// For a thread that may hang with the disk.
    Base,
}

/// What an attempt, or all attempts of one request, came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attempt {
    pub(super) owed: Lsn,
    /// What has to be committed: for an fsync.
    pub(super) owed_synced: Lsn,
    pub(super) wait: Option<Wait>,
    pub(super) progress: Progress,
    pub(super) lease_patience: Option<Instant>,
    /// It has waited already: it does not stand behind those who wait.
    pub(super) has_waited: bool,
}

impl Attempt {
    /// Does it have to be made again?
    pub fn must_wait(&self) -> bool {
        self.wait.is_some()
    }

    /// May its outcome be told now?
    pub fn is_paid(&self, journal: &dyn Journal) -> bool {
        self.owed_synced == Lsn::ZERO && journal.answerable() >= self.owed
    }
}

/// Runs `act`, which does not wait; and what it came to. `so_far` is what earlier attempts of the same request did.
pub fn attempt<T>(so_far: Attempt, act: impl FnOnce() -> T) -> (T, Attempt) {
    ATTEMPT.set(Some(Attempt { wait: None, ..so_far }));
    let outcome = act();
    (outcome, ATTEMPT.take().unwrap_or_default())
}

/// What the attempt of this thread has done is an answer by itself: it has to wait for nothing but what it owes.
pub fn settle() {
    in_attempt(|attempt| attempt.wait = None);
}

/// Lets `change` see the attempt that this thread makes, if it makes one.
pub(super) fn in_attempt<T>(change: impl FnOnce(&mut Attempt) -> T) -> Option<T> {
    let mut attempt = ATTEMPT.get()?;
    let outcome = change(&mut attempt);
    ATTEMPT.set(Some(attempt));
    Some(outcome)
}

/// Does this thread make an attempt?
pub(super) fn is_attempt() -> bool {
    ATTEMPT.get().is_some()
}

/// Who waits for an answer, as far as it matters to those who keep it waiting.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// What its door knows it by.
    pub id: u64,
    /// Whether it takes no answer any more. Asked about once a second while it waits.
    pub gave_up: fn(u64) -> bool,
}

/// Why a request that waited is not carried out, or not known to be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    /// The volume is not served here any more.
    #[error(transparent)]
    NotServing(#[from] NotServing),
    /// Its client was killed.
    #[error("the client gave up")]
    Interrupted,
    /// There is no room for more requests that wait.
    #[error("too many requests wait already")]
    TooMany,
}

/// Gives an answer: what it says, or why it cannot be given.
pub type Answer = Box<dyn FnOnce(Result<(), Denied>) + Send>;

/// Another attempt of a parked request, or its end.
pub enum Turn {
    /// It may go on. `None` when it has been answered, or will be when what it owes is committed.
    Again,
    /// It is not carried out.
    Deny(Denied),
}

/// A request that waits, with all that it needs.
pub struct Parked {
    /// Who waits.
    pub client: Client,
    /// Memory that its data takes.
    pub bytes: usize,
    /// When it was parked for the first time.
    pub(super) since: Instant,
    wait: Wait,
    run: Box<dyn FnMut(Turn) -> Option<Wait> + Send>,
}

impl std::fmt::Debug for Parked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parked").field("wait", &self.wait).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Parked {
    /// `again` is called for each further attempt, `answer` once, when the request is at its end. `so_far` is the
    /// first attempt, which has to wait.
    pub fn new<T: Send + 'static, E: From<Denied> + Send + 'static>(
        journal: Arc<dyn Journal>,
        client: Client,
        bytes: usize,
        so_far: Attempt,
        mut again: impl FnMut() -> Result<T, E> + Send + 'static,
        answer: impl FnOnce(Result<T, E>) + Send + 'static,
    ) -> Parked {
        let mut so_far = Attempt { has_waited: true, ..so_far };
        let mut answer = Some(answer);
        let wait = so_far.wait.unwrap_or(Wait::Commit(so_far.owed));
        let run = move |turn| match turn {
            Turn::Deny(why) => {
                if let Some(answer) = answer.take() {
                    answer(Err(why.into()));
                }
                None
            }
            Turn::Again => {
                let (outcome, now) = attempt(so_far, &mut again);
                so_far = now;
                if now.must_wait() {
                    return now.wait;
                }
                if let Some(answer) = answer.take() {
                    finish(&journal, client, now, outcome, answer);
                }
                None
            }
        };
        Parked { client, bytes, since: Instant::now(), wait, run: Box::new(run) }
    }

    pub(super) fn wait(&self) -> Wait {
        self.wait
    }

    /// Makes another attempt; itself when it has to wait again.
    pub(super) fn try_again(mut self) -> Option<Parked> {
        self.wait = (self.run)(Turn::Again)?;
        Some(self)
    }

    /// Ends it.
    pub fn deny(mut self, why: Denied) {
        (self.run)(Turn::Deny(why));
    }
}

/// Answers with `outcome` when everything that the attempt owes has come: at once, if it has.
pub fn finish<T: Send + 'static, E: From<Denied> + Send + 'static>(
    journal: &Arc<dyn Journal>,
    client: Client,
    attempt: Attempt,
    outcome: Result<T, E>,
    answer: impl FnOnce(Result<T, E>) + Send + 'static,
) {
    if attempt.is_paid(journal.as_ref()) {
        return answer(outcome);
    }
    let give = move |come: Result<(), Denied>| answer(come.map_err(E::from).and(outcome));
    // An error, too, tells of what it is based on.
    match attempt.owed_synced {
        Lsn::ZERO => journal.when_answerable(attempt.owed, client, Box::new(give)),
        synced => journal.when_synced(synced.max(attempt.owed), client, Box::new(give)),
    }
}
