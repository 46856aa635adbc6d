//! Poll or sleep: decided at each waiting place, all the time, by what is measured.
//!
//! Polling pays when the answer comes while one polls: it saves both sides a wake-up, which costs tens of
//! microseconds in a virtual machine. It is pure loss when the other side needs this very processor to answer, or
//! when nothing comes. [`decide`] holds the rules and performs nothing; [`machine`] measures what a wake-up costs here
//! and whether a processor is free for polling.
//!
//! Not chosen: a fixed time to poll. Where a wake-up takes longer than that, two ends that sleep once sleep for good,
//! each too late to find the other awake (`docs/decisions/0013-poll-or-sleep-is-measured.md`).

mod decide;
mod machine;
#[cfg(test)]
mod tests;

pub use machine::wake_cost;

use decide::{Rules, View};
use machine::Look;
use std::time::{Duration, Instant};

/// One waiting place. Public because the front door and the bare loops of the benches wait in the same way.
///
/// Each wait is [`begin`](Self::begin), then either [`polled`](Self::polled), or [`gave_up`](Self::gave_up) if it had
/// polled at all and one of [`slept`](Self::slept) and [`nothing`](Self::nothing).
#[derive(Debug)]
pub struct Spin(Rules);

impl Spin {
    /// Polls for at most `limit` at a time; zero: always sleeps at once.
    pub fn new(limit: Duration) -> Spin {
        machine::start();
        Spin(Rules::new(limit))
    }

    /// A wait begins at `now`. How long to poll; zero: sleep at once.
    pub fn begin(&mut self, now: Instant) -> Duration {
        self.0.begin(now, view(Look::Lately, now))
    }

    /// What was waited for came at `now`, while polling.
    pub fn polled(&mut self, now: Instant) {
        self.0.polled(now);
    }

    /// It had not come by `now`, when the time to poll was over.
    pub fn gave_up(&mut self, now: Instant) {
        self.0.gave_up(view(Look::Now, now).processors);
    }

    /// It came at `now`, and ended a sleep.
    pub fn slept(&mut self, now: Instant) {
        machine::refresh(now);
        self.0.slept(now, machine::wake_cost());
    }

    /// It did not come for as long as the caller waits.
    pub fn nothing(&mut self) {
        self.0.nothing();
    }
}

fn view(look: Look, now: Instant) -> View {
    View { wake: machine::wake_cost(), processors: machine::processors(look, now) }
}
