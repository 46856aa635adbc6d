//! A state of the model: both machines with what the runtime around them holds, the network, the witness's
//! register, the oracle of what was acknowledged, and the faults that may still happen.
//!
//! Invariant: a state is kept in normal form (see [`State::normalise`]), so that a pair that comes back to where it
//! was is the same state and the search ends.

use crate::disk::{Disk, Record};
use crate::faults::Faults;
use ids::{AckRule, Epoch, Lsn, NodeName};
use pair::witness::{Register, Request};
use pair::{Config, DurableState, Lease, LinkId, Message, MonoMs, Name, Pair, RequestId};
use std::collections::{BTreeSet, VecDeque};

/// Where the clocks stand in every normal form.
const FAILURE_TIMEOUT_TICKS: u64 = 4;
const NOON: MonoMs = MonoMs(1_000);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    pub pair: Option<Box<Pair>>,
    pub disk: Disk,
    /// The process is stopped (SIGSTOP): it does nothing, its clock runs.
    pub paused: bool,
    /// The machine said `Stopped`.
    pub stopped: bool,
    // What the runtime holds in memory.
    pub rule: AckRule,
    pub lease: Lease,
    pub serving: bool,
    /// No new operation is let in.
    pub gate_closed: bool,
    /// `Drained` is to be told.
    pub draining: bool,
    pub epoch: Epoch,
    /// Over which link, and up to which record it was written.
    pub mirroring: Option<(LinkId, usize)>,
    /// The processor takes in what arrives over this link.
    pub receiving: Option<LinkId>,
    /// The network card lets what arrives over this link into the log's memory.
    pub granted: Option<LinkId>,
    pub peer_durable: usize,
    pub durable: usize,
    pub committed: usize,
    pub await_peer: Option<(LinkId, Lsn)>,
    /// On its way to the witness.
    pub ask: Option<(RequestId, Request)>,
}

impl Node {
    pub fn new() -> Node {
        Node {
            pair: None,
            disk: Disk::formatted(),
            paused: false,
            stopped: false,
            rule: AckRule::Nobody,
            lease: Lease::None,
            serving: false,
            gate_closed: false,
            draining: false,
            epoch: Epoch(0),
            mirroring: None,
            receiving: None,
            granted: None,
            peer_durable: 0,
            durable: 0,
            committed: 0,
            await_peer: None,
            ask: None,
        }
    }

    /// Runs and does something.
    pub fn awake(&self) -> bool {
        self.pair.is_some() && !self.paused
    }

    /// Everything in memory is gone.
    pub fn crash(&mut self) {
        *self = Node { disk: self.disk.clone(), ..Node::new() };
    }

    pub fn durable_state(&self) -> DurableState {
        DurableState::decode(&self.disk.state).expect("what the machine stored")
    }

    pub fn may_read(&self, now: MonoMs) -> bool {
        match self.lease {
            Lease::None => false,
            Lease::Until { end, .. } => now < end,
            Lease::Forever => true,
        }
    }
}

/// Records on their way into the partner's log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Batch {
    pub link: LinkId,
    pub first: usize,
    pub records: Vec<Record>,
}

/// The newest link. Arrays are by the node at whose end something is or arrives.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    pub id: LinkId,
    /// Nothing new is carried; what had arrived can still be read.
    pub cut: bool,
    /// This end has not noticed.
    pub open: [bool; 2],
    /// Messages and data to this node are late until further notice.
    pub held: [bool; 2],
    pub messages: [VecDeque<Message>; 2],
    pub acknowledged: [Option<usize>; 2],
}

/// What must never happen, and did.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Breach {
    /// Two nodes acknowledged in one epoch.
    TwoAcknowledge,
    /// A node acknowledged in an epoch before one in which the other has, and the other had not acknowledged it.
    DeposedAcknowledges,
    /// An acknowledgement by, or a read from, a node that lacks something acknowledged.
    AcknowledgedMissing,
    /// A node that may claim the next epoch lacks something acknowledged.
    ClaimantLacks,
    /// Something acknowledged is in no log.
    Lost,
    /// Committed records were cut off, or applied without having been acknowledged.
    CommittedUndone,
    /// The pair says mirrored, and the logs are not the same.
    NotEqual,
    /// The machine's own check failed, or the runtime was asked for something that makes no sense.
    Machine,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub now: MonoMs,
    pub nodes: [Box<Node>; 2],
    pub link: Option<Link>,
    pub next_link: u64,
    /// One batch at most to each node; over whichever link.
    pub wire: [Option<Batch>; 2],
    pub register: Option<Register>,
    /// What it was while the pair formed: what a backup of the witness may hold.
    pub backups: Vec<Register>,
    /// The witness came back with one of them.
    pub rolled_back: bool,
    pub witness_up: bool,
    /// Swaps that were given up and may still arrive.
    pub late: Vec<Request>,
    /// The oracle: what clients were told is safe, in order.
    pub acknowledged: Vec<Record>,
    /// The other side's, after an operator has split the volume.
    pub set_aside: Vec<Record>,
    pub acknowledgers: Vec<(Epoch, usize)>,
    /// An operator decided against what the protocol knows.
    pub forced: bool,
    /// The node that handles all that it can before the other does anything, until the next tick.
    pub quick: usize,
    pub next_record: u64,
    pub writes_left: u8,
    pub faults: Faults,
    pub breach: Option<Breach>,
}

impl State {
    pub fn new(faults: Faults, writes: u8) -> State {
        State {
            now: NOON,
            nodes: [Box::new(Node::new()), Box::new(Node::new())],
            link: None,
            next_link: 1,
            wire: [None, None],
            register: None,
            backups: Vec::new(),
            rolled_back: false,
            witness_up: true,
            late: Vec::new(),
            acknowledged: Vec::new(),
            set_aside: Vec::new(),
            acknowledgers: Vec::new(),
            forced: false,
            quick: 0,
            next_record: 1,
            writes_left: writes,
            faults,
            breach: None,
        }
    }

    /// Renames moments, links and hellos so that only their order and distances are left.
    pub fn normalise(&mut self) {
        let mut links = BTreeSet::new();
        let mut hellos = [BTreeSet::new(), BTreeSet::new()];
        self.visit_names(&mut |owner, name| match name {
            Name::Link(link) => drop(links.insert(*link)),
            Name::OwnHello(number) => drop(hellos[owner].insert(*number)),
            Name::PeerHello(number) => drop(hellos[1 - owner].insert(*number)),
            Name::Moment(..) => {}
        });
        let now = self.now;
        let rank = |set: &BTreeSet<u64>, number: u64| set.range(..number).count() as u64;
        self.visit_names(&mut |owner, name| match name {
            Name::Link(link) => *link = LinkId(1 + links.range(..*link).count() as u64),
            Name::OwnHello(number) => *number = rank(&hellos[owner], *number),
            Name::PeerHello(number) => *number = rank(&hellos[1 - owner], *number),
            Name::Moment(at, _) if *at > now => *at = NOON.plus(at.since(now)),
            Name::Moment(at, horizon) => *at = MonoMs(NOON.0 - now.since(*at).min(horizon)),
        });
        self.next_link = 1 + links.len() as u64;
        self.now = NOON;
        for node in &mut self.nodes {
            if let Some((request, _)) = &mut node.ask {
                *request = RequestId(1);
            }
        }
        let register = &self.register;
        // A swap whose expected value is gone cannot succeed any more.
        self.late.retain(|request| match request {
            Request::Read { .. } => false,
            Request::CompareAndSwap { expected, .. } => expected == register,
        });
        self.late.sort_by_key(|request| format!("{request:?}"));
        self.late.dedup();
        if self.link.as_ref().is_some_and(|link| link.open == [false, false]) {
            self.link = None;
        }
        if self.can_tick() {
            self.quick = 0;
        }
    }

    fn visit_names(&mut self, visit: &mut dyn FnMut(usize, Name<'_>)) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(pair) = &mut node.pair {
                pair.visit_names(&mut |name| visit(index, name));
            }
            if let Lease::Until { end, .. } = &mut node.lease {
                visit(index, Name::Moment(end, 0));
            }
            let links = node.mirroring.iter_mut().map(|(link, _)| link);
            let links = links.chain(node.await_peer.iter_mut().map(|(link, _)| link));
            for link in links.chain(&mut node.receiving).chain(&mut node.granted) {
                visit(index, Name::Link(link));
            }
        }
        for batch in self.wire.iter_mut().flatten() {
            visit(0, Name::Link(&mut batch.link));
        }
        let Some(link) = &mut self.link else { return };
        visit(0, Name::Link(&mut link.id));
        for (to, queue) in link.messages.iter_mut().enumerate() {
            for message in queue {
                match message {
                    Message::Hello(hello) => visit(to, Name::PeerHello(&mut hello.number)),
                    Message::Heartbeat { sent, .. } | Message::HeartbeatAnswer { sent, .. } => {
                        visit(to, Name::Moment(sent, FAILURE_TIMEOUT_TICKS));
                    }
                    _ => {}
                }
            }
        }
    }
}

pub fn name(node: usize) -> NodeName {
    ["a", "b"][node].parse().expect("a name")
}

/// Timers in ticks, as short as the configuration's own rules allow, in the same order as the real ones.
pub fn config(node: usize, witness: bool) -> Config {
    let mut config = Config::new(name(node), name(1 - node));
    config.witness = witness;
    config.timers = pair::Timers {
        heartbeat_ms: 1,
        lease_ms: 3,
        drift_margin_ms: 0,
        failure_timeout_ms: FAILURE_TIMEOUT_TICKS,
        link_grace_ms: 1,
        start_grace_ms: 5,
        witness_retry_ms: 1,
        witness_retry_max_ms: 1,
        witness_check_ms: 1,
        witness_timeout_ms: 6,
        drain_timeout_ms: 2,
        barrier_timeout_ms: 4,
        join_retry_ms: 1,
        barrier_lag_bytes: crate::disk::RECORD_BYTES,
        distrust_ms: 2,
    };
    config
}
