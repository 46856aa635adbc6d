//! The opening messages.

/// Version of everything that travels between two nodes of this crate.
pub const PROTOCOL_VERSION: u16 = 1;

/// One link, of all links between two nodes: chosen at random by the side that connects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub [u8; 16]);
