//! Links of two processes on one host: each copies its log bytes straight into the other's ring, which it has
//! mapped, and rings a bell. One-sided like RDMA, without a network: for tests, and as the lower bound in benches.
//!
//! The two meet at a unix socket, which hands over the descriptors and then carries the control messages; its end
//! is how one notices that the other is gone. Both must be trusted by one owner: the peer's process has this ring
//! in its memory, and the fence is a promise (see `fence`). A peer that is stopped is not noticed here, as it is not
//! by a NIC; the pair's heartbeats do.

mod exchange;
mod fence;
mod page;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;

use crate::control::StreamControl;
use crate::counters::count;
use crate::ending::{End, Ending};
use crate::handshake::{ChannelKind, SessionId};
use crate::memory::Ring;
use crate::rendezvous::{self, Complete, Rendezvous};
use crate::socket::{FOREVER, deadline_after};
use crate::spin::Spin;
use crate::tls::{DoorKeys, Stream};
use crate::{Acceptor, Closer, Link, LinkError, LinkParams, PeerInfo, TransportKind};
use ids::{LogMemory, LogPoint};
use page::{Mailbox, Page};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a sleeper looks whether the peer is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Where partners on this host connect, for all volumes.
pub struct Listener {
    rendezvous: Rendezvous,
    path: PathBuf,
}

impl Listener {
    /// Listens at the unix socket `path`. A socket that a dead process left there is replaced.
    ///
    /// # Errors
    /// The path cannot be used, or somebody listens there.
    pub fn bind(path: &Path) -> Result<Listener, LinkError> {
        Listener::bind_with(path, None)
    }

    /// Listens likewise; with keys it lets in who proves one of its partners', and nobody else.
    ///
    /// # Errors
    /// The path cannot be used, or somebody listens there.
    pub fn bind_with(path: &Path, keys: Option<DoorKeys>) -> Result<Listener, LinkError> {
        let refused = |source| LinkError::Address { address: path.display().to_string(), source };
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
                std::fs::remove_file(path).map_err(refused)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let listener = listener.map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        Ok(Listener { rendezvous: Rendezvous::start(listener.into(), keys)?, path: path.to_owned() })
    }

    /// Lets the partner of a volume in. Until then it is refused with [`crate::Refusal::UnknownVolume`].
    ///
    /// # Errors
    /// The volume is registered already, or its memory cannot be shared.
    pub fn register(&self, params: LinkParams, memory: Arc<dyn LogMemory>) -> Result<Acceptor, LinkError> {
        if memory.shared_fd().is_none() {
            return Err(LinkError::NotShareable);
        }
        let capacity_bytes = memory.capacity_bytes();
        let assemble = move |complete, params: &LinkParams| assemble(complete, params, Arc::clone(&memory));
        self.rendezvous.register(params, capacity_bytes, &[ChannelKind::Shared], Box::new(assemble))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed it; what is left is replaced by the next `bind`.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_left_behind(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects to the listener at the unix socket `path`.
///
/// # Errors
/// No link could be made within the handshake timeout, or the peer refused, or the memory cannot be shared.
pub fn connect(path: &Path, params: &LinkParams, memory: Arc<dyn LogMemory>) -> Result<Link, LinkError> {
    if memory.shared_fd().is_none() {
        return Err(LinkError::NotShareable);
    }
    let deadline = deadline_after(params.tuning.handshake_timeout);
    let socket: OwnedFd =
        UnixStream::connect(path).map_err(LinkError::io("connecting to the partner's unix socket"))?.into();
    let session = SessionId::random().map_err(LinkError::io("reading /dev/urandom"))?;
    let address = path.display().to_string();
    let capacity_bytes = memory.capacity_bytes();
    let stream = rendezvous::introduce(
        socket,
        ChannelKind::Shared,
        session,
        params,
        capacity_bytes,
        deadline,
        &address,
    )?;
    assemble(Complete { session, sockets: vec![stream], address, connected: true, deadline }, params, memory)
}

/// What the parts of one link share.
struct Shared {
    my_page: Page,
    peer_page: Page,
    socket: Arc<OwnedFd>,
    ending: Arc<Ending>,
    peer: (Pid, OwnedFd),
}

impl Shared {
    /// Whether the peer's process has ended.
    fn peer_is_gone(&self) -> bool {
        has_event(&self.peer.1, PollFlags::IN)
    }

    fn peer_pid(&self) -> i32 {
        self.peer.0.as_raw_nonzero().get()
    }

    /// The next point of a mailbox: spins for a bounded time, then sleeps.
    fn wait_for_news(
        &self,
        mailbox: &Mailbox,
        seen: &mut u64,
        spin: &mut Spin,
        wait: Duration,
    ) -> Result<Option<LogPoint>, LinkError> {
        self.ending.check()?;
        let counters = self.ending.counters();
        let mut now = Instant::now();
        let deadline = now + wait.min(FOREVER);
        let limit = if wait.is_zero() { Duration::ZERO } else { spin.begin(now) };
        let spin_until = deadline.min(now + limit);
        loop {
            if let Some(point) = mailbox.get(seen) {
                count(&counters.spins, 1);
                spin.polled(now);
                return Ok(Some(point));
            }
            now = Instant::now();
            if now >= spin_until {
                break;
            }
            std::hint::spin_loop();
        }
        if !limit.is_zero() {
            count(&counters.vain_polls, 1);
            spin.gave_up(now);
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if !wait.is_zero() {
                    spin.nothing();
                }
                return Ok(None);
            }
            count(&counters.sleeps, 1);
            mailbox.sleep(*seen, left.min(LOOK_INTERVAL), || self.ending.reason().is_some());
            // What came before the peer left still counts.
            if let Some(point) = mailbox.get(seen) {
                spin.slept(Instant::now());
                return Ok(Some(point));
            }
            self.ending.check()?;
            if has_event(&self.socket, PollFlags::RDHUP) {
                return Err(self.ending.end(End::PeerClosed));
            }
        }
    }
}

fn has_event(fd: &OwnedFd, events: PollFlags) -> bool {
    let now = crate::socket::timespec(Duration::ZERO);
    matches!(rustix::event::poll(&mut [PollFd::new(fd, events)], Some(&now)), Ok(ready) if ready > 0)
}

/// Makes a link of a socket whose handshake is done.
fn assemble(complete: Complete, params: &LinkParams, memory: Arc<dyn LogMemory>) -> Result<Link, LinkError> {
    let tuning = params.tuning;
    let stream = complete.sockets.into_iter().next();
    let mut stream = stream.expect("a session is complete with one socket of each kind");
    let (my_page, page_fd) = Page::create()?;
    let deadline = complete.deadline;
    let theirs = exchange::swap(&mut stream, &*memory, page_fd, deadline, &complete.address, params)?;
    let Stream { socket, outgoing, incoming, .. } = stream;
    let socket = Arc::new(socket);
    let ending = Arc::new(Ending::new(vec![Arc::clone(&socket)], Arc::clone(&params.counters)));
    let shared = Arc::new(Shared {
        my_page,
        peer_page: theirs.page,
        socket: Arc::clone(&socket),
        ending: Arc::clone(&ending),
        peer: exchange::process_of(&socket)?,
    });
    let to_wake = Arc::downgrade(&shared);
    ending.also_wake(Box::new(move || {
        if let Some(shared) = to_wake.upgrade() {
            shared.my_page.words().arrivals.ring();
            shared.my_page.words().answers.ring();
        }
    }));
    let ring = Ring::new(memory);
    let peer = PeerInfo {
        volume: params.volume,
        node: params.peer.clone(),
        session: complete.session,
        capacity_bytes: ring.capacity_bytes(),
        address: complete.address,
        transport: TransportKind::Shm,
    };
    count(&params.counters.links, 1);
    let capacity_bytes = ring.capacity_bytes();
    let peer_ring = Ring::new(Arc::new(theirs.ring));
    let (sending, receiving) = (Spin::new(tuning.spin), Spin::new(tuning.spin));
    Ok(Link {
        control: Box::new(StreamControl::new(
            socket,
            (outgoing, incoming),
            Arc::clone(&ending),
            tuning.dead_peer_timeout,
        )),
        sender: Box::new(sender::ShmSender::new(Arc::clone(&shared), ring, peer_ring, sending)),
        receiver: Box::new(receiver::ShmReceiver::new(Arc::clone(&shared), capacity_bytes, receiving)),
        fence: Arc::new(fence::ShmFence(shared)),
        peer,
        closer: Closer::new(ending),
    })
}
