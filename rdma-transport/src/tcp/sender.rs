//! Log bytes to the peer, acknowledgements back.
//!
//! Invariant: one message is in the socket at a time; what is written meanwhile gathers into the next one. So
//! batching comes by itself when the peer or the network is slower than the writers, and an idle link sends at
//! once.

use super::HEAD_BYTES;
use super::uring::{Channel, Waited};
use crate::counters::count;
use crate::ending::{End, Ending};
use crate::flight::Flight;
use crate::frame::Frame;
use crate::handshake::array_at;
use crate::socket::deadline_after;
use crate::tls::ReceiveError;
use crate::{LinkError, MirrorSender, Tuning};
use ids::{LogPoint, Lsn};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct TcpSender {
    channel: Channel,
    ending: Arc<Ending>,
    flight: Flight,
    gathered: Option<(Lsn, LogPoint)>,
    tuning: Tuning,
}

impl TcpSender {
    pub(super) fn new(channel: Channel, ending: Arc<Ending>, tuning: Tuning) -> TcpSender {
        let flight = Flight::new(channel.ring().capacity_bytes());
        TcpSender { channel, ending, flight, gathered: None, tuning }
    }

    fn failed(&self, error: ReceiveError) -> LinkError {
        self.ending.end(error.end("sending log bytes", self.tuning.dead_peer_timeout))
    }

    /// Sends what has gathered, if the socket is free.
    fn pump(&mut self) -> Result<(), LinkError> {
        if self.channel.is_sending() {
            return Ok(());
        }
        let Some((from, to)) = self.gathered.take() else { return Ok(()) };
        let len_bytes = to.lsn.since(from);
        let counters = self.ending.counters();
        count(&counters.batches_sent, 1);
        count(&counters.bytes_sent, len_bytes);
        counters.batch_bytes.add(len_bytes);
        let head = Frame::Data { from, to }.encode();
        let sent = self.channel.send(head, from, len_bytes);
        sent.map_err(|errno| self.failed(ReceiveError::Os(errno)))
    }

    /// The newest of the acknowledgements that have arrived.
    fn acknowledged(&mut self) -> Result<Option<LogPoint>, LinkError> {
        let mut newest = None;
        while self.channel.arrived().len() >= HEAD_BYTES {
            let news = match Frame::decode(&array_at(self.channel.arrived(), 0)) {
                Ok(Frame::Ack { durable }) => self
                    .flight
                    .acknowledge(durable, self.ending.counters())
                    .map(|news| news.then_some(durable)),
                Ok(Frame::Data { .. }) => Err("log bytes on the channel of acknowledgements".into()),
                Err(what) => Err(what),
            };
            newest = news.map_err(|what| self.ending.end(End::Protocol(what)))?.or(newest);
            self.channel.inbox().consume(HEAD_BYTES);
        }
        Ok(newest)
    }
}

impl MirrorSender for TcpSender {
    fn start(&mut self, from: LogPoint) -> Result<(), LinkError> {
        self.ending.check()?;
        self.flight.start(from.lsn)
    }

    fn write(&mut self, to: LogPoint) -> Result<(), LinkError> {
        self.ending.check()?;
        let from = self.flight.write(to.lsn, self.ending.counters())?;
        if to.lsn > from {
            let first = self.gathered.map_or(from, |(first, _)| first);
            self.gathered = Some((first, to));
        }
        self.pump()
    }

    fn in_flight(&self) -> usize {
        self.flight.len()
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<LogPoint>, LinkError> {
        let deadline = deadline_after(wait);
        loop {
            self.ending.check()?;
            self.pump()?;
            if let Some(newest) = self.acknowledged()? {
                return Ok(Some(newest));
            }
            let counters = self.ending.counters();
            let waited = self.channel.fill(deadline, counters).map_err(|error| self.failed(error))?;
            match waited {
                Waited::Received(0) => return Err(self.ending.end(End::PeerClosed)),
                Waited::Received(_) => {}
                Waited::Nothing if Instant::now() >= deadline => return Ok(None),
                Waited::Nothing => {}
            }
        }
    }
}
