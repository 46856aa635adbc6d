//! Log bytes into TLS records: a buffer's worth at a time, from the ring into the buffer that the kernel sends.
//!
//! Invariant: the buffer is written only while no send of it is in the kernel (`uring` asks for more when one is
//! done); nothing is allocated for a message.

use super::HEAD_BYTES;
use crate::memory::Ring;
use crate::tls::{PAYLOAD_BYTES, Sealer, sealed_bytes};
use ids::Lsn;

/// Records that are sealed before they are sent: the peer opens some while the next are sealed.
const RECORDS: usize = 8;

/// See the module.
pub(super) struct Sealing {
    sealer: Sealer,
    buffer: Box<[u8]>,
    head: Option<[u8; HEAD_BYTES]>,
    from: Lsn,
    left_bytes: u64,
}

impl Sealing {
    pub fn new(sealer: Sealer) -> Sealing {
        let buffer = vec![0; RECORDS * sealed_bytes(PAYLOAD_BYTES)].into_boxed_slice();
        Sealing { sealer, buffer, head: None, from: Lsn::ZERO, left_bytes: 0 }
    }

    /// The next message: `head`, then `[from, from + len_bytes)` of the ring.
    pub fn start(&mut self, head: [u8; HEAD_BYTES], from: Lsn, len_bytes: u64) {
        assert!(self.head.is_none() && self.left_bytes == 0, "one message at a time");
        (self.head, self.from, self.left_bytes) = (Some(head), from, len_bytes);
    }

    /// Seals what fits of what is left; empty when all of the message has been given out.
    pub fn next(&mut self, ring: &Ring) -> &mut [u8] {
        let mut end = 0;
        while (self.head.is_some() || self.left_bytes > 0)
            && self.buffer.len() - end >= sealed_bytes(PAYLOAD_BYTES)
        {
            let head = self.head.take();
            let head = head.as_ref().map_or(&[][..], |head| head);
            let log_bytes = self.left_bytes.min((PAYLOAD_BYTES - head.len()) as u64) as usize;
            let place = &mut self.buffer[end..];
            end += self.sealer.seal_into(place, head.len() + log_bytes, |payload| {
                let (start, rest) = payload.split_at_mut(head.len());
                start.copy_from_slice(head);
                ring.copy_out(self.from, rest);
            });
            self.from = self.from.plus(log_bytes as u64);
            self.left_bytes -= log_bytes as u64;
        }
        &mut self.buffer[..end]
    }
}
