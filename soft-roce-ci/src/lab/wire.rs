//! The link between the two guests: one thread for each direction passes datagrams from one emulator's socket to the
//! other's, and can lose or delay them.
//!
//! A datagram that is not delayed is passed on as soon as the kernel wakes the thread; nothing is polled. A guest that
//! takes nothing (paused) lets its direction's queue fill; then the newest is lost, as in a switch. A guest that is
//! off loses everything that is sent to it. What is under way when the link is cut is lost.

use super::process::LabDirectory;
use super::spec::{Side, WireKind};
use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The most datagrams that wait in one direction.
const MAX_QUEUED: usize = 2048;

/// The most datagrams that are taken before those that wait are looked at.
const MAX_BURST: usize = 64;

/// The largest datagram: an emulator's packet buffer (`NET_BUFSIZE`).
const MAX_DATAGRAM_BYTES: usize = 4096 + 65536;

/// What a cut cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both directions.
    Both,
    /// What A sends.
    AtoB,
    /// What B sends.
    BtoA,
}

/// The link. Cutting or delaying a direct one is a mistake of the scenario and panics.
pub struct Wire {
    directions: Option<[Direction; 2]>,
}

impl Wire {
    /// Starts to relay between the sockets of the lab's directory; a direct wire needs nothing.
    pub fn start(directory: &LabDirectory, kind: WireKind) -> Result<Wire> {
        if kind == WireKind::Direct {
            return Ok(Wire { directions: None });
        }
        let direction = |from: Side| {
            let inbound = directory.socket(&super::emulator::file_name(from, "relay"));
            let outbound = directory.socket(&super::emulator::file_name(from.other(), "wire"));
            Direction::start(&inbound, outbound)
        };
        Ok(Wire { directions: Some([direction(Side::A)?, direction(Side::B)?]) })
    }

    /// Loses everything in these directions from now on, and nothing in the others.
    pub fn cut(&self, cut: Cut) {
        let [from_a, from_b] = self.directions();
        from_a.change(|settings| settings.cut.store(cut != Cut::BtoA, Ordering::Relaxed));
        from_b.change(|settings| settings.cut.store(cut != Cut::AtoB, Ordering::Relaxed));
    }

    /// Loses all TCP from now on, both ways, and lets everything else pass: connections fall silent, RDMA goes on.
    pub fn cut_tcp(&self) {
        for direction in self.directions() {
            direction.change(|settings| settings.no_tcp.store(true, Ordering::Relaxed));
        }
    }

    /// Ends every cut and every delay.
    pub fn heal(&self) {
        for direction in self.directions() {
            direction.change(|settings| {
                settings.cut.store(false, Ordering::Relaxed);
                settings.no_tcp.store(false, Ordering::Relaxed);
                settings.delay_ns.store(0, Ordering::Relaxed);
            });
        }
    }

    /// Delays what is sent from now on, in both directions.
    pub fn delay(&self, delay: Duration) {
        let nanoseconds = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        for direction in self.directions() {
            direction.change(|settings| settings.delay_ns.store(nanoseconds, Ordering::Relaxed));
        }
    }

    /// Datagrams that were passed on and that were lost, from A and from B.
    pub fn counts(&self) -> [(u64, u64); 2] {
        let count = |direction: &Direction| {
            let settings = &direction.settings;
            (settings.passed.load(Ordering::Relaxed), settings.lost.load(Ordering::Relaxed))
        };
        let [from_a, from_b] = self.directions();
        [count(from_a), count(from_b)]
    }

    fn directions(&self) -> &[Direction; 2] {
        self.directions.as_ref().expect("a direct wire cannot be changed: use WireKind::Relayed")
    }
}

/// What the relaying thread reads at each turn, and counts.
#[derive(Default)]
struct Settings {
    stop: AtomicBool,
    cut: AtomicBool,
    no_tcp: AtomicBool,
    delay_ns: AtomicU64,
    passed: AtomicU64,
    lost: AtomicU64,
}

/// One direction and its thread.
struct Direction {
    settings: Arc<Settings>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Direction {
    fn start(inbound: &Path, outbound: PathBuf) -> Result<Direction> {
        let inbound = UnixDatagram::bind(inbound)
            .with_context(|| format!("cannot make the socket {}", inbound.display()))?;
        inbound.set_nonblocking(true).context("cannot set up a socket")?;
        let bell = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let bell = Arc::new(bell.context("cannot make an eventfd")?);
        let settings = Arc::new(Settings::default());
        let relay = Relay {
            settings: Arc::clone(&settings),
            bell: Arc::clone(&bell),
            inbound,
            outbound: Outbound { path: outbound, socket: None },
            queue: VecDeque::new(),
            blocked: false,
        };
        let thread = std::thread::spawn(move || relay.run());
        Ok(Direction { settings, bell, thread: Some(thread) })
    }

    fn change(&self, change: impl FnOnce(&Settings)) {
        change(&self.settings);
        // An eventfd refuses only when it is rung already.
        let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.change(|settings| settings.stop.store(true, Ordering::Relaxed));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A datagram that waits until it is due.
struct Waiting {
    due: Instant,
    bytes: Box<[u8]>,
}

/// The thread's own state.
struct Relay {
    settings: Arc<Settings>,
    bell: Arc<OwnedFd>,
    inbound: UnixDatagram,
    outbound: Outbound,
    queue: VecDeque<Waiting>,
    /// The receiver's socket was full at the last attempt.
    blocked: bool,
}

impl Relay {
    fn run(mut self) {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        while self.wait() {
            if self.settings.cut.load(Ordering::Relaxed) {
                self.settings.lost.fetch_add(self.queue.len() as u64, Ordering::Relaxed);
                self.queue.clear();
            }
            self.blocked = false;
            self.send_due();
            self.receive(&mut buffer);
        }
    }

    /// Sleeps until there is something to do. False when the wire is taken down.
    fn wait(&self) -> bool {
        let mut fds =
            vec![PollFd::new(&self.inbound, PollFlags::IN), PollFd::new(&*self.bell, PollFlags::IN)];
        let mut timeout = None;
        if let Some(next) = self.queue.front() {
            match self.outbound.socket.as_ref().filter(|_| self.blocked) {
                Some(socket) => fds.push(PollFd::new(socket, PollFlags::OUT)),
                None => timeout = Timespec::try_from(next.due.saturating_duration_since(Instant::now())).ok(),
            }
        }
        // An interrupted wait only costs a turn of the loop.
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
        let mut rings = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut rings);
        !self.settings.stop.load(Ordering::Relaxed)
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        for _ in 0..MAX_BURST {
            let Ok(len) = self.inbound.recv(buffer) else { return };
            self.take(&buffer[..len]);
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        let delay = Duration::from_nanos(self.settings.delay_ns.load(Ordering::Relaxed));
        let cut = self.settings.cut.load(Ordering::Relaxed)
            || self.settings.no_tcp.load(Ordering::Relaxed) && is_tcp(datagram);
        if cut || self.queue.len() >= MAX_QUEUED {
            self.settings.lost.fetch_add(1, Ordering::Relaxed);
        } else if self.queue.is_empty() && delay.is_zero() && self.pass_on(datagram) {
            // The common case copies nothing more.
        } else {
            self.queue.push_back(Waiting { due: Instant::now() + delay, bytes: datagram.into() });
        }
    }

    fn send_due(&mut self) {
        while let Some(next) = self.queue.pop_front() {
            if next.due > Instant::now() || !self.pass_on(&next.bytes) {
                self.queue.push_front(next);
                return;
            }
        }
    }

    /// Passes a datagram on or loses it; false when the receiver is full and the datagram must wait.
    fn pass_on(&mut self, datagram: &[u8]) -> bool {
        let counter = match self.outbound.send(datagram) {
            Ok(()) => &self.settings.passed,
            Err(Errno::AGAIN) => {
                self.blocked = true;
                return false;
            }
            Err(_) => &self.settings.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// Whether an Ethernet frame is TCP over IPv4. (The guests speak nothing else over the wire but UDP and ARP.)
fn is_tcp(frame: &[u8]) -> bool {
    const ETHERTYPE: std::ops::Range<usize> = 12..14;
    const PROTOCOL: usize = 14 + 9;
    frame.get(ETHERTYPE) == Some(&[0x08, 0x00]) && frame.get(PROTOCOL) == Some(&6)
}

/// The way to a guest, which may be off, or another machine than a moment ago.
struct Outbound {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Outbound {
    fn send(&mut self, datagram: &[u8]) -> Result<(), Errno> {
        let known = self.socket.is_some();
        match self.send_once(datagram) {
            // The machine behind the socket that we know is gone; there may be a new one.
            Err(error) if known && error != Errno::AGAIN => {
                self.socket = None;
                self.send_once(datagram)
            }
            result => result,
        }
    }

    fn send_once(&mut self, datagram: &[u8]) -> Result<(), Errno> {
        if self.socket.is_none() {
            self.socket = Some(connect(&self.path).map_err(|error| errno(&error))?);
        }
        let socket = self.socket.as_ref().ok_or(Errno::NOTCONN)?;
        socket.send(datagram).map(drop).map_err(|error| errno(&error))
    }
}

/// A connected socket, because only such a one can be waited for until its receiver has room.
fn connect(path: &Path) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
