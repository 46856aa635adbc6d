//! Control messages on a stream socket, tcp or unix: `magic u32, length u32, bytes`.
//!
//! Invariants: a message is delivered whole or the link ends; memory for a message grows as its bytes come, so a
//! claimed length costs nothing. A receive that times out half-way goes on at the next call.

use crate::ending::{End, Ending};
use crate::handshake::array_at;
use crate::link::Close;
use crate::socket::{deadline_after, send_all, try_recv, wait_for};
use crate::{Control, LinkError, MAX_CONTROL_BYTES};
use parking_lot::Mutex;
use rustix::event::PollFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

const MAGIC: u32 = u32::from_le_bytes(*b"TwCt");
const HEAD_BYTES: usize = 8;
/// How much is received at once.
const CHUNK_BYTES: usize = 16 << 10;

/// What has come of the next message.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
}

impl Partial {
    /// How many bytes the message (or its head) still lacks; an error for a head that is none.
    fn lacks(&self) -> Result<usize, String> {
        if self.bytes.len() < HEAD_BYTES {
            return Ok(HEAD_BYTES - self.bytes.len());
        }
        if u32::from_le_bytes(array_at(&self.bytes, 0)) != MAGIC {
            return Err("no control message where one should start".into());
        }
        let len = u32::from_le_bytes(array_at(&self.bytes, 4)) as usize;
        if len > MAX_CONTROL_BYTES {
            return Err(format!("control message of {len} bytes"));
        }
        Ok(HEAD_BYTES + len - self.bytes.len())
    }

    fn is_whole(&self, lacks: usize) -> bool {
        lacks == 0 && self.bytes.len() >= HEAD_BYTES
    }
}

/// Control messages of one link.
pub(crate) struct StreamControl {
    socket: Arc<OwnedFd>,
    ending: Arc<Ending>,
    sending: Mutex<()>,
    partial: Mutex<Partial>,
    dead_after: Duration,
}

impl StreamControl {
    pub(crate) fn new(socket: Arc<OwnedFd>, ending: Arc<Ending>, dead_after: Duration) -> StreamControl {
        StreamControl { socket, ending, sending: Mutex::new(()), partial: Mutex::default(), dead_after }
    }
}

impl Control for StreamControl {
    fn send(&self, message: &[u8]) -> Result<(), LinkError> {
        if message.len() > MAX_CONTROL_BYTES {
            return Err(LinkError::MessageTooLong { len_bytes: message.len() });
        }
        self.ending.check()?;
        let mut framed = Vec::with_capacity(HEAD_BYTES + message.len());
        framed.extend(MAGIC.to_le_bytes());
        framed.extend((message.len() as u32).to_le_bytes());
        framed.extend(message);
        let _turn = self.sending.lock();
        send_all(&*self.socket, &framed, self.dead_after).map_err(|end| self.ending.end(end))
    }

    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>, LinkError> {
        let deadline = deadline_after(wait);
        let os = |errno| self.ending.end(End::of_errno("receiving control messages", errno, self.dead_after));
        let Some(mut partial) = self.partial.try_lock_until(deadline) else { return Ok(None) };
        loop {
            // What the peer said before it left is still delivered, whichever part noticed first that it has.
            if !matches!(self.ending.reason(), Some(End::PeerClosed)) {
                self.ending.check()?;
            }
            let lacks = partial.lacks().map_err(|what| self.ending.end(End::Protocol(what)))?;
            if partial.is_whole(lacks) {
                let mut message = std::mem::take(&mut partial.bytes);
                message.drain(..HEAD_BYTES);
                return Ok(Some(message));
            }
            let mut chunk = [0; CHUNK_BYTES];
            match try_recv(&*self.socket, &mut chunk[..lacks.min(CHUNK_BYTES)]).map_err(os)? {
                Some(0) => return Err(self.ending.end(End::PeerClosed)),
                Some(len) => partial.bytes.extend(&chunk[..len]),
                None => {
                    if !wait_for(&*self.socket, PollFlags::IN, deadline).map_err(os)? {
                        return Ok(None);
                    }
                }
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
