//! One link's state: what travels, what has arrived, who may write, and how it ends.

use super::{Acknowledge, Network, State, Waits};
use ids::LogPoint;
use nvlog::format::RING_OFFSET_BYTES;
use nvlog::region::Region;
use nvlog::sim::SimRegion;
use rdma_transport::LinkError;
use std::collections::VecDeque;
use std::time::Duration;

/// Time between two things of one stream, at least.
const GAP: Duration = Duration::from_nanos(100);

/// Why an end of a link is over.
#[derive(Clone, Debug)]
pub(super) enum End {
    Closed,
    PeerClosed,
    PeerDead(Duration),
    Revoked,
    NotGranted,
    Protocol(String),
}

impl End {
    pub fn error(&self) -> LinkError {
        match self {
            End::Closed => LinkError::Closed,
            End::PeerClosed => LinkError::PeerClosed,
            End::PeerDead(limit) => LinkError::PeerDead(*limit),
            End::Revoked => LinkError::Revoked,
            End::NotGranted => LinkError::NotGranted,
            End::Protocol(why) => LinkError::Protocol(why.clone()),
        }
    }
}

/// What travels.
pub(super) enum Item {
    Message(Vec<u8>),
    /// Bytes for a place of the ring.
    Piece {
        ring_offset: u64,
        bytes: Vec<u8>,
        last: bool,
    },
    /// Every piece of a write has landed.
    Announce {
        at: LogPoint,
        to: LogPoint,
    },
    Acknowledge(LogPoint),
    /// The peer has no right to write, or has lost it.
    Refuse,
    Close,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stream {
    Control = 0,
    Bytes = 1,
    Acknowledgements = 2,
}

/// The way from one end to the other, of one stream.
#[derive(Default)]
pub(super) struct Way {
    /// When the last thing on it arrives.
    last: Duration,
    /// What a cut holds.
    held: VecDeque<Item>,
}

/// One end of a link.
pub(super) struct Side {
    life: u64,
    region: SimRegion,
    over: Option<End>,
    pub messages: VecDeque<Vec<u8>>,
    /// As the receiver.
    pub arrivals: VecDeque<LogPoint>,
    pub received: Option<LogPoint>,
    pub granted: bool,
    /// A write has landed in part.
    pub landing: bool,
    /// As the sender.
    pub sent: Option<LogPoint>,
    pub in_flight: VecDeque<LogPoint>,
    pub acknowledged: Option<LogPoint>,
    /// Ways from here.
    ways: [Way; 3],
}

impl Side {
    fn new(life: u64, region: SimRegion) -> Side {
        Side {
            life,
            region,
            over: None,
            messages: VecDeque::new(),
            arrivals: VecDeque::new(),
            received: None,
            granted: false,
            landing: false,
            sent: None,
            in_flight: VecDeque::new(),
            acknowledged: None,
            ways: Default::default(),
        }
    }

    pub fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Whether it ended by a wish of this side.
    pub fn is_closed_here(&self) -> bool {
        matches!(self.over, Some(End::Closed))
    }

    pub fn finish(&mut self, end: End) {
        self.over.get_or_insert(end);
    }

    pub fn check(&self) -> Result<(), LinkError> {
        self.over.as_ref().map_or(Ok(()), |end| Err(end.error()))
    }

    pub fn capacity_bytes(&self) -> u64 {
        self.region.len_bytes() - RING_OFFSET_BYTES
    }

    /// A part of the ring that does not pass its end.
    pub fn read(&self, ring_offset: u64, len_bytes: u64) -> Vec<u8> {
        self.region.read(RING_OFFSET_BYTES + ring_offset, len_bytes as usize)
    }
}

/// See the module.
pub(super) struct Wire {
    pub ends: [Side; 2],
}

impl Wire {
    pub fn new([first, second]: [SimRegion; 2], lives: [u64; 2]) -> Wire {
        Wire { ends: [Side::new(lives[0], first), Side::new(lives[1], second)] }
    }
}

impl Network {
    /// Sends `item` from an end of a link; it arrives when its time has come, also when that end is over by then.
    pub(super) fn transmit(&self, state: &mut State, index: usize, from: usize, stream: Stream, item: Item) {
        let now = scheduler::virtual_now();
        let latency = state.latency();
        let way = &mut state.wires[index].ends[from].ways[stream as usize];
        let arrives = (now + latency).max(way.last + GAP);
        way.last = arrives;
        self.deliver_after(arrives.saturating_sub(now), index, from, stream, item);
    }

    fn deliver_after(&self, after: Duration, index: usize, from: usize, stream: Stream, item: Item) {
        let network = self.clone();
        scheduler::at(after, move || network.arrive(index, from, stream, item));
    }

    /// What a way held goes on, in order.
    pub(super) fn release(&self, state: &mut State, index: usize, from: usize) {
        for stream in [Stream::Control, Stream::Bytes, Stream::Acknowledgements] {
            let held = std::mem::take(&mut state.wires[index].ends[from].ways[stream as usize].held);
            for item in held {
                self.transmit(state, index, from, stream, item);
            }
        }
    }

    fn arrive(&self, index: usize, from: usize, stream: Stream, item: Item) {
        let mut guard = self.0.state.lock();
        let state = &mut *guard;
        let to = 1 - from;
        if state.hosts[to].life != state.wires[index].ends[to].life {
            // Nobody is there, or somebody else.
            return;
        }
        let way = &mut state.wires[index].ends[from].ways[stream as usize];
        if state.cut[from] || !way.held.is_empty() {
            way.held.push_back(item);
            return;
        }
        let waits = match item {
            // Nobody notices.
            Item::Piece { .. } if state.wires[index].ends[to].granted => None,
            Item::Message(_) => Some(Waits::Messages),
            Item::Announce { .. } => Some(Waits::Bytes),
            Item::Acknowledge(_) => Some(Waits::Acknowledgements),
            Item::Piece { .. } | Item::Refuse | Item::Close => {
                self.tell_all();
                None
            }
        };
        match item {
            Item::Piece { ring_offset, bytes, last } => {
                self.land(state, index, to, (ring_offset, &bytes), last)
            }
            // Nobody there listens any more, though its memory may still be written.
            _ if state.wires[index].ends[to].is_over() => {}
            item => self.take(state, index, to, item),
        }
        drop(guard);
        if let Some(waits) = waits {
            self.tell(to, waits);
        }
    }

    fn land(&self, state: &mut State, index: usize, to: usize, piece: (u64, &[u8]), last: bool) {
        let side = &mut state.wires[index].ends[to];
        if !side.granted {
            if !side.is_over() {
                side.finish(End::Revoked);
                self.transmit(state, index, to, Stream::Acknowledgements, Item::Refuse);
            }
            return;
        }
        side.region.land(RING_OFFSET_BYTES + piece.0, piece.1);
        side.landing = !last;
    }

    fn take(&self, state: &mut State, index: usize, to: usize, item: Item) {
        let adapter = state.config.ack == Acknowledge::Adapter;
        let side = &mut state.wires[index].ends[to];
        match item {
            Item::Message(bytes) => side.messages.push_back(bytes),
            Item::Announce { at, to: claimed } => {
                if !side.granted {
                    return;
                }
                if side.received.is_some_and(|received| received.lsn != at.lsn) {
                    side.finish(End::Protocol(format!("a write begins at {at}")));
                    return;
                }
                side.received = Some(claimed);
                side.arrivals.push_back(claimed);
                if adapter && side.persist(at, claimed) {
                    self.transmit(state, index, to, Stream::Acknowledgements, Item::Acknowledge(claimed));
                }
            }
            Item::Acknowledge(point) => {
                side.acknowledged = Some(point);
            }
            Item::Refuse => side.finish(End::NotGranted),
            Item::Close => side.finish(End::PeerClosed),
            Item::Piece { .. } => unreachable!("landed before"),
        }
    }

    /// Ends a link from one end; the other hears of it.
    pub(super) fn finish(&self, state: &mut State, index: usize, host: usize, end: End) {
        let side = &mut state.wires[index].ends[host];
        if !side.is_over() {
            scheduler::trace(|| format!("link {index} over at {host}: {end:?}"));
            side.finish(end);
            self.say_closed(state, index, host);
        }
    }

    pub(super) fn say_closed(&self, state: &mut State, index: usize, host: usize) {
        self.transmit(state, index, host, Stream::Control, Item::Close);
    }

    /// Ends one end after a while, if it is not over by then.
    pub(super) fn end_later(&self, index: usize, host: usize, after: Duration, end: End) {
        let network = self.clone();
        scheduler::at(after, move || {
            network.finish(&mut network.0.state.lock(), index, host, end);
            network.tell_all();
        });
    }

    /// An end that hears nothing for long enough gives the link up.
    pub(super) fn expect_silence(&self, state: &State, index: usize, host: usize) {
        if state.wires[index].ends[host].is_over() {
            return;
        }
        let limit = state.config.dead_peer_timeout;
        let more = Duration::from_nanos(scheduler::random(limit.as_nanos() as u64 / 4 + 1));
        let (network, turn) = (self.clone(), state.turn);
        scheduler::at(limit + more, move || {
            let mut guard = network.0.state.lock();
            let state = &mut *guard;
            let peer = &state.wires[index].ends[1 - host];
            let gone = state.hosts[1 - host].life != peer.life;
            if gone || (state.is_cut() && state.turn == turn) {
                network.finish(state, index, host, End::PeerDead(limit));
                drop(guard);
                network.tell_all();
            }
        });
    }

    /// Ends of links to a process that lived on `host` before `life` are reset.
    pub(super) fn reset_leftovers(&self, host: usize, life: u64, within: Duration) {
        let state = self.0.state.lock();
        for index in 0..state.wires.len() {
            let wire = &state.wires[index];
            if wire.ends[host].life != life && !wire.ends[1 - host].is_over() {
                let after = Duration::from_nanos(scheduler::random(within.as_nanos() as u64));
                self.end_later(index, 1 - host, after, End::PeerClosed);
            }
        }
    }
}

impl Side {
    /// The adapter makes `[at, to)` durable.
    fn persist(&self, at: LogPoint, to: LogPoint) -> bool {
        pieces(at.lsn.0, to.lsn.0, self.capacity_bytes())
            .all(|(offset, len_bytes)| self.region.persist(RING_OFFSET_BYTES + offset, len_bytes).is_ok())
    }
}

/// The places in the ring of `[from, to)`: none passes the ring's end.
pub(super) fn pieces(from: u64, to: u64, capacity_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let first = (to - from).min(capacity_bytes - from % capacity_bytes);
    let parts = [(from % capacity_bytes, first), (0, to - from - first)];
    parts.into_iter().filter(|(_, len_bytes)| *len_bytes > 0)
}
