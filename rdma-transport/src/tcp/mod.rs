//! Skeleton.
use crate::{Acceptor, Link, LinkError, LinkParams};
use ids::LogMemory;
use std::sync::Arc;

/// One per node, for all volumes.
pub struct Listener {}

impl Listener {
    /// Listens. `address` is `host:port`.
    ///
    /// # Errors
    /// The address can not be used.
    pub fn bind(_address: &str) -> Result<Listener, LinkError> {
        unimplemented!()
    }
    /// Where it listens (the port, when 0 was asked for).
    pub fn local_addr(&self) -> std::net::SocketAddr {
        unimplemented!()
    }
    /// Lets the partner of a volume in. Until then it is refused.
    ///
    /// # Errors
    /// The volume is registered already.
    pub fn register(&self, _params: LinkParams, _memory: Arc<dyn LogMemory>) -> Result<Acceptor, LinkError> {
        unimplemented!()
    }
}
/// Connects to the listener at `address` (`host:port`).
///
/// # Errors
/// No link could be made within the handshake timeout, or the peer refused.
pub fn connect(_address: &str, _params: &LinkParams, _memory: Arc<dyn LogMemory>) -> Result<Link, LinkError> {
    unimplemented!()
}
