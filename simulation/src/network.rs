//! The network between two machines: a link source for each node, and the faults that a schedule wants.
//!
//! What travels on a link goes through *streams*, each in order, each with delays of its own: control messages, log
//! bytes, acknowledgements. Log bytes are one-sided: they land in the peer's ring piece by piece at times that nobody
//! there takes part in, and the announcement of a write comes after its last piece. A stream that is cut holds
//! what travels until it is healed, as a reliable transport retransmits; a link that is cut for too long dies, at each
//! end at a time of its own.
//!
//! Invariants: what travels in one stream arrives in order; nothing lands without the right to write, which
//! [`rdma_transport::Fence::revoke`] takes away for good. What can go wrong is the point of it.
//!
//! The lock is held by nobody across a wait, so that callbacks always find it free.

mod parts;
mod wire;

use ids::LogMemory;
use nvlog::sim::SimRegion;
use rdma_transport::{Link, LinkError, LinkParams, LinkSource};
use runtime::marks;
use scheduler::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use wire::{End, Wire};

/// Links that wait to be taken by a side that accepts; the oldest gives way.
const MAX_WAITING: usize = 2;

/// When the primary learns that its bytes are durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledge {
    /// The peer's processor says so.
    Message,
    /// The peer's adapter does, before any processor there has seen them.
    Adapter,
}

/// What a network is like.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Time on the way, at least and at most.
    pub latency: Range<Duration>,
    /// How durability is learned.
    pub ack: Acknowledge,
    /// After so much silence a link ends.
    pub dead_peer_timeout: Duration,
}

/// A machine as the network sees it.
#[derive(Default)]
struct Host {
    /// The process that has the network: 0 is none.
    life: u64,
    region: Option<SimRegion>,
    /// Links that were made and not yet taken.
    waiting: VecDeque<usize>,
    /// It has asked for links since it began to live.
    listens: bool,
}

struct State {
    config: NetworkConfig,
    hosts: [Host; 2],
    lives: u64,
    /// `cut[from]`: nothing goes from there to the other.
    cut: [bool; 2],
    /// One message about trees in so many is spoilt.
    spoils_talk: Option<u64>,
    /// One that comes after the next on the same link.
    late: [Option<(usize, Vec<u8>)>; 2],
    /// Which cut or healing it is.
    turn: u64,
    wires: Vec<Wire>,
}

struct Shared {
    state: Mutex<State>,
    /// For each host, for each that waits there.
    news: [[Condvar; 4]; 2],
}

/// Who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waits {
    Links = 0,
    Messages = 1,
    Bytes = 2,
    Acknowledgements = 3,
}

/// See the module. Clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

impl Network {
    /// Nothing is cut, nobody there.
    pub fn new(config: NetworkConfig) -> Network {
        let state = State {
            config,
            hosts: Default::default(),
            lives: 0,
            cut: [false; 2],
            spoils_talk: None,
            late: [None, None],
            turn: 0,
            wires: Vec::new(),
        };
        Network(Arc::new(Shared { state: Mutex::new(state), news: Default::default() }))
    }

    /// Where a new process on `host`, whose log lies in `region`, gets its links from. Host 0 connects.
    pub fn source(&self, host: usize, region: SimRegion) -> impl LinkSource + use<> {
        let mut state = self.0.state.lock();
        state.lives += 1;
        let life = state.lives;
        state.hosts[host] = Host { life, region: Some(region), waiting: VecDeque::new(), listens: false };
        // What still came from the peer for the process before is answered with a reset, sooner or later.
        let within = state.config.dead_peer_timeout;
        drop(state);
        self.reset_leftovers(host, life, within);
        Source { network: self.clone(), host, life }
    }

    /// The process on `host` is gone. `announced`: the machine goes on and closes its connections; else the peer
    /// hears nothing.
    pub fn host_died(&self, host: usize, announced: bool) {
        let mut state = self.0.state.lock();
        state.hosts[host] = Host::default();
        for index in 0..state.wires.len() {
            let wire = &mut state.wires[index];
            if wire.ends[host].is_over() {
                continue;
            }
            wire.ends[host].finish(End::Closed);
            match announced {
                true => self.say_closed(&mut state, index, host),
                false => self.expect_silence(&state, index, 1 - host),
            }
        }
        drop(state);
        self.tell_all();
    }

    fn tell(&self, host: usize, who: Waits) {
        self.0.news[host][who as usize].notify_all();
    }

    fn tell_all(&self) {
        self.0.news.iter().flatten().for_each(Condvar::notify_all);
    }

    /// Nothing goes from `from` to `to` any more.
    pub fn cut(&self, from: usize, to: usize) {
        debug_assert_eq!(from, 1 - to);
        let mut state = self.0.state.lock();
        if std::mem::replace(&mut state.cut[from], true) {
            return;
        }
        state.turn += 1;
        scheduler::trace(|| format!("cut from {from}"));
        for index in 0..state.wires.len() {
            (0..2).for_each(|end| self.expect_silence(&state, index, end));
        }
    }

    /// What was held goes on.
    pub fn heal(&self, from: usize, to: usize) {
        debug_assert_eq!(from, 1 - to);
        let mut state = self.0.state.lock();
        if !std::mem::replace(&mut state.cut[from], false) {
            return;
        }
        state.turn += 1;
        scheduler::trace(|| format!("healed from {from}"));
        for index in 0..state.wires.len() {
            self.release(&mut state, index, from);
        }
    }

    /// From now on things take so long.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.0.state.lock().config.latency = latency;
    }

    /// From now on one message in so many, of those that are about trees, is cut short, lost, doubled or late: what no
    /// network does under TLS, and a partner with a bug may.
    pub fn spoil_talk(&self, one_in: Option<u64>) {
        self.0.state.lock().spoils_talk = one_in;
    }

    /// Resets every link, at each end at a time of its own.
    pub fn break_links(&self) {
        let state = self.0.state.lock();
        for index in 0..state.wires.len() {
            for end in 0..2 {
                self.end_later(index, end, state.latency(), End::PeerClosed);
            }
        }
    }

    /// Links that were made.
    pub fn links_made(&self) -> u64 {
        self.0.state.lock().wires.len() as u64
    }
}

/// How messages about trees begin: of a resync, of verify, of two sides of a split.
const TALK: [&[u8]; 3] = [b"TwRs", b"TwVf", b"TwSp"];

impl State {
    /// What becomes of a message from `host` on its way over a link.
    fn spoil(&mut self, link: usize, host: usize, mut message: Vec<u8>) -> Vec<Vec<u8>> {
        let late = self.late[host].take().filter(|(index, _)| *index == link).map(|(_, late)| late);
        let talk = TALK.iter().any(|magic| message.starts_with(magic));
        let Some(one_in) = self.spoils_talk.filter(|_| talk) else {
            return [message].into_iter().chain(late).collect();
        };
        if scheduler::random(one_in) > 0 {
            return [message].into_iter().chain(late).collect();
        }
        marks::note("talk of trees spoilt");
        match scheduler::random(4) {
            0 => message.truncate(scheduler::random(message.len() as u64) as usize),
            1 => return late.into_iter().collect(),
            2 => return [message.clone(), message].into_iter().chain(late).collect(),
            _ => {
                self.late[host] = Some((link, message));
                return late.into_iter().collect();
            }
        }
        [message].into_iter().chain(late).collect()
    }

    /// Time on the way; now and then much longer than usual.
    fn latency(&self) -> Duration {
        let Range { start, end } = self.config.latency;
        let spread = end.saturating_sub(start).as_nanos() as u64;
        let usual = start + Duration::from_nanos(scheduler::random(spread.max(1)));
        if scheduler::chance(10) { usual * (2 + scheduler::random(20) as u32) } else { usual }
    }

    fn is_cut(&self) -> bool {
        self.cut.contains(&true)
    }
}

/// A node's links.
struct Source {
    network: Network,
    host: usize,
    life: u64,
}

impl LinkSource for Source {
    fn connects(&self) -> bool {
        self.host == 0
    }

    fn next(
        &self,
        params: &LinkParams,
        _memory: Arc<dyn LogMemory>,
        wait: Duration,
    ) -> Result<Option<Link>, LinkError> {
        match self.connects() {
            true => self.connect(params).map(Some),
            false => Ok(self.accept(params, wait)),
        }
    }
}

impl Source {
    fn connect(&self, params: &LinkParams) -> Result<Link, LinkError> {
        let limit = params.tuning.handshake_timeout;
        let silent = || {
            scheduler::sleep(limit);
            LinkError::HandshakeTimeout { address: "simulated".to_owned(), limit }
        };
        // There and back.
        for _ in 0..2 {
            let latency = self.network.0.state.lock().latency();
            scheduler::sleep(latency);
            if self.network.0.state.lock().is_cut() {
                return Err(silent());
            }
        }
        let mut state = self.network.0.state.lock();
        if state.hosts[self.host].life != self.life {
            // Killed on the way: its threads end with their next step.
            return Err(LinkError::Closed);
        }
        let there = &state.hosts[1 - self.host];
        if there.life == 0 || !there.listens {
            let source = io::Error::from(io::ErrorKind::ConnectionRefused);
            return Err(LinkError::Io { what: "connecting", source });
        }
        let regions = [0, 1].map(|host| state.hosts[host].region.clone().expect("both hosts live"));
        let lives = [0, 1].map(|host| state.hosts[host].life);
        let index = state.wires.len();
        state.wires.push(Wire::new(regions, lives));
        let waiting = &mut state.hosts[1 - self.host].waiting;
        if waiting.len() == MAX_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(index);
        drop(state);
        scheduler::trace(|| format!("link {index} made"));
        self.network.tell(1 - self.host, Waits::Links);
        Ok(parts::link(&self.network, index, self.host, params))
    }

    fn accept(&self, params: &LinkParams, wait: Duration) -> Option<Link> {
        let until = scheduler::Instant::now() + wait;
        let mut state = self.network.0.state.lock();
        loop {
            let host = &mut state.hosts[self.host];
            if host.life != self.life {
                return None;
            }
            host.listens = true;
            // The newest: the others are not wanted any more.
            let newest = host.waiting.pop_back();
            host.waiting.clear();
            if let Some(index) = newest {
                drop(state);
                return Some(parts::link(&self.network, index, self.host, params));
            }
            let links = &self.network.0.news[self.host][Waits::Links as usize];
            if links.wait_until(&mut state, until).timed_out() {
                return None;
            }
        }
    }
}
