//! Runs a command with a time limit, and ends it with everything that it started.
//!
//! Invariants: the command leads its own process group; when its time is over, nobody wants it any more, or it has ended and
//! left children in its group, the whole group is killed. Its output is read up to a bound and the rest thrown away, so that a
//! full pipe never stops it and a flood never fills our memory. What can go wrong: a killed command waits for a disk and does
//! not end (state D); after [`KILL_GRACE`] its end is left to a thread of its own.

use config::CommandLine;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Kept of a command's output, for the log.
const MAX_OUTPUT_BYTES: usize = 4 * 1024;
/// How often a running command is looked at: short at first, most commands are quick.
const FIRST_LOOK: Duration = Duration::from_micros(500);
const LONGEST_LOOK: Duration = Duration::from_millis(20);
/// For how long a killed command is waited for.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(1);
/// Wait for the rest of the output after the command has ended: on a busy machine whoever reads it may come late. Only what
/// has left the command's group, and holds its output open, makes it last so long.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("{} could not be started: {source}", program.display())]
    NotStarted {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not end in time; it was killed.
    #[error("{} did not end within {} ms and was killed{}", program.display(), limit.as_millis(), shown(output))]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// Its time.
        limit: Duration,
        /// What it had said.
        output: String,
    },
    /// Nobody wanted it any more; it was killed.
    #[error("{} was killed: this node's role has changed again{}", program.display(), shown(output))]
    Unwanted {
        /// The program.
        program: PathBuf,
        /// What it had said.
        output: String,
    },
    /// It ended with another status than 0.
    #[error("{} {}{}", program.display(), how(*status), shown(output))]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn shown(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(": {output}") }
}

/// Runs `command` with `environment` added to ours, for at most `limit`. Returns what it said (both streams, bounded).
///
/// # Errors
/// See [`CommandError`].
pub fn run(
    command: &CommandLine,
    environment: &[(&str, String)],
    limit: Duration,
) -> Result<String, CommandError> {
    run_while_wanted(command, environment, limit, &AtomicBool::new(false))
}

/// Likewise, and no longer than `unwanted` is false.
pub(super) fn run_while_wanted(
    command: &CommandLine,
    environment: &[(&str, String)],
    limit: Duration,
    unwanted: &AtomicBool,
) -> Result<String, CommandError> {
    let until = Instant::now() + limit;
    let program = command.program.clone();
    let not_started = |source| CommandError::NotStarted { program: program.clone(), source };
    let mut child = Command::new(&command.program)
        .args(&command.arguments)
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(not_started)?;
    let output = Arc::new(Output::default());
    let readers = collect(&output, child.stdout.take(), child.stderr.take());
    let ended = wait_until(&mut child, until, unwanted);
    // Also after a good end: what it left behind in its group goes with it.
    kill_group(&child);
    let said = |wait| output.text_after(readers, wait);
    match ended {
        Ok(Some(status)) if status.success() => Ok(said(OUTPUT_GRACE)),
        Ok(Some(status)) => Err(CommandError::Failed { program, status, output: said(OUTPUT_GRACE) }),
        Ok(None) => {
            reap(child);
            let output = said(OUTPUT_GRACE);
            Err(if unwanted.load(Ordering::Acquire) {
                CommandError::Unwanted { program, output }
            } else {
                CommandError::TimedOut { program, limit, output }
            })
        }
        Err(source) => Err(not_started(source)),
    }
}

fn wait_until(child: &mut Child, until: Instant, unwanted: &AtomicBool) -> io::Result<Option<ExitStatus>> {
    let mut look = FIRST_LOOK;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || unwanted.load(Ordering::Acquire) {
            return Ok(None);
        }
        std::thread::sleep(look.min(left));
        look = (look * 2).min(LONGEST_LOOK);
    }
}

/// Takes the end of a killed command. One that does not end holds nobody up: a thread waits for it, for ever if need be.
fn reap(mut child: Child) {
    match wait_until(&mut child, Instant::now() + KILL_GRACE, &AtomicBool::new(false)) {
        Ok(Some(_)) => return,
        Ok(None) => {
            tracing::warn!(
                pid = child.id(),
                "a killed command does not end: it waits for a disk or a driver"
            );
        }
        Err(error) => tracing::warn!(pid = child.id(), %error, "a killed command could not be waited for"),
    }
    let waits = std::thread::Builder::new().name("hook-reaper".into()).spawn(move || child.wait());
    if let Err(error) = waits {
        tracing::warn!(%error, "no thread to wait for a killed command");
    }
}

fn kill_group(child: &Child) {
    let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
    match kill_process_group(group, Signal::KILL) {
        // No such group: nobody was left.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::warn!(%error, "a command's process group could not be killed"),
    }
}

#[derive(Default)]
struct Output {
    state: Mutex<(Vec<u8>, usize)>,
    ended: Condvar,
}

impl Output {
    fn add(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_OUTPUT_BYTES.saturating_sub(state.0.len());
        state.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn reader_ended(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
        self.ended.notify_all();
    }

    /// The output once `readers` readers have ended, or after `wait`: a process that has left the group may
    /// hold the pipe open for ever.
    fn text_after(&self, readers: usize, wait: Duration) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.wait_timeout_while(state, wait, |(_, ended)| *ended < readers);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&state.0).trim().replace('\n', " | ")
    }
}

fn collect(output: &Arc<Output>, stdout: Option<ChildStdout>, stderr: Option<ChildStderr>) -> usize {
    let streams: [Option<Box<dyn Read + Send>>; 2] =
        [stdout.map(|s| Box::new(s) as Box<dyn Read + Send>), stderr.map(|s| Box::new(s) as _)];
    let mut readers = 0;
    for mut stream in streams.into_iter().flatten() {
        let output = Arc::clone(output);
        let spawned = std::thread::Builder::new().name("hook-output".into()).spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                output.add(&buffer[..n]);
            }
            output.reader_ended();
        });
        match spawned {
            Ok(_) => readers += 1,
            Err(error) => tracing::warn!(%error, "no thread to read a command's output"),
        }
    }
    readers
}
