//! Where links come from: the handshake of both sides, and the thread that listens.
//!
//! One thread reads the opening messages of all who connect. Invariants: a connection costs it 192 bytes and is
//! dropped when the handshake timeout passes; there are at most [`MAX_OPENING`] of them, the oldest gives way;
//! nobody's slowness delays another. A volume gets a link when all sockets of one session are there; a session
//! that stays incomplete is dropped, and a newer complete one replaces an older one that nobody has taken.

use crate::handshake::{
    ANSWER_BYTES, ChannelKind, PREAMBLE_BYTES, PREFIX_BYTES, Preamble, SessionId, array_at, check_prefix,
    decode_answer, encode_answer,
};
use crate::socket::{OpeningError, deadline_after, recv_exact, send_all, try_recv};
use crate::{Link, LinkError, LinkParams, Refusal};
use ids::VolumeId;
use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::net::SocketFlags;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections whose opening message is not complete.
const MAX_OPENING: usize = 64;
/// Incomplete sessions of one volume.
const MAX_INCOMPLETE: usize = 4;
/// How long a stranger may take, whatever the volumes' own limits are.
const OPENING_LIMIT: Duration = Duration::from_secs(2);
/// An opening or answering side that takes nothing for so long is given up.
const ANSWER_LIMIT: Duration = Duration::from_millis(100);
/// Pause after a failure of accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The sockets of one session.
pub(crate) struct Complete {
    pub session: SessionId,
    /// In the order that the transport asked for.
    pub sockets: Vec<OwnedFd>,
    pub address: String,
    /// This side connected.
    pub connected: bool,
    /// When the handshake must be over.
    pub deadline: Instant,
}

/// Makes a link of a complete session; holds what the transport needs for that (the log's memory, a device).
pub(crate) type Assemble = Box<dyn Fn(Complete, &LinkParams) -> Result<Link, LinkError> + Send + Sync>;

/// The connecting side: opens one channel and waits for the answer.
pub(crate) fn introduce(
    socket: &OwnedFd,
    kind: ChannelKind,
    session: SessionId,
    params: &LinkParams,
    capacity_bytes: u64,
    deadline: Instant,
    address: &str,
) -> Result<(), LinkError> {
    let stranger = || LinkError::Stranger { address: address.to_owned() };
    let preamble = Preamble {
        kind,
        session,
        volume: params.volume,
        capacity_bytes,
        from: params.local.clone(),
        to: params.peer.clone(),
    };
    let limit = params.tuning.handshake_timeout;
    send_all(socket, &preamble.encode(), limit).map_err(|_| stranger())?;
    let mut answer = [0; ANSWER_BYTES];
    recv_exact(socket, &mut answer, deadline).map_err(|error| match error {
        OpeningError::Timeout => LinkError::HandshakeTimeout { address: address.to_owned(), limit },
        OpeningError::Ended => stranger(),
        OpeningError::Os(errno) if errno == rustix::io::Errno::CONNRESET => stranger(),
        OpeningError::Os(errno) => LinkError::os("receiving the answer to the handshake")(errno),
    })?;
    decode_answer(&answer).ok_or_else(stranger)?.map_err(LinkError::Refused)
}

/// The sockets of a session that have come so far.
struct Session {
    id: SessionId,
    sockets: Vec<Option<OwnedFd>>,
    deadline: Instant,
}

#[derive(Default)]
struct Waiting {
    sessions: Vec<Session>,
    ready: Option<Complete>,
    ended: bool,
}

/// A registered volume.
struct Entry {
    params: LinkParams,
    capacity_bytes: u64,
    kinds: &'static [ChannelKind],
    waiting: Mutex<Waiting>,
    news: Condvar,
}

impl Entry {
    fn admit(&self, preamble: &Preamble) -> Result<usize, Refusal> {
        if preamble.to != self.params.local {
            return Err(Refusal::NotMe { actual: self.params.local.to_string() });
        }
        if preamble.from != self.params.peer {
            return Err(Refusal::WrongNode { expected: self.params.peer.to_string() });
        }
        if preamble.capacity_bytes != self.capacity_bytes {
            return Err(Refusal::Capacity { theirs_bytes: self.capacity_bytes });
        }
        self.kinds.iter().position(|kind| *kind == preamble.kind).ok_or(Refusal::WrongChannel)
    }

    /// Adds a socket to its session, after the caller was told that it is welcome.
    fn add(&self, index: usize, id: SessionId, socket: OwnedFd) {
        let mut waiting = self.waiting.lock();
        let now = Instant::now();
        waiting.sessions.retain(|session| session.deadline > now);
        let at = waiting.sessions.iter().position(|session| session.id == id).unwrap_or_else(|| {
            if waiting.sessions.len() >= MAX_INCOMPLETE {
                waiting.sessions.remove(0);
            }
            let sockets = self.kinds.iter().map(|_| None).collect();
            let deadline = deadline_after(self.params.tuning.handshake_timeout);
            waiting.sessions.push(Session { id, sockets, deadline });
            waiting.sessions.len() - 1
        });
        let session = &mut waiting.sessions[at];
        session.sockets[index] = Some(socket);
        if session.sockets.iter().all(Option::is_some) {
            let session = waiting.sessions.remove(at);
            let sockets: Vec<OwnedFd> = session.sockets.into_iter().flatten().collect();
            let address = address_of(&sockets[0]);
            waiting.ready = Some(Complete {
                session: id,
                sockets,
                address,
                connected: false,
                deadline: session.deadline,
            });
            self.news.notify_all();
        }
    }

    fn end(&self) {
        self.waiting.lock().ended = true;
        self.news.notify_all();
    }
}

fn address_of(socket: &OwnedFd) -> String {
    let address = rustix::net::getpeername(socket).ok();
    let internet = address.flatten().and_then(|address| std::net::SocketAddr::try_from(address).ok());
    internet.map_or_else(|| "this host".to_owned(), |address| address.to_string())
}

type Registry = Mutex<HashMap<VolumeId, Arc<Entry>>>;

/// Links of one registered volume, from the partner that connects. Dropping it unregisters the volume.
pub struct Acceptor {
    entry: Arc<Entry>,
    registry: Arc<Registry>,
    assemble: Assemble,
}

impl Acceptor {
    /// The next link; `None` when none came within `wait`. A newer link replaces one that nobody has taken yet.
    ///
    /// # Errors
    /// [`LinkError::Closed`]: the listener was dropped. Any other error concerns one link that could not be
    /// made; the next call may give one.
    pub fn accept(&self, wait: Duration) -> Result<Option<Link>, LinkError> {
        let deadline = deadline_after(wait);
        let complete = {
            let mut waiting = self.entry.waiting.lock();
            loop {
                if let Some(complete) = waiting.ready.take() {
                    break complete;
                }
                if waiting.ended {
                    return Err(LinkError::Closed);
                }
                if self.entry.news.wait_until(&mut waiting, deadline).timed_out() && waiting.ready.is_none() {
                    return Ok(None);
                }
            }
        };
        (self.assemble)(complete, &self.entry.params).map(Some)
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.entry.params.volume);
    }
}

/// The listening thread and what it lets in.
pub(crate) struct Rendezvous {
    registry: Arc<Registry>,
    stop: Arc<(AtomicBool, OwnedFd)>,
    thread: Option<JoinHandle<()>>,
}

impl Rendezvous {
    /// Listens at a bound non-blocking socket.
    pub(crate) fn start(listener: OwnedFd) -> Result<Rendezvous, LinkError> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(LinkError::os("making an eventfd"))?;
        let stop = Arc::new((AtomicBool::new(false), wake));
        let registry = Arc::new(Registry::default());
        let mut porter = Porter {
            listener,
            opening: Vec::new(),
            registry: Arc::clone(&registry),
            stop: Arc::clone(&stop),
            accept_after: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("link-listener".into())
            .spawn(move || porter.run())
            .map_err(LinkError::io("starting the listener's thread"))?;
        Ok(Rendezvous { registry, stop, thread: Some(thread) })
    }

    pub(crate) fn register(
        &self,
        params: LinkParams,
        capacity_bytes: u64,
        kinds: &'static [ChannelKind],
        assemble: Assemble,
    ) -> Result<Acceptor, LinkError> {
        let entry = Arc::new(Entry {
            capacity_bytes,
            kinds,
            waiting: Mutex::default(),
            news: Condvar::new(),
            params,
        });
        let mut registry = self.registry.lock();
        if registry.contains_key(&entry.params.volume) {
            return Err(LinkError::Registered(entry.params.volume));
        }
        registry.insert(entry.params.volume, Arc::clone(&entry));
        drop(registry);
        Ok(Acceptor { entry, registry: Arc::clone(&self.registry), assemble })
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::SeqCst);
        // An eventfd takes a one unless it is full, and then it wakes anyway.
        let _ = rustix::io::write(&self.stop.1, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported where it happened.
            let _ = thread.join();
        }
        self.registry.lock().values().for_each(|entry| entry.end());
    }
}

/// A connection whose opening message is not complete.
struct Opening {
    socket: OwnedFd,
    bytes: [u8; PREAMBLE_BYTES],
    have: usize,
    deadline: Instant,
}

/// The thread at the door.
struct Porter {
    listener: OwnedFd,
    opening: Vec<Opening>,
    registry: Arc<Registry>,
    stop: Arc<(AtomicBool, OwnedFd)>,
    accept_after: Instant,
}

impl Porter {
    fn run(&mut self) {
        while !self.stop.0.load(Ordering::SeqCst) {
            self.wait();
            let now = Instant::now();
            if now >= self.accept_after {
                self.accept();
            }
            for mut opening in std::mem::take(&mut self.opening) {
                match opening.read() {
                    Ok(None) if opening.deadline > now => self.opening.push(opening),
                    Ok(None) => {}
                    Ok(Some(preamble)) => self.receive(preamble, opening.socket),
                    Err(refusal) => answer(&opening.socket, &Err(refusal)),
                }
            }
        }
    }

    /// Waits for somebody to knock, to say more, or to take too long.
    fn wait(&self) {
        let now = Instant::now();
        let next = self.opening.iter().map(|opening| opening.deadline);
        let next = next.chain((self.accept_after > now).then_some(self.accept_after)).min();
        let wait = next.map(|deadline| {
            crate::socket::timespec(deadline.saturating_duration_since(now) + Duration::from_millis(1))
        });
        let mut fds = vec![PollFd::new(&self.stop.1, PollFlags::IN)];
        if now >= self.accept_after {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        fds.extend(self.opening.iter().map(|opening| PollFd::new(&opening.socket, PollFlags::IN)));
        if let Err(errno) = rustix::event::poll(&mut fds, wait.as_ref())
            && errno != rustix::io::Errno::INTR
        {
            tracing::warn!(%errno, "waiting for connections failed");
            std::thread::sleep(ACCEPT_PAUSE);
        }
    }

    fn accept(&mut self) {
        for _ in 0..MAX_OPENING {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    if self.opening.len() >= MAX_OPENING {
                        let oldest = self.opening.remove(0);
                        answer(&oldest.socket, &Err(Refusal::Busy));
                    }
                    let deadline = deadline_after(OPENING_LIMIT);
                    self.opening.push(Opening { socket, bytes: [0; PREAMBLE_BYTES], have: 0, deadline });
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "a connection could not be accepted");
                    self.accept_after = deadline_after(ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn receive(&self, preamble: Preamble, socket: OwnedFd) {
        let entry = self.registry.lock().get(&preamble.volume).cloned();
        let admitted = entry
            .ok_or(Refusal::UnknownVolume)
            .and_then(|entry| entry.admit(&preamble).map(|index| (entry, index)));
        match admitted {
            Ok((entry, index)) => {
                answer(&socket, &Ok(()));
                entry.add(index, preamble.session, socket);
            }
            Err(refusal) => {
                tracing::info!(volume = %preamble.volume, from = %preamble.from, %refusal, "link refused");
                answer(&socket, &Err(refusal));
            }
        }
    }
}

/// Answers; who does not take the answer finds the connection closed instead.
fn answer(socket: impl AsFd, answer: &Result<(), Refusal>) {
    let _ = send_all(&socket, &encode_answer(answer), ANSWER_LIMIT);
    if answer.is_err() {
        // Bytes that are left unread when the socket is closed would reset it and take the answer with them.
        let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Write);
        let _ = try_recv(&socket, &mut [0; 4096]);
    }
}

impl Opening {
    /// Reads what has come: the preamble when it is whole, an error when it can not become one.
    fn read(&mut self) -> Result<Option<Preamble>, Refusal> {
        match try_recv(&self.socket, &mut self.bytes[self.have..]) {
            Ok(None) => return Ok(None),
            Ok(Some(0)) | Err(_) => return Err(Refusal::Malformed),
            Ok(Some(len)) => self.have += len,
        }
        if self.have >= PREFIX_BYTES {
            check_prefix(&array_at(&self.bytes, 0))?;
        }
        (self.have == PREAMBLE_BYTES).then(|| Preamble::decode(&self.bytes)).transpose()
    }
}
