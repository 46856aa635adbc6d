//! Links over TCP, for nodes without RDMA. The data channels are driven through io_uring.
//!
//! A link is three sockets: control messages; the connecting side's log bytes and their acknowledgements; the
//! listening side's log bytes and theirs. One [`Listener`] serves all volumes of a node. With keys each socket is a
//! TLS connection of its own: log bytes are sealed from the ring into a buffer that io_uring sends (`sealing`), and
//! opened where they were received (`inbox`) before they are copied into the ring. The thread that sends or receives
//! does that itself.
//!
//! What can go wrong beside what the crate says: io_uring may be forbidden (a container's seccomp profile,
//! `kernel.io_uring_disabled`); making the link then fails and says so.

mod inbox;
mod receiver;
mod sealing;
mod sender;
#[cfg(test)]
mod tests;
mod uring;

use crate::control::StreamControl;
use crate::ending::Ending;
use crate::frame::HEAD_BYTES;
use crate::gate::Gate;
use crate::handshake::{ChannelKind, SessionId};
use crate::memory::Ring;
use crate::rendezvous::{self, Complete, Rendezvous};
use crate::socket::{deadline_after, tune_tcp};
use crate::spin::Spin;
use crate::tls::{DoorKeys, Incoming, Stream};
use crate::{Acceptor, Closer, Link, LinkError, LinkParams, PeerInfo, TransportKind};
use ids::LogMemory;
use inbox::Inbox;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// What a receiving channel takes at once: ranges up to this long come with one call to the kernel.
const RECEIVER_INBOX_BYTES: usize = 16 << 10;
/// Acknowledgements that are taken at once.
const SENDER_INBOX_BYTES: usize = HEAD_BYTES * crate::MAX_IN_FLIGHT;
/// What is received straight into the ring with one call; a peer must send it within the dead-peer timeout.
const CHUNK_BYTES: usize = 1 << 20;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// The order in which the sockets of a link are made and kept.
const CHANNELS: [ChannelKind; 3] =
    [ChannelKind::Control, ChannelKind::FromConnector, ChannelKind::FromListener];

/// Where partners connect: one per node, for all volumes.
pub struct Listener {
    rendezvous: Rendezvous,
    address: SocketAddr,
}

impl Listener {
    /// Listens at `address` (`host:port`; port 0 takes a free one).
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn bind(address: &str) -> Result<Listener, LinkError> {
        Listener::bind_with(address, None)
    }

    /// Listens likewise; with keys it lets in who proves one of its partners', and nobody else.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn bind_with(address: &str, keys: Option<DoorKeys>) -> Result<Listener, LinkError> {
        let refused = |source| LinkError::Address { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        Ok(Listener { rendezvous: Rendezvous::start(listener.into(), keys)?, address: bound })
    }

    /// Where it listens (the port, when 0 was asked for).
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Lets the partner of a volume in. Until then it is refused with [`crate::Refusal::UnknownVolume`].
    ///
    /// # Errors
    /// The volume is registered already.
    pub fn register(&self, params: LinkParams, memory: Arc<dyn LogMemory>) -> Result<Acceptor, LinkError> {
        let capacity_bytes = memory.capacity_bytes();
        let assemble = move |complete, params: &LinkParams| assemble(complete, params, Arc::clone(&memory));
        self.rendezvous.register(params, capacity_bytes, &CHANNELS, Box::new(assemble))
    }

    /// Where other transports, whose control channel is a tcp socket, register their volumes.
    #[cfg(feature = "verbs")]
    pub(crate) fn rendezvous(&self) -> &Rendezvous {
        &self.rendezvous
    }
}

/// Whether links can be made here: some machines forbid io_uring.
///
/// # Errors
/// What the kernel says instead.
pub fn probe() -> std::io::Result<()> {
    uring::probe()
}

/// Connects to the listener at `address` (`host:port`).
///
/// # Errors
/// No link could be made within the handshake timeout, or the peer refused.
pub fn connect(address: &str, params: &LinkParams, memory: Arc<dyn LogMemory>) -> Result<Link, LinkError> {
    let complete = open_channels(address, params, memory.capacity_bytes(), &CHANNELS)?;
    assemble(complete, params, memory)
}

/// Connects one socket for each of `kinds` and introduces this node on it.
pub(crate) fn open_channels(
    address: &str,
    params: &LinkParams,
    capacity_bytes: u64,
    kinds: &[ChannelKind],
) -> Result<Complete, LinkError> {
    let refused = |source| LinkError::Address { address: address.to_owned(), source };
    let deadline = deadline_after(params.tuning.handshake_timeout);
    let addresses = address.to_socket_addrs().map_err(refused)?;
    // A name may have several addresses (localhost has): the first that answers is the partner's.
    let mut first = Err(refused(io::Error::other("the name has no address")));
    for to in addresses.take(MAX_ADDRESSES) {
        first = connect_one(to, params, deadline).map(|socket| (to, socket));
        if first.is_ok() {
            break;
        }
    }
    let (to, socket) = first?;
    let mut connected = Some(socket);
    let session = SessionId::random().map_err(LinkError::io("reading /dev/urandom"))?;
    let mut sockets = Vec::with_capacity(kinds.len());
    for kind in kinds {
        let socket = match connected.take() {
            Some(socket) => socket,
            None => connect_one(to, params, deadline)?,
        };
        sockets.push(rendezvous::introduce(
            socket,
            *kind,
            session,
            params,
            capacity_bytes,
            deadline,
            address,
        )?);
    }
    Ok(Complete { session, sockets, address: to.to_string(), connected: true, deadline })
}

fn connect_one(to: SocketAddr, params: &LinkParams, deadline: Instant) -> Result<OwnedFd, LinkError> {
    let limit = params.tuning.handshake_timeout;
    let timeout = || LinkError::HandshakeTimeout { address: to.to_string(), limit };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(timeout());
    }
    let stream = TcpStream::connect_timeout(&to, left).map_err(|source| match source.kind() {
        io::ErrorKind::TimedOut => timeout(),
        _ => LinkError::Io { what: "connecting to the partner", source },
    })?;
    Ok(stream.into())
}

/// Makes a link of the sockets of one session.
fn assemble(complete: Complete, params: &LinkParams, memory: Arc<dyn LogMemory>) -> Result<Link, LinkError> {
    let tuning = params.tuning;
    let mut sockets = Vec::with_capacity(CHANNELS.len());
    let mut ways = Vec::with_capacity(CHANNELS.len());
    for Stream { socket, outgoing, incoming, .. } in complete.sockets {
        tune_tcp(&socket, &tuning)?;
        sockets.push(Arc::new(socket));
        ways.push((outgoing, incoming));
    }
    let Ok([control_ways, connector_ways, listener_ways]) = <[_; 3]>::try_from(ways) else {
        unreachable!("a session is complete with one socket of each kind")
    };
    let [control, connector, listener] = [0, 1, 2].map(|index| Arc::clone(&sockets[index]));
    let (connector, listener) = ((connector, connector_ways), (listener, listener_ways));
    let (mine, theirs) = if complete.connected { (connector, listener) } else { (listener, connector) };
    let ring = Ring::new(memory);
    let channel = |socket: &Arc<OwnedFd>, inbox_bytes, sealer, incoming: Incoming, spins| {
        let opener = incoming.into_opener();
        let opener = opener.map_err(|error| LinkError::Protocol(error.to_string()))?;
        let inbox = Inbox::new(inbox_bytes, opener);
        uring::Channel::new(Arc::clone(socket), ring.clone(), inbox, sealer, spins).map_err(LinkError::io(
            "setting up io_uring (is it forbidden here, by a container or by sysctl?)",
        ))
    };
    let ending = Arc::new(Ending::new(sockets, Arc::clone(&params.counters)));
    let gate = Arc::new(Gate::new(Arc::clone(&ending)));
    let (socket, (outgoing, incoming)) = mine;
    let spins = [(); 2].map(|()| Spin::new(tuning.spin));
    let mine = channel(&socket, SENDER_INBOX_BYTES, outgoing.into_sealer(), incoming, spins)?;
    let sender = sender::TcpSender::new(mine, Arc::clone(&ending), tuning);
    let (socket, (outgoing, incoming)) = theirs;
    let spins = [(); 2].map(|()| Spin::new(tuning.spin));
    let theirs = channel(&socket, RECEIVER_INBOX_BYTES, None, incoming, spins)?;
    let receiver = receiver::TcpReceiver::new(
        theirs,
        (socket, outgoing),
        Arc::clone(&ending),
        Arc::clone(&gate),
        tuning,
    );
    let peer = PeerInfo {
        volume: params.volume,
        node: params.peer.clone(),
        session: complete.session,
        capacity_bytes: ring.capacity_bytes(),
        address: complete.address,
        transport: TransportKind::Tcp,
    };
    crate::counters::count(&params.counters.links, 1);
    Ok(Link {
        control: Box::new(StreamControl::new(
            control,
            control_ways,
            Arc::clone(&ending),
            tuning.dead_peer_timeout,
        )),
        sender: Box::new(sender),
        receiver: Box::new(receiver),
        fence: gate,
        peer,
        closer: Closer::new(ending),
    })
}
