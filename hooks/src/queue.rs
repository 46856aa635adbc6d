//! Runs hooks one after the other, on a thread of their own: whoever changes the role waits for none.
//!
//! Invariants: they run in the order in which the role changed. A hook of a role that is over is not begun, and one that runs
//! is killed, when [`Queue::give_up`] says so. The thread is there only while there is work. What can go wrong: a hook hangs;
//! the next one waits for its time limit.

use super::command::{CommandError, KILL_GRACE, run_while_wanted};
use admin_api::status::HookStatus;
use config::CommandLine;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A hook that is due.
pub(super) struct Job {
    pub hook: &'static str,
    pub command: CommandLine,
    pub environment: [(&'static str, String); 3],
}

/// The hooks of one volume that are due, and the last run of each.
pub(super) struct Queue {
    volume: String,
    time_limit: Duration,
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    /// Counts changes of the role.
    term: u64,
    waiting: VecDeque<(u64, Job)>,
    running: Option<(&'static str, Arc<AtomicBool>)>,
    /// There is a thread.
    busy: bool,
    runs: Vec<Run>,
}

struct Run {
    status: HookStatus,
    /// It failed in the present term, and nobody gave it up.
    failed: bool,
}

impl Queue {
    pub fn new(volume: String, time_limit: Duration) -> Arc<Queue> {
        Arc::new(Queue { volume, time_limit, state: Mutex::default(), idle: Condvar::new() })
    }

    /// The role has changed: what failed before is history.
    pub fn new_term(&self) {
        let mut state = self.state.lock();
        state.term += 1;
        state.runs.iter_mut().for_each(|run| run.failed = false);
    }

    /// Runs `job` after those that are due already.
    pub fn add(self: &Arc<Queue>, job: Job) {
        let mut state = self.state.lock();
        let term = state.term;
        state.waiting.push_back((term, job));
        if state.busy {
            return;
        }
        let queue = Arc::clone(self);
        match std::thread::Builder::new().name("hooks".into()).spawn(move || queue.work()) {
            Ok(_) => state.busy = true,
            Err(error) => {
                let failed = std::mem::take(&mut state.waiting);
                for (_, job) in failed {
                    let outcome = Err(format!("there is no thread to run it: {error}"));
                    self.note(&mut state, job.hook, Duration::ZERO, outcome, true);
                }
            }
        }
    }

    /// Nobody wants `hook` any more: it is not begun, and ended if it runs. Returns at once.
    pub fn give_up(&self, hook: &str) {
        let mut state = self.state.lock();
        let due = state.waiting.len();
        state.waiting.retain(|(_, job)| job.hook != hook);
        if state.waiting.len() < due {
            tracing::info!(volume = self.volume, hook, "the role has changed again: the hook was not run");
        }
        if let Some((_, unwanted)) = state.running.as_ref().filter(|(running, _)| *running == hook) {
            unwanted.store(true, Ordering::Release);
        }
    }

    /// Waits for what is due, for as long as one hook may take, and one before it that is being killed; then it is given up.
    pub fn end(&self) {
        let mut state = self.state.lock();
        let busy = |state: &mut State| state.busy;
        if !self.idle.wait_while_for(&mut state, busy, self.time_limit + 2 * KILL_GRACE).timed_out() {
            return;
        }
        for (_, job) in std::mem::take(&mut state.waiting) {
            tracing::error!(volume = self.volume, hook = job.hook, "no time is left to run the hook");
        }
        if let Some((_, unwanted)) = &state.running {
            unwanted.store(true, Ordering::Release);
        }
        // Also for one that does not end when it is killed.
        self.idle.wait_while_for(&mut state, busy, 2 * KILL_GRACE);
    }

    /// The last run of each hook.
    pub fn status(&self) -> Vec<HookStatus> {
        self.state.lock().runs.iter().map(|run| run.status.clone()).collect()
    }

    /// The run of `hook` that failed in the present role.
    pub fn failure(&self, hook: &str) -> Option<HookStatus> {
        let state = self.state.lock();
        state.runs.iter().find(|run| run.failed && run.status.hook == hook).map(|run| run.status.clone())
    }

    fn work(&self) {
        loop {
            let mut state = self.state.lock();
            let Some((term, job)) = state.waiting.pop_front() else {
                state.busy = false;
                self.idle.notify_all();
                return;
            };
            let unwanted = Arc::new(AtomicBool::new(false));
            state.running = Some((job.hook, Arc::clone(&unwanted)));
            drop(state);
            let started = Instant::now();
            let result = run_while_wanted(&job.command, &job.environment, self.time_limit, &unwanted);
            let given_up = matches!(result, Err(CommandError::Unwanted { .. }));
            let outcome = result.map(drop).map_err(|error| error.to_string());
            let mut state = self.state.lock();
            state.running = None;
            let counts = term == state.term && !given_up;
            self.note(&mut state, job.hook, started.elapsed(), outcome, counts);
        }
    }

    /// Remembers a run. One that does not count is no fault, however it ended.
    fn note(
        &self,
        state: &mut State,
        hook: &'static str,
        took: Duration,
        outcome: Result<(), String>,
        counts: bool,
    ) {
        let succeeded = outcome.is_ok();
        let status = HookStatus {
            hook: hook.to_owned(),
            at_unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
            duration_ms: took.as_millis() as u64,
            succeeded,
            outcome: outcome.err().unwrap_or_else(|| "succeeded".to_owned()),
        };
        if succeeded {
            tracing::info!(volume = self.volume, hook, duration_ms = status.duration_ms, "hook done");
        } else if counts {
            tracing::error!(volume = self.volume, hook, outcome = status.outcome, "hook failed");
        } else {
            tracing::warn!(volume = self.volume, hook, outcome = status.outcome, "a hook of an earlier role");
        }
        state.runs.retain(|earlier| earlier.status.hook != hook);
        state.runs.push(Run { status, failed: !succeeded && counts });
    }
}
