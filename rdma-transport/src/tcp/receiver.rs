//! The peer's log bytes into my ring, acknowledgements back.
//!
//! A head and a small range arrive in one receive, in the inbox, and are copied to the ring; a copy of a few
//! kilobytes costs less than a second call to the kernel. What is longer than the inbox is received straight into
//! the ring, unless it is sealed: then the inbox is larger and everything goes through it. Not chosen: one scattered receive of head and ring, because what follows a short range would land in
//! the ring behind it, where older records may still be needed.
//!
//! Invariant: the ring is touched only inside the gate, and only at `[expected, expected + capacity)`.

use super::uring::{Channel, Waited};
use super::{CHUNK_BYTES, HEAD_BYTES};
use crate::counters::count;
use crate::ending::{End, Ending};
use crate::frame::{Frame, check_range};
use crate::gate::Gate;
use crate::handshake::array_at;
use crate::memory::Piece;
use crate::socket::deadline_after;
use crate::tls::Outgoing;
use crate::{Arrival, LinkError, MirrorReceiver, Tuning};
use ids::{LogPoint, Lsn};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RECEIVING: &str = "receiving log bytes";

pub(super) struct TcpReceiver {
    channel: Channel,
    answers: (Arc<OwnedFd>, Outgoing),
    ending: Arc<Ending>,
    gate: Arc<Gate>,
    expected: Option<Lsn>,
    tuning: Tuning,
}

impl TcpReceiver {
    pub(super) fn new(
        channel: Channel,
        answers: (Arc<OwnedFd>, Outgoing),
        ending: Arc<Ending>,
        gate: Arc<Gate>,
        tuning: Tuning,
    ) -> TcpReceiver {
        TcpReceiver { channel, answers, ending, gate, expected: None, tuning }
    }

    /// Whether the next range lies in the inbox whole: it can be taken without waiting.
    fn whole_range_arrived(&self) -> bool {
        let arrived = self.channel.arrived();
        arrived.len() >= HEAD_BYTES
            && matches!(Frame::decode(&array_at(arrived, 0)),
                Ok(Frame::Data { from, to }) if to.lsn.since(from) <= (arrived.len() - HEAD_BYTES) as u64)
    }

    /// Takes the range whose head has arrived, if one has.
    fn take_range(&mut self, expected: Lsn) -> Result<Option<Arrival>, LinkError> {
        if self.channel.arrived().len() < HEAD_BYTES {
            return Ok(None);
        }
        let checked = match Frame::decode(&array_at(self.channel.arrived(), 0)) {
            Ok(Frame::Data { from, to }) => {
                check_range(expected, from, to.lsn, self.channel.ring().capacity_bytes())
                    .map(|len_bytes| (from, to, len_bytes))
            }
            Ok(Frame::Ack { .. }) => Err("an acknowledgement on the channel of log bytes".into()),
            Err(what) => Err(what),
        };
        let (from, to, len_bytes) = checked.map_err(|what| self.ending.end(End::Protocol(what)))?;
        let gate = Arc::clone(&self.gate);
        let Some(_transfer) = gate.enter() else { return Err(self.ending.end(End::Revoked)) };
        self.channel.inbox().consume(HEAD_BYTES);
        let inboxed = self.channel.arrived().len().min(usize::try_from(len_bytes).unwrap_or(usize::MAX));
        self.channel.ring().copy_in(from, &self.channel.arrived()[..inboxed]);
        self.channel.inbox().consume(inboxed);
        let (from, rest_bytes) = (from.plus(inboxed as u64), len_bytes - inboxed as u64);
        if self.channel.inbox().is_sealed() {
            self.receive_sealed(from, rest_bytes)?;
        } else {
            for piece in self.channel.ring().pieces(from, rest_bytes) {
                self.receive_piece(piece)?;
            }
        }
        self.expected = Some(to.lsn);
        let counters = self.ending.counters();
        count(&counters.batches_received, 1);
        count(&counters.bytes_received, len_bytes);
        Ok(Some(Arrival { to }))
    }

    /// Receives `[from, from + left_bytes)` of the ring by way of the inbox, where it is opened. A peer of which no whole
    /// record comes for the dead-peer timeout is dead.
    fn receive_sealed(&mut self, mut from: Lsn, mut left_bytes: u64) -> Result<(), LinkError> {
        let limit = self.tuning.dead_peer_timeout;
        let mut deadline = deadline_after(limit);
        while left_bytes > 0 {
            self.ending.check()?;
            let end = match self.channel.fill(deadline, self.ending.counters()) {
                Ok(Waited::Received(0)) => End::PeerClosed,
                Ok(Waited::Nothing) if Instant::now() >= deadline => End::PeerDead(limit),
                Ok(Waited::Nothing) => continue,
                Ok(Waited::Received(_)) => {
                    let arrived = self.channel.arrived();
                    let len = arrived.len().min(usize::try_from(left_bytes).unwrap_or(usize::MAX));
                    self.channel.ring().copy_in(from, &arrived[..len]);
                    self.channel.inbox().consume(len);
                    from = from.plus(len as u64);
                    left_bytes -= len as u64;
                    deadline = deadline_after(limit);
                    continue;
                }
                Err(error) => error.end(RECEIVING, limit),
            };
            return Err(self.ending.end(end));
        }
        Ok(())
    }

    /// Receives one piece of the ring; a peer that sends none of it for the dead-peer timeout is dead.
    fn receive_piece(&mut self, mut piece: Piece) -> Result<(), LinkError> {
        let limit = self.tuning.dead_peer_timeout;
        while piece.len > 0 {
            self.ending.check()?;
            let chunk = Piece { len: piece.len.min(CHUNK_BYTES), ..piece };
            let end =
                match self.channel.receive_into_ring(chunk, deadline_after(limit), self.ending.counters()) {
                    Ok(Waited::Received(len)) if len > 0 => {
                        piece = Piece { pointer: piece.pointer.wrapping_add(len), len: piece.len - len };
                        continue;
                    }
                    Ok(Waited::Received(_)) => End::PeerClosed,
                    Ok(Waited::Nothing) => End::PeerDead(limit),
                    Err(errno) => End::of_errno(RECEIVING, errno, limit),
                };
            return Err(self.ending.end(end));
        }
        Ok(())
    }
}

impl MirrorReceiver for TcpReceiver {
    fn start(&mut self, at: LogPoint) -> Result<(), LinkError> {
        self.ending.check()?;
        self.expected = Some(at.lsn);
        Ok(())
    }

    fn next(&mut self, wait: Duration) -> Result<Option<Arrival>, LinkError> {
        let expected = self.expected.ok_or(LinkError::NotStarted)?;
        let deadline = deadline_after(wait);
        loop {
            self.ending.check()?;
            if let Some(mut arrival) = self.take_range(expected)? {
                while self.whole_range_arrived() {
                    arrival = self.take_range(arrival.to.lsn)?.unwrap_or(arrival);
                }
                return Ok(Some(arrival));
            }
            let limit = self.tuning.dead_peer_timeout;
            let waited = self
                .channel
                .fill(deadline, self.ending.counters())
                .map_err(|error| self.ending.end(error.end(RECEIVING, limit)))?;
            match waited {
                Waited::Received(0) => return Err(self.ending.end(End::PeerClosed)),
                Waited::Received(_) => {}
                Waited::Nothing if Instant::now() >= deadline => return Ok(None),
                Waited::Nothing => {}
            }
        }
    }

    fn acknowledge(&mut self, durable: LogPoint) -> Result<(), LinkError> {
        self.ending.check()?;
        count(&self.ending.counters().acknowledgements, 1);
        let (socket, outgoing) = &mut self.answers;
        outgoing
            .send(&**socket, &Frame::Ack { durable }.encode(), self.tuning.dead_peer_timeout)
            .map_err(|end| self.ending.end(end))
    }
}
