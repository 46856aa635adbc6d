//! A program in a guest whose output is taken as it comes, by a thread of its own.
//!
//! The thread ends with the program, with the guest, or soon after this was dropped; the program itself is not ended
//! by dropping (guests are switched off as a whole).

use crate::agent::protocol::{End, Stream};
use crate::lab::{Moment, Running};
use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the thread looks whether anybody still wants to know.
const LOOK_AROUND: Duration = Duration::from_millis(500);

/// How it was over with a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// It ended.
    Ended(End),
    /// Its guest is gone.
    GuestGone,
}

#[derive(Default)]
struct State {
    over: Mutex<Option<Over>>,
    changed: Condvar,
    dropped: AtomicBool,
}

/// See the module.
pub struct Followed {
    running: Arc<Running>,
    state: Arc<State>,
    name: String,
}

impl Followed {
    /// Gives every piece of output to `take`.
    pub fn start(
        name: &str,
        running: Running,
        mut take: impl FnMut(Stream, &str) + Send + 'static,
    ) -> Result<Followed> {
        let (running, state) = (Arc::new(running), Arc::<State>::default());
        let (from, shared) = (Arc::clone(&running), Arc::clone(&state));
        let follow = move || {
            let over = loop {
                match from.next(LOOK_AROUND) {
                    Ok(Moment::Output(stream, text)) => take(stream, &text),
                    Ok(Moment::Ended(end)) => break Over::Ended(end),
                    Err(_) if from.is_over() => break Over::GuestGone,
                    Err(_) if shared.dropped.load(Ordering::Relaxed) => return,
                    Err(_) => {}
                }
            };
            *shared.over.lock().unwrap_or_else(PoisonError::into_inner) = Some(over);
            shared.changed.notify_all();
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(follow).context("cannot start a thread")?;
        Ok(Followed { running, state, name: name.to_owned() })
    }

    /// How it was over, if it is.
    pub fn over(&self) -> Option<Over> {
        *self.state.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is over and all its output was taken.
    pub fn wait_over(&self, limit: Duration) -> Result<Over> {
        let deadline = Instant::now() + limit;
        let mut over = self.state.over.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(over) = *over {
                return Ok(over);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{} did not end within {limit:?}", self.name);
            }
            over = self.state.changed.wait_timeout(over, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends a signal to its process group.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.running.signal(signal)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.state.dropped.store(true, Ordering::Relaxed);
    }
}
