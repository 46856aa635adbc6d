//! Handing over descriptors: each side sends its ring and its page of words, and who it is comes from the kernel.
//!
//! What can go wrong: the peer sends no descriptors, too many, or memory that is shorter than it says. Each ends
//! the handshake; descriptors that came along are closed.

use super::page::{Page, PeerRing, duplicate};
use crate::handshake::u64_at;
use crate::socket::wait_for;
use crate::tls::Stream;
use crate::{LinkError, LinkParams};
use ids::LogMemory;
use rustix::event::PollFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{Pid, PidfdFlags};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Ring and page.
const DESCRIPTORS: usize = 2;
/// Offset of the ring in its descriptor, and its length.
const HELLO_BYTES: usize = 16;

/// What the peer handed over.
pub(super) struct Theirs {
    pub ring: PeerRing,
    pub page: Page,
}

/// Sends this side's memory and receives the peer's.
pub(super) fn swap(
    stream: &mut Stream,
    memory: &dyn LogMemory,
    page: OwnedFd,
    deadline: Instant,
    address: &str,
    params: &LinkParams,
) -> Result<Theirs, LinkError> {
    let (ring, offset) = memory.shared_fd().ok_or(LinkError::NotShareable)?;
    let ring = duplicate(ring)?;
    send(stream, offset, memory.capacity_bytes(), &[ring, page])?;
    if !wait_for(&stream.socket, PollFlags::IN, deadline)
        .map_err(LinkError::os("waiting for the peer's memory"))?
    {
        let limit = params.tuning.handshake_timeout;
        return Err(LinkError::HandshakeTimeout { address: address.to_owned(), limit });
    }
    let (offset, capacity_bytes, descriptors) = receive(stream)?;
    if capacity_bytes != memory.capacity_bytes() {
        return Err(LinkError::Protocol("the peer's ring has another length than it said".into()));
    }
    let [ring, page] = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors)
        .map_err(|_| LinkError::Protocol("the peer did not hand over its ring and its words".into()))?;
    Ok(Theirs { ring: PeerRing::map(ring, offset, capacity_bytes)?, page: Page::map(page)? })
}

fn send(stream: &mut Stream, offset: u64, capacity_bytes: u64, fds: &[OwnedFd]) -> Result<(), LinkError> {
    let mut hello = [0; HELLO_BYTES];
    hello[..8].copy_from_slice(&offset.to_le_bytes());
    hello[8..].copy_from_slice(&capacity_bytes.to_le_bytes());
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    assert!(rights.push(SendAncillaryMessage::ScmRights(&borrowed)), "the space was made for them");
    let Stream { socket, outgoing, .. } = stream;
    let wire = outgoing.sealed(&hello);
    let sent = rustix::net::sendmsg(&*socket, &[IoSlice::new(wire)], &mut rights, SendFlags::NOSIGNAL)
        .map_err(LinkError::os("handing memory to the peer"))?;
    if sent == wire.len() { Ok(()) } else { Err(LinkError::PeerClosed) }
}

fn receive(stream: &mut Stream) -> Result<(u64, u64, Vec<OwnedFd>), LinkError> {
    let mut hello = [0; 4 * HELLO_BYTES];
    let hello = &mut hello[..stream.incoming.wire_bytes(HELLO_BYTES)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(&stream.socket, &mut [IoSliceMut::new(hello)], &mut rights, flags)
        .map_err(LinkError::os("receiving the peer's memory"))?;
    let descriptors = rights
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    match received.bytes {
        0 => Err(LinkError::PeerClosed),
        len if len == hello.len() && stream.incoming.open(hello) == Ok(HELLO_BYTES) => {
            Ok((u64_at(hello, 0), u64_at(hello, 8), descriptors))
        }
        _ => Err(LinkError::Protocol("the peer's hello was cut short".into())),
    }
}

/// The process at the other end, and a descriptor that tells when it has ended.
pub(super) fn process_of(socket: &OwnedFd) -> Result<(Pid, OwnedFd), LinkError> {
    let who =
        rustix::net::sockopt::socket_peercred(socket).map_err(LinkError::os("asking who the peer is"))?;
    let process = rustix::process::pidfd_open(who.pid, PidfdFlags::empty())
        .map_err(LinkError::os("watching the peer's process"))?;
    Ok((who.pid, process))
}
