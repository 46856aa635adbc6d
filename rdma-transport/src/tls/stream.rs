//! A socket with or without TLS behind its handshake: what the opening messages and the control messages use.
//!
//! Invariants: exactly one record is received at a time, never a byte behind it, because descriptors may travel
//! with what follows (shm); a peer costs one record's length of memory.

use super::record::{HEAD_BYTES, OVERHEAD_BYTES, PAYLOAD_BYTES, RecordError, record_bytes, sealed_bytes};
use super::{LARGEST_RECORD_BYTES, Opened, Opener, PublicKey, Sealer};
use crate::ending::End;
use crate::socket::{OpeningError, send_all, try_recv, wait_for};
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// So much is sealed before it is sent.
const SEND_BYTES: usize = 8 * PAYLOAD_BYTES;

/// What this side says, on its way to the socket.
#[derive(Default)]
pub(crate) struct Outgoing {
    sealer: Option<Sealer>,
    /// Records, kept for its memory.
    records: Vec<u8>,
}

impl Outgoing {
    pub fn new(sealer: Option<Sealer>) -> Outgoing {
        Outgoing { sealer, records: Vec::new() }
    }

    pub fn into_sealer(self) -> Option<Sealer> {
        self.sealer
    }

    /// As it goes into the socket.
    pub fn sealed<'s>(&'s mut self, bytes: &'s [u8]) -> &'s [u8] {
        let Some(sealer) = &mut self.sealer else { return bytes };
        self.records.clear();
        sealer.seal_all(bytes, &mut self.records);
        &self.records
    }

    /// Sends `head` and `bytes`, both whole; a peer that takes nothing for `dead_after` is dead. What is long goes out
    /// in parts that stay in the processor's cache, while the peer works on those before.
    pub fn send_framed(
        &mut self,
        socket: impl AsFd,
        head: &[u8],
        bytes: &[u8],
        dead_after: Duration,
    ) -> Result<(), End> {
        let Outgoing { sealer, records } = self;
        let Some(sealer) = sealer else {
            records.clear();
            records.extend(head);
            records.extend(bytes);
            return send_all(socket, records, dead_after);
        };
        let (first, rest) = bytes.split_at(bytes.len().min(PAYLOAD_BYTES - head.len()));
        let mut payloads =
            std::iter::once((head, first)).chain(rest.chunks(PAYLOAD_BYTES).map(|part| (&[][..], part)));
        let mut next = payloads.next();
        while next.is_some() {
            let mut len = 0;
            while let Some((head, part)) = next.filter(|_| len < SEND_BYTES) {
                let payload_bytes = head.len() + part.len();
                records.resize(records.len().max(len + sealed_bytes(payload_bytes)), 0);
                len += sealer.seal_into(&mut records[len..], payload_bytes, |place| {
                    place[..head.len()].copy_from_slice(head);
                    place[head.len()..].copy_from_slice(part);
                });
                next = payloads.next();
            }
            send_all(&socket, &records[..len], dead_after)?;
        }
        Ok(())
    }

    /// Sends all of `bytes`; a peer that takes nothing for `dead_after` is dead.
    pub fn send(&mut self, socket: impl AsFd, bytes: &[u8], dead_after: Duration) -> Result<(), End> {
        send_all(socket, self.sealed(bytes), dead_after)
    }
}

/// Why nothing more can be received.
#[derive(Debug)]
pub(crate) enum ReceiveError {
    Os(Errno),
    Record(RecordError),
}

impl ReceiveError {
    /// How a link ends by it.
    pub fn end(self, what: &'static str, dead_after: Duration) -> End {
        match self {
            ReceiveError::Os(errno) => End::of_errno(what, errno, dead_after),
            ReceiveError::Record(RecordError::Closed | RecordError::Alert(_)) => End::PeerClosed,
            ReceiveError::Record(RecordError::Broken(why)) => End::Protocol(why.to_owned()),
        }
    }
}

/// What the peer says, on its way out of the socket.
#[derive(Default)]
pub(crate) struct Incoming {
    sealed: Option<Box<Sealed>>,
}

struct Sealed {
    opener: Opener,
    buffer: [u8; LARGEST_RECORD_BYTES],
    /// What is there of the record that is being received.
    have: usize,
    /// What is left of the payload of the last record.
    payload: std::ops::Range<usize>,
}

impl Incoming {
    pub fn new(opener: Option<Opener>) -> Incoming {
        let sealed = |opener| Sealed { opener, buffer: [0; LARGEST_RECORD_BYTES], have: 0, payload: 0..0 };
        Incoming { sealed: opener.map(|opener| Box::new(sealed(opener))) }
    }

    /// Receives what is there; `None` when nothing is, `Some(0)` at the end of the stream.
    pub fn receive(&mut self, socket: impl AsFd, out: &mut [u8]) -> Result<Option<usize>, ReceiveError> {
        let Some(sealed) = &mut self.sealed else { return try_recv(socket, out).map_err(ReceiveError::Os) };
        while sealed.payload.is_empty() {
            let wanted = record_bytes(&sealed.buffer[..sealed.have]).map_err(ReceiveError::Record)?;
            let wanted = wanted.unwrap_or(HEAD_BYTES);
            if sealed.have == wanted {
                sealed.have = 0;
                let opened = sealed.opener.open(&mut sealed.buffer, 0, 0..wanted);
                sealed.payload = 0..opened.map_err(ReceiveError::Record)?;
                continue;
            }
            match try_recv(&socket, &mut sealed.buffer[sealed.have..wanted]).map_err(ReceiveError::Os)? {
                Some(len) if len > 0 => sealed.have += len,
                other => return Ok(other),
            }
        }
        let len = sealed.payload.len().min(out.len());
        out[..len].copy_from_slice(&sealed.buffer[sealed.payload.start..][..len]);
        sealed.payload.start += len;
        Ok(Some(len))
    }

    /// The opener, for who receives by itself from here on.
    ///
    /// # Errors
    /// The peer has said more than it was its turn to.
    pub fn into_opener(self) -> Result<Option<Opener>, RecordError> {
        match self.sealed {
            Some(sealed) if sealed.have > 0 || !sealed.payload.is_empty() => {
                Err(RecordError::Broken("more than an opening message where one should be"))
            }
            sealed => Ok(sealed.map(|sealed| sealed.opener)),
        }
    }

    /// How many bytes a message of `len_bytes` has on the socket.
    pub fn wire_bytes(&self, len_bytes: usize) -> usize {
        if self.sealed.is_some() { len_bytes + OVERHEAD_BYTES } else { len_bytes }
    }

    /// Opens one message that somebody else has received; it then starts `wire`. Gives its length.
    pub fn open(&mut self, wire: &mut [u8]) -> Result<usize, RecordError> {
        let Some(sealed) = &mut self.sealed else { return Ok(wire.len()) };
        if record_bytes(wire)? != Some(wire.len()) {
            return Err(RecordError::Broken("a TLS record that was cut short"));
        }
        sealed.opener.open(wire, 0, 0..wire.len())
    }
}

/// A socket that is being opened.
pub(crate) struct Stream {
    pub socket: OwnedFd,
    pub outgoing: Outgoing,
    pub incoming: Incoming,
    /// The key that the peer proved; `None` without TLS.
    pub peer: Option<PublicKey>,
}

impl Stream {
    pub fn plain(socket: OwnedFd) -> Stream {
        Stream { socket, outgoing: Outgoing::default(), incoming: Incoming::default(), peer: None }
    }

    pub fn opened(socket: OwnedFd, opened: Opened) -> Stream {
        Stream {
            socket,
            outgoing: Outgoing::new(Some(opened.sealer)),
            incoming: Incoming::new(Some(opened.opener)),
            peer: Some(opened.peer),
        }
    }

    pub fn send(&mut self, bytes: &[u8], limit: Duration) -> Result<(), End> {
        self.outgoing.send(&self.socket, bytes, limit)
    }

    /// Receives exactly `buffer.len()` bytes.
    pub fn receive_exact(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<(), OpeningError> {
        let mut have = 0;
        while have < buffer.len() {
            let received = self.incoming.receive(&self.socket, &mut buffer[have..]);
            match received.map_err(OpeningError::of)? {
                Some(0) => return Err(OpeningError::Ended),
                Some(len) => have += len,
                None => {
                    if !wait_for(&self.socket, PollFlags::IN, deadline).map_err(OpeningError::Os)? {
                        return Err(OpeningError::Timeout);
                    }
                }
            }
        }
        Ok(())
    }
}
