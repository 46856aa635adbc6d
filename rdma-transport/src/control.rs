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
use crate::inheriting::Inheriting;
use crate::link::Close;
use crate::socket::{deadline_after, wait_for};
use crate::tls::{Incoming, Outgoing, ReceiveError};
use crate::{Control, LinkError, MAX_CONTROL_BYTES};
use parking_lot::Mutex;
use rustix::event::PollFlags;
use std::os::fd::{AsFd, OwnedFd};
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
    head: [u8; HEAD_BYTES],
    /// What is there of the head.
    head_bytes: usize,
    message: Vec<u8>,
}

impl Partial {
    fn new(incoming: Incoming) -> Partial {
        Partial { incoming, head: [0; HEAD_BYTES], head_bytes: 0, message: Vec::new() }
    }

    /// How many bytes the message still lacks; `None` before its head is there, an error for a head that is none.
    fn lacks(&self) -> Result<Option<usize>, String> {
        if self.head_bytes < HEAD_BYTES {
            return Ok(None);
        }
        let longest = match u32::from_le_bytes(array_at(&self.head, 0)) {
            MAGIC => MAX_CONTROL_BYTES,
            PRIVATE_MAGIC => MAX_PRIVATE_BYTES,
            _ => return Err("no control message where one should start".into()),
        };
        let len = u32::from_le_bytes(array_at(&self.head, 4)) as usize;
        if len > longest {
            return Err(format!("control message of {len} bytes"));
        }
        Ok(Some(len - self.message.len()))
    }

    /// Receives a part of the head, or of the message that lacks so much.
    fn receive(&mut self, socket: impl AsFd, lacks: Option<usize>) -> Result<Option<usize>, ReceiveError> {
        let Some(lacks) = lacks else {
            let received = self.incoming.receive(socket, &mut self.head[self.head_bytes..]);
            self.head_bytes += received_bytes(&received);
            return received;
        };
        let have = self.message.len();
        self.message.resize(have + lacks.min(CHUNK_BYTES), 0);
        let received = self.incoming.receive(socket, &mut self.message[have..]);
        self.message.truncate(have + received_bytes(&received));
        received
    }

    fn is_private(&self) -> bool {
        self.head.starts_with(&PRIVATE_MAGIC.to_le_bytes())
    }

    /// The message, and room for the next one.
    fn take(&mut self) -> Vec<u8> {
        self.head_bytes = 0;
        std::mem::take(&mut self.message)
    }
}

fn received_bytes(received: &Result<Option<usize>, ReceiveError>) -> usize {
    received.as_ref().ok().copied().flatten().unwrap_or(0)
}

/// Takes in a private frame, or says what is wrong with it.
pub(crate) type TakePrivate = Box<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

/// Control messages of one link.
pub(crate) struct StreamControl {
    socket: Arc<OwnedFd>,
    ending: Arc<Ending>,
    /// Vital and bulk threads send here.
    sending: Inheriting<Outgoing>,
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
        let (sending, partial) = (Inheriting::new(outgoing), Mutex::new(Partial::new(incoming)));
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
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&magic.to_le_bytes());
        head[4..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        let mut outgoing = self.sending.lock();
        outgoing.send_framed(&*self.socket, &head, bytes, self.dead_after).map_err(|end| self.ending.end(end))
    }

    /// Receives what is there; whether the frame is whole.
    fn fill(&self, partial: &mut Partial) -> Result<bool, LinkError> {
        loop {
            let lacks = partial.lacks().map_err(|what| self.ending.end(End::Protocol(what)))?;
            if lacks == Some(0) {
                return Ok(true);
            }
            match partial.receive(&*self.socket, lacks) {
                Ok(Some(0)) => return Err(self.ending.end(End::PeerClosed)),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(false),
                Err(error) => return Err(self.ending.end(error.end(RECEIVING, self.dead_after))),
            }
        }
    }

    /// Takes in a whole private frame.
    fn take_in(&self, partial: &mut Partial) -> Result<(), LinkError> {
        let taken = (self.take_private)(&partial.take());
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
                return Ok(Some(partial.take()));
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
