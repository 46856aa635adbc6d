//! Moves ranges of the log to the partner, and tells when they are durable there.
//!
//! The crate moves bytes and knows no message's meaning. A [`Link`] joins two nodes for one volume: framed
//! control messages both ways, and log bytes both ways, each to the same offset at the peer. It has one life:
//! the first failure ends it, every part of it then answers with a typed [`LinkError`], and the owner makes a
//! new one. Nothing is retried in here.
//!
//! Implementations: [`tcp`] (io_uring, for nodes without RDMA), [`shm`] (two processes on one host, one-sided
//! writes like RDMA's), `verbs` (RDMA; cargo feature of that name), [`faulty`] (a wrapper that delays, cuts and loses). Each transport is one module
//! behind the traits in [`link`](Link); what they share (handshake, frames, the fence, counters) lies beside.
//!
//! With keys ([`tls`]) everything that goes through a tcp socket is encrypted and both ends are proved first; RDMA keys
//! travel on such a socket alone.
//!
//! What can go wrong, and what then holds: a stranger at the port costs bounded memory and time; a peer that
//! breaks the protocol ends the link and writes nothing outside the ring; a peer that is dead or stopped ends
//! the link after [`Tuning::dead_peer_timeout`]; a revoked peer writes nothing, whatever it tries.

#[cfg(test)]
extern crate self as rdma_transport;

#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
mod control;
mod counters;
mod door;
#[cfg(test)]
mod door_tests;
mod ending;
mod error;
pub mod faulty;
mod flight;
mod frame;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod handshake;
mod inheriting;
mod link;
mod link_source;
mod memory;
mod rendezvous;
pub mod shm;
mod socket;
mod spin;
pub mod tcp;
pub mod tls;
#[cfg(feature = "verbs")]
pub mod verbs;

pub use counters::{BUCKETS, CounterSnapshot, Counters};
pub use error::{FenceError, LinkError, Refusal};
pub use handshake::{PROTOCOL_VERSION, SessionId};
pub use link::{
    Arrival, Close, Closer, Control, Fence, Link, LinkParams, MAX_CONTROL_BYTES, MAX_IN_FLIGHT,
    MirrorReceiver, MirrorSender, PeerInfo, TransportKind, Tuning,
};
pub use link_source::{Connector, LinkSource};
pub use rendezvous::Acceptor;
pub use spin::{Spin, wake_cost};
