//! The seam: what every transport gives its user.
//!
//! Invariants: log bytes travel in LSN order and only where the last range ended; a [`LogPoint`] that is sent
//! with a range is the sender's claim, and the receiver's owner checks the chain before it believes it. A link
//! that has failed stays failed.

use crate::handshake::SessionId;
use crate::tls::LinkKeys;
use crate::{Counters, FenceError, LinkError};
use ids::{LogPoint, NodeName, VolumeId};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The longest control message.
pub const MAX_CONTROL_BYTES: usize = 1 << 20;

/// Writes that a [`MirrorSender`] takes before the oldest must be acknowledged.
pub const MAX_IN_FLIGHT: usize = 64;

/// One volume's connection with the partner. The parts may be used from different threads.
///
/// Keep all parts for as long as the link is used: dropping one may end the whole link. [`Link::closer`] ends
/// it from any thread.
pub struct Link {
    /// Framed messages, both ways.
    pub control: Box<dyn Control>,
    /// My log's bytes to the peer.
    pub sender: Box<dyn MirrorSender>,
    /// The peer's log's bytes into my ring.
    pub receiver: Box<dyn MirrorReceiver>,
    /// The peer's right to write into my ring.
    pub fence: Arc<dyn Fence>,
    /// Who is at the other end.
    pub peer: PeerInfo,
    /// Ends the link from any thread.
    pub closer: Closer,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).field("closer", &self.closer).finish_non_exhaustive()
    }
}

/// The transport of a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TransportKind {
    /// Sockets and io_uring.
    #[default]
    Tcp,
    /// Memory shared by two processes of one host.
    Shm,
    /// RDMA queue pairs; needs the feature `verbs`.
    Verbs,
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TransportKind::Tcp => "tcp",
            TransportKind::Shm => "shm",
            TransportKind::Verbs => "verbs",
        })
    }
}

/// Who is at the other end, as the handshake proved it.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The volume that both registered.
    pub volume: VolumeId,
    /// The peer's name.
    pub node: NodeName,
    /// This link, of all links between the two.
    pub session: SessionId,
    /// Length of both rings.
    pub capacity_bytes: u64,
    /// Where the peer is, for people.
    pub address: String,
    /// How bytes travel.
    pub transport: TransportKind,
}

/// Times that trade latency, processor time and patience against each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuning {
    /// How long a waiting thread polls at most before it sleeps. How long it does, down to not at all, follows from
    /// what a wake-up costs here, how soon answers come, and whether a processor is free. Zero: it always sleeps at
    /// once.
    pub spin: Duration,
    /// The whole handshake, connecting included.
    pub handshake_timeout: Duration,
    /// A peer that takes no byte, or answers no keepalive, for so long is dead. At least 1 s for keepalive.
    pub dead_peer_timeout: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            spin: Duration::from_micros(500),
            handshake_timeout: Duration::from_secs(2),
            dead_peer_timeout: Duration::from_secs(3),
        }
    }
}

/// What both ends of a link must agree on, and how this end behaves.
#[derive(Clone, Debug)]
pub struct LinkParams {
    /// The volume whose logs are mirrored.
    pub volume: VolumeId,
    /// This node.
    pub local: NodeName,
    /// The only node that is let in, or connected to.
    pub peer: NodeName,
    /// Times.
    pub tuning: Tuning,
    /// The keys of both; `None`: everything travels in the clear.
    pub keys: Option<LinkKeys>,
    /// Counts over all links made with these parameters.
    pub counters: Arc<Counters>,
}

impl LinkParams {
    /// Parameters without keys, with default times and fresh counters.
    pub fn new(volume: VolumeId, local: NodeName, peer: NodeName) -> LinkParams {
        LinkParams { volume, local, peer, tuning: Tuning::default(), keys: None, counters: Arc::default() }
    }
}

/// Small framed messages, delivered whole and in order.
pub trait Control: Send + Sync {
    /// Sends one message of at most [`MAX_CONTROL_BYTES`]. May block for as long as the peer takes nothing,
    /// at most the dead-peer timeout.
    ///
    /// # Errors
    /// [`LinkError::MessageTooLong`] leaves the link usable; any other ends it.
    fn send(&self, message: &[u8]) -> Result<(), LinkError>;

    /// The next message; `None` when none came within `wait`. One thread at a time receives, others queue.
    ///
    /// # Errors
    /// The link has ended.
    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>, LinkError>;

    /// Ends the whole link; blocked calls return.
    fn close(&self);
}

/// Sends ranges of my ring to the same offset at the peer. Any thread may use it, one at a time; it allocates
/// nothing per write. Progress of what is unsent is made in [`write`](Self::write) and [`poll`](Self::poll).
pub trait MirrorSender: Send {
    /// Positions at `from`: the next write sends from there. The peer's receiver must have been told (by
    /// control) to start at the same point. Nothing may be in flight, except on a fresh link.
    ///
    /// # Errors
    /// [`LinkError::InFlight`] when writes are unacknowledged; otherwise the link has ended.
    fn start(&mut self, from: LogPoint) -> Result<(), LinkError>;

    /// Sends `[end of the last write, to.lsn)` of my ring. Returns at once; the bytes must stay as they are
    /// until the peer has acknowledged them.
    ///
    /// # Errors
    /// [`LinkError::InFlight`] with [`MAX_IN_FLIGHT`] writes unacknowledged (poll first);
    /// [`LinkError::BadRange`] for a range that goes back or is longer than the ring; both leave the link
    /// usable. Any other ends it.
    fn write(&mut self, to: LogPoint) -> Result<(), LinkError>;

    /// Writes that are not acknowledged yet.
    fn in_flight(&self) -> usize;

    /// The newest point that the peer acknowledged as durable since the last call; `None` when none came
    /// within `wait` (spins for a bounded time, then sleeps).
    ///
    /// # Errors
    /// The link has ended.
    fn poll(&mut self, wait: Duration) -> Result<Option<LogPoint>, LinkError>;
}

/// Bytes have landed in my ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Up to here, and what the chain must be here, as the peer claims.
    pub to: LogPoint,
}

/// Takes the peer's bytes into my ring. One thread uses it.
pub trait MirrorReceiver: Send {
    /// Positions at `at`, where the peer's sender will start.
    ///
    /// # Errors
    /// The link has ended.
    fn start(&mut self, at: LogPoint) -> Result<(), LinkError>;

    /// Waits for bytes to land; `None` when none did within `wait`. Several writes of the peer may arrive as
    /// one, and a large one may be returned later than `wait` while it is being received.
    ///
    /// # Errors
    /// [`LinkError::Revoked`] when the peer writes without the right to; [`LinkError::Protocol`] when it does
    /// not continue where it ended or claims more than the ring; otherwise the link has ended.
    fn next(&mut self, wait: Duration) -> Result<Option<Arrival>, LinkError>;

    /// Tells the peer that my log holds everything before `durable`.
    ///
    /// # Errors
    /// The link has ended.
    fn acknowledge(&mut self, durable: LogPoint) -> Result<(), LinkError>;
}

/// The peer's right to write into my ring. A new link starts without it.
pub trait Fence: Send + Sync {
    /// Lets the peer write. The peer may rely on it once it has received a control message that was sent after
    /// this call.
    fn grant(&self);

    /// Takes the right away. After `Ok` no byte of the peer lands in my ring, until [`grant`](Self::grant) is
    /// called again. Ends the link when it interrupts a transfer, leaves an idle one usable. Takes a bounded
    /// time also when the peer is stopped or gone.
    ///
    /// # Errors
    /// See [`FenceError`]: then nothing is guaranteed, and the caller must not go on.
    fn revoke(&self) -> Result<(), FenceError>;

    /// Whether the peer may write now.
    fn is_granted(&self) -> bool;
}

/// What a transport does to end its link.
pub trait Close: Send + Sync {
    /// Ends the link and wakes everybody who waits on it. Called any number of times.
    fn close(&self);
    /// Whether the link has been ended from this side.
    fn is_closed(&self) -> bool;
}

/// Ends a link from any thread: blocked `recv`, `poll` and `next` return [`LinkError::Closed`].
#[derive(Clone)]
pub struct Closer(Arc<dyn Close>);

impl Closer {
    /// Over what ends the link, for transports of this crate and of others.
    pub fn new(close: Arc<dyn Close>) -> Closer {
        Closer(close)
    }

    /// Ends the link. Does nothing the second time.
    pub fn close(&self) {
        self.0.close();
    }

    /// Whether the link was ended from this side, by [`close`](Self::close) or by a failure seen here.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closer").field("closed", &self.is_closed()).finish()
    }
}
