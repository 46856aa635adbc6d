//! One data channel: a socket driven through io_uring, with an inbox for what arrives in small pieces.
//!
//! Invariants that make the pointers given to the kernel sound:
//! - a receive never outlives the call that started it (it is cancelled and waited for), so whoever holds the
//!   fence's transfer knows that nothing lands afterwards;
//! - a send may outlive its call: its head and message live in a box, the log bytes in a ring that this value
//!   keeps alive or, sealed, in a box, and dropping it shuts the socket down and waits for the send.
//!
//! What can go wrong: io_uring cancels what a thread started when that thread ends; a send then reports what it
//! has sent, and the rest is submitted again.

use super::inbox::Inbox;
use super::sealing::Sealing;
use crate::counters::{Counters, count};
use crate::memory::{Piece, Ring};
use crate::socket::{timespec, try_recv};
use crate::spin::Spin;
use crate::tls::{ReceiveError, Sealer};
use ids::Lsn;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A send, a receive and a cancellation at once.
const ENTRIES: u32 = 4;
const SEND: u64 = 1;
const RECEIVE: u64 = 2;
const CANCEL: u64 = 3;
/// How often waiting for the kernel to give a send back is tried before its memory is leaked instead.
const DROP_TRIES: u32 = 1000;

/// The message of the send in the kernel.
struct Message {
    head: [u8; super::HEAD_BYTES],
    parts: [libc::iovec; 3],
    header: libc::msghdr,
}

impl Message {
    fn empty() -> Message {
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all zero is a valid msghdr: no name, no parts, no control data.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Message { head: [0; super::HEAD_BYTES], parts: [part; 3], header }
    }
}

/// See the module.
pub(super) struct Channel {
    uring: IoUring,
    socket: Arc<OwnedFd>,
    ring: Ring,
    message: Box<Message>,
    sending: bool,
    send_failed: Option<Errno>,
    received: Option<Result<usize, Errno>>,
    inbox: Inbox,
    sealing: Option<Sealing>,
    spin: Spin,
    /// Likewise while waiting for the rest of a range of which a part has come.
    spin_for_rest: Spin,
    /// The socket's receive timeout.
    sleep_limit: Duration,
}

// SAFETY: the pointers in `message` point into the same box and into `ring`, which is Send; they are only used by
// the kernel and by the thread that holds the value.
unsafe impl Send for Channel {}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waited {
    /// So many bytes came; 0 at the end of the stream.
    Received(usize),
    /// Time is over, or the send that was in the kernel is done.
    Nothing,
}

/// Whether this process may use io_uring here.
pub(super) fn probe() -> io::Result<()> {
    IoUring::new(ENTRIES).map(drop)
}

impl Channel {
    pub(super) fn new(
        socket: Arc<OwnedFd>,
        ring: Ring,
        inbox: Inbox,
        sealer: Option<Sealer>,
        [spin, spin_for_rest]: [Spin; 2],
    ) -> io::Result<Channel> {
        Ok(Channel {
            uring: IoUring::new(ENTRIES)?,
            socket,
            ring,
            message: Box::new(Message::empty()),
            sending: false,
            send_failed: None,
            received: None,
            inbox,
            sealing: sealer.map(Sealing::new),
            spin,
            spin_for_rest,
            sleep_limit: Duration::ZERO,
        })
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(super) fn inbox(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// What has arrived and was not consumed.
    pub(super) fn arrived(&self) -> &[u8] {
        self.inbox.arrived()
    }

    /// Whether a send is in the kernel. The next one must wait: two would mix their bytes.
    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Sends `head`, then `[from, from + len_bytes)` of the ring, in one message. What the socket does not take at
    /// once goes on in the kernel; sealed, the next part of it is given to the kernel by whoever waits here.
    pub(super) fn send(
        &mut self,
        head: [u8; super::HEAD_BYTES],
        from: Lsn,
        len_bytes: u64,
    ) -> Result<(), Errno> {
        assert!(!self.sending, "one send at a time");
        if let Some(sealing) = &mut self.sealing {
            sealing.start(head, from, len_bytes);
            self.load_sealed();
        } else {
            let message = &mut *self.message;
            message.head = head;
            message.parts[0] =
                libc::iovec { iov_base: message.head.as_mut_ptr().cast(), iov_len: head.len() };
            for (part, piece) in message.parts[1..].iter_mut().zip(self.ring.pieces(from, len_bytes)) {
                *part = libc::iovec { iov_base: piece.pointer.cast(), iov_len: piece.len };
            }
        }
        self.sending = true;
        self.submit_send()?;
        self.submit(0, None)?;
        self.reap()
    }

    /// Makes the next sealed part the message to send; false when there is none.
    fn load_sealed(&mut self) -> bool {
        let Some(sealing) = &mut self.sealing else { return false };
        let part = sealing.next(&self.ring);
        self.message.parts[0] = libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
        !part.is_empty()
    }

    fn submit_send(&mut self) -> Result<(), Errno> {
        let message = &mut *self.message;
        message.header.msg_iov = message.parts.as_mut_ptr();
        message.header.msg_iovlen = message.parts.len();
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        let entry = opcode::SendMsg::new(Fd(self.socket.as_raw_fd()), &raw const message.header).flags(flags);
        self.push(entry.build().user_data(SEND))
    }

    /// Receives into the inbox. Polls for a bounded time, then sleeps until `deadline`; returns early when
    /// interrupted or when a send that was in the kernel is done.
    ///
    /// Sleeping is done in a plain `recv`: its wake-up carries the scheduler's hint that the waker is about to
    /// sleep, which io_uring's does not, and which saves waking another core. Only while a send is under way the
    /// thread sleeps in io_uring, to see the end of both.
    pub(super) fn fill(&mut self, deadline: Instant, counters: &Counters) -> Result<Waited, ReceiveError> {
        self.inbox.make_room();
        let polled = self.poll_socket(deadline, counters).map_err(ReceiveError::Os)?;
        let waited = match polled {
            Some(waited) => waited,
            None => self.sleep(deadline, counters).map_err(ReceiveError::Os)?,
        };
        match waited {
            Waited::Received(len) if len > 0 => {
                match self.inbox.received(len).map_err(ReceiveError::Record)? {
                    // Part of a record.
                    0 => Ok(Waited::Nothing),
                    arrived => Ok(Waited::Received(arrived)),
                }
            }
            ended_or_nothing => Ok(ended_or_nothing),
        }
    }

    /// Asks the socket again and again; `None` when it is time to sleep.
    fn poll_socket(&mut self, deadline: Instant, counters: &Counters) -> Result<Option<Waited>, Errno> {
        let mut now = Instant::now();
        let limit = self.spin.begin(now);
        if limit.is_zero() && now < deadline {
            return Ok(None);
        }
        let until = now + limit;
        loop {
            if let Some(len) = try_recv(&*self.socket, self.inbox.room())? {
                count(&counters.spins, 1);
                self.spin.polled(now);
                return Ok(Some(Waited::Received(len)));
            }
            // The kernel does not go on by itself with what is not sealed yet.
            if self.sealing.is_some() && self.sending {
                self.reap()?;
                if !self.sending {
                    return Ok(Some(Waited::Nothing));
                }
            }
            now = Instant::now();
            if now >= deadline {
                return Ok(Some(Waited::Nothing));
            }
            if now >= until {
                count(&counters.vain_polls, 1);
                self.spin.gave_up(now);
                return Ok(None);
            }
        }
    }

    fn sleep(&mut self, deadline: Instant, counters: &Counters) -> Result<Waited, Errno> {
        count(&counters.sleeps, 1);
        let waited = if self.sending {
            let room = self.inbox.room();
            let (start, len) = (room.as_mut_ptr(), room.len());
            self.receive(start, len, 0, deadline)?
        } else {
            self.sleep_in_recv(deadline)?
        };
        match waited {
            Waited::Received(_) => self.spin.slept(Instant::now()),
            Waited::Nothing if Instant::now() >= deadline => self.spin.nothing(),
            // The send that was in the kernel is done: the wait goes on.
            Waited::Nothing => {}
        }
        Ok(waited)
    }

    fn sleep_in_recv(&mut self, deadline: Instant) -> Result<Waited, Errno> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
        // Callers wait for the same time again and again, but for what polling took: not worth a call each time.
        let (shortest, longest) = (left, left + left / 16 + Duration::from_micros(200));
        if !(shortest..=longest).contains(&self.sleep_limit) {
            sockopt::set_socket_timeout(&*self.socket, sockopt::Timeout::Recv, Some(longest))?;
            self.sleep_limit = longest;
        }
        match rustix::net::recv(&*self.socket, self.inbox.room(), RecvFlags::empty()) {
            Ok((len, _)) => Ok(Waited::Received(len)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Waited::Nothing),
            Err(errno) => Err(errno),
        }
    }

    /// Receives straight into a piece of the ring: what is there, or comes while polling; else sleeps until all of it
    /// has come, unless time or the stream ends. The caller holds the fence's transfer.
    pub(super) fn receive_into_ring(
        &mut self,
        piece: Piece,
        deadline: Instant,
        counters: &Counters,
    ) -> Result<Waited, Errno> {
        let mut now = Instant::now();
        let limit = self.spin_for_rest.begin(now);
        let until = deadline.min(now + limit);
        loop {
            if let Some(len) = self.try_receive_into_ring(piece)? {
                self.spin_for_rest.polled(now);
                return Ok(Waited::Received(len));
            }
            now = Instant::now();
            if now >= until {
                break;
            }
        }
        if !limit.is_zero() {
            count(&counters.vain_polls, 1);
            self.spin_for_rest.gave_up(now);
        }
        count(&counters.sleeps, 1);
        let waited = self.receive(piece.pointer, piece.len, libc::MSG_WAITALL, deadline)?;
        match waited {
            Waited::Received(_) => self.spin_for_rest.slept(Instant::now()),
            Waited::Nothing => self.spin_for_rest.nothing(),
        }
        Ok(waited)
    }

    fn try_receive_into_ring(&self, piece: Piece) -> Result<Option<usize>, Errno> {
        let fd = self.socket.as_raw_fd();
        // SAFETY: the piece lies in the ring, which this value keeps alive, and the caller holds the fence's transfer.
        let len = unsafe { libc::recv(fd, piece.pointer.cast(), piece.len, libc::MSG_DONTWAIT) };
        match usize::try_from(len) {
            Ok(len) => Ok(Some(len)),
            Err(_) => match Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO) {
                Errno::AGAIN | Errno::INTR => Ok(None),
                errno => Err(errno),
            },
        }
    }

    fn receive(
        &mut self,
        pointer: *mut u8,
        len: usize,
        flags: i32,
        deadline: Instant,
    ) -> Result<Waited, Errno> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let was_sending = self.sending;
        let entry = opcode::Recv::new(Fd(self.socket.as_raw_fd()), pointer, len).flags(flags);
        self.push(entry.build().user_data(RECEIVE))?;
        let mut outcome = Ok(());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let submitted = outcome.and_then(|()| self.submit(1, Some(left)));
            outcome = self.reap().and(submitted);
            if let Some(received) = self.received.take() {
                return received.map(Waited::Received);
            }
            if outcome.is_err() || left.is_zero() || (was_sending && !self.sending) {
                break;
            }
        }
        match self.cancel_receive()? {
            Ok(len) => Ok(Waited::Received(len)),
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => outcome.map(|()| Waited::Nothing),
            Err(errno) => Err(errno),
        }
    }

    /// Takes the receive back from the kernel. Without this the kernel would write memory that is not its own any
    /// more, so a failure to get it back aborts the process.
    fn cancel_receive(&mut self) -> Result<Result<usize, Errno>, Errno> {
        let pushed = self.push(opcode::AsyncCancel::new(RECEIVE).build().user_data(CANCEL));
        for attempt in 0.. {
            let submitted = pushed.and_then(|()| self.submit(1, Some(Duration::from_millis(100))));
            let reaped = self.reap();
            if let Some(received) = self.received.take() {
                return reaped.map(|()| received);
            }
            if attempt >= DROP_TRIES {
                tracing::error!(?submitted, "the kernel does not give a receive buffer back");
                std::process::abort();
            }
        }
        unreachable!("the loop ends by its bound")
    }

    fn push(&mut self, entry: squeue::Entry) -> Result<(), Errno> {
        // SAFETY: what the entry points to outlives the operation, see the module's invariants.
        unsafe { self.uring.submission().push(&entry) }.map_err(|_| Errno::BUSY)
    }

    fn submit(&mut self, want: usize, wait: Option<Duration>) -> Result<(), Errno> {
        let submitted = match wait {
            None => self.uring.submit(),
            Some(wait) => {
                let wait = timespec(wait);
                let limit = Timespec::new().sec(wait.tv_sec as u64).nsec(wait.tv_nsec as u32);
                self.uring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&limit))
            }
        };
        match submitted.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)) {
            Ok(_) | Err(Errno::TIME | Errno::INTR | Errno::AGAIN | Errno::BUSY) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes what the kernel has finished.
    fn reap(&mut self) -> Result<(), Errno> {
        loop {
            let Some(done) = self.uring.completion().next() else { break };
            let result = usize::try_from(done.result()).map_err(|_| Errno::from_raw_os_error(-done.result()));
            match done.user_data() {
                SEND => self.sent(result),
                RECEIVE => self.received = Some(result),
                _ => {}
            }
        }
        // Only a send that was cut short submits again, and each time less is left.
        if self.sending && self.send_failed.is_none() && self.message_cut_short() {
            self.submit_send()?;
            self.submit(0, None)?;
        }
        match self.send_failed {
            Some(errno) => Err(errno),
            None => Ok(()),
        }
    }

    fn sent(&mut self, result: Result<usize, Errno>) {
        let mut len = match result {
            Ok(len) => len,
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => 0,
            Err(errno) => {
                self.sending = false;
                self.send_failed = Some(errno);
                return;
            }
        };
        for part in &mut self.message.parts {
            let step = len.min(part.iov_len);
            part.iov_base = part.iov_base.wrapping_byte_add(step);
            part.iov_len -= step;
            len -= step;
        }
        self.sending = self.message.parts.iter().any(|part| part.iov_len > 0) || self.load_sealed();
        self.message.header.msg_iov = std::ptr::null_mut();
    }

    fn message_cut_short(&self) -> bool {
        self.message.header.msg_iov.is_null()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Ends the send that is in the kernel, and tells the peer. It may have been shut down before.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
        let mut tries = 0;
        while self.sending && self.send_failed.is_none() {
            let waited = self.submit(1, Some(Duration::from_millis(10)));
            // A failure of the send ends this loop too.
            let _ = self.reap();
            tries += 1;
            if tries >= DROP_TRIES {
                tracing::error!(?waited, "the kernel does not give a send back; its memory is leaked");
                std::mem::forget(self.ring.clone());
                std::mem::forget(std::mem::replace(&mut self.message, Box::new(Message::empty())));
                std::mem::forget(self.sealing.take());
                return;
            }
        }
    }
}
