//! The witness's server: a thread per connection, a bounded number of them, one lock around the registers.
//!
//! A caller counts as a node once it has proved a key (when there are keys) and asked a question; until then it is
//! one of few and has little time (`openings`), so that a flood of strangers keeps no node out. What can go wrong: a node
//! that says nothing (dropped after [`IDLE_LIMIT`]), too many nodes (the newest is turned away), a disk that fails (the
//! server ends with the error; an answer it could not keep is never given), no thread for a connection (it is closed, and
//! the others go on; whoever it was tries again), a panic of the loop that accepts (the conversations end, and with them
//! the process, which is started again: half a witness would answer those that it knows and nobody else).

use super::nodes::Access;
use super::openings::Openings;
use super::store::{Store, StoreError};
use super::stream::{Stream, Timed};
use super::{read_frame, write_frame};
use pair::witness::{Answer, Request, swap};
use parking_lot::Mutex;
use rdma_transport::tls;
use rustix::io::Errno;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// Nodes' connections at the same time.
pub const MAX_CONNECTIONS: usize = 256;
/// A connection that asks nothing for so long is closed.
pub const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a caller may take to prove its key and ask its first question.
pub(super) const OPENING_LIMIT: Duration = Duration::from_secs(2);
/// Longest time to send the rest of a question, or to take an answer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(5);
/// How soon a wish to stop is noticed.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// How often it is tried whether a register could be written.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Pause of the accept loop while nobody comes; bounds the delay of a first request.
const ACCEPT_CHECK: Duration = Duration::from_millis(2);
/// The same while the machine has nothing left for a new connection.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);
/// How often that is told.
const SHORTAGE_REMARK: Duration = Duration::from_secs(10);

/// What a thread of the server does.
pub(super) type Work<'scope> = Box<dyn FnOnce() + Send + 'scope>;
/// How it gets its thread.
pub(super) type Spawn = for<'scope, 'env> fn(&'scope Scope<'scope, 'env>, Work<'scope>) -> io::Result<()>;

/// Why the witness cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address.
    #[error("the witness cannot listen on {address}: {source}; choose a free address of this machine")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

struct Shared<'a> {
    store: Mutex<Store>,
    /// When it was last seen that a register could be written.
    probed: Mutex<Option<Instant>>,
    access: Access,
    tls: Option<Arc<ServerConfig>>,
    openings: Openings,
    failure: Mutex<Option<StoreError>>,
    connections: AtomicUsize,
    stop: &'a AtomicBool,
    /// The accept loop has ended, and nobody asked it to.
    broken: AtomicBool,
}

/// Serves until `stop` is set; calls `ready` with the address once connections are accepted.
///
/// # Errors
/// See [`ServeError`]; also when the disk fails while serving.
pub fn serve(
    listen: SocketAddr,
    state_dir: &Path,
    access: Access,
    ready: impl FnOnce(SocketAddr),
    stop: &AtomicBool,
) -> Result<(), ServeError> {
    serve_with(listen, state_dir, access, ready, stop, spawn)
}

pub(super) fn spawn<'scope>(scope: &'scope Scope<'scope, '_>, work: Work<'scope>) -> io::Result<()> {
    thread::Builder::new().name("conversation".to_owned()).spawn_scoped(scope, work).map(drop)
}

/// The same, with threads from somewhere.
pub(super) fn serve_with(
    listen: SocketAddr,
    state_dir: &Path,
    access: Access,
    ready: impl FnOnce(SocketAddr),
    stop: &AtomicBool,
    spawn: Spawn,
) -> Result<(), ServeError> {
    let store = Store::open(state_dir)?;
    let listen_error = |source| ServeError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).map_err(listen_error)?;
    listener.set_nonblocking(true).map_err(listen_error)?;
    ready(listener.local_addr().map_err(listen_error)?);
    let tls = match &access {
        Access::Anybody => None,
        Access::Keys { own, nodes } => {
            let known = nodes.clone();
            let accepts: tls::Accepts = Arc::new(move |key| known.knows(key));
            Some(tls::server_config(own, accepts, tls::Purpose::Witness)?)
        }
    };
    let shared = Shared {
        store: Mutex::new(store),
        probed: Mutex::new(None),
        access,
        tls,
        openings: Openings::default(),
        failure: Mutex::new(None),
        connections: AtomicUsize::new(0),
        stop,
        broken: AtomicBool::new(false),
    };
    thread::scope(|scope| shared.accept_all(&listener, scope, spawn));
    match shared.failure.into_inner() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// What a node is told that asks for a volume which is not its own.
const NOT_ITS_VOLUME: &str =
    "this node may not ask for this volume: the witness's file of nodes names others for its key";

fn read_question(stream: &mut Stream) -> io::Result<Request> {
    let body = read_frame(stream)?;
    serde_json::from_slice(&body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// One of the nodes' connections, counted while it lives.
struct Node<'a>(&'a AtomicUsize);

impl Node<'_> {
    fn count(connections: &AtomicUsize, peer: SocketAddr) -> io::Result<Node<'_>> {
        let before = connections.fetch_add(1, Ordering::SeqCst);
        let node = Node(connections);
        if before >= MAX_CONNECTIONS {
            tracing::warn!(%peer, "witness: too many connections, turned one away");
            return Err(io::Error::other("too many connections"));
        }
        Ok(node)
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Ends the conversations when the loop that lets them in is left by a panic: the scope waits for them.
struct EndsAll<'a>(&'a AtomicBool);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Tells a shortage now and then, not with each connection.
#[derive(Default)]
struct Remarks(Option<Instant>);

impl Remarks {
    fn remark(&mut self, error: &io::Error) {
        if self.0.is_none_or(|at| at.elapsed() >= SHORTAGE_REMARK) {
            self.0 = Some(Instant::now());
            tracing::warn!(%error, "witness: a connection could not be taken; raise the limits of threads (TasksMax=) and of descriptors (LimitNOFILE=)");
        }
    }
}

/// Of descriptors or memory, of the process or of the machine.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

impl Shared<'_> {
    fn ends(&self) -> bool {
        let told = self.stop.load(Ordering::SeqCst) || self.broken.load(Ordering::SeqCst);
        told || self.failure.lock().is_some()
    }

    fn accept_all<'scope>(
        &'scope self,
        listener: &TcpListener,
        scope: &'scope Scope<'scope, '_>,
        spawn: Spawn,
    ) {
        let _guard = EndsAll(&self.broken);
        let mut remarks = Remarks::default();
        while !self.ends() {
            let (stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if is_shortage(&error) => {
                    remarks.remark(&error);
                    thread::sleep(SHORTAGE_PAUSE);
                    continue;
                }
                // Nobody, or somebody who has gone again.
                Err(_) => {
                    thread::sleep(ACCEPT_CHECK);
                    continue;
                }
            };
            let started = self.openings.add(&stream, peer).and_then(|opening| {
                let conversation = move || {
                    if let Err(error) = self.converse(stream, opening, peer) {
                        tracing::debug!(%peer, %error, "witness: connection ended");
                    }
                    // Unless it is known long since who it was.
                    self.openings.remove(opening);
                };
                spawn(scope, Box::new(conversation)).inspect_err(|_| {
                    self.openings.remove(opening);
                })
            });
            if let Err(error) = started {
                remarks.remark(&error);
                thread::sleep(SHORTAGE_PAUSE);
            }
        }
    }

    fn converse(&self, socket: TcpStream, opening: u64, peer: SocketAddr) -> io::Result<()> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        let timed = Timed { socket, limit: Instant::now() + OPENING_LIMIT };
        let mut stream = match &self.tls {
            None => Stream::Plain(timed),
            Some(config) => {
                let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                Stream::Server(Box::new(StreamOwned::new(connection, timed)))
            }
        };
        stream.prove()?;
        let mut question = read_question(&mut stream)?;
        if !self.openings.remove(opening) {
            return Ok(());
        }
        let _one = Node::count(&self.connections, peer)?;
        loop {
            stream.set_limit(Instant::now() + EXCHANGE_LIMIT);
            let answer = match self.may_ask(&stream, &question) {
                true => self.answer(question),
                false => Some(Answer::Refused { reason: NOT_ITS_VOLUME.to_owned() }),
            };
            let Some(answer) = answer else { return Ok(()) };
            write_frame(&mut stream, &serde_json::to_vec(&answer)?)?;
            if !self.await_question(stream.socket())? {
                return Ok(());
            }
            // Once a frame has begun, the rest must come soon.
            stream.set_limit(Instant::now() + EXCHANGE_LIMIT);
            question = read_question(&mut stream)?;
        }
    }

    fn may_ask(&self, stream: &Stream, question: &Request) -> bool {
        match (&self.access, stream.peer_key()) {
            (Access::Anybody, _) => true,
            (Access::Keys { nodes, .. }, Some(key)) => nodes.lets_ask(&key, question.volume()),
            (Access::Keys { .. }, None) => false,
        }
    }

    /// Waits for the first byte of a question; false when the connection or the server ends.
    fn await_question(&self, socket: &TcpStream) -> io::Result<bool> {
        socket.set_read_timeout(Some(STOP_CHECK))?;
        let since = Instant::now();
        while !self.ends() && since.elapsed() < IDLE_LIMIT {
            match socket.peek(&mut [0]) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// A witness that can only read helps nobody, and its nodes should know before they need it. Tried now and then,
    /// and with each question while it fails.
    fn could_write(&self, store: &Store) -> Result<(), String> {
        let mut probed = self.probed.lock();
        if probed.is_some_and(|at| at.elapsed() < PROBE_INTERVAL) {
            return Ok(());
        }
        *probed = None;
        store.probe().map_err(|error| format!("it cannot write its state: {error}"))?;
        *probed = Some(Instant::now());
        Ok(())
    }

    /// `None`: no answer may be given, the disk failed.
    fn answer(&self, request: Request) -> Option<Answer> {
        let mut store = self.store.lock();
        if !store.is_usable() {
            return None;
        }
        let (expected, new) = match request {
            Request::Read { volume } => {
                return Some(match self.could_write(&store) {
                    Ok(()) => Answer::Is { register: store.get(volume).cloned() },
                    Err(reason) => Answer::Refused { reason },
                });
            }
            Request::CompareAndSwap { expected, new } => (expected, new),
        };
        let register = match swap(store.get(new.volume), expected.as_ref(), &new) {
            Ok(register) => register,
            Err(answer) => return Some(answer),
        };
        match store.put(register.clone()) {
            Ok(()) => {
                tracing::info!(volume = %register.volume, epoch = %register.epoch, primary = %register.primary,
                    mode = %register.mode, "witness: register changed");
                Some(Answer::Swapped { register })
            }
            Err(StoreError::Full) => Some(Answer::Refused { reason: StoreError::Full.to_string() }),
            Err(error) => {
                tracing::error!(%error, "witness: cannot keep its state, stops");
                *self.failure.lock() = Some(error);
                None
            }
        }
    }
}
