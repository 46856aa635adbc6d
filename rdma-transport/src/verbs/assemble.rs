//! Making a link: queue pairs, exchange of addresses, connection, and the parts that its owner gets.
//!
//! Both sides have posted their receives before they say that they are ready, and nothing is sent before both have
//! said so.

use super::answers::Answers;
use super::completion::CompletionQueue;
use super::domain::{ANSWER_SLOTS, Domain};
use super::exchange::{Address, Endpoint, Meeting};
use super::fence::VerbsFence;
use super::grant::{Bell, Grant};
use super::port::Choice;
use super::queue_pair::{Depths, Parts, QueuePair, Role, Terms, given_up_after};
use super::receiver::VerbsReceiver;
use super::registration::Registration;
use super::sender::{SLOTS, VerbsSender};
use super::shared::Shared;
use super::wait::Waiter;
use super::{answers, registration};
use crate::control::StreamControl;
use crate::ending::Ending;
use crate::handshake::{SessionId, array_at};
use crate::rendezvous::Complete;
use crate::socket::tune_tcp;
use crate::spin::Spin;
use crate::tls::Stream;
use crate::{Closer, Control, Link, LinkError, LinkParams, PeerInfo, TransportKind};
use parking_lot::Mutex;
use rustix::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The queue pairs of one side, not connected yet.
struct Pairs {
    outgoing: Arc<QueuePair>,
    incoming: Arc<QueuePair>,
}

impl Pairs {
    fn new(domain: &Domain, choice: &Choice) -> Result<Pairs, LinkError> {
        let sizes = domain.sizes();
        let slots = |count| {
            Registration::of_slots(&domain.protection, count)
                .map_err(LinkError::io("registering memory for acknowledgements"))
        };
        let make = |role, depths: Depths, slots, queues: [&Arc<CompletionQueue>; 2]| {
            let parts = Parts {
                domain: &domain.protection,
                choice,
                ring: &domain.ring,
                slots,
                send_queue: queues[0],
                receive_queue: queues[1],
            };
            QueuePair::new(role, depths, parts).map(Arc::new)
        };
        let queue = |entries, sleeps| CompletionQueue::new(&domain.device, entries, sleeps).map(Arc::new);
        // One queue for both directions where one thread waits for both.
        let both = queue(sizes.outgoing.send + sizes.outgoing.receive, true)?;
        let outgoing = make(Role::Outgoing, sizes.outgoing, slots(SLOTS)?, [&both, &both])?;
        let (sent, landed) = (queue(sizes.incoming.send, false)?, queue(sizes.incoming.receive, true)?);
        let role = Role::Incoming { reads: domain.peer_reads() };
        let incoming = make(role, sizes.incoming, slots(answers::SEND_DEPTH)?, [&sent, &landed])?;
        let room = LinkError::os("making room for the peer's messages");
        outgoing
            .post_receives(ANSWER_SLOTS as usize, Some)
            .and_then(|()| incoming.post_receives(sizes.incoming.receive as usize, |_| None))
            .map_err(room)?;
        Ok(Pairs { outgoing, incoming })
    }
}

/// Makes a link of a socket whose handshake is done.
pub(super) fn assemble(
    complete: Complete,
    params: &LinkParams,
    domain: Arc<Domain>,
) -> Result<Link, LinkError> {
    assemble_shared(complete, params, domain).map(|(link, _)| link)
}

/// Also gives what the parts share.
pub(super) fn assemble_shared(
    complete: Complete,
    params: &LinkParams,
    domain: Arc<Domain>,
) -> Result<(Link, Arc<Shared>), LinkError> {
    let tuning = params.tuning;
    let stream = complete.sockets.into_iter().next();
    let mut stream = stream.expect("a session is complete with one socket of each kind");
    tune_tcp(&stream.socket, &tuning)?;
    let choice = domain.choose_again().map_err(|error| LinkError::Rdma(error.to_string()))?;
    let pairs = Pairs::new(&domain, &choice)?;
    let mine = endpoint(&domain, &choice, &pairs)?;
    let mut meeting =
        Meeting { stream: &mut stream, deadline: complete.deadline, address: &complete.address, params };
    let theirs = meeting.swap(&mine)?;
    let terms = Terms {
        reads_asked: domain.reads_asked().min(theirs.reads_answered.max(1)),
        reads_answered: domain.reads_answered(),
        traffic_class: domain.traffic_class(),
        dead_after: tuning.dead_peer_timeout,
    };
    // What is outgoing here is incoming there.
    let ends = [
        (&pairs.outgoing, mine.outgoing.psn, theirs.incoming),
        (&pairs.incoming, mine.incoming.psn, theirs.outgoing),
    ];
    for (pair, psn, there) in ends {
        pair.connect(&theirs, there.number, psn, there.psn, &terms)?;
    }
    meeting.both_ready()?;
    tracing::debug!(
        device = domain.device.name,
        mtu_bytes = mine.link_mtu_bytes(&theirs),
        outgoing = mine.outgoing.number,
        incoming = mine.incoming.number,
        "queue pairs connected"
    );
    join(stream, complete.session, complete.address, params, domain, pairs, theirs.ring_address)
}

fn endpoint(domain: &Domain, choice: &Choice, pairs: &Pairs) -> Result<Endpoint, LinkError> {
    // Sixteen random bytes, of which two 24-bit numbers are taken.
    let random = SessionId::random().map_err(LinkError::io("reading /dev/urandom"))?.0;
    let psn = |at| u32::from_le_bytes(array_at(&random, at)) & 0xff_ffff;
    let port = &choice.port;
    Ok(Endpoint {
        layer: port.layer,
        persistence: domain.persistence(),
        mtu: port.mtu,
        reads_answered: domain.reads_answered(),
        lid: port.lid,
        gid: choice.gid.raw,
        outgoing: Address { number: pairs.outgoing.number(), psn: psn(0) },
        incoming: Address { number: pairs.incoming.number(), psn: psn(4) },
        ring_address: domain.ring.address(0, 0),
        capacity_bytes: domain.capacity_bytes(),
    })
}

/// Gives the connected queue pairs to the parts of a link.
fn join(
    stream: Stream,
    session: SessionId,
    address: String,
    params: &LinkParams,
    domain: Arc<Domain>,
    pairs: Pairs,
    ring_address: u64,
) -> Result<(Link, Arc<Shared>), LinkError> {
    let tuning = params.tuning;
    let socket = Arc::new(stream.socket);
    let bell = || Bell::new().map_err(LinkError::os("making an eventfd"));
    let (sender_bell, receiver_bell) = (bell()?, bell()?);
    let ending = Arc::new(Ending::new(vec![Arc::clone(&socket)], Arc::clone(&params.counters)));
    for bell in [sender_bell.clone(), receiver_bell.clone()] {
        ending.also_wake(Box::new(move || bell.ring()));
    }
    let grant = Arc::new(Grant::new(sender_bell.clone()));
    let to_grant = Arc::clone(&grant);
    let control = Arc::new(StreamControl::with_private(
        Arc::clone(&socket),
        (stream.outgoing, stream.incoming),
        Arc::clone(&ending),
        tuning.dead_peer_timeout,
        Box::new(move |frame| to_grant.receive(frame)),
    ));
    let (incoming, outgoing) = (pairs.incoming.pointer() as usize, pairs.outgoing.pointer() as usize);
    let watch = domain.device.watch(incoming, outgoing, pairs.outgoing.port(), &ending);
    let capacity_bytes = domain.capacity_bytes();
    let shared = Arc::new(Shared {
        ending: Arc::clone(&ending),
        domain,
        socket: Arc::clone(&socket),
        control: Arc::clone(&control),
        grant,
        ring_address,
        granted: AtomicBool::new(false),
        silence: given_up_after(tuning.dead_peer_timeout),
        _watch: watch,
        outgoing: pairs.outgoing,
        incoming: pairs.incoming,
    });
    let answers = Arc::new(Mutex::new(Answers::new(Arc::clone(&shared.incoming))));
    let peer = PeerInfo {
        volume: params.volume,
        node: params.peer.clone(),
        session,
        capacity_bytes,
        address,
        transport: TransportKind::Verbs,
    };
    crate::counters::count(&params.counters.links, 1);
    let receiver_waiter = Waiter::new(receiver_bell, Spin::new(tuning.spin));
    let link = Link {
        control: Box::new(ControlPart { control, socket }),
        sender: Box::new(VerbsSender::new(
            Arc::clone(&shared),
            Waiter::new(sender_bell, Spin::new(tuning.spin)),
        )),
        receiver: Box::new(VerbsReceiver::new(Arc::clone(&shared), Arc::clone(&answers), receiver_waiter)),
        fence: Arc::new(VerbsFence::new(Arc::clone(&shared), answers)),
        peer,
        closer: Closer::new(ending),
    };
    Ok((link, shared))
}

/// The control messages as the link's owner has them; other parts send through the same channel.
struct ControlPart {
    control: Arc<StreamControl>,
    socket: Arc<OwnedFd>,
}

impl Control for ControlPart {
    fn send(&self, message: &[u8]) -> Result<(), LinkError> {
        self.control.send(message)
    }

    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>, LinkError> {
        self.control.recv(wait)
    }

    fn close(&self) {
        self.control.close();
    }
}

impl Drop for ControlPart {
    fn drop(&mut self) {
        // The peer may have shut it down before.
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Both);
    }
}

const _: () = assert!(registration::SLOT_BYTES == 16, "an acknowledgement fills a slot");
