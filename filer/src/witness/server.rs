//! The witness's server: a thread per connection, a bounded number of them, one lock around the registers.
//!
//! What can go wrong: a client that says nothing (dropped after [`IDLE_LIMIT`]), too many clients (the newest
//! is turned away), a disk that fails (the server ends with the error; an answer it could not keep is never
//! given).

use super::store::{Store, StoreError};
use super::{read_frame, write_frame};
use pair::witness::{Answer, Request, swap};
use parking_lot::Mutex;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Connections at the same time.
pub const MAX_CONNECTIONS: usize = 256;
/// A connection that asks nothing for so long is closed.
pub const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Longest time to take an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How soon a wish to stop is noticed.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// Pause of the accept loop while nobody comes; bounds the delay of a first request.
const ACCEPT_CHECK: Duration = Duration::from_millis(2);

/// Why the witness can not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address.
    #[error("the witness can not listen on {address}: {source}; choose a free address of this machine")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

struct Shared<'a> {
    store: Mutex<Store>,
    failure: Mutex<Option<StoreError>>,
    connections: AtomicUsize,
    stop: &'a AtomicBool,
}

/// Serves until `stop` is set; calls `ready` with the address once connections are accepted.
///
/// # Errors
/// See [`ServeError`]; also when the disk fails while serving.
pub fn serve(
    listen: SocketAddr,
    state_dir: &Path,
    ready: impl FnOnce(SocketAddr),
    stop: &AtomicBool,
) -> Result<(), ServeError> {
    let store = Store::open(state_dir)?;
    let listen_error = |source| ServeError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).map_err(listen_error)?;
    listener.set_nonblocking(true).map_err(listen_error)?;
    ready(listener.local_addr().map_err(listen_error)?);
    let shared = Shared {
        store: Mutex::new(store),
        failure: Mutex::new(None),
        connections: AtomicUsize::new(0),
        stop,
    };
    thread::scope(|scope| {
        while !shared.ends() {
            let Ok((stream, peer)) = listener.accept() else {
                thread::sleep(ACCEPT_CHECK);
                continue;
            };
            if shared.connections.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
                shared.connections.fetch_sub(1, Ordering::SeqCst);
                tracing::warn!(%peer, "witness: too many connections, turned one away");
                continue;
            }
            let shared = &shared;
            scope.spawn(move || {
                if let Err(error) = shared.converse(stream) {
                    tracing::debug!(%peer, %error, "witness: connection ended");
                }
                shared.connections.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    match shared.failure.into_inner() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

impl Shared<'_> {
    fn ends(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.failure.lock().is_some()
    }

    fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        while self.await_request(&stream)? {
            // Once a frame has begun, the rest must come soon.
            stream.set_read_timeout(Some(WRITE_LIMIT))?;
            let body = read_frame(&mut stream)?;
            let request: Request = serde_json::from_slice(&body)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let Some(answer) = self.answer(request) else { return Ok(()) };
            write_frame(&mut stream, &serde_json::to_vec(&answer)?)?;
        }
        Ok(())
    }

    /// Waits for the first byte of a request; false when the connection or the server ends.
    fn await_request(&self, stream: &TcpStream) -> io::Result<bool> {
        stream.set_read_timeout(Some(STOP_CHECK))?;
        let since = Instant::now();
        while !self.ends() && since.elapsed() < IDLE_LIMIT {
            match stream.peek(&mut [0]) {
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

    /// `None`: no answer may be given, the disk failed.
    fn answer(&self, request: Request) -> Option<Answer> {
        let mut store = self.store.lock();
        if !store.is_usable() {
            return None;
        }
        let (expected, new) = match request {
            Request::Read { volume } => return Some(Answer::Is { register: store.get(volume).cloned() }),
            Request::CompareAndSwap { expected, new } => (expected, new),
        };
        let register = match swap(store.get(new.volume), expected.as_ref(), &new) {
            Ok(register) => register,
            Err(answer) => return Some(answer),
        };
        match store.put(register.clone()) {
            Ok(()) => {
                tracing::info!(volume = %register.volume, epoch = %register.epoch, primary = %register.primary,
                    mode = ?register.mode, "witness: register changed");
                Some(Answer::Swapped { register })
            }
            Err(StoreError::Full) => Some(Answer::Refused { reason: StoreError::Full.to_string() }),
            Err(error) => {
                tracing::error!(%error, "witness: can not keep its state, stops");
                *self.failure.lock() = Some(error);
                None
            }
        }
    }
}
