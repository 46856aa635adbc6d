//! What a guest's agent said and nobody has taken yet, sorted by the order that it belongs to.
//!
//! Who waits is woken when something arrives, when the guest is lost, or when the time is over. What is kept is
//! bounded; more than that is an error for who reads it.

use crate::agent::protocol::{Event, Stream};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most output of one program that is kept for who reads it later.
pub const MAX_KEPT_BYTES: usize = 256 << 20;

/// Where a program's output goes; `None` keeps it to be read.
#[derive(Default)]
pub struct OutputFiles {
    /// For standard output.
    pub stdout: Option<File>,
    /// For standard error.
    pub stderr: Option<File>,
}

/// Why there is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEvent {
    /// The guest is gone, and what it said before was taken.
    Lost,
    /// The time is over.
    TooLate,
    /// More was said than is kept.
    TooMuch,
}

/// What the agent said about one order and nobody has taken yet.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<InboxState>,
    arrived: Condvar,
    files: OutputFiles,
}

#[derive(Default)]
struct InboxState {
    events: VecDeque<Event>,
    kept_bytes: usize,
    ended: bool,
    lost: bool,
    too_much: bool,
}

impl Inbox {
    /// An inbox that keeps only what has no file.
    pub fn with(files: OutputFiles) -> Inbox {
        Inbox { files, ..Inbox::default() }
    }

    /// Takes in what the agent said.
    pub fn put(&self, event: Event) {
        if let Event::Output { stream, text, .. } = &event {
            let file = match stream {
                Stream::Stdout => &self.files.stdout,
                Stream::Stderr => &self.files.stderr,
            };
            if let Some(mut file) = file.as_ref() {
                // A full disk of the host shows in what the scenario itself writes.
                let _ = file.write_all(text.as_bytes());
                return;
            }
        }
        let mut state = self.lock();
        match &event {
            Event::Output { text, .. } => state.kept_bytes += text.len(),
            Event::Ended { .. } => state.ended = true,
            _ => {}
        }
        if state.kept_bytes > MAX_KEPT_BYTES {
            state.too_much = true;
        } else {
            state.events.push_back(event);
        }
        self.arrived.notify_all();
    }

    /// The next of what was said; waits for it for so long.
    pub fn next(&self, limit: Duration) -> Result<Event, NoEvent> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(event) = state.events.pop_front() {
                if let Event::Output { text, .. } = &event {
                    state.kept_bytes -= text.len();
                }
                return Ok(event);
            }
            if state.too_much {
                return Err(NoEvent::TooMuch);
            }
            if state.lost {
                return Err(NoEvent::Lost);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NoEvent::TooLate);
            }
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether nothing is left and nothing will come.
    pub fn is_over(&self) -> bool {
        let state = self.lock();
        state.events.is_empty() && (state.ended || state.lost)
    }

    /// Whether nothing more will come.
    pub fn has_ended(&self) -> bool {
        let state = self.lock();
        state.ended || state.lost
    }

    fn lose(&self) {
        self.lock().lost = true;
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits for what.
#[derive(Default)]
pub struct Inboxes(Mutex<InboxTable>);

#[derive(Default)]
struct InboxTable {
    open: BTreeMap<u64, Arc<Inbox>>,
    lost: bool,
}

impl Inboxes {
    /// From now on what is said about this order goes here.
    pub fn open(&self, id: u64, inbox: Arc<Inbox>) {
        let mut table = self.lock();
        if table.lost {
            inbox.lose();
        }
        table.open.insert(id, inbox);
    }

    /// Nobody waits for this order any more.
    pub fn close(&self, id: u64) {
        self.lock().open.remove(&id);
    }

    /// Where what is said about this order goes.
    pub fn get(&self, id: u64) -> Option<Arc<Inbox>> {
        self.lock().open.get(&id).cloned()
    }

    /// The guest is gone: tells everybody who waits, now and later.
    pub fn lose_all(&self) {
        let mut table = self.lock();
        table.lost = true;
        for inbox in table.open.values() {
            inbox.lose();
        }
    }

    fn lock(&self) -> MutexGuard<'_, InboxTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
