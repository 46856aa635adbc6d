//! This node's log bytes into the peer's ring, straight from its own, and the peer's acknowledgements.
//!
//! A write is sent at once, as one batch, as long as there is room in the queues; what comes while there is none
//! gathers into one batch. Nothing is copied and nothing is allocated. Who says that bytes are durable depends on
//! the persistence mode: the peer's acknowledgement, or this adapter, when the read behind the batch has returned.
//! The peer's acknowledgements also tell in every mode how many pieces it has taken from its receive queue.
//!
//! Without the key to the peer's ring the link ends ([`LinkError::NotGranted`]), as it does when the peer's adapter
//! refuses the key. Only while another thread is receiving control messages, which may bring the key this very
//! moment, a write is held, for at most [`HOLD_LIMIT`].

use super::answers;
use super::budget::Budget;
use super::completion::{Completion, Done};
use super::domain::{ANSWER_SLOTS, Sizes};
use super::pieces;
use super::settings::Persistence;
use super::shared::{Shared, Side};
use super::wait::Waiter;
use super::work::{MAX_CHAIN, READ_BYTES, Remote, Request, RingRange, Work};
use crate::counters::count;
use crate::ending::End;
use crate::flight::Flight;
use crate::{LinkError, MAX_IN_FLIGHT, MirrorSender};
use ids::{LogPoint, Lsn};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a write waits for the key while another thread receives control messages.
const HOLD_LIMIT: Duration = Duration::from_secs(1);
/// Marks the requests whose completion says that a batch is durable.
const CONFIRMS: u64 = 1 << 63;
/// The slot that confirming reads fetch into, behind those of acknowledgements.
const READ_SLOT: usize = ANSWER_SLOTS as usize;
/// Slots of the queue pair that this node writes through.
pub(super) const SLOTS: u32 = ANSWER_SLOTS + 1;

/// Log bytes that travel together, as far as they are not posted yet.
#[derive(Clone, Copy, Debug)]
struct Batch {
    at: Lsn,
    to: LogPoint,
}

pub(super) struct VerbsSender {
    link: Arc<Shared>,
    waiter: Waiter,
    state: State,
}

struct State {
    flight: Flight,
    budget: Budget,
    /// Partly posted, with the key that it began with; `at` is past its end when only the read is missing.
    posting: Option<(Batch, u32, Stage)>,
    gathered: Option<Batch>,
    held_since: Option<Instant>,
    /// Posted batches that the peer has not acknowledged: their ends and how many pieces they are.
    taken: VecDeque<(Lsn, u32)>,
    pieces: u32,
    most_pieces: u32,
    /// Batches whose reads have not returned.
    confirming: VecDeque<LogPoint>,
    newest: Option<LogPoint>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Pieces,
    Confirmation,
}

impl VerbsSender {
    pub(super) fn new(link: Arc<Shared>, waiter: Waiter) -> VerbsSender {
        let capacity_bytes = link.domain.capacity_bytes();
        let Sizes { pieces, outgoing, .. } = link.domain.sizes();
        let state = State {
            flight: Flight::new(capacity_bytes),
            budget: Budget::new(outgoing.send),
            posting: None,
            gathered: None,
            held_since: None,
            taken: VecDeque::with_capacity(pieces as usize),
            pieces: 0,
            most_pieces: pieces,
            confirming: VecDeque::with_capacity(MAX_IN_FLIGHT),
            newest: None,
        };
        VerbsSender { link, waiter, state }
    }
}

impl State {
    /// Takes note of everything that the adapter has done.
    fn reap(&mut self, link: &Shared) -> Result<(), LinkError> {
        loop {
            let batch = link.outgoing.send_queue().poll().map_err(link.os("polling for acknowledgements"))?;
            if batch.is_empty() {
                return Ok(());
            }
            let (mut slots, mut len) = ([0; super::completion::POLL_BATCH], 0);
            for completion in batch.iter() {
                if let Some(slot) = self.completed(link, completion)? {
                    slots[len] = slot;
                    len += 1;
                }
            }
            link.outgoing
                .post_receives(len, |index| Some(slots[index]))
                .map_err(link.os("making room for acknowledgements"))?;
        }
    }

    /// One completion; the slot of the acknowledgement that it was, which is free again.
    fn completed(&mut self, link: &Shared, completion: Completion) -> Result<Option<usize>, LinkError> {
        match completion.result {
            Ok(Done::Sent) => {
                self.budget.done(completion.id & !CONFIRMS);
                if completion.id & CONFIRMS != 0 {
                    let durable = self.confirming.pop_front().expect("one read for each");
                    self.durable(link, durable)?;
                }
                Ok(None)
            }
            Ok(Done::Message { len_bytes }) => {
                let slot = completion.id as usize;
                let acknowledged = answers::decode(&link.outgoing.slots.read_slot(slot), len_bytes)
                    .map_err(|what| link.ending.end(End::Protocol(what)))?;
                self.acknowledged(link, acknowledged)?;
                Ok(Some(slot))
            }
            Ok(Done::Landed { .. }) => {
                Err(link.ending.end(End::Protocol("a write through the wrong queue pair".into())))
            }
            Err(failure) => Err(link.failed(Side::Outgoing, failure)),
        }
    }

    fn acknowledged(&mut self, link: &Shared, point: LogPoint) -> Result<(), LinkError> {
        while let Some((end, pieces)) = self.taken.front().copied() {
            if end > point.lsn {
                break;
            }
            self.pieces -= pieces;
            self.taken.pop_front();
        }
        match link.domain.persistence() {
            Persistence::Message => self.durable(link, point),
            Persistence::Read | Persistence::Flush => Ok(()),
        }
    }

    fn durable(&mut self, link: &Shared, point: LogPoint) -> Result<(), LinkError> {
        let news = self.flight.acknowledge(point, link.ending.counters());
        if news.map_err(|what| link.ending.end(End::Protocol(what)))? {
            self.newest = Some(point);
        }
        Ok(())
    }

    /// Posts what may be posted now.
    fn pump(&mut self, link: &Shared) -> Result<(), LinkError> {
        while self.posting.is_some() || self.begin(link)? {
            if !self.post(link)? {
                break;
            }
        }
        Ok(())
    }

    /// Begins with the batch that has gathered, if there is one and it may be.
    fn begin(&mut self, link: &Shared) -> Result<bool, LinkError> {
        let Some(batch) = self.gathered else { return Ok(false) };
        let Some(key) = self.key(link)? else { return Ok(false) };
        let pieces = pieces::count(batch.at, batch.to.lsn, link.domain.capacity_bytes());
        if self.pieces + pieces > self.most_pieces || self.confirming.len() >= MAX_IN_FLIGHT {
            return Ok(false);
        }
        let counters = link.ending.counters();
        let len_bytes = batch.to.lsn.since(batch.at);
        count(&counters.batches_sent, 1);
        count(&counters.bytes_sent, len_bytes);
        counters.batch_bytes.add(len_bytes);
        self.pieces += pieces;
        self.taken.push_back((batch.to.lsn, pieces));
        self.gathered = None;
        self.posting = Some((batch, key, Stage::Pieces));
        Ok(true)
    }

    /// The key to the peer's ring; `None` while one may still come.
    fn key(&mut self, link: &Shared) -> Result<Option<u32>, LinkError> {
        if let Some(key) = link.grant.key() {
            self.held_since = None;
            return Ok(Some(key));
        }
        let looked = link.control.take_in_private()?;
        if let Some(key) = link.grant.key() {
            return Ok(Some(key));
        }
        let since = *self.held_since.get_or_insert_with(Instant::now);
        if looked || since.elapsed() >= HOLD_LIMIT {
            return Err(link.ending.end(End::NotGranted));
        }
        Ok(None)
    }

    /// Posts the rest of a batch; false when the send queue is full.
    fn post(&mut self, link: &Shared) -> Result<bool, LinkError> {
        let Some((mut batch, key, mut stage)) = self.posting else { return Ok(true) };
        let capacity_bytes = link.domain.capacity_bytes();
        let confirms = link.domain.persistence() != Persistence::Message;
        loop {
            let idle = Request { id: 0, signalled: false, work: Work::Send { slot: 0 } };
            let (mut chain, mut len) = ([idle; MAX_CHAIN], 0);
            let mut finished = false;
            let room = self.budget.room().min(MAX_CHAIN as u32) as usize;
            while len < room && !finished {
                chain[len] = match stage {
                    Stage::Pieces => {
                        let piece = pieces::cut(batch.at, batch.to.lsn, capacity_bytes);
                        batch.at = batch.at.plus(piece.len_bytes.into());
                        finished = piece.last && !confirms;
                        if piece.last {
                            stage = Stage::Confirmation;
                        }
                        let (id, signalled) = self.budget.take(false);
                        let from = RingRange { offset: piece.offset, len_bytes: piece.len_bytes };
                        let to = Remote { address: link.ring_address + piece.offset, key };
                        let work = Work::Write { from, to, immediate: Some(batch.to.crc.0) };
                        Request { id, signalled, work }
                    }
                    Stage::Confirmation => {
                        finished = true;
                        self.confirming.push_back(batch.to);
                        let (id, signalled) = self.budget.take(true);
                        let last = (batch.to.lsn.0 - 1) % capacity_bytes / u64::from(READ_BYTES);
                        let address = link.ring_address + last * u64::from(READ_BYTES);
                        let work = Work::Read { slot: READ_SLOT, from: Remote { address, key } };
                        Request { id: id | CONFIRMS, signalled, work }
                    }
                };
                len += 1;
            }
            link.outgoing.post(&chain[..len]).map_err(link.os("posting log bytes"))?;
            if finished {
                self.posting = None;
                return Ok(true);
            }
            self.posting = Some((batch, key, stage));
            if self.budget.room() == 0 {
                self.reap(link)?;
                if self.budget.room() == 0 {
                    return Ok(false);
                }
            }
        }
    }
}

impl MirrorSender for VerbsSender {
    fn start(&mut self, from: LogPoint) -> Result<(), LinkError> {
        self.link.ending.check()?;
        self.state.flight.start(from.lsn)
    }

    fn write(&mut self, to: LogPoint) -> Result<(), LinkError> {
        self.link.ending.check()?;
        let from = self.state.flight.write(to.lsn, self.link.ending.counters())?;
        if to.lsn > from {
            let first = self.state.gathered.map_or(from, |batch| batch.at);
            self.state.gathered = Some(Batch { at: first, to });
        }
        self.state.pump(&self.link)
    }

    fn in_flight(&self) -> usize {
        self.state.flight.len()
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<LogPoint>, LinkError> {
        let VerbsSender { link, waiter, state } = self;
        let found = waiter.wait_for(link, link.outgoing.send_queue(), wait, || {
            state.reap(link)?;
            state.pump(link)?;
            Ok(state.newest.take())
        })?;
        if found.is_none() {
            link.ending.check()?;
        }
        Ok(found)
    }
}
