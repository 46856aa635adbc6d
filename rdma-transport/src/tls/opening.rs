//! One side's handshake, driven by whoever has the socket: bytes in, bytes out, no waiting and no socket in here.
//!
//! Invariants: what a peer sends before it has proved its key is kept in [`OPENING_BYTES`] and nowhere else; an
//! opening that failed stays failed. The listening side also takes the first bytes behind the handshake, because
//! they come with its end.

use super::keys::PublicKey;
use super::record::{Opener, Rekey, Sealer};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage, ServerConfig};
use std::sync::Arc;

/// Longest unread part of a handshake: a flight has 200 to 500 bytes.
const OPENING_BYTES: usize = 4096;
/// Longest flight of this side.
const FLIGHT_BYTES: usize = 4096;
/// Steps of one call: rustls takes two for each message that it sends, and none has ten.
const MAX_STEPS: usize = 64;

/// Why nobody can be trusted at the other end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// The other end does not speak TLS.
    #[error("it does not speak TLS: is it a Twinfiler node that has a `private_key`?")]
    NotTls,
    /// The other end has another key than the one that is configured.
    #[error(
        "it proved another key than the configured `public_key`: compare with `twinfiler keygen --show` there"
    )]
    WrongKey,
    /// The other end did not accept this side's key.
    #[error(
        "it does not accept this node's key: what `twinfiler keygen --show` prints here must be configured there"
    )]
    KeyRefused,
    /// More than a handshake has.
    #[error("its handshake is longer than any")]
    TooLong,
    /// The other end ended it.
    #[error("it ended the handshake")]
    Ended,
    /// What rustls says.
    #[error("its handshake is not one of this protocol: {0}")]
    Handshake(String),
}

impl TlsError {
    fn of(error: &Error) -> TlsError {
        match error {
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => TlsError::WrongKey,
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => TlsError::NotTls,
            Error::AlertReceived(AlertDescription::AccessDenied) => TlsError::KeyRefused,
            other => TlsError::Handshake(other.to_string()),
        }
    }
}

/// How far an opening is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// The peer must say more.
    Blocked,
    /// Both sides have proved their keys, as far as this side can see.
    Proved,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// One side of a handshake.
pub(crate) struct Opening {
    side: Side,
    incoming: [u8; OPENING_BYTES],
    have: usize,
    /// What came behind the handshake.
    early: Vec<u8>,
    early_limit: usize,
}

/// What a handshake gives.
pub(crate) struct Opened {
    pub sealer: Sealer,
    pub opener: Opener,
    /// The key that the peer proved.
    pub peer: PublicKey,
}

enum Next {
    More,
    Is(Progress),
}

fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut Vec<u8>,
    early: &mut Vec<u8>,
    early_limit: usize,
) -> (usize, Result<Next, TlsError>) {
    let discard = status.discard;
    let next = match status.state {
        Err(error) => Err(TlsError::of(&error)),
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let mut flight = [0; FLIGHT_BYTES];
            match data.encode(&mut flight) {
                Ok(len) if out.len() + len <= FLIGHT_BYTES => {
                    out.extend(&flight[..len]);
                    Ok(Next::More)
                }
                _ => Err(TlsError::TooLong),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Next::More)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Next::More),
                Some(Ok(record)) if early.len() + record.payload.len() <= early_limit => {
                    early.extend(record.payload);
                }
                Some(Ok(_)) => break Err(TlsError::TooLong),
                Some(Err(error)) => break Err(TlsError::of(&error)),
            }
        },
        Ok(ConnectionState::BlockedHandshake) => Ok(Next::Is(Progress::Blocked)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Is(Progress::Proved)),
        Ok(_) => Err(TlsError::Ended),
    };
    (discard, next)
}

impl Opening {
    /// The side that connects.
    pub fn client(config: Arc<ClientConfig>) -> Result<Opening, TlsError> {
        let made = UnbufferedClientConnection::new(config, super::server_name());
        made.map(|side| Opening::of(Side::Client(side), 0)).map_err(|error| TlsError::of(&error))
    }

    /// The side that listens, and also takes the first `early_limit` bytes behind the handshake.
    pub fn server(config: Arc<ServerConfig>, early_limit: usize) -> Result<Opening, TlsError> {
        let made = UnbufferedServerConnection::new(config);
        made.map(|side| Opening::of(Side::Server(side), early_limit)).map_err(|error| TlsError::of(&error))
    }

    fn of(side: Side, early_limit: usize) -> Opening {
        Opening { side, incoming: [0; OPENING_BYTES], have: 0, early: Vec::new(), early_limit }
    }

    /// Where the next bytes of the peer go. Empty when it has sent too many.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.incoming[self.have..]
    }

    /// Takes in `len` bytes that were put into [`room`](Self::room) and goes on as far as they reach; what must be
    /// sent is appended to `out`, after an error too (it tells the peer).
    pub fn advance(&mut self, len: usize, out: &mut Vec<u8>) -> Result<Progress, TlsError> {
        self.have += len;
        for _ in 0..MAX_STEPS {
            let incoming = &mut self.incoming[..self.have];
            let (discard, next) = match &mut self.side {
                Side::Client(side) => handle(side.process_tls_records(incoming), out, &mut self.early, 0),
                Side::Server(side) => {
                    handle(side.process_tls_records(incoming), out, &mut self.early, self.early_limit)
                }
            };
            self.incoming.copy_within(discard..self.have, 0);
            self.have -= discard;
            match next {
                Ok(Next::More) => {}
                Ok(Next::Is(Progress::Blocked)) if self.have == OPENING_BYTES => {
                    return Err(TlsError::TooLong);
                }
                Ok(Next::Is(progress)) => return Ok(progress),
                Err(error) => {
                    self.say_why(&error, out);
                    return Err(error);
                }
            }
        }
        Err(TlsError::TooLong)
    }

    /// A partner whose key is not the configured one is told so, because it has proved that it is one of us or
    /// something that speaks like us. Anybody else gets nothing.
    fn say_why(&mut self, error: &TlsError, out: &mut Vec<u8>) {
        let mut alert = Vec::new();
        if matches!(error, TlsError::WrongKey) {
            // The alert is all that rustls has left to send.
            let _ = match &mut self.side {
                Side::Client(side) => {
                    handle(side.process_tls_records(&mut []), &mut alert, &mut Vec::new(), 0)
                }
                Side::Server(side) => {
                    handle(side.process_tls_records(&mut []), &mut alert, &mut Vec::new(), 0)
                }
            };
        }
        out.extend(alert);
    }

    /// What came behind the handshake so far.
    pub fn early(&self) -> &[u8] {
        &self.early
    }

    /// The keys of a handshake that is [`Progress::Proved`]; nothing may have come that was not taken in.
    pub fn finish(self) -> Result<Opened, TlsError> {
        if self.have > 0 {
            return Err(TlsError::TooLong);
        }
        let certificates = match &self.side {
            Side::Client(side) => side.peer_certificates(),
            Side::Server(side) => side.peer_certificates(),
        };
        let key = certificates.and_then(|all| all.first()).and_then(|key| PublicKey::of_spki(key));
        let peer = key.ok_or(TlsError::WrongKey)?;
        let (secrets, rekey) = match self.side {
            Side::Client(side) => side
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Rekey::Client(kernel))),
            Side::Server(side) => side
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Rekey::Server(kernel))),
        }
        .map_err(|error| TlsError::of(&error))?;
        let (sealer, opener) = super::record::pair(secrets, rekey)?;
        Ok(Opened { sealer, opener, peer })
    }
}
