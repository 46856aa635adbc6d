//! Where links come from: the handshake of both sides, and the thread that listens.
//!
//! One thread (`door`) reads the opening messages of all who connect. Invariants: a volume gets a link when all
//! sockets of one session are there, each of which proved the partner's key when there are keys; a session that
//! stays incomplete is dropped, and a newer complete one replaces an older one that nobody has taken.

use crate::door::Door;
use crate::handshake::{ANSWER_BYTES, ChannelKind, Preamble, SessionId, decode_answer};
use crate::socket::{OpeningError, deadline_after, send_all, try_recv, wait_for};
use crate::tls::{
    self, DoorKeys, LinkKeys, Opening, Progress, PublicKey, Purpose, RecordError, Stream, TlsError,
};
use crate::{Link, LinkError, LinkParams, Refusal};
use ids::VolumeId;
use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFlags};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Incomplete sessions of one volume.
const MAX_INCOMPLETE: usize = 4;
/// Connections that the kernel keeps until the door's thread takes them.
const BACKLOG: i32 = 1024;

/// The sockets of one session.
pub(crate) struct Complete {
    pub session: SessionId,
    /// In the order that the transport asked for.
    pub sockets: Vec<Stream>,
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
    socket: OwnedFd,
    kind: ChannelKind,
    session: SessionId,
    params: &LinkParams,
    capacity_bytes: u64,
    deadline: Instant,
    address: &str,
) -> Result<Stream, LinkError> {
    let stranger = || LinkError::Stranger { address: address.to_owned() };
    let limit = params.tuning.handshake_timeout;
    let timeout = || LinkError::HandshakeTimeout { address: address.to_owned(), limit };
    let mut stream = match &params.keys {
        None => Stream::plain(socket),
        Some(keys) => prove(socket, keys, deadline, limit).map_err(|error| match error {
            Unproved::Timeout => timeout(),
            Unproved::Ended => stranger(),
            Unproved::Tls(why) => LinkError::Untrusted { address: address.to_owned(), why },
            Unproved::Os(errno) => LinkError::os("proving this node's key")(errno),
        })?,
    };
    let preamble = Preamble {
        kind,
        session,
        volume: params.volume,
        capacity_bytes,
        from: params.local.clone(),
        to: params.peer.clone(),
    };
    stream.send(&preamble.encode(), limit).map_err(|_| stranger())?;
    let mut answer = [0; ANSWER_BYTES];
    stream.receive_exact(&mut answer, deadline).map_err(|error| match error {
        OpeningError::Timeout => timeout(),
        OpeningError::Ended => stranger(),
        OpeningError::Os(errno) if errno == rustix::io::Errno::CONNRESET => stranger(),
        OpeningError::Os(errno) => LinkError::os("receiving the answer to the handshake")(errno),
        // The listening side looks at this side's key last.
        OpeningError::Record(RecordError::Alert(_)) => {
            LinkError::Untrusted { address: address.to_owned(), why: TlsError::KeyRefused }
        }
        OpeningError::Record(_) => stranger(),
    })?;
    decode_answer(&answer).ok_or_else(stranger)?.map_err(LinkError::Refused)?;
    Ok(stream)
}

/// Why the connecting side has not got through TLS.
enum Unproved {
    Timeout,
    Ended,
    Tls(TlsError),
    Os(rustix::io::Errno),
}

/// The connecting side of TLS: proves this node's key and has the partner's proved.
fn prove(socket: OwnedFd, keys: &LinkKeys, deadline: Instant, limit: Duration) -> Result<Stream, Unproved> {
    let settings = |error: rustls::Error| Unproved::Tls(TlsError::Handshake(error.to_string()));
    let config = tls::client_config(&keys.own, keys.peer, Purpose::Link).map_err(settings)?;
    let mut opening = Opening::client(config).map_err(Unproved::Tls)?;
    let (mut out, mut len) = (Vec::new(), 0);
    loop {
        let progress = opening.advance(len, &mut out);
        let sent = send_all(&socket, &out, limit);
        out.clear();
        match progress.map_err(Unproved::Tls)? {
            Progress::Proved if sent.is_ok() => break,
            _ if sent.is_err() => return Err(Unproved::Ended),
            _ => {}
        }
        len = loop {
            match try_recv(&socket, opening.room()) {
                Ok(Some(0)) | Err(rustix::io::Errno::CONNRESET) => return Err(Unproved::Ended),
                Ok(Some(len)) => break len,
                Ok(None) if wait_for(&socket, PollFlags::IN, deadline).map_err(Unproved::Os)? => {}
                Ok(None) => return Err(Unproved::Timeout),
                Err(errno) => return Err(Unproved::Os(errno)),
            }
        };
    }
    opening.finish().map(|opened| Stream::opened(socket, opened)).map_err(Unproved::Tls)
}

/// The sockets of a session that have come so far.
struct Session {
    id: SessionId,
    sockets: Vec<Option<Stream>>,
    deadline: Instant,
}

#[derive(Default)]
struct Waiting {
    sessions: Vec<Session>,
    ready: Option<Complete>,
    ended: bool,
}

/// A registered volume.
pub(crate) struct Entry {
    params: LinkParams,
    capacity_bytes: u64,
    kinds: &'static [ChannelKind],
    waiting: Mutex<Waiting>,
    news: Condvar,
}

impl Entry {
    /// Whether this is its partner's key.
    pub(crate) fn knows(&self, key: &PublicKey) -> bool {
        self.params.keys.as_ref().is_some_and(|keys| keys.peer == *key)
    }

    /// Which of its channels this is; `proved` is the caller's key.
    pub(crate) fn admit(&self, preamble: &Preamble, proved: Option<&PublicKey>) -> Result<usize, Refusal> {
        // A node that is the partner of another volume is a stranger to this one.
        if proved.is_some_and(|key| !self.knows(key)) {
            return Err(Refusal::UnknownVolume);
        }
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
    pub(crate) fn add(&self, index: usize, id: SessionId, socket: Stream) {
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
            let sockets: Vec<Stream> = session.sockets.into_iter().flatten().collect();
            let address = address_of(&sockets[0].socket);
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

/// The volumes of a listener.
pub(crate) type Registry = Mutex<HashMap<VolumeId, Arc<Entry>>>;

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
    keys: Option<DoorKeys>,
    stop: Arc<(AtomicBool, OwnedFd)>,
    thread: Option<JoinHandle<()>>,
}

impl Rendezvous {
    /// Listens at a bound non-blocking socket; with keys nobody gets in without TLS.
    pub(crate) fn start(listener: OwnedFd, keys: Option<DoorKeys>) -> Result<Rendezvous, LinkError> {
        rustix::net::listen(&listener, BACKLOG).map_err(LinkError::os("listening"))?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(LinkError::os("making an eventfd"))?;
        let stop = Arc::new((AtomicBool::new(false), wake));
        let registry = Arc::new(Registry::default());
        let mut door = Door::new(listener, keys.clone(), Arc::clone(&registry), Arc::clone(&stop))?;
        let thread = std::thread::Builder::new()
            .name("link-listener".into())
            .spawn(move || door.run())
            .map_err(LinkError::io("starting the listener's thread"))?;
        Ok(Rendezvous { registry, keys, stop, thread: Some(thread) })
    }

    pub(crate) fn register(
        &self,
        params: LinkParams,
        capacity_bytes: u64,
        kinds: &'static [ChannelKind],
        assemble: Assemble,
    ) -> Result<Acceptor, LinkError> {
        let fits = match (&params.keys, &self.keys) {
            (None, None) => true,
            (Some(link), Some(door)) => link.own == door.own && door.partners.contains(&link.peer),
            _ => false,
        };
        assert!(fits, "a volume is served with keys of its listener, or both without");
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
