//! A link's parts, as the node uses them.

use super::wire::{End, Item, Stream, pieces};
use super::{Network, State, Waits};
use ids::LogPoint;
use rdma_transport::{
    Arrival, Close, Closer, Control, Fence, FenceError, Link, LinkError, LinkParams, MAX_CONTROL_BYTES,
    MAX_IN_FLIGHT, MirrorReceiver, MirrorSender, PeerInfo, SessionId, TransportKind,
};
use scheduler::{Instant, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

/// Most pieces in which a write lands.
const MAX_PIECES: u64 = 6;
/// Longest time that taking a right away takes, in nanoseconds.
const REVOKE_NS: u64 = 200_000;

/// One end of one link.
#[derive(Clone)]
struct Part {
    network: Network,
    index: usize,
    host: usize,
}

/// Makes the parts of an end.
pub(super) fn link(network: &Network, index: usize, host: usize, params: &LinkParams) -> Link {
    let part = Part { network: network.clone(), index, host };
    let capacity_bytes = part.lock().0.wires[index].ends[host].capacity_bytes();
    let mut session = [0; 16];
    session[..8].copy_from_slice(&(index as u64).to_le_bytes());
    Link {
        control: Box::new(Messages(part.clone())),
        sender: Box::new(Sender(part.clone())),
        receiver: Box::new(Receiver(part.clone())),
        fence: Arc::new(Right(part.clone())),
        peer: PeerInfo {
            volume: params.volume,
            node: params.peer.clone(),
            session: SessionId(session),
            capacity_bytes,
            address: "simulated".to_owned(),
            transport: TransportKind::Tcp,
        },
        closer: Closer::new(Arc::new(Ends(part))),
    }
}

struct Locked<'a>(MutexGuard<'a, State>, usize, usize);

impl Locked<'_> {
    fn mine(&mut self) -> &mut super::wire::Side {
        &mut self.0.wires[self.1].ends[self.2]
    }
}

impl Part {
    fn lock(&self) -> Locked<'_> {
        Locked(self.network.0.state.lock(), self.index, self.host)
    }

    fn transmit(&self, locked: &mut Locked<'_>, stream: Stream, item: Item) {
        self.network.transmit(&mut locked.0, self.index, self.host, stream, item);
    }

    /// Ends the link from here, unless this process is dying: then its kernel does, or nobody.
    fn finish(&self, end: End) {
        if scheduler::is_dying() {
            return;
        }
        self.network.finish(&mut self.lock().0, self.index, self.host, end);
        self.network.tell_all();
    }

    /// Looks until `look` has something, the link is over, or the time is.
    fn wait<T>(
        &self,
        who: Waits,
        wait: Duration,
        mut look: impl FnMut(&mut Locked<'_>) -> Option<T>,
    ) -> Result<Option<T>, LinkError> {
        let until = Instant::now() + wait;
        let mut locked = self.lock();
        loop {
            // What has come before the end can still be taken, as from a socket, but not after closing it.
            if locked.mine().is_closed_here() {
                locked.mine().check()?;
            }
            if let Some(found) = look(&mut locked) {
                return Ok(Some(found));
            }
            locked.mine().check()?;
            if Instant::now() >= until {
                return Ok(None);
            }
            self.network.0.news[self.host][who as usize].wait_until(&mut locked.0, until);
            if scheduler::is_dying() {
                return Err(LinkError::Closed);
            }
        }
    }
}

struct Messages(Part);

impl Control for Messages {
    fn send(&self, message: &[u8]) -> Result<(), LinkError> {
        if message.len() > MAX_CONTROL_BYTES {
            return Err(LinkError::MessageTooLong { len_bytes: message.len() });
        }
        if scheduler::is_dying() {
            return Err(LinkError::Closed);
        }
        let mut locked = self.0.lock();
        locked.mine().check()?;
        for message in locked.0.spoil(self.0.index, self.0.host, message.to_vec()) {
            self.0.transmit(&mut locked, Stream::Control, Item::Message(message));
        }
        Ok(())
    }

    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>, LinkError> {
        self.0.wait(Waits::Messages, wait, |locked| locked.mine().messages.pop_front())
    }

    fn close(&self) {
        self.0.finish(End::Closed);
    }
}

/// A link that nobody holds any more is over.
impl Drop for Messages {
    fn drop(&mut self) {
        if scheduler::is_simulated() {
            self.0.finish(End::Closed);
        }
    }
}

struct Sender(Part);

impl MirrorSender for Sender {
    fn start(&mut self, from: LogPoint) -> Result<(), LinkError> {
        let mut locked = self.0.lock();
        locked.mine().check()?;
        let in_flight = locked.mine().in_flight.len();
        if in_flight > 0 {
            return Err(LinkError::InFlight(in_flight));
        }
        locked.mine().sent = Some(from);
        locked.mine().acknowledged = None;
        Ok(())
    }

    fn write(&mut self, to: LogPoint) -> Result<(), LinkError> {
        let mut locked = self.0.lock();
        let mine = locked.mine();
        mine.check()?;
        let from = mine.sent.ok_or(LinkError::NotStarted)?;
        if mine.in_flight.len() >= MAX_IN_FLIGHT {
            return Err(LinkError::InFlight(mine.in_flight.len()));
        }
        let capacity_bytes = mine.capacity_bytes();
        if to.lsn <= from.lsn || to.lsn.since(from.lsn) > capacity_bytes {
            return Err(LinkError::BadRange { from: from.lsn, to: to.lsn, capacity_bytes });
        }
        mine.sent = Some(to);
        mine.in_flight.push_back(to);
        let mut landing: Vec<Item> = Vec::new();
        for (start, len_bytes) in pieces(from.lsn.0, to.lsn.0, capacity_bytes) {
            let bytes = mine.read(start, len_bytes);
            let mut at = 0;
            while at < bytes.len() {
                // Words are never torn on their way.
                let longest = (bytes.len() - at) as u64 / 8;
                let words =
                    if landing.len() as u64 >= MAX_PIECES { longest } else { scheduler::random(longest) + 1 };
                let next = at + (words * 8) as usize;
                let next = if next > bytes.len() || words == longest { bytes.len() } else { next };
                let ring_offset = start + at as u64;
                landing.push(Item::Piece { ring_offset, bytes: bytes[at..next].to_vec(), last: false });
                at = next;
            }
        }
        if let Some(Item::Piece { last, .. }) = landing.last_mut() {
            *last = true;
        }
        for piece in landing {
            self.0.transmit(&mut locked, Stream::Bytes, piece);
        }
        self.0.transmit(&mut locked, Stream::Bytes, Item::Announce { at: from, to });
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.0.lock().mine().in_flight.len()
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<LogPoint>, LinkError> {
        self.0.wait(Waits::Acknowledgements, wait, |locked| {
            let point = locked.mine().acknowledged.take()?;
            let in_flight = &mut locked.mine().in_flight;
            while in_flight.front().is_some_and(|sent| sent.lsn <= point.lsn) {
                in_flight.pop_front();
            }
            Some(point)
        })
    }
}

struct Receiver(Part);

impl MirrorReceiver for Receiver {
    fn start(&mut self, at: LogPoint) -> Result<(), LinkError> {
        let mut locked = self.0.lock();
        locked.mine().check()?;
        locked.mine().received = Some(at);
        locked.mine().arrivals.clear();
        Ok(())
    }

    fn next(&mut self, wait: Duration) -> Result<Option<Arrival>, LinkError> {
        self.0.wait(Waits::Bytes, wait, |locked| {
            let arrivals = &mut locked.mine().arrivals;
            let mut to = arrivals.pop_front()?;
            // Several writes may arrive as one.
            if scheduler::chance(500) {
                while let Some(later) = arrivals.pop_front() {
                    to = later;
                }
            }
            Some(Arrival { to })
        })
    }

    fn acknowledge(&mut self, durable: LogPoint) -> Result<(), LinkError> {
        let mut locked = self.0.lock();
        locked.mine().check()?;
        if locked.0.config.ack == super::Acknowledge::Message {
            self.0.transmit(&mut locked, Stream::Acknowledgements, Item::Acknowledge(durable));
        }
        Ok(())
    }
}

struct Right(Part);

impl Fence for Right {
    fn grant(&self) {
        self.0.lock().mine().granted = true;
    }

    fn revoke(&self) -> Result<(), FenceError> {
        // Bytes land until it is done.
        scheduler::sleep(Duration::from_nanos(scheduler::random(REVOKE_NS)));
        let mut locked = self.0.lock();
        locked.mine().granted = false;
        let interrupted = std::mem::take(&mut locked.mine().landing);
        drop(locked);
        if interrupted {
            self.0.finish(End::Revoked);
        }
        Ok(())
    }

    fn is_granted(&self) -> bool {
        self.0.lock().mine().granted
    }
}

struct Ends(Part);

impl Close for Ends {
    fn close(&self) {
        self.0.finish(End::Closed);
    }

    fn is_closed(&self) -> bool {
        self.0.lock().mine().is_over()
    }
}
