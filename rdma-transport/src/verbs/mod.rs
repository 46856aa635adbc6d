//! Links over RDMA: log bytes go straight from ring to ring through reliable connected queue pairs.

mod error;
mod settings;

pub use error::VerbsError;
pub use settings::{DeviceInfo, Fencing, LinkLayer, Persistence, Settings};

use crate::{Acceptor, Link, LinkError, LinkParams, tcp};
use ids::LogMemory;
use std::sync::Arc;

/// An open RDMA device and one log's ring, registered with it. Lives as long as the log is open; each link of
/// the volume uses it.
pub struct Domain {
    info: DeviceInfo,
    memory: Arc<dyn LogMemory>,
}

impl Domain {
    /// Opens the device that `settings` choose and registers `memory` with it.
    ///
    /// # Errors
    /// Each [`VerbsError`] says what to do.
    pub fn open(_settings: &Settings, _memory: Arc<dyn LogMemory>) -> Result<Arc<Domain>, VerbsError> {
        Err(VerbsError::NoDevice(None))
    }

    /// What is used.
    pub fn describe(&self) -> DeviceInfo {
        self.info.clone()
    }
}

/// Lets the partner of a volume in, through the node's one TCP listener: that socket becomes the link's control
/// channel. Until then it is refused with [`crate::Refusal::UnknownVolume`].
///
/// # Errors
/// The volume is registered already.
pub fn register(
    _listener: &tcp::Listener,
    _params: LinkParams,
    _domain: Arc<Domain>,
) -> Result<Acceptor, LinkError> {
    Err(LinkError::NotShareable)
}

/// Connects to the listener at `address` (`host:port`).
///
/// # Errors
/// No link could be made within the handshake timeout, or the peer refused, or both nodes are set differently.
pub fn connect(_address: &str, _params: &LinkParams, domain: Arc<Domain>) -> Result<Link, LinkError> {
    let _ = domain.memory.capacity_bytes();
    Err(LinkError::NotShareable)
}

/// Whether the RDMA library can be loaded.
///
/// # Errors
/// [`VerbsError::NoLibrary`] names the packages to install.
pub fn library_available() -> Result<(), VerbsError> {
    Err(VerbsError::NoLibrary)
}
