//! Asking the witness: one blocking call, with a time limit, over a connection that is kept.
//!
//! What can go wrong: anything between here and there. The one thing that must be right is whether the
//! request may have arrived: [`WitnessError::maybe_applied`] is false only when it certainly did not.

use super::configured::Reply;
use super::stream::{Stream, Timed, left};
use super::{read_frame, write_frame};
use pair::witness::{Answer, Request};
use rdma_transport::tls::{self, LinkKeys};
use rustls::{ClientConnection, StreamOwned};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The address cannot be resolved.
    #[error("witness address {address} cannot be used: {source}; write an IP address and a port")]
    Address {
        /// As configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody there, or no way to it.
    #[error("witness {address} cannot be reached: {source}; check that 'twinfiler witness' runs there")]
    Connect {
        /// As configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The witness proved another key, none, or does not know this node's. Nothing was carried out.
    #[error(
        "witness {address} cannot be trusted or does not trust this node: {why}; compare `witness.public_key` here \
             with `twinfiler keygen --show` there, and its file of nodes with this node's key"
    )]
    Untrusted {
        /// As configured.
        address: String,
        /// What TLS said.
        why: String,
    },
    /// The connection failed after the request was (perhaps) sent.
    #[error("witness {address} did not answer in time: {source}; is its machine or the network overloaded?")]
    NoAnswer {
        /// As configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("{address} answers, but not as a witness does ({why}); check address and version")]
    Nonsense {
        /// As configured.
        address: String,
        /// What is wrong.
        why: String,
    },
}

impl WitnessError {
    /// May the request have been carried out?
    pub fn maybe_applied(&self) -> bool {
        let certainly_not = matches!(
            self,
            WitnessError::Address { .. } | WitnessError::Connect { .. } | WitnessError::Untrusted { .. }
        );
        !certainly_not
    }
}

/// A connection to the witness at one address; reconnects by itself.
#[derive(Debug)]
pub struct Client {
    address: String,
    keys: Option<LinkKeys>,
    stream: Option<Stream>,
}

impl Client {
    /// A client for `address` (`host:port`); connects with the first request. With keys it proves its own and wants
    /// the witness's.
    pub fn new(address: impl Into<String>, keys: Option<LinkKeys>) -> Client {
        Client { address: address.into(), keys, stream: None }
    }

    /// Asks, and waits no longer than `timeout` (name resolution excepted).
    ///
    /// # Errors
    /// See [`WitnessError`]; the connection is then closed, and the next request opens a new one.
    pub fn request(&mut self, request: &Request, timeout: Duration) -> Result<Answer, WitnessError> {
        let limit = Instant::now() + timeout;
        let kept = self.stream.take().and_then(|mut stream| is_alive(stream.socket()).then_some(stream));
        let mut stream = match kept {
            Some(stream) => stream,
            None => self.connect(limit)?,
        };
        let answer = self.exchange(&mut stream, request, limit)?;
        self.stream = Some(stream);
        Ok(answer)
    }

    /// The same, in the words of the pair's event.
    pub fn ask(&mut self, request: &Request, timeout: Duration) -> Reply {
        match self.request(request, timeout) {
            Ok(answer) => {
                let Reply { outcome, why } = Reply::to(answer);
                Reply { outcome, why: why.map(|why| format!("witness {}: {why}", self.address)) }
            }
            Err(error) => Reply::none(error.maybe_applied(), error.to_string()),
        }
    }

    fn connect(&self, limit: Instant) -> Result<Stream, WitnessError> {
        let address = self.address.clone();
        let found = address
            .to_socket_addrs()
            .map_err(|source| WitnessError::Address { address: address.clone(), source })?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in found.collect::<Vec<SocketAddr>>() {
            let connected = TcpStream::connect_timeout(&candidate, left(limit))
                .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            match connected {
                Ok(socket) => return self.prove(Timed { socket, limit }),
                Err(error) => last = error,
            }
        }
        Err(WitnessError::Connect { address, source: last })
    }

    /// TLS, when there are keys.
    fn prove(&self, timed: Timed) -> Result<Stream, WitnessError> {
        let Some(keys) = &self.keys else { return Ok(Stream::Plain(timed)) };
        let untrusted = |why: String| WitnessError::Untrusted { address: self.address.clone(), why };
        let connection = tls::client_config(&keys.own, keys.peer, tls::Purpose::Witness)
            .and_then(|config| ClientConnection::new(config, tls::server_name()))
            .map_err(|error| untrusted(error.to_string()))?;
        let mut stream = Stream::Client(Box::new(StreamOwned::new(connection, timed)));
        stream.prove().map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => untrusted(source.to_string()),
            _ => WitnessError::Connect { address: self.address.clone(), source },
        })?;
        Ok(stream)
    }

    fn exchange(
        &self,
        stream: &mut Stream,
        request: &Request,
        limit: Instant,
    ) -> Result<Answer, WitnessError> {
        let body = serde_json::to_vec(request).expect("plain data always encodes");
        let mut talk = || -> io::Result<Vec<u8>> {
            stream.set_limit(limit);
            write_frame(stream, &body)?;
            read_frame(stream)
        };
        let answer = talk().map_err(|source| match refused_key(&source) {
            // The witness looks at this node's key last, and at its question never.
            true => WitnessError::Untrusted { address: self.address.clone(), why: source.to_string() },
            false => WitnessError::NoAnswer { address: self.address.clone(), source },
        })?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|error| WitnessError::Nonsense {
            address: self.address.clone(),
            why: error.to_string(),
        })?;
        let fits = match (request, &answer) {
            (Request::Read { .. }, Answer::Is { register }) => {
                register.as_ref().is_none_or(|register| register.volume == request.volume())
            }
            (Request::CompareAndSwap { .. }, Answer::Conflict { register }) => {
                register.as_ref().is_none_or(|register| register.volume == request.volume())
            }
            (Request::CompareAndSwap { new, .. }, Answer::Swapped { register }) => register == new,
            (_, Answer::Refused { .. }) => true,
            _ => false,
        };
        if fits {
            Ok(answer)
        } else {
            Err(WitnessError::Nonsense {
                address: self.address.clone(),
                why: "an answer to another question".to_owned(),
            })
        }
    }
}

/// The server may have closed an idle connection: noticed here, a request need not be in doubt for it.
fn is_alive(stream: &TcpStream) -> bool {
    let quiet = stream.set_nonblocking(true).is_ok()
        && matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    quiet && stream.set_nonblocking(false).is_ok()
}

/// Whether the witness ended TLS because it does not know this node's key.
fn refused_key(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::AlertReceived(rustls::AlertDescription::AccessDenied)))
}
