//! Deadlines on plain sockets, for the handshake and for control messages.
//!
//! Invariant: no call waits longer than its deadline, whatever the peer does.

use crate::ending::End;
use crate::tls::{ReceiveError, RecordError};
use crate::{LinkError, Tuning};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest wait that is handed to the kernel; longer ones are as good as forever.
pub(crate) const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// Keepalive probes that go unanswered before a peer is dead.
const KEEPALIVE_PROBES: u32 = 3;

/// The moment `wait` from now.
pub(crate) fn deadline_after(wait: Duration) -> Instant {
    Instant::now() + wait.min(FOREVER)
}

pub(crate) fn timespec(wait: Duration) -> Timespec {
    let wait = wait.min(FOREVER);
    Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() }
}

/// Waits for `events`; false when `deadline` passed.
pub(crate) fn wait_for(fd: impl AsFd, events: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    let fd = fd.as_fd();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&timespec(left))) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}

/// Receives what is there; `None` when nothing is, `Some(0)` at the end of the stream.
pub(crate) fn try_recv(fd: impl AsFd, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
    loop {
        match rustix::net::recv(fd.as_fd(), &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((len, _)) => return Ok(Some(len)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Sends all of `bytes`; a peer that takes nothing for `dead_after` is dead.
pub(crate) fn send_all(fd: impl AsFd, mut bytes: &[u8], dead_after: Duration) -> Result<(), End> {
    let ended = |errno| End::of_errno("sending", errno, dead_after);
    while !bytes.is_empty() {
        match rustix::net::send(fd.as_fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if !wait_for(fd.as_fd(), PollFlags::OUT, deadline_after(dead_after)).map_err(ended)? {
                    return Err(End::PeerDead(dead_after));
                }
            }
            Err(errno) => return Err(ended(errno)),
        }
    }
    Ok(())
}

/// Sends `bytes` if the socket has room for all of them now.
pub(crate) fn send_now(fd: impl AsFd, bytes: &[u8]) -> bool {
    loop {
        match rustix::net::send(fd.as_fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent == Ok(bytes.len()),
        }
    }
}

/// How reading an opening message failed.
#[derive(Debug)]
pub(crate) enum OpeningError {
    Timeout,
    Ended,
    Os(Errno),
    Record(RecordError),
}

impl OpeningError {
    pub(crate) fn of(error: ReceiveError) -> OpeningError {
        match error {
            ReceiveError::Os(errno) => OpeningError::Os(errno),
            ReceiveError::Record(error) => OpeningError::Record(error),
        }
    }
}

/// Makes a tcp socket answer at once and notice a dead peer.
pub(crate) fn tune_tcp(socket: &OwnedFd, tuning: &Tuning) -> Result<(), LinkError> {
    let limit = tuning.dead_peer_timeout;
    let apply = || {
        let whole_seconds = (limit / (KEEPALIVE_PROBES + 1)).max(Duration::from_secs(1));
        sockopt::set_tcp_nodelay(socket, true)?;
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, whole_seconds)?;
        sockopt::set_tcp_keepintvl(socket, whole_seconds)?;
        sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
        sockopt::set_tcp_user_timeout(socket, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))
    };
    apply().map_err(LinkError::os("setting the options of a tcp socket"))
}
