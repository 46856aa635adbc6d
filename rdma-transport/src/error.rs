//! Errors, typed by what the owner of a link can do about them.

use std::io;
use std::time::Duration;

/// Why a link could not be made, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Closed from this side.
    #[error("the link was closed from this side")]
    Closed,
    /// The peer closed it, or its process ended.
    #[error("the peer closed the link; connect again")]
    PeerClosed,
    /// The peer takes no bytes or answers no keepalive.
    #[error("the peer did not answer for {0:?}; it is dead, stopped or cut off")]
    PeerDead(Duration),
    /// The peer said why it does not want this link.
    #[error("the peer refused the link: {0}")]
    Refused(Refusal),
    /// The other end does not speak this protocol.
    #[error(
        "{address} does not answer as a Twinfiler node: check address and port, and that both nodes have keys or neither"
    )]
    Stranger {
        /// Where.
        address: String,
    },
    /// The other end did not prove the key that is expected, or does not accept this node's.
    #[error("no link to {address}: {why}")]
    Untrusted {
        /// Where.
        address: String,
        /// Why.
        why: crate::tls::TlsError,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Settings(String),
    /// The handshake was not finished in time.
    #[error("the handshake with {address} took longer than {limit:?}")]
    HandshakeTimeout {
        /// With whom.
        address: String,
        /// The limit.
        limit: Duration,
    },
    /// The peer breaks the protocol.
    #[error("the peer broke the protocol: {0}; the link was ended")]
    Protocol(String),
    /// The peer wrote without the right to.
    #[error("the peer wrote without the right to (revoked); the link was ended and nothing was taken")]
    Revoked,
    /// The peer has not given this node the right to write into its log, or has taken it away.
    #[error("the peer did not let this node write into its log (revoked); the link was ended")]
    NotGranted,
    /// Too many or any unacknowledged writes where that is not allowed.
    #[error("{0} writes are not acknowledged: poll before going on")]
    InFlight(usize),
    /// The range to send is not one.
    #[error("range [{from}, {to}) goes back or is longer than the ring of {capacity_bytes} bytes")]
    BadRange {
        /// Where the last write ended.
        from: ids::Lsn,
        /// Where this one should end.
        to: ids::Lsn,
        /// The ring.
        capacity_bytes: u64,
    },
    /// A sender or receiver was used before `start`.
    #[error("used before start() gave it a position")]
    NotStarted,
    /// The control message is too long.
    #[error("control message of {len_bytes} bytes; at most {max_bytes} can be sent", max_bytes = crate::MAX_CONTROL_BYTES)]
    MessageTooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// The address cannot be used.
    #[error("address {address:?} cannot be used: {source}")]
    Address {
        /// As given.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The volume is registered at this listener already.
    #[error("volume {0} is registered at this listener already")]
    Registered(ids::VolumeId),
    /// The ring cannot be shared with another process.
    #[error("this log's memory has no descriptor that another process can map; use tcp")]
    NotShareable,
    /// The RDMA device, its port or the connection failed.
    #[error("RDMA failed: {0}; the link was ended")]
    Rdma(String),
    /// Both nodes must be set alike in this.
    #[error("{what} is {mine} on this node and {theirs} on the peer: set both alike")]
    SettingsDiffer {
        /// Which setting.
        what: &'static str,
        /// Here.
        mine: String,
        /// There.
        theirs: String,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
}

impl LinkError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> LinkError {
        move |source| LinkError::Io { what, source }
    }

    pub(crate) fn os(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> LinkError {
        move |errno| LinkError::Io { what, source: errno.into() }
    }

    /// Whether the link can still be used: the call was refused, nothing was done.
    pub fn is_refused_call(&self) -> bool {
        matches!(
            self,
            LinkError::InFlight(_)
                | LinkError::BadRange { .. }
                | LinkError::MessageTooLong { .. }
                | LinkError::NotStarted
        )
    }
}

/// Why a listener sends somebody away.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Another protocol version.
    #[error(
        "it speaks version {theirs} of the protocol, this node {}: upgrade the older",
        crate::PROTOCOL_VERSION
    )]
    Version {
        /// The version of the node that refused.
        theirs: u16,
    },
    /// The volume is not served there (yet).
    #[error("it does not serve this volume (not configured there, or not started yet)")]
    UnknownVolume,
    /// The caller is not the partner that it expects.
    #[error(
        "it expects node {expected:?} as the partner of this volume: check the node names of both configurations"
    )]
    WrongNode {
        /// Who may come.
        expected: String,
    },
    /// The caller wanted another node than the one it reached.
    #[error("the node at this address is {actual:?}: check the partner's address")]
    NotMe {
        /// Who it is.
        actual: String,
    },
    /// The rings differ in length.
    #[error("its log has {theirs_bytes} bytes of capacity; both logs of a pair must have the same")]
    Capacity {
        /// The capacity of the node that refused.
        theirs_bytes: u64,
    },
    /// Another transport (tcp, shm, verbs) is wanted there, or the channel makes no sense.
    #[error("it uses another transport: `transport` has to be the same in both nodes' files")]
    WrongChannel,
    /// The opening message was garbage.
    #[error("it could not read the opening message")]
    Malformed,
    /// Too many half-open links.
    #[error("it has too many half-open links: try again later")]
    Busy,
}

/// The peer's right to write could not be taken away: do not take over.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The peer's process stands still in the middle of a copy into this ring.
    #[error(
        "the peer's process {peer_pid} stands still in the middle of a write after {waited:?}: it must be ended first"
    )]
    PeerStuck {
        /// The process.
        peer_pid: i32,
        /// How long was waited.
        waited: Duration,
    },
    /// The RDMA device did not take the right away.
    #[error("the RDMA device did not take the peer's right to write away: {source}")]
    Device {
        /// Its answer.
        source: io::Error,
    },
    /// The receiving thread did not stop.
    #[error("the transfer that was interrupted did not stop within {waited:?}")]
    TransferStuck {
        /// How long was waited.
        waited: Duration,
    },
}
