//! Programs that the agent started: their output, their end, their time limit.
//!
//! Each program has three threads: two that pass its output on, one that waits for its end. Threads that are
//! asleep cost nothing here, and no read of one program can hold up another.

use super::ToHost;
use super::protocol::{End, Event, MAX_LINE_BYTES, Stream};
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a program that ended may be silent before its output counts as complete, though its pipe is still open: a
/// child of it can hold that for ever. What it wrote itself comes without such pauses, however long it takes.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// A child that writes on and on is not waited for longer than so many times that.
const MAX_GRACES: u32 = 30;

/// The programs that run, by the id of their order.
#[derive(Clone, Default)]
pub struct Programs(Arc<Mutex<BTreeMap<u64, Pid>>>);

impl Programs {
    /// Starts a program; everything else about it is said to the harness by threads.
    pub fn start(&self, id: u64, argv: &[String], limit: Option<Duration>, to_host: &ToHost) -> Result<()> {
        let [program, arguments @ ..] = argv else { bail!("no program named") };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let pid = Pid::from_child(&child);
        self.table().insert(id, pid);

        let (finished, output_ended) = mpsc::channel();
        let lines = Arc::new(AtomicU64::new(0));
        let stdout = child.stdout.take().context("no pipe for the output")?;
        let stderr = child.stderr.take().context("no pipe for the errors")?;
        let output = |stream| Output { id, stream, to_host: to_host.clone(), lines: Arc::clone(&lines) };
        pass_on(stdout, output(Stream::Stdout), finished.clone());
        pass_on(stderr, output(Stream::Stderr), finished);

        let (programs, to_host) = (self.clone(), to_host.clone());
        std::thread::spawn(move || {
            let end = wait(&mut child, pid, limit);
            programs.table().remove(&id);
            let mut passed_on = lines.load(Ordering::Relaxed);
            for _ in 0..MAX_GRACES {
                let silent = output_ended.recv_timeout(OUTPUT_GRACE) == Err(RecvTimeoutError::Timeout);
                let now = lines.load(Ordering::Relaxed);
                if !silent || std::mem::replace(&mut passed_on, now) == now {
                    break;
                }
            }
            to_host.say(&Event::Ended { id, end });
        });
        Ok(())
    }

    /// Signals the process group of a program that runs.
    pub fn signal(&self, target: u64, signal: i32) -> Result<()> {
        let signal =
            Signal::from_named_raw(signal).with_context(|| format!("there is no signal {signal}"))?;
        let table = self.table();
        let pid = table.get(&target).context("the program has ended")?;
        rustix::process::kill_process_group(*pid, signal).context("cannot signal the program")
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a program's output comes from and goes.
struct Output {
    id: u64,
    stream: Stream,
    to_host: ToHost,
    /// Counts what was passed on.
    lines: Arc<AtomicU64>,
}

/// Passes on what a program writes, line by line, until the pipe ends. Dropping `finished` tells so.
fn pass_on(pipe: impl Read + Send + 'static, output: Output, finished: mpsc::Sender<()>) {
    std::thread::spawn(move || {
        let Output { id, stream, to_host, lines } = output;
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            match pipe.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    to_host.say(&Event::Output { id, stream, text });
                    lines.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        drop(finished);
    });
}

/// Waits for a program's end, and makes one at the time limit.
fn wait(child: &mut Child, pid: Pid, limit: Option<Duration>) -> End {
    let timed_out = limit.is_some_and(|limit| !ends_within(pid, limit));
    if timed_out {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait();
    if timed_out { End::TimedOut } else { status.map_or(End::Exited(-1), end_of) }
}

fn end_of(status: ExitStatus) -> End {
    status.signal().map_or_else(|| End::Exited(status.code().unwrap_or(-1)), End::Signaled)
}

/// True when the process ended in time. It is our child and not yet waited for, so its number is still its own.
fn ends_within(pid: Pid, limit: Duration) -> bool {
    let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&handle, PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}
