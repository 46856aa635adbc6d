//! Links over RDMA: log bytes go straight from ring to ring, through reliable connected queue pairs.
//!
//! Follow one batch: `sender` cuts it into `pieces` and posts them as WRITE_WITH_IMM from the registered ring;
//! the peer's adapter puts them into its ring and tells `receiver`; that node's owner makes them durable and
//! acknowledges; `answers` sends 16 bytes back; `sender` finds them in its completion queue.
//!
//! The node's one TCP listener makes the link; that socket stays as the control channel, carries the key to the
//! peer's ring, and its end is the first sign that the peer is gone. Each side has two queue pairs, one for each
//! direction of log bytes, so the parts of a link share none.
//!
//! One file per object: `device`, `port`, `registration` (with the protection domain), `window` (the peer's
//! right to write), `completion`, `queue_pair` (and `work`, what it is given to do); each is given back when dropped, in an order that the types
//! force: whatever needs another object holds it. Pure parts: `pieces`, `budget`, `exchange`, `grant`.
//!
//! What can go wrong: a queue pair, port or device fails, the peer does not answer, the control channel ends, the
//! peer's adapter refuses the key: each ends the link once, with a typed reason; the [`Domain`] stays, and the next
//! link uses it. A peer that lies reaches nothing: its adapter can only use the key that it was given, and that key
//! opens this log's ring and nothing else.

mod answers;
mod assemble;
mod budget;
mod completion;
mod device;
mod domain;
mod error;
mod exchange;
mod fence;
mod grant;
mod pieces;
mod port;
mod queue_pair;
mod receiver;
mod registration;
mod sender;
mod settings;
mod shared;
#[cfg(test)]
mod tests;
mod wait;
mod window;
mod work;

pub use domain::Domain;
pub use error::VerbsError;
pub use settings::{DeviceInfo, Fencing, LinkLayer, Persistence, Settings};

use crate::handshake::ChannelKind;
use crate::{Acceptor, Link, LinkError, LinkParams, tcp};
use std::sync::Arc;

/// The socket of a link.
const CHANNELS: [ChannelKind; 1] = [ChannelKind::Verbs];

/// Lets the partner of a volume in, through the node's one TCP listener: that socket becomes the link's control
/// channel. Until then it is refused with [`crate::Refusal::UnknownVolume`].
///
/// # Errors
/// The volume is registered already.
pub fn register(
    listener: &tcp::Listener,
    params: LinkParams,
    domain: Arc<Domain>,
) -> Result<Acceptor, LinkError> {
    let capacity_bytes = domain.capacity_bytes();
    let assemble =
        move |complete, params: &LinkParams| assemble::assemble(complete, params, Arc::clone(&domain));
    listener.rendezvous().register(params, capacity_bytes, &CHANNELS, Box::new(assemble))
}

/// Connects to the listener at `address` (`host:port`).
///
/// # Errors
/// No link could be made within the handshake timeout, or the peer refused, or both nodes are set differently
/// ([`LinkError::SettingsDiffer`]).
pub fn connect(address: &str, params: &LinkParams, domain: Arc<Domain>) -> Result<Link, LinkError> {
    let complete = tcp::open_channels(address, params, domain.capacity_bytes(), &CHANNELS)?;
    assemble::assemble(complete, params, domain)
}

/// Whether the RDMA library can be loaded.
///
/// # Errors
/// [`VerbsError::NoLibrary`] names the packages to install.
pub fn library_available() -> Result<(), VerbsError> {
    device::library_available()
}
