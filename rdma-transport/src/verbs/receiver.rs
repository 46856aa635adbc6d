//! How far the peer's bytes have landed in this node's ring, and the acknowledgements back.
//!
//! The adapter writes the ring; this reads only what it tells. Each piece takes one receive from the queue, which
//! is filled for as many as may be under way and refilled [`RECEIVE_CHAIN`] at a time.

use super::answers::Answers;
use super::completion::Done;
use super::domain::Domain;
use super::pieces::Landing;
use super::shared::{Shared, Side};
use super::wait::Waiter;
use super::work::RECEIVE_CHAIN;
use crate::counters::count;
use crate::ending::End;
use crate::{Arrival, LinkError, MirrorReceiver};
use ids::LogPoint;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct VerbsReceiver {
    link: Arc<Shared>,
    answers: Arc<Mutex<Answers>>,
    waiter: Waiter,
    state: State,
}

/// What changes with each piece.
struct State {
    landing: Option<Landing>,
    /// Receives that are used up and not posted again.
    used: usize,
    /// An acknowledgement waits for room.
    pending: bool,
}

impl VerbsReceiver {
    pub(super) fn new(link: Arc<Shared>, answers: Arc<Mutex<Answers>>, waiter: Waiter) -> VerbsReceiver {
        let state = State { landing: None, used: 0, pending: false };
        VerbsReceiver { link, answers, waiter, state }
    }
}

impl State {
    /// The end of the newest batch that has landed since the last call.
    fn take(&mut self, link: &Shared) -> Result<Option<LogPoint>, LinkError> {
        let mut newest = None;
        loop {
            let batch =
                link.incoming.receive_queue().poll().map_err(link.os("polling for the peer's writes"))?;
            for completion in batch.iter() {
                match completion.result {
                    Ok(Done::Landed { len_bytes, immediate }) => {
                        newest = self.landed(link, len_bytes, immediate)?.or(newest);
                    }
                    Ok(_) => {
                        return Err(link
                            .ending
                            .end(End::Protocol("a message where only writes come".into())));
                    }
                    // What landed before it is told first; the failure stays.
                    Err(_) if newest.is_some() => {}
                    Err(failure) => return Err(link.failed(Side::Incoming, failure)),
                }
            }
            if self.used >= RECEIVE_CHAIN {
                link.incoming
                    .post_receives(self.used, |_| None)
                    .map_err(link.os("making room for the peer's writes"))?;
                self.used = 0;
            }
            if !batch.is_full() {
                return Ok(newest);
            }
        }
    }

    fn landed(&mut self, link: &Shared, len_bytes: u32, number: u32) -> Result<Option<LogPoint>, LinkError> {
        self.used += 1;
        let counters = link.ending.counters();
        count(&counters.bytes_received, len_bytes.into());
        let landing = self.landing.as_mut().expect("polled only after `start`");
        let found = landing.landed(len_bytes, number).map_err(|what| link.ending.end(End::Protocol(what)))?;
        if found.is_some() {
            count(&counters.batches_received, 1);
        }
        Ok(found)
    }
}

impl MirrorReceiver for VerbsReceiver {
    fn start(&mut self, at: LogPoint) -> Result<(), LinkError> {
        self.link.ending.check()?;
        let capacity_bytes = Domain::capacity_bytes(&self.link.domain);
        self.state.landing = Some(Landing::new(at.lsn, capacity_bytes));
        Ok(())
    }

    fn next(&mut self, wait: Duration) -> Result<Option<Arrival>, LinkError> {
        if self.state.landing.is_none() {
            return Err(LinkError::NotStarted);
        }
        let VerbsReceiver { link, answers, waiter, state } = self;
        let found = waiter.wait_for(link, link.incoming.receive_queue(), wait, || {
            if state.pending {
                let mut answers = answers.lock();
                answers.flush(link)?;
                state.pending = answers.is_pending();
            }
            state.take(link)
        })?;
        if found.is_none() {
            link.ending.check()?;
        }
        Ok(found.map(|to| Arrival { to }))
    }

    fn acknowledge(&mut self, durable: LogPoint) -> Result<(), LinkError> {
        self.link.ending.check()?;
        count(&self.link.ending.counters().acknowledgements, 1);
        let mut answers = self.answers.lock();
        answers.acknowledge(&self.link, durable)?;
        self.state.pending = answers.is_pending();
        Ok(())
    }
}
