//! Skeleton.
use crate::{Acceptor, Link, LinkError, LinkParams};
use ids::LogMemory;
use std::sync::Arc;

/// One per node, for all volumes.
pub struct Listener {}

impl Listener {
    /// Listens. `path` is a unix socket.
    ///
    /// # Errors
    /// The address can not be used.
    pub fn bind(_path: &std::path::Path) -> Result<Listener, LinkError> {
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
/// Connects to the listener at `path`.
///
/// # Errors
/// No link could be made within the handshake timeout, or the peer refused.
pub fn connect(
    _path: &std::path::Path,
    _params: &LinkParams,
    _memory: Arc<dyn LogMemory>,
) -> Result<Link, LinkError> {
    unimplemented!()
}
