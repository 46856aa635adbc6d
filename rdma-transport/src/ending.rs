//! How a link ends: once, for one reason that every part of it then answers with.
//!
//! Ending shuts the sockets down, which wakes whoever waits in one of them; they then find the reason here
//! instead of reporting the end of file that the shutdown itself made.

use crate::counters::count;
use crate::link::Close;
use crate::{Counters, LinkError};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Why a link ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Closed,
    PeerClosed,
    PeerDead(Duration),
    Revoked,
    NotGranted,
    Protocol(String),
    #[cfg(feature = "verbs")]
    Rdma(String),
    Os(&'static str, Errno),
}

impl End {
    /// What an error of a socket means. `dead_after` is the limit that the socket was given.
    pub(crate) fn of_errno(what: &'static str, errno: Errno, dead_after: Duration) -> End {
        match errno {
            Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN | Errno::SHUTDOWN => End::PeerClosed,
            Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => {
                End::PeerDead(dead_after)
            }
            other => End::Os(what, other),
        }
    }

    fn error(&self) -> LinkError {
        match self {
            End::Closed => LinkError::Closed,
            End::PeerClosed => LinkError::PeerClosed,
            End::PeerDead(limit) => LinkError::PeerDead(*limit),
            End::Revoked => LinkError::Revoked,
            End::NotGranted => LinkError::NotGranted,
            End::Protocol(what) => LinkError::Protocol(what.clone()),
            #[cfg(feature = "verbs")]
            End::Rdma(what) => LinkError::Rdma(what.clone()),
            End::Os(what, errno) => LinkError::Io { what, source: (*errno).into() },
        }
    }
}

type Waker = Box<dyn Fn() + Send + Sync>;

/// The end of one link, shared by its parts.
pub(crate) struct Ending {
    reason: Mutex<Option<End>>,
    sockets: Vec<Arc<OwnedFd>>,
    wakers: Mutex<Vec<Waker>>,
    counters: Arc<Counters>,
}

impl Ending {
    pub(crate) fn new(sockets: Vec<Arc<OwnedFd>>, counters: Arc<Counters>) -> Ending {
        Ending { reason: Mutex::new(None), sockets, wakers: Mutex::default(), counters }
    }

    /// Also calls `wake` when the link ends, for those who do not wait in a socket.
    pub(crate) fn also_wake(&self, wake: Waker) {
        self.wakers.lock().push(wake);
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn reason(&self) -> Option<End> {
        self.reason.lock().clone()
    }

    /// Errors once the link has ended.
    pub(crate) fn check(&self) -> Result<(), LinkError> {
        match &*self.reason.lock() {
            None => Ok(()),
            Some(end) => Err(end.error()),
        }
    }

    /// Ends the link, unless it has ended already; the first reason counts and is returned.
    pub(crate) fn end(&self, end: End) -> LinkError {
        let mut reason = self.reason.lock();
        if let Some(first) = &*reason {
            return first.error();
        }
        if !matches!(end, End::Closed) {
            count(&self.counters.link_resets, 1);
        }
        let error = reason.insert(end).error();
        drop(reason);
        for socket in &self.sockets {
            // A socket that the peer has reset is shut already.
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
        self.wakers.lock().iter().for_each(|wake| wake());
        error
    }
}

impl Close for Ending {
    fn close(&self) {
        self.end(End::Closed);
    }

    fn is_closed(&self) -> bool {
        self.reason.lock().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says about a peer that vanished (no answer to keepalive or data, no route) is its death.
    #[test]
    fn silence_of_the_network_is_a_dead_peer() {
        let limit = Duration::from_secs(3);
        for errno in [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH] {
            assert!(matches!(End::of_errno("x", errno, limit).error(), LinkError::PeerDead(l) if l == limit));
        }
        assert!(matches!(End::of_errno("x", Errno::CONNRESET, limit).error(), LinkError::PeerClosed));
        assert!(matches!(End::of_errno("x", Errno::NOMEM, limit).error(), LinkError::Io { what: "x", .. }));
    }

    #[test]
    fn the_first_reason_counts_and_only_failures_are_resets() {
        let counters = Arc::new(Counters::default());
        let ending = Ending::new(Vec::new(), Arc::clone(&counters));
        assert!(ending.check().is_ok() && !ending.is_closed());
        assert!(matches!(ending.end(End::Revoked), LinkError::Revoked));
        assert!(matches!(ending.end(End::PeerClosed), LinkError::Revoked));
        ending.close();
        assert!(matches!(ending.check(), Err(LinkError::Revoked)));
        Ending::new(Vec::new(), Arc::clone(&counters)).close();
        assert_eq!(counters.snapshot().link_resets, 1);
    }
}
