//! Control messages on a stream socket, tcp or unix: `magic u32, length u32, bytes`.
//!
//! A transport may send frames of its own between them, with another magic ([`StreamControl::with_private`]): they
//! are taken in, in order with the messages, by whoever receives, and never given to the user.
//!
//! Invariants: a message is delivered whole or the link ends; memory for a message grows as its bytes come, so a
//! claimed length costs nothing. A receive that times out half-way goes on at the next call. With keys, the stream is
//! that of TLS records, in which the frames lie as they please.

use crate::ending::{End, Ending};
use crate::handshake::array_at;
use crate::link::Close;
use crate::socket::{deadline_after, wait_for};
use crate::tls::{Incoming, Outgoing};
use crate::{Control, LinkError, MAX_CONTROL_BYTES};
use parking_lot::Mutex;
use rustix::event::PollFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MAGIC: u32 = u32::from_le_bytes(*b"TwCt");
const PRIVATE_MAGIC: u32 = u32::from_le_bytes(*b"TwPv");
const HEAD_BYTES: usize = 8;
/// The longest private frame.
const MAX_PRIVATE_BYTES: usize = 64;
/// How much is received at once.
const CHUNK_BYTES: usize = 16 << 10;

const RECEIVING: &str = "receiving control messages";

/// What has come of the next message.
struct Partial {
    incoming: Incoming,
    bytes: Vec<u8>,
}

impl Partial {
    /// How many bytes the message (or its head) still lacks; an error for a head that is none.
    fn lacks(&self) -> Result<usize, String> {
        if self.bytes.len() < HEAD_BYTES {
            return Ok(HEAD_BYTES - self.bytes.len());
        }
        let longest = match u32::from_le_bytes(array_at(&self.bytes, 0)) {
            MAGIC => MAX_CONTROL_BYTES,
            PRIVATE_MAGIC => MAX_PRIVATE_BYTES,
            _ => return Err("no control message where one should start".into()),
        };
        let len = u32::from_le_bytes(array_at(&self.bytes, 4)) as usize;
        if len > longest {
            return Err(format!("control message of {len} bytes"));
        }
        Ok(HEAD_BYTES + len - self.bytes.len())
    }

    fn is_private(&self) -> bool {
        self.bytes.starts_with(&PRIVATE_MAGIC.to_le_bytes())
    }

    fn is_whole(&self, lacks: usize) -> bool {
        lacks == 0 && self.bytes.len() >= HEAD_BYTES
    }
}

/// Takes in a private frame, or says what is wrong with it.
pub(crate) type TakePrivate = Box<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

/// Control messages of one link.
pub(crate) struct StreamControl {
    socket: Arc<OwnedFd>,
    ending: Arc<Ending>,
    sending: Mutex<Outgoing>,
    partial: Mutex<Partial>,
    dead_after: Duration,
    take_private: TakePrivate,
}

impl StreamControl {
    /// Without private frames: one that comes ends the link.
    pub(crate) fn new(
        socket: Arc<OwnedFd>,
        ways: (Outgoing, Incoming),
        ending: Arc<Ending>,
        dead_after: Duration,
    ) -> StreamControl {
        let none = |_: &[u8]| Err("a private frame where there are none".to_owned());
        StreamControl::with_private(socket, ways, ending, dead_after, Box::new(none))
    }

    pub(crate) fn with_private(
        socket: Arc<OwnedFd>,
        ways: (Outgoing, Incoming),
        ending: Arc<Ending>,
        dead_after: Duration,
        take_private: TakePrivate,
    ) -> StreamControl {
        let (outgoing, incoming) = ways;
        let (sending, partial) = (Mutex::new(outgoing), Mutex::new(Partial { incoming, bytes: Vec::new() }));
        StreamControl { socket, ending, sending, partial, dead_after, take_private }
    }

    /// Sends a private frame.
    #[cfg(feature = "verbs")]
    pub(crate) fn send_private(&self, bytes: &[u8]) -> Result<(), LinkError> {
        assert!(bytes.len() <= MAX_PRIVATE_BYTES, "private frames are short");
        self.send_frame(PRIVATE_MAGIC, bytes)
    }

    /// Takes in the private frames that have come and that no message stands before. False when somebody else is
    /// receiving, who then does it.
    #[cfg(feature = "verbs")]
    pub(crate) fn take_in_private(&self) -> Result<bool, LinkError> {
        let Some(mut partial) = self.partial.try_lock() else { return Ok(false) };
        while self.fill(&mut partial)? && partial.is_private() {
            self.take_in(&mut partial)?;
        }
        Ok(true)
    }

    fn send_frame(&self, magic: u32, bytes: &[u8]) -> Result<(), LinkError> {
        self.ending.check()?;
        let mut framed = Vec::with_capacity(HEAD_BYTES + bytes.len());
        framed.extend(magic.to_le_bytes());
        framed.extend((bytes.len() as u32).to_le_bytes());
        framed.extend(bytes);
        let mut outgoing = self.sending.lock();
        outgoing.send(&*self.socket, &framed, self.dead_after).map_err(|end| self.ending.end(end))
    }

    /// Receives what is there; whether the frame is whole.
    fn fill(&self, partial: &mut Partial) -> Result<bool, LinkError> {
        loop {
            let lacks = partial.lacks().map_err(|what| self.ending.end(End::Protocol(what)))?;
            if partial.is_whole(lacks) {
                return Ok(true);
            }
            let mut chunk = [0; CHUNK_BYTES];
            match partial.incoming.receive(&*self.socket, &mut chunk[..lacks.min(CHUNK_BYTES)]) {
                Ok(Some(0)) => return Err(self.ending.end(End::PeerClosed)),
                Ok(Some(len)) => partial.bytes.extend(&chunk[..len]),
                Ok(None) => return Ok(false),
                Err(error) => return Err(self.ending.end(error.end(RECEIVING, self.dead_after))),
            }
        }
    }

    /// Takes in a whole private frame.
    fn take_in(&self, partial: &mut Partial) -> Result<(), LinkError> {
        let taken = (self.take_private)(&partial.bytes[HEAD_BYTES..]);
        partial.bytes.clear();
        taken.map_err(|what| self.ending.end(End::Protocol(what)))
    }

    fn receive_failed(&self, errno: rustix::io::Errno) -> LinkError {
        self.ending.end(End::of_errno(RECEIVING, errno, self.dead_after))
    }
}

impl Control for StreamControl {
    fn send(&self, message: &[u8]) -> Result<(), LinkError> {
        if message.len() > MAX_CONTROL_BYTES {
            return Err(LinkError::MessageTooLong { len_bytes: message.len() });
        }
        self.send_frame(MAGIC, message)
    }

    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>, LinkError> {
        let deadline = deadline_after(wait);
        let Some(mut partial) = self.partial.try_lock_until(deadline) else { return Ok(None) };
        loop {
            // What the peer said before it left is still delivered, whichever part noticed first that it has.
            if !matches!(self.ending.reason(), Some(End::PeerClosed)) {
                self.ending.check()?;
            }
            if !self.fill(&mut partial)? {
                let more = wait_for(&*self.socket, PollFlags::IN, deadline);
                if !more.map_err(|errno| self.receive_failed(errno))? {
                    return Ok(None);
                }
            } else if partial.is_private() {
                self.take_in(&mut partial)?;
                if Instant::now() >= deadline {
                    return Ok(None);
                }
            } else {
                let mut message = std::mem::take(&mut partial.bytes);
                message.drain(..HEAD_BYTES);
                return Ok(Some(message));
            }
        }
    }

    fn close(&self) {
        self.ending.close();
    }
}

impl Drop for StreamControl {
    fn drop(&mut self) {
        // The peer may have shut it down before.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
    }
}
