//! Time, network, witness and clients around the two nodes.

use crate::node::{Node, RECORD_BYTES, Record};
use crate::random::Random;
use ids::{Epoch, LogPoint};
use pair::witness::{Answer, Register, Request, swap};
use pair::{Command, Event, LinkId, Message, PairMode, PointVerdict, RoleName, WitnessOutcome};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

const TICK_MS: u64 = 20;
const CLIENT_MS: u64 = 15;

/// Something that will happen.
enum Happening {
    Tick { node: usize, incarnation: u64 },
    Client { node: usize },
    Deliver { node: usize, incarnation: u64, event: Box<Event> },
    Data { to: usize, link: LinkId, first: usize, records: Vec<Record> },
    DataAck { to: usize, link: LinkId, len: usize },
    Durable { node: usize, incarnation: u64, len: usize },
    Ask { node: usize, incarnation: u64, request: pair::RequestId, ask: Request, answer: bool },
    Connect,
    Restart { node: usize },
}

pub struct World {
    pub time_ms: u64,
    pub nodes: [Node; 2],
    pub register: Option<Register>,
    pub witness_up: bool,
    pub network_up: bool,
    pub loss_permille: u64,
    pub acknowledged: Vec<Record>,
    pub check_acknowledged: bool,
    pub trace: bool,
    random: Random,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: BTreeMap<usize, Happening>,
    serial: u64,
    next_record: u64,
    link: Option<LinkId>,
    next_link: u64,
    data_not_before: [u64; 2],
    acknowledgers: BTreeMap<Epoch, usize>,
}

impl World {
    pub fn new(seed: u64, witness: bool) -> World {
        let mut world = World {
            time_ms: 0,
            nodes: [Node::new("a", "b", witness), Node::new("b", "a", witness)],
            register: None,
            witness_up: true,
            network_up: true,
            loss_permille: 0,
            acknowledged: Vec::new(),
            check_acknowledged: true,
            trace: false,
            random: Random::new(seed ^ 0xabcd),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            serial: 0,
            next_record: 1,
            link: None,
            next_link: 1,
            data_not_before: [0, 0],
            acknowledgers: BTreeMap::new(),
        };
        world.at(0, Happening::Client { node: 0 });
        world.at(0, Happening::Client { node: 1 });
        world.at(5, Happening::Connect);
        world
    }

    fn at(&mut self, delay_ms: u64, happening: Happening) {
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

    /// The link breaks; each side notices sooner or later, or only by silence.
    pub fn cut(&mut self) {
        let Some(link) = self.link.take() else { return };
        for node in 0..2 {
            if self.random.below(3) > 0 {
                let delay = self.random.below(300);
                self.deliver(delay, node, Event::LinkDown { link });
            }
        }
    }

    fn deliver(&mut self, delay_ms: u64, node: usize, event: Event) {
        let incarnation = self.nodes[node].incarnation;
        self.at(delay_ms, Happening::Deliver { node, incarnation, event: Box::new(event) });
    }

    pub fn fault(&mut self, random: &mut Random) {
        let node = random.below(2) as usize;
        match random.below(12) {
            0 | 1 => {
                self.crash(node);
                self.at(random.below(2_000), Happening::Restart { node });
            }
            2 => {
                for node in 0..2 {
                    self.crash(node);
                    self.at(random.below(3_000), Happening::Restart { node });
                }
            }
            3 | 4 => self.cut(),
            5 => {
                self.network_up = false;
                self.cut();
            }
            6 | 7 => self.network_up = true,
            8 => self.witness_up = false,
            9 => self.witness_up = true,
            10 => self.apply(node, Event::Operator(pair::Operator::Switchover)),
            _ => {
                self.apply(node, Event::Shutdown);
                self.at(6_000, Happening::Restart { node });
            }
        }
    }

    pub fn heal(&mut self) {
        (self.network_up, self.witness_up, self.loss_permille) = (true, true, 0);
        for node in 0..2 {
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
                self.check();
            }
        }
        self.time_ms = until_ms;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick { node, incarnation } => {
                if self.nodes[node].pair.is_some() && self.nodes[node].incarnation == incarnation {
                    let vitals = self.nodes[node].vitals();
                    self.apply(node, Event::Tick { vitals });
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
                let both = self.nodes.iter().all(|node| node.pair.is_some() && !node.stopped);
                if self.link.is_none() && self.network_up && both {
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
        }
    }

    fn client(&mut self, node: usize) {
        let draining = self.nodes[node].draining;
        if self.nodes[node].pair.is_none() || !self.nodes[node].serving {
            return;
        }
        if !draining && self.nodes[node].disk.log.len() < self.nodes[node].committed + 16 {
            let record = Record { epoch: self.nodes[node].epoch, id: self.next_record };
            self.next_record += 1;
            self.nodes[node].disk.log.push(record);
            let (len, incarnation) = (self.nodes[node].disk.log.len(), self.nodes[node].incarnation);
            let delay = self.random.below(4);
            self.at(delay, Happening::Durable { node, incarnation, len });
        }
        self.mirror(node);
        let n = &self.nodes[node];
        if n.draining && n.committed == n.disk.log.len() {
            let end = n.point(n.disk.log.len());
            self.deliver(0, node, Event::Drained { end });
        }
    }

    fn mirror(&mut self, node: usize) {
        let Some((link, sent)) = self.nodes[node].mirroring else { return };
        let len = self.nodes[node].disk.log.len();
        if sent < len && self.link == Some(link) {
            let records = self.nodes[node].disk.log[sent..len].to_vec();
            self.nodes[node].mirroring = Some((link, len));
            let delay = 1 + self.random.below(10);
            // Data keeps its order.
            let arrives = (self.time_ms + delay).max(self.data_not_before[node] + 1);
            self.data_not_before[node] = arrives;
            self.at(arrives - self.time_ms, Happening::Data { to: 1 - node, link, first: sent, records });
        }
    }

    fn data(&mut self, to: usize, link: LinkId, first: usize, records: Vec<Record>) {
        let node = &mut self.nodes[to];
        if node.pair.is_none() || node.receiving != Some(link) || node.granted != Some(link) {
            return;
        }
        if first != node.disk.log.len() {
            return self.deliver(0, to, Event::MirrorLost { link });
        }
        for record in records {
            if node.disk.history.last().is_none_or(|last| last.epoch < record.epoch) {
                let first_lsn = ids::Lsn(node.disk.log.len() as u64 * RECORD_BYTES);
                let entry = ids::EpochStart { epoch: record.epoch, first_lsn };
                node.disk.history.push(entry).expect("epochs ascend");
            }
            node.disk.log.push(record);
        }
        node.durable_len = node.disk.log.len();
        let len = node.durable_len;
        if self.link == Some(link) {
            let delay = 1 + self.random.below(10);
            self.at(delay, Happening::DataAck { to: 1 - to, link, len });
        }
    }

    fn commit(&mut self, node: usize) {
        let to = self.nodes[node].releasable();
        if to <= self.nodes[node].committed {
            return;
        }
        let epoch = self.nodes[node].epoch;
        let first = *self.acknowledgers.entry(epoch).or_insert(node);
        assert_eq!(first, node, "two nodes acknowledge in epoch {epoch}");
        for index in self.nodes[node].committed..to {
            let record = self.nodes[node].disk.log[index];
            match self.acknowledged.get(index) {
                Some(known) if self.check_acknowledged => {
                    assert_eq!(*known, record, "an acknowledged record is missing at {index}");
                }
                Some(_) => self.acknowledged[index] = record,
                None => self.acknowledged.push(record),
            }
        }
        self.nodes[node].committed = to;
        self.tell_peer_reached(node);
    }

    fn tell_peer_reached(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let reached = ids::Lsn(n.peer_durable as u64 * RECORD_BYTES);
        if let Some((link, lsn)) = n.await_peer.take_if(|(_, lsn)| *lsn <= reached) {
            self.deliver(0, node, Event::PeerReached { link, lsn });
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        for node in &self.nodes {
            if node.serving && node.lease_valid(self.time_ms) && self.check_acknowledged {
                let log = &node.disk.log;
                assert!(
                    log.len() >= self.acknowledged.len()
                        && log
                            .last()
                            .is_none_or(|_| log.get(self.acknowledged.len().wrapping_sub(1))
                                == self.acknowledged.last()),
                    "{} would answer a read without what was acknowledged elsewhere",
                    node.name
                );
            }
        }
    }

    fn witness(&mut self, ask: &Request) -> WitnessOutcome {
        match ask {
            Request::Read { .. } => WitnessOutcome::Is(self.register.clone()),
            Request::CompareAndSwap { expected, new } => {
                match swap(self.register.as_ref(), expected.as_ref(), new) {
                    Ok(register) => {
                        self.register = Some(register.clone());
                        WitnessOutcome::Swapped(register)
                    }
                    Err(Answer::Conflict { register }) => WitnessOutcome::Conflict(register),
                    Err(other) => panic!("the pair asked for what the witness refuses: {other:?}"),
                }
            }
        }
    }

    pub fn apply(&mut self, node: usize, event: Event) {
        let clock = self.nodes[node].clock(self.time_ms);
        let Some(pair) = &mut self.nodes[node].pair else { return };
        if self.trace
            && !matches!(
                event,
                Event::Tick { .. }
                    | Event::Message {
                        message: Message::Heartbeat { .. } | Message::HeartbeatAnswer { .. },
                        ..
                    }
            )
        {
            eprintln!("{:>6} {} < {event:?}", self.time_ms, self.nodes[node].name);
        }
        let commands = pair.apply(clock, event);
        self.execute(node, commands);
    }

    fn execute(&mut self, node: usize, commands: Vec<Command>) {
        for command in commands {
            let quiet = matches!(
                command,
                Command::SetLease(_)
                    | Command::PeerVitals { .. }
                    | Command::Send {
                        message: Message::Heartbeat { .. } | Message::HeartbeatAnswer { .. },
                        ..
                    }
            );
            if self.trace && !quiet {
                eprintln!("{:>6} {} > {command:?}", self.time_ms, self.nodes[node].name);
            }
            self.execute_one(node, command);
        }
    }

    fn execute_one(&mut self, node: usize, command: Command) {
        let n = &mut self.nodes[node];
        match command {
            Command::Store(state) => n.disk.state = state.encode(),
            Command::Send { link, message } => self.send(node, link, message),
            Command::AskWitness { request, ask } => self.ask(node, request, ask),
            Command::Grant { link } => n.granted = Some(link),
            Command::Revoke => {
                (n.granted, n.receiving) = (None, None);
                let log = n.summary();
                self.deliver(0, node, Event::Revoked { log });
            }
            Command::SetAckRule(rule) => {
                n.rule = rule;
                self.commit(node);
                let committed = self.nodes[node].vitals().committed;
                self.deliver(0, node, Event::RuleSet { rule, committed });
            }
            Command::SetLease(lease) => n.lease = lease,
            Command::OpenEpoch { epoch } => {
                n.open_epoch(epoch, self.next_record);
                self.next_record += 1;
                let log = n.summary();
                self.deliver(0, node, Event::EpochOpened { log });
            }
            Command::StartServing { .. } => n.serving = true,
            Command::StopServing { .. } => (n.serving, n.draining) = (false, false),
            Command::TruncateLog { to } => {
                let result = n.truncate(to);
                self.deliver(0, node, Event::Truncated { result });
            }
            Command::CheckPoint { link, point } => {
                let verdict = verdict(n, point);
                self.deliver(0, node, Event::PointChecked { link, point, verdict });
            }
            Command::StartMirroring { link, from } => {
                n.mirroring = Some((link, (from.lsn.0 / RECORD_BYTES) as usize));
                n.peer_durable = (from.lsn.0 / RECORD_BYTES) as usize;
                self.mirror(node);
            }
            Command::StopMirroring => (n.mirroring, n.await_peer, n.peer_durable) = (None, None, 0),
            Command::AwaitPeer { link, lsn } => {
                n.await_peer = Some((link, lsn));
                self.tell_peer_reached(node);
            }
            Command::StartReceiving { link, at } => {
                assert_eq!(at, n.point(n.disk.log.len()), "receiving starts at the log's end");
                n.receiving = Some(link);
            }
            Command::PeerVitals { committed: Some(lsn), .. } => {
                let to = ((lsn.0 / RECORD_BYTES) as usize).min(n.disk.log.len()).max(n.committed);
                if self.check_acknowledged {
                    assert!(
                        self.acknowledged.get(n.committed..to) == Some(&n.disk.log[n.committed..to]),
                        "{} applies what was not acknowledged",
                        n.name
                    );
                }
                n.committed = to;
            }
            Command::PeerVitals { committed: None, .. } | Command::SetHold(_) => {}
            Command::Drain => n.draining = true,
            Command::Undrain => n.draining = false,
            Command::DropLink { link } => {
                if self.link == Some(link) {
                    self.cut();
                }
            }
            Command::Stopped => n.stopped = true,
        }
    }

    fn send(&mut self, node: usize, link: LinkId, message: Message) {
        if self.link != Some(link) || !self.network_up {
            return;
        }
        let message = Message::decode(&message.encode()).unwrap();
        for copy in 0..2 {
            let doubled = copy == 1 && self.random.permille(self.loss_permille / 2);
            if (copy == 0 && !self.random.permille(self.loss_permille)) || doubled {
                let delay = 1 + self.random.below(12) + if doubled { self.random.below(800) } else { 0 };
                self.deliver(delay, 1 - node, Event::Message { link, message: message.clone() });
            }
        }
    }

    fn ask(&mut self, node: usize, request: pair::RequestId, ask: Request) {
        let incarnation = self.nodes[node].incarnation;
        let lost = !self.witness_up || self.random.permille(self.loss_permille);
        if !lost {
            let delay = 1 + self.random.below(5);
            return self.at(delay, Happening::Ask { node, incarnation, request, ask, answer: true });
        }
        let sent = self.random.below(2) == 0;
        if sent && self.random.below(2) == 0 {
            // It arrives after all, perhaps long after the node has given it up.
            let delay = self.random.below(3_000);
            self.at(delay, Happening::Ask { node, incarnation, request, ask, answer: false });
        }
        let outcome = WitnessOutcome::Unreachable { maybe_applied: sent };
        let delay = if sent { 200 } else { 1 };
        self.deliver(delay, node, Event::WitnessAnswer { request, outcome });
    }

    pub fn modes(&self) -> [Option<(RoleName, PairMode)>; 2] {
        [0, 1].map(|node| {
            let n = &self.nodes[node];
            n.pair.as_ref().map(|pair| {
                let status = pair.status(n.clock(self.time_ms));
                (status.role, status.mode)
            })
        })
    }

    pub fn assert_mirrored(&self) {
        let modes = self.modes();
        let primary = Some((RoleName::Primary, PairMode::Mirrored));
        let partner = Some((RoleName::Partner, PairMode::Mirrored));
        assert!(
            modes == [primary, partner] || modes == [partner, primary],
            "not mirrored at {} ms: {modes:?}, register {:?}\n{:?}\n{:?}",
            self.time_ms,
            self.register,
            self.nodes[0].pair.as_ref().map(|p| p.status(self.nodes[0].clock(self.time_ms))),
            self.nodes[1].pair.as_ref().map(|p| p.status(self.nodes[1].clock(self.time_ms)))
        );
    }
}

fn verdict(node: &Node, point: LogPoint) -> PointVerdict {
    let len = (point.lsn.0 / RECORD_BYTES) as usize;
    if len > node.disk.log.len() || node.point(len) != point {
        PointVerdict::Differs
    } else if node.disk.log.len() - len > node.retained {
        PointVerdict::TooOld
    } else {
        PointVerdict::Continues
    }
}
