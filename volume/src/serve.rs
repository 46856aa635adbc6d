//! How a front door calls an operation: without a thread that waits.
//!
//! An operation that need not wait is run and answered on the spot, and nothing is allocated for it. One that has to wait
//! is kept with a copy of what it needs, or with its finished answer ([`commit::attempt`]).

use super::Volume;
use super::errno::{Errno, Result};
use commit::{Attempt, Client, Parked, attempt, finish};

impl Volume {
    /// Runs `now` and hands its outcome to `answer`, at once or when it may be given. If it has to wait, `later` makes
    /// what is to be run in its place, and tells how much memory that holds: it must not borrow, and may be called
    /// several times. It is given what the first run came to, for an operation that can have done a part.
    pub fn serve<T, L>(
        &self,
        client: Client,
        now: impl FnOnce() -> Result<T>,
        later: impl FnOnce(Result<T>) -> (usize, L),
        answer: impl FnOnce(Result<T>) + Send + 'static,
    ) where
        T: Send + 'static,
        L: FnMut() -> Result<T> + Send + 'static,
    {
        let (outcome, made) = attempt(Attempt::default(), now);
        if made.must_wait() {
            let (bytes, again) = later(outcome);
            return self.park(client, made, bytes, again, answer);
        }
        if made.is_paid(self.journal.as_ref()) {
            return answer(outcome);
        }
        finish::<T, Errno>(&self.journal, client, made, outcome, answer);
    }

    /// Keeps a request whose attempt `made` has to wait, as [`Volume::serve`] does.
    pub fn park<T: Send + 'static>(
        &self,
        client: Client,
        made: Attempt,
        bytes: usize,
        again: impl FnMut() -> Result<T> + Send + 'static,
        answer: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let journal = self.journal.clone();
        self.journal.park(Parked::new(journal, client, bytes, made, again, answer));
    }
}
