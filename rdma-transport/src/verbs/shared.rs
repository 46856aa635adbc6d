//! What the parts of one link share, and what a failed request means for it.

use super::completion::Failure;
use super::domain::Domain;
use super::grant::Grant;
use super::queue_pair::QueuePair;
use crate::LinkError;
use crate::control::StreamControl;
use crate::ending::{End, Ending};
use rustix::event::{PollFd, PollFlags};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// On the queue pair that this node writes through.
    Outgoing,
    /// On the one that the peer writes through.
    Incoming,
}

/// See the module.
pub(super) struct Shared {
    pub ending: Arc<Ending>,
    pub domain: Arc<Domain>,
    pub socket: Arc<OwnedFd>,
    pub control: Arc<StreamControl>,
    pub grant: Arc<Grant>,
    /// Address of the peer's ring.
    pub ring_address: u64,
    /// The peer has the right to write into this node's ring.
    pub granted: AtomicBool,
    /// When a peer that does not answer is given up.
    pub silence: Duration,
    /// Ends the link when the device says so; dropped before the queue pairs that it names.
    pub _watch: super::device::Watch,
    pub outgoing: Arc<QueuePair>,
    pub incoming: Arc<QueuePair>,
}

impl Shared {
    /// Ends the link because a request failed.
    pub(super) fn failed(&self, side: Side, failure: Failure) -> LinkError {
        let end = match (failure, side) {
            (Failure::Access, Side::Outgoing) => End::NotGranted,
            (Failure::Access, Side::Incoming) => End::Revoked,
            (Failure::NoAnswer, _) => End::PeerDead(self.silence),
            (Failure::TooLong, _) => End::Protocol("a message is longer than any can be".into()),
            (Failure::Other(status), _) => {
                End::Rdma(format!("a request failed with work completion status {status}"))
            }
            (Failure::Flushed, side) => self.why_flushed(side),
        };
        self.ending.end(end)
    }

    /// A queue pair failed without a word of its own: the reason is somewhere else.
    fn why_flushed(&self, side: Side) -> End {
        self.domain.device.take_events();
        if side == Side::Incoming && !self.granted.load(Ordering::SeqCst) {
            return End::Revoked;
        }
        let now = crate::socket::timespec(Duration::ZERO);
        let hung_up = rustix::event::poll(&mut [PollFd::new(&*self.socket, PollFlags::RDHUP)], Some(&now));
        if hung_up.is_ok_and(|ready| ready > 0) {
            return End::PeerClosed;
        }
        End::Rdma("a queue pair failed".into())
    }

    pub(super) fn os(&self, what: &'static str) -> impl FnOnce(rustix::io::Errno) -> LinkError + '_ {
        move |errno| self.ending.end(End::Os(what, errno))
    }
}
