//! Time, and what happens in it, around the two nodes.

use crate::canary::Canary;
use crate::disk::Record;
use crate::invariants::{self, Oracle};
use crate::node::Node;
use crate::random::Random;
use pair::witness::{Register, Request};
use pair::{Event, LinkId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

const TICK_MS: u64 = 20;
const CLIENT_MS: u64 = 15;
const DATA_MS: u64 = 10;
const LATE_MS: u64 = 800;

/// Something that will happen.
pub enum Happening {
    Tick { node: usize, incarnation: u64 },
    Client { node: usize },
    Deliver { node: usize, incarnation: u64, event: Box<Event> },
    Data { to: usize, link: LinkId, first: usize, records: Vec<Record> },
    DataAck { to: usize, link: LinkId, len: usize },
    Durable { node: usize, incarnation: u64, len: usize },
    Ask { node: usize, incarnation: u64, request: pair::RequestId, ask: Request, answer: bool },
    Connect,
    Restart { node: usize },
    ResyncEnds { node: usize, incarnation: u64, link: LinkId },
}

pub struct World {
    pub time_ms: u64,
    pub nodes: [Node; 2],
    pub register: Option<Register>,
    /// Every value it had, and whether the one it has was brought back.
    pub backups: Vec<Register>,
    pub restored: bool,
    pub witness_up: bool,
    pub network_up: bool,
    /// Someone starts what has stopped.
    pub attended: bool,
    /// Resyncs begin when the machines let them.
    pub resyncs: bool,
    /// When a process that was told to stop has stopped at the latest.
    pub stops_by_ms: u64,
    pub loss_permille: u64,
    /// Longest time that data takes, and longest time that a doubled message is late.
    pub data_ms: u64,
    pub late_ms: u64,
    pub oracle: Oracle,
    pub canary: Option<Canary>,
    pub trace: bool,
    pub random: Random,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: BTreeMap<usize, Happening>,
    serial: u64,
    pub next_record: u64,
    pub link: Option<LinkId>,
    next_link: u64,
    pub data_not_before: [u64; 2],
}

impl World {
    pub fn new(seed: u64, witness: bool) -> World {
        let mut world = World {
            time_ms: 0,
            nodes: [Node::new("a", "b", witness), Node::new("b", "a", witness)],
            register: None,
            backups: Vec::new(),
            restored: false,
            witness_up: true,
            network_up: true,
            attended: false,
            resyncs: true,
            stops_by_ms: 0,
            loss_permille: 0,
            data_ms: DATA_MS,
            late_ms: LATE_MS,
            oracle: Oracle::default(),
            canary: None,
            trace: false,
            random: Random::new(seed ^ 0xabcd),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            serial: 0,
            next_record: 1,
            link: None,
            next_link: 1,
            data_not_before: [0, 0],
        };
        world.at(0, Happening::Client { node: 0 });
        world.at(0, Happening::Client { node: 1 });
        world.at(5, Happening::Connect);
        world
    }

    pub fn at(&mut self, delay_ms: u64, happening: Happening) {
        self.serial += 1;
        self.queue.push(Reverse((self.time_ms + delay_ms, self.serial, self.serial as usize)));
        self.happenings.insert(self.serial as usize, happening);
    }

    pub fn start(&mut self, node: usize) {
        if self.nodes[node].pair.is_some() {
            return;
        }
        let commands = self.nodes[node].start(self.time_ms);
        let incarnation = self.nodes[node].incarnation;
        self.execute(node, commands);
        self.at(1, Happening::Tick { node, incarnation });
    }

    pub fn start_both(&mut self) {
        for node in 0..2 {
            let delay = self.random.below(400);
            self.at(delay, Happening::Restart { node });
        }
    }

    pub fn crash(&mut self, node: usize) {
        self.nodes[node].crash();
        self.cut();
    }

    pub fn deliver(&mut self, delay_ms: u64, node: usize, event: Event) {
        let incarnation = self.nodes[node].incarnation;
        self.at(delay_ms, Happening::Deliver { node, incarnation, event: Box::new(event) });
    }

    pub fn heal(&mut self) {
        (self.network_up, self.witness_up, self.loss_permille) = (true, true, 0);
        self.data_ms = DATA_MS;
        self.attended = true;
        for node in 0..2 {
            self.nodes[node].paused_until_ms = 0;
            self.at(0, Happening::Restart { node });
        }
    }

    pub fn run_for(&mut self, wait_ms: u64) {
        self.run_until(self.time_ms + wait_ms);
    }

    pub fn run_until(&mut self, until_ms: u64) {
        while let Some(Reverse((time_ms, _, key))) = self.queue.peek().copied() {
            if time_ms > until_ms {
                break;
            }
            self.queue.pop();
            self.time_ms = time_ms;
            if let Some(happening) = self.happenings.remove(&key) {
                self.happen(happening);
                invariants::check(self);
            }
        }
        self.time_ms = until_ms;
    }

    /// A stopped process does nothing; what is for it waits in its queues, in order.
    fn paused_for_ms(&self, happening: &Happening) -> u64 {
        let node = match happening {
            Happening::Tick { node, .. }
            | Happening::Client { node }
            | Happening::Deliver { node, .. }
            | Happening::ResyncEnds { node, .. }
            | Happening::Durable { node, .. } => *node,
            Happening::Data { to, .. } | Happening::DataAck { to, .. } => *to,
            Happening::Ask { .. } | Happening::Connect | Happening::Restart { .. } => return 0,
        };
        self.nodes[node].paused_until_ms.saturating_sub(self.time_ms)
    }

    fn happen(&mut self, happening: Happening) {
        let paused_ms = self.paused_for_ms(&happening);
        if paused_ms > 0 {
            return self.at(paused_ms, happening);
        }
        match happening {
            Happening::Tick { node, incarnation } => {
                if self.nodes[node].pair.is_some() && self.nodes[node].incarnation == incarnation {
                    let vitals = self.nodes[node].vitals();
                    self.apply(node, Event::Tick { vitals });
                    self.begin_resync(node);
                    let pause = TICK_MS + self.random.below(15);
                    self.at(pause, Happening::Tick { node, incarnation });
                }
            }
            Happening::Client { node } => {
                self.client(node);
                self.at(CLIENT_MS, Happening::Client { node });
            }
            Happening::Deliver { node, incarnation, event } => {
                if self.nodes[node].incarnation == incarnation {
                    self.apply(node, *event);
                }
            }
            Happening::Durable { node, incarnation, len } => {
                let node_ref = &mut self.nodes[node];
                if node_ref.pair.is_some() && node_ref.incarnation == incarnation {
                    node_ref.durable_len = node_ref.durable_len.max(len.min(node_ref.disk.log.len()));
                    self.commit(node);
                }
            }
            Happening::Data { to, link, first, records } => self.data(to, link, first, records),
            Happening::DataAck { to, link, len } => {
                let node = &mut self.nodes[to];
                if node.mirroring.is_some_and(|(current, _)| current == link) {
                    node.peer_durable = node.peer_durable.max(len);
                    self.commit(to);
                    self.tell_peer_reached(to);
                }
            }
            Happening::Ask { node, incarnation, request, ask, answer } => {
                let outcome = self.witness(&ask);
                if answer && self.nodes[node].incarnation == incarnation {
                    let delay = 1 + self.random.below(5);
                    self.deliver(delay, node, Event::WitnessAnswer { request, outcome });
                }
            }
            Happening::Connect => {
                self.at(60, Happening::Connect);
                for node in 0..2 {
                    if self.attended && self.nodes[node].stopped {
                        self.at(0, Happening::Restart { node });
                    }
                }
                let both = self.nodes.iter().all(|node| node.pair.is_some() && !node.stopped);
                let awake = self.nodes.iter().all(|node| node.paused_until_ms <= self.time_ms);
                if self.link.is_none() && self.network_up && both && awake {
                    let link = LinkId(self.next_link);
                    self.next_link += 1;
                    self.link = Some(link);
                    for node in 0..2 {
                        // The runtime reads the log only after the old link is torn down.
                        let other = &mut self.nodes[node];
                        (other.receiving, other.granted, other.mirroring) = (None, None, None);
                        let log = self.nodes[node].summary();
                        self.apply(node, Event::LinkUp { link, log });
                    }
                }
            }
            Happening::Restart { node } => {
                if self.nodes[node].stopped {
                    self.nodes[node].stopped = false;
                    self.crash(node);
                }
                self.start(node);
            }
            Happening::ResyncEnds { node, incarnation, link } => {
                if self.nodes[node].pair.is_some() && self.nodes[node].incarnation == incarnation {
                    self.end_resync(node, link);
                }
            }
        }
    }
}
