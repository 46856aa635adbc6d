//! The peer's log bytes into my ring, acknowledgements back.
//!
//! A head and a small range arrive in one receive, in the inbox, and are copied to the ring; a copy of a few
//! kilobytes costs less than a second call to the kernel. What is longer than the inbox is received straight into
//! the ring. Not chosen: one scattered receive of head and ring, because what follows a short range would land in
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
use crate::socket::{deadline_after, send_all};
use crate::{Arrival, LinkError, MirrorReceiver, Tuning};
use ids::{LogPoint, Lsn};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct TcpReceiver {
    channel: Channel,
    socket: Arc<OwnedFd>,
    ending: Arc<Ending>,
    gate: Arc<Gate>,
    expected: Option<Lsn>,
    tuning: Tuning,
}

impl TcpReceiver {
    pub(super) fn new(
        channel: Channel,
        socket: Arc<OwnedFd>,
        ending: Arc<Ending>,
        gate: Arc<Gate>,
        tuning: Tuning,
    ) -> TcpReceiver {
        TcpReceiver { channel, socket, ending, gate, expected: None, tuning }
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
        self.channel.consume(HEAD_BYTES);
        let inboxed = self.channel.arrived().len().min(usize::try_from(len_bytes).unwrap_or(usize::MAX));
        self.channel.ring().copy_in(from, &self.channel.arrived()[..inboxed]);
        self.channel.consume(inboxed);
        for piece in self.channel.ring().pieces(from.plus(inboxed as u64), len_bytes - inboxed as u64) {
            self.receive_piece(piece)?;
        }
        self.expected = Some(to.lsn);
        let counters = self.ending.counters();
        count(&counters.batches_received, 1);
        count(&counters.bytes_received, len_bytes);
        Ok(Some(Arrival { to }))
    }

    /// Receives one piece of the ring; a peer that sends none of it for the dead-peer timeout is dead.
    fn receive_piece(&mut self, mut piece: Piece) -> Result<(), LinkError> {
        let limit = self.tuning.dead_peer_timeout;
        while piece.len > 0 {
            self.ending.check()?;
            let chunk = Piece { len: piece.len.min(CHUNK_BYTES), ..piece };
            let end = match self.channel.receive_into_ring(chunk, deadline_after(limit)) {
                Ok(Waited::Received(len)) if len > 0 => {
                    piece = Piece { pointer: piece.pointer.wrapping_add(len), len: piece.len - len };
                    continue;
                }
                Ok(Waited::Received(_)) => End::PeerClosed,
                Ok(Waited::Nothing) => End::PeerDead(limit),
                Err(errno) => End::of_errno("receiving log bytes", errno, limit),
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
                .map_err(|errno| self.ending.end(End::of_errno("receiving log bytes", errno, limit)))?;
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
        send_all(&*self.socket, &Frame::Ack { durable }.encode(), self.tuning.dead_peer_timeout)
            .map_err(|end| self.ending.end(end))
    }
}
