//! A connection between a node and the witness: a socket with a moment at which all waiting ends, and TLS on it where
//! there are keys.
//!
//! Invariant: no call outlasts the moment that was set, however slowly bytes trickle in.

use rdma_transport::tls::PublicKey;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Shortest time limit given to a socket (zero would mean none).
const MIN_WAIT: Duration = Duration::from_millis(1);

/// What is left until `limit`, as a socket takes it.
pub(super) fn left(limit: Instant) -> Duration {
    limit.saturating_duration_since(Instant::now()).max(MIN_WAIT)
}

/// A socket and when waiting on it ends.
#[derive(Debug)]
pub(super) struct Timed {
    pub socket: TcpStream,
    pub limit: Instant,
}

impl Timed {
    fn check(&self) -> io::Result<Duration> {
        let left = self.limit.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.max(MIN_WAIT)) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.check()?;
        self.socket.set_read_timeout(Some(left))?;
        self.socket.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.check()?;
        self.socket.set_write_timeout(Some(left))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Either side of a connection.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Timed),
    Client(Box<StreamOwned<ClientConnection, Timed>>),
    Server(Box<StreamOwned<ServerConnection, Timed>>),
}

impl Stream {
    fn timed(&mut self) -> &mut Timed {
        match self {
            Stream::Plain(timed) => timed,
            Stream::Client(stream) => &mut stream.sock,
            Stream::Server(stream) => &mut stream.sock,
        }
    }

    /// Waiting ends at `limit` from now on.
    pub fn set_limit(&mut self, limit: Instant) {
        self.timed().limit = limit;
    }

    /// The socket below.
    pub fn socket(&mut self) -> &TcpStream {
        &self.timed().socket
    }

    /// The key that the caller has proved to this server.
    pub fn peer_key(&self) -> Option<PublicKey> {
        let Stream::Server(stream) = self else { return None };
        PublicKey::of_certificate(stream.conn.peer_certificates()?.first()?)
    }

    /// Goes through TLS's handshake; does nothing without TLS.
    pub fn prove(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => {}
            Stream::Client(stream) => {
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
            }
            Stream::Server(stream) => {
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
            }
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(timed) => timed.read(buffer),
            Stream::Client(stream) => stream.read(buffer),
            Stream::Server(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(timed) => timed.write(bytes),
            Stream::Client(stream) => stream.write(bytes),
            Stream::Server(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(timed) => timed.flush(),
            Stream::Client(stream) => stream.flush(),
            Stream::Server(stream) => stream.flush(),
        }
    }
}
