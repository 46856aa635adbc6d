//! The harness's end of the talk with a guest's agent.
//!
//! One thread reads what the agent says and gives it to whoever waits for it. When the guest is gone, however that
//! happened, everybody who waits is told: no call hangs. What arrived before is still delivered first, because a
//! line that a load generator printed is a promise that a check must know of.
//!
//! Every wait has a limit; what is kept for a program is bounded, and losing the bound is an error, never silence.

use super::inbox::{Inbox, Inboxes, MAX_KEPT_BYTES, NoEvent, OutputFiles};
use crate::agent::protocol::{End, Event, MAX_FILE_BYTES, Order, Request, Stream};
use anyhow::{Context, Result, anyhow, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest line of the agent: a file as hexadecimal text, and what is around it.
const MAX_EVENT_BYTES: u64 = 2 * MAX_FILE_BYTES as u64 + (64 << 10);

/// How long the socket to a guest that takes nothing is waited for. A paused guest takes little.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// The inbox of what belongs to no order.
const GREETING: u64 = 0;

/// A connection to an agent.
pub struct Channel {
    to_guest: Mutex<UnixStream>,
    inboxes: Arc<Inboxes>,
    next_id: AtomicU64,
    guest: String,
    last_words: LastWords,
    switched_off: AtomicBool,
}

/// What a guest that ended by itself left behind: the ends of its console and of its emulator's output.
pub type LastWords = Box<dyn Fn() -> String + Send + Sync>;

impl Channel {
    /// Starts to listen to the agent.
    pub fn new(stream: UnixStream, guest: &str, last_words: LastWords) -> Result<Arc<Channel>> {
        stream.set_write_timeout(Some(WRITE_LIMIT)).context("cannot set a time limit")?;
        let from_guest = stream.try_clone().context("cannot share a socket")?;
        let inboxes = Arc::new(Inboxes::default());
        inboxes.open(GREETING, Arc::new(Inbox::default()));
        let for_reader = Arc::clone(&inboxes);
        std::thread::spawn(move || {
            read_events(from_guest, &for_reader);
            for_reader.lose_all();
        });
        Ok(Arc::new(Channel {
            to_guest: Mutex::new(stream),
            inboxes,
            next_id: AtomicU64::new(GREETING + 1),
            guest: guest.to_owned(),
            last_words,
            switched_off: AtomicBool::new(false),
        }))
    }

    /// The guest is about to end because we want it: its end needs no explanation.
    pub fn expect_end(&self) {
        self.switched_off.store(true, Ordering::Relaxed);
    }

    /// Waits until the agent has said that the guest is up.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        let inbox = self.inboxes.get(GREETING).context("nobody waits for the greeting")?;
        let greeting = inbox.next(limit).map_err(|why| match why {
            NoEvent::TooLate => self.explain(why, limit).context((self.last_words)()),
            _ => self.explain(why, limit),
        });
        match greeting? {
            Event::Ready => Ok(()),
            other => bail!("guest {} greeted with {other:?}", self.guest),
        }
    }

    /// One order with one answer.
    pub fn call(&self, order: Order, limit: Duration) -> Result<Event> {
        let (id, inbox) = self.send(order, Inbox::default())?;
        let answer = inbox.next(limit).map_err(|why| self.explain(why, limit));
        self.inboxes.close(id);
        match answer? {
            Event::Failed { error, .. } => bail!("guest {}: {error}", self.guest),
            answer => Ok(answer),
        }
    }

    /// Starts a program. Output that has a file goes there as it comes, the rest is kept to be read.
    pub fn start(
        self: &Arc<Channel>,
        argv: &[&str],
        limit: Option<Duration>,
        files: OutputFiles,
    ) -> Result<Running> {
        let order = Order::Start {
            argv: argv.iter().map(|part| (*part).to_owned()).collect(),
            limit_ms: limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        };
        let (id, inbox) = self.send(order, Inbox::with(files))?;
        Ok(Running { channel: Arc::clone(self), id, inbox, program: argv.join(" ") })
    }

    fn send(&self, order: Order, inbox: Inbox) -> Result<(u64, Arc<Inbox>)> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let inbox = Arc::new(inbox);
        self.inboxes.open(id, Arc::clone(&inbox));
        let mut line = serde_json::to_vec(&Request { id, order }).context("cannot encode an order")?;
        line.push(b'\n');
        let written = self.to_guest.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
        if let Err(error) = written {
            self.inboxes.close(id);
            return Err(self.gone().context(format!("cannot order anything: {error}")));
        }
        Ok((id, inbox))
    }

    fn gone(&self) -> anyhow::Error {
        let gone = anyhow!(GuestGone(self.guest.clone()));
        match self.switched_off.load(Ordering::Relaxed) {
            true => gone,
            false => gone.context(format!("it ended by itself\n{}", (self.last_words)())),
        }
    }

    fn explain(&self, why: NoEvent, limit: Duration) -> anyhow::Error {
        let guest = &self.guest;
        match why {
            NoEvent::Lost => self.gone(),
            NoEvent::TooLate => anyhow!("guest {guest} did not answer within {limit:.0?}"),
            NoEvent::TooMuch => anyhow!("a program in guest {guest} wrote more than {MAX_KEPT_BYTES} bytes"),
        }
    }
}

/// The guest ended while something was asked of it.
#[derive(Debug)]
pub struct GuestGone(String);

impl std::fmt::Display for GuestGone {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "guest {} is gone", self.0)
    }
}

impl std::error::Error for GuestGone {}

/// A program in a guest. Dropping this does not end it.
pub struct Running {
    channel: Arc<Channel>,
    id: u64,
    inbox: Arc<Inbox>,
    program: String,
}

/// A program that ended, and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// What it wrote on standard output.
    pub stdout: String,
    /// What it wrote on standard error.
    pub stderr: String,
    program: String,
}

/// Something that a program did.
#[derive(Debug, PartialEq, Eq)]
pub enum Moment {
    /// It wrote a line (with its line end), or a piece of a very long one.
    Output(Stream, String),
    /// It ended. Nothing comes after this.
    Ended(End),
}

impl Running {
    /// The next thing that the program does. An error when it does nothing for so long, or when the guest is gone
    /// and all that it said before was read.
    pub fn next(&self, limit: Duration) -> Result<Moment> {
        let event = self.inbox.next(limit).map_err(|why| self.channel.explain(why, limit));
        match event.with_context(|| format!("waiting for: {}", self.program))? {
            Event::Output { stream, text, .. } => Ok(Moment::Output(stream, text)),
            Event::Ended { end, .. } => Ok(Moment::Ended(end)),
            Event::Failed { error, .. } => bail!("guest {}: {error}", self.channel.guest),
            other => bail!("guest {} answered a program with {other:?}", self.channel.guest),
        }
    }

    /// The next line of standard output without its line end; `None` when the program has ended.
    pub fn next_line(&self, limit: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + limit;
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now()))? {
                Moment::Output(Stream::Stdout, text) => {
                    return Ok(Some(text.trim_end_matches('\n').to_owned()));
                }
                Moment::Output(Stream::Stderr, _) => {}
                Moment::Ended(_) => return Ok(None),
            }
        }
    }

    /// Waits for the end and collects what was not read yet.
    pub fn wait(&self, limit: Duration) -> Result<Finished> {
        let deadline = Instant::now() + limit;
        let (mut stdout, mut stderr) = (String::new(), String::new());
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now()))? {
                Moment::Output(Stream::Stdout, text) => stdout.push_str(&text),
                Moment::Output(Stream::Stderr, text) => stderr.push_str(&text),
                Moment::Ended(end) => {
                    return Ok(Finished { end, stdout, stderr, program: self.program.clone() });
                }
            }
        }
    }

    /// Sends a signal to the program's process group.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.channel.call(Order::Signal { target: self.id, signal }, super::guest::ANSWER_LIMIT).map(drop)
    }

    /// Whether all that it wrote was read and it has ended, or its guest is gone.
    pub fn is_over(&self) -> bool {
        self.inbox.is_over()
    }

    /// Whether it has ended, or its guest is gone; what it wrote may not be read yet.
    pub fn has_ended(&self) -> bool {
        self.inbox.has_ended()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.channel.inboxes.close(self.id);
    }
}

impl Finished {
    /// True when the program said so.
    pub fn success(&self) -> bool {
        self.end == End::Exited(0)
    }

    /// The output of a program that succeeded; an error with all that it wrote for any other.
    pub fn ok(self) -> Result<String> {
        if self.success() {
            return Ok(self.stdout);
        }
        bail!("{}: {:?}\n{}{}", self.program, self.end, self.stdout, self.stderr)
    }
}

/// Gives out what the agent says until the connection ends or says what no agent says.
fn read_events(from_guest: UnixStream, inboxes: &Inboxes) {
    let mut from_guest = BufReader::new(from_guest);
    let mut line = Vec::new();
    loop {
        line.clear();
        match from_guest.by_ref().take(MAX_EVENT_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let Ok(event) = serde_json::from_slice::<Event>(&line) else { return };
        // An order whose caller went away has no inbox any more.
        if let Some(inbox) = inboxes.get(event.id().unwrap_or(GREETING)) {
            inbox.put(event);
        }
    }
}

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
