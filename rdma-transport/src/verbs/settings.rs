//! What an administrator chooses about RDMA, and what was found.

use std::fmt;

/// How the bytes of a write become durable at the peer, and who says so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Persistence {
    /// The peer's processor checks what has landed, writes its caches back and answers with a message. Works
    /// everywhere.
    #[default]
    Message,
    /// A read of the last bytes follows each write: when it returns, what was written before it is in the peer's
    /// memory. Durable only where the peer's adapter writes past the processor's caches (DDIO off).
    Read,
    /// The native RDMA FLUSH follows each write. Refused: no device and library were there to prove it with.
    Flush,
}

impl Persistence {
    /// As it stands in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Persistence::Message => "message",
            Persistence::Read => "read",
            Persistence::Flush => "flush",
        }
    }
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the configuration says. The default chooses by itself: the first active port, its RoCEv2 GID of an IPv4
/// address, persistence by message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Name of the RDMA device ("rxe0", "mlx5_0"); the first with an active port when absent.
    pub device: Option<String>,
    /// Port of the device, from 1; its first active one when absent.
    pub port: Option<u8>,
    /// Index in the port's GID table; chosen by type when absent. On InfiniBand a given one also turns global
    /// routing on.
    pub gid_index: Option<u8>,
    /// Traffic class (DSCP × 4 on RoCEv2) of everything that is sent.
    pub traffic_class: u8,
    /// How bytes become durable at the peer. Both ends must choose the same.
    pub persistence: Persistence,
    /// The administrator declares that the peer's adapter does not write into processor caches (DDIO is off
    /// there). [`Persistence::Read`] is refused without it.
    pub peer_ddio_off: bool,
}

/// What carries packets below RDMA.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LinkLayer {
    /// Ethernet: RoCE.
    Roce,
    /// InfiniBand.
    Infiniband,
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinkLayer::Roce => "roce",
            LinkLayer::Infiniband => "infiniband",
        })
    }
}

/// How the peer's right to write is given and taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fencing {
    /// A type-2 memory window over the ring, bound to the link's queue pair.
    MemoryWindow,
    /// A second registration of the ring, made and dropped: the device has no type-2 windows.
    Registration,
}

impl fmt::Display for Fencing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fencing::MemoryWindow => "memory window",
            Fencing::Registration => "registration",
        })
    }
}

/// What a [`Domain`](super::Domain) uses, for status and logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// Name of the RDMA device.
    pub device: String,
    /// Its port, from 1.
    pub port: u8,
    /// Index in the port's GID table.
    pub gid_index: u8,
    /// That GID, as an IPv6 address is written ("::ffff:10.0.0.1").
    pub gid: String,
    /// What carries the packets.
    pub link_layer: LinkLayer,
    /// Active MTU of the port; a link uses the smaller one of both ends.
    pub mtu_bytes: u32,
    /// How bytes become durable at the peer.
    pub persistence: Persistence,
    /// How the peer's right to write is given and taken.
    pub fencing: Fencing,
}
