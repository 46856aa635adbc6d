//! The bare loop that a mirrored commit over verbs is measured against: WRITE_WITH_IMM of so many bytes, answered by
//! an inline SEND. No log, no checksum, nothing made durable.
//!
//! What is not bare about it is what both have in common: the settings of queue pairs and completion queues, selective
//! signalling, and how a waiting thread polls before it sleeps ([`Spin`]).

mod raw;

pub use raw::Device;

use anyhow::{Context, Result, bail};
use raw::{Endpoint, QueuePair};
use rdma_transport::{Spin, Tuning};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a sleep lasts at most, as the transport's.
const LOOK_INTERVAL: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the answering end is left alone while others take their turns.
const IDLE: Duration = Duration::from_secs(600);
/// Ring of either end.
pub const RING_BYTES: u64 = 16 << 20;

/// One end, connected.
struct End {
    pair: QueuePair,
    peer: Endpoint,
    socket: TcpStream,
    spin: Spin,
}

impl End {
    /// Exchanges addresses over `socket` and connects.
    fn meet(device: &Device, socket: TcpStream, asks: bool) -> Result<End> {
        let pair = QueuePair::new(device, nvlog::region::anonymous(RING_BYTES)?, asks)?;
        let mine = pair.endpoint()?;
        let mut lines = BufReader::new(socket.try_clone()?);
        let peer: Endpoint = swap(&socket, &mut lines, &serde_json::to_string(&mine)?)
            .and_then(|line| Ok(serde_json::from_str(&line)?))?;
        pair.connect(&mine, &peer)?;
        // Nobody writes before both are connected.
        swap(&socket, &mut lines, "ready")?;
        Ok(End { pair, peer, socket, spin: Spin::new(Tuning::default().spin) })
    }

    /// Waits until a poll has found what is `wanted`, and gives how many: polls for a bounded time, then sleeps. `None`
    /// when the other end has hung up.
    fn wait(&mut self, patience: Duration, wanted: impl Fn(raw::Found) -> u32) -> Result<Option<u32>> {
        let begin = Instant::now();
        let limit = self.spin.begin(begin);
        let (mut now, spin_until) = (begin, begin + limit);
        loop {
            let found = wanted(self.pair.poll()?);
            if found > 0 {
                self.spin.polled(now);
                return Ok(Some(found));
            }
            now = Instant::now();
            if now >= spin_until {
                break;
            }
            std::hint::spin_loop();
        }
        if !limit.is_zero() {
            self.spin.gave_up(now);
        }
        loop {
            self.pair.arm()?;
            let found = wanted(self.pair.poll()?);
            if found > 0 {
                self.spin.slept(Instant::now());
                return Ok(Some(found));
            }
            let mut fds = [
                PollFd::from_borrowed_fd(self.pair.notification(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN | PollFlags::RDHUP),
            ];
            match rustix::event::poll(&mut fds, Some(&LOOK_INTERVAL)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let happened = fds.each_ref().map(|fd| !fd.revents().is_empty());
            if happened[0] {
                self.pair.take_notifications();
            }
            let found = wanted(self.pair.poll()?);
            if found > 0 {
                self.spin.slept(Instant::now());
                return Ok(Some(found));
            }
            if happened[1] {
                return Ok(None);
            }
            if begin.elapsed() > patience {
                bail!("the other end was silent for {patience:?}");
            }
        }
    }
}

fn swap(mut socket: &TcpStream, lines: &mut impl BufRead, mine: &str) -> Result<String> {
    socket.write_all(format!("{mine}\n").as_bytes())?;
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        bail!("the other end hung up");
    }
    Ok(line.trim_end().to_owned())
}

/// The end that is written to; answers until the other hangs up.
pub fn answer(device: &Device, socket: TcpStream) -> Result<()> {
    let mut end = End::meet(device, socket, false)?;
    while let Some(landed) = end.wait(IDLE, |found| found.landed)? {
        for _ in 0..landed {
            end.pair.answer()?;
        }
    }
    Ok(())
}

/// The end that writes.
pub struct Asker {
    end: End,
    offset: u64,
}

impl Asker {
    /// Connected through `socket`.
    pub fn start(device: &Device, socket: TcpStream) -> Result<Asker> {
        Ok(Asker { end: End::meet(device, socket, true)?, offset: 0 })
    }

    /// There and back.
    pub fn ask(&mut self, len_bytes: u32) -> Result<()> {
        if self.offset + u64::from(len_bytes) > RING_BYTES {
            self.offset = 0;
        }
        self.end.pair.write(self.offset, len_bytes, &self.end.peer)?;
        self.offset += u64::from(len_bytes);
        self.end.wait(PATIENCE, |found| found.messages)?.context("the answering end has gone")?;
        Ok(())
    }
}
