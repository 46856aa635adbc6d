//! What this node sends through the queue pair that the peer writes through: acknowledgements, and the binding of
//! windows.
//!
//! ```text
//! acknowledgement, 16 bytes:  0 magic "TwAk"   4 chain crc u32   8 lsn u64
//! ```
//!
//! Invariant: acknowledgements are cumulative, so when the send queue is full only the newest is kept, and sent when
//! there is room. The receiving thread acknowledges and any thread grants: both come here one at a time.

use super::budget::Budget;
use super::queue_pair::QueuePair;
use super::registration::SLOT_BYTES;
use super::shared::{Shared, Side};
use super::work::{Request, Work};
use crate::LinkError;
use crate::handshake::{array_at, u64_at};
use ids::{ChainCrc, LogPoint, Lsn};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Places of the send queue. A window takes one of them.
pub(super) const SEND_DEPTH: u32 = 128;
const MAGIC: u32 = u32::from_le_bytes(*b"TwAk");
/// How often a bind is looked for.
const LOOK_INTERVAL: Duration = Duration::from_micros(50);

pub(super) fn encode(durable: LogPoint) -> [u8; SLOT_BYTES] {
    let mut out = [0; SLOT_BYTES];
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&durable.crc.0.to_le_bytes());
    out[8..].copy_from_slice(&durable.lsn.0.to_le_bytes());
    out
}

pub(super) fn decode(bytes: &[u8; SLOT_BYTES], len_bytes: u32) -> Result<LogPoint, String> {
    if len_bytes as usize != SLOT_BYTES || u32::from_le_bytes(array_at(bytes, 0)) != MAGIC {
        return Err(format!("a message of {len_bytes} bytes that is no acknowledgement"));
    }
    Ok(LogPoint { lsn: Lsn(u64_at(bytes, 8)), crc: ChainCrc(u32::from_le_bytes(array_at(bytes, 4))) })
}

/// See the module.
pub(super) struct Answers {
    pair: Arc<QueuePair>,
    budget: Budget,
    pending: Option<LogPoint>,
}

impl Answers {
    pub(super) fn new(pair: Arc<QueuePair>) -> Answers {
        Answers { pair, budget: Budget::new(SEND_DEPTH), pending: None }
    }

    /// Takes note of what the adapter has sent; an error when the queue pair has failed.
    pub(super) fn reap(&mut self, link: &Shared) -> Result<(), LinkError> {
        loop {
            let batch = self.pair.send_queue().poll().map_err(link.os("polling for sent messages"))?;
            for completion in batch.iter() {
                match completion.result {
                    Ok(_) => self.budget.done(completion.id),
                    Err(failure) => return Err(link.failed(Side::Incoming, failure)),
                }
            }
            if !batch.is_full() {
                return Ok(());
            }
        }
    }

    /// Sends an acknowledgement, or keeps it until there is room.
    pub(super) fn acknowledge(&mut self, link: &Shared, durable: LogPoint) -> Result<(), LinkError> {
        self.pending = Some(durable);
        self.flush(link)
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Sends what was kept, if there is room.
    pub(super) fn flush(&mut self, link: &Shared) -> Result<(), LinkError> {
        self.reap(link)?;
        let Some(durable) = self.pending else { return Ok(()) };
        if self.budget.room() == 0 {
            return Ok(());
        }
        self.pending = None;
        let (id, signalled) = self.budget.take(false);
        // As many slots as places: this one's last message is done.
        let slot = (id % u64::from(SEND_DEPTH)) as usize;
        self.pair.slots.write_slot(slot, encode(durable));
        self.pair
            .post(&[Request { id, signalled, work: Work::Send { slot } }])
            .map_err(link.os("sending an acknowledgement"))
    }

    /// Posts `work` and waits until it is done; false when it was not by `deadline`.
    pub(super) fn carry_out(
        &mut self,
        link: &Shared,
        work: Work,
        deadline: Instant,
    ) -> Result<bool, LinkError> {
        let in_time = |answers: &mut Answers, done: &dyn Fn(&Budget) -> bool| {
            while !done(&answers.budget) {
                if Instant::now() >= deadline {
                    return Ok(false);
                }
                answers.reap(link)?;
                std::thread::sleep(LOOK_INTERVAL);
            }
            Ok(true)
        };
        if !in_time(self, &|budget| budget.room() > 0)? {
            return Ok(false);
        }
        let (id, signalled) = self.budget.take(true);
        self.pair.post(&[Request { id, signalled, work }]).map_err(link.os("binding a memory window"))?;
        in_time(self, &|budget| budget.is_done(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn acknowledgements_round_trip_and_anything_else_is_refused(lsn: u64, crc: u32, bytes: [u8; SLOT_BYTES], len: u32) {
            let durable = LogPoint { lsn: Lsn(lsn), crc: ChainCrc(crc) };
            prop_assert_eq!(decode(&encode(durable), SLOT_BYTES as u32), Ok(durable));
            if len != SLOT_BYTES as u32 || !bytes.starts_with(b"TwAk") {
                prop_assert!(decode(&bytes, len).is_err());
            }
        }
    }
}
