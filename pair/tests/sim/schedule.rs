//! The faults of a run as a list that is drawn from the seed before anything happens, so that a run can be
//! repeated with a part of it.

use crate::random::Random;
use crate::world::{Happening, World};
use pair::{Event, Operator};

const FIRST_MS: u64 = 2_000;
const PAUSE_MS: u64 = 1_500;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub at_ms: u64,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Power lost, back after a while.
    Crash {
        node: usize,
        for_ms: u64,
    },
    CrashBoth {
        for_ms: [u64; 2],
    },
    /// The same, and the log was in volatile memory; only while the other node may stand in.
    LoseLog {
        node: usize,
        for_ms: u64,
    },
    Cut,
    NetworkDown,
    NetworkUp,
    WitnessDown,
    WitnessUp,
    /// The witness's disk is replaced by an empty one.
    WitnessForgets,
    /// The witness comes back with its state from a backup, as old as it may be.
    WitnessRestored {
        back: usize,
    },
    Switchover {
        node: usize,
    },
    Stop {
        node: usize,
    },
    /// Data takes up to so long on its way, or to become durable at the partner; messages do not.
    SlowData {
        up_to_ms: u64,
    },
    /// SIGSTOP, and SIGCONT after a while.
    Pause {
        node: usize,
        for_ms: u64,
    },
    /// `takeover VOLUME --force`, whatever it risks.
    Force {
        node: usize,
    },
}

/// What kinds of faults a run has beside the common ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tier {
    pub log_loss: bool,
    pub force: bool,
    pub forget: bool,
    pub restore: bool,
}

pub fn draw(random: &mut Random, until_ms: u64, tier: Tier) -> Vec<Fault> {
    let mut schedule = Vec::new();
    let mut at_ms = FIRST_MS / 4 + random.below(FIRST_MS);
    while at_ms < until_ms {
        schedule.push(Fault { at_ms, kind: kind(random, tier) });
        // Often close together: what goes wrong needs two faults within one takeover.
        at_ms += if random.one_in(3) == 0 { random.below(60) } else { random.below(1_500) };
    }
    schedule
}

fn kind(random: &mut Random, tier: Tier) -> Kind {
    let node = random.below(2) as usize;
    match random.below(20) {
        0..=2 => Kind::Crash { node, for_ms: random.below(2_000) },
        3 => Kind::CrashBoth { for_ms: [random.below(3_000), random.below(3_000)] },
        4..=6 => Kind::Cut,
        7 => Kind::NetworkDown,
        8 | 9 => Kind::NetworkUp,
        10 => Kind::WitnessDown,
        11 => Kind::WitnessUp,
        12 => Kind::Switchover { node },
        13 => Kind::Stop { node },
        14 | 15 => Kind::SlowData { up_to_ms: [10, 100, 600, 1_500][random.below(4) as usize] },
        16 => Kind::Pause { node, for_ms: 100 + random.below(PAUSE_MS) },
        17 if tier.log_loss => Kind::LoseLog { node, for_ms: random.below(2_000) },
        18 if tier.force => Kind::Force { node },
        19 if tier.forget => Kind::WitnessForgets,
        19 if tier.restore => Kind::WitnessRestored { back: random.below(5) as usize },
        _ => Kind::Cut,
    }
}

impl World {
    pub fn strike(&mut self, fault: Fault) {
        if self.trace {
            eprintln!("{:>6} * {:?}", self.time_ms, fault.kind);
        }
        match fault.kind {
            Kind::Crash { node, for_ms } => self.crash_for(node, for_ms),
            Kind::CrashBoth { for_ms } => (0..2).for_each(|node| self.crash_for(node, for_ms[node])),
            Kind::LoseLog { node, for_ms } => {
                if self.may_lose_log(node) {
                    self.crash_for(node, for_ms);
                    self.nodes[node].lose_log();
                }
            }
            Kind::Cut => self.cut(),
            Kind::NetworkDown => {
                self.network_up = false;
                self.cut();
            }
            Kind::NetworkUp => self.network_up = true,
            Kind::WitnessDown => self.witness_up = false,
            Kind::WitnessUp => self.witness_up = true,
            Kind::WitnessForgets => self.register = None,
            Kind::WitnessRestored { back } => self.restore_witness(back),
            Kind::Switchover { node } => self.apply(node, Event::Operator(Operator::Switchover)),
            Kind::Stop { node } => {
                self.apply(node, Event::Shutdown);
                let drain_ms = self.nodes[node].config.timers.drain_timeout_ms;
                self.stops_by_ms = self.stops_by_ms.max(self.time_ms + 2 * drain_ms);
                self.at(6_000, Happening::Restart { node });
            }
            Kind::SlowData { up_to_ms } => self.data_ms = up_to_ms,
            Kind::Pause { node, for_ms } => self.nodes[node].paused_until_ms = self.time_ms + for_ms,
            Kind::Force { node } => {
                let n = &self.nodes[node];
                let possible = n.pair.as_ref().is_some_and(|pair| pair.can(Operator::ForceTakeover).is_ok());
                if possible && n.paused_until_ms <= self.time_ms {
                    self.oracle.forced = true;
                    self.apply(node, Event::Operator(Operator::ForceTakeover));
                }
            }
        }
    }

    fn crash_for(&mut self, node: usize, for_ms: u64) {
        self.crash(node);
        self.nodes[node].paused_until_ms = 0;
        self.at(for_ms, Happening::Restart { node });
    }

    /// One log at most is lost, and not one that holds something alone: that would be two faults too many.
    fn may_lose_log(&self, node: usize) -> bool {
        let other = &self.nodes[1 - node];
        let register = self.register.as_ref();
        let stands_in = register.is_some_and(|register| {
            register.mode == pair::witness::Mode::Mirrored || register.primary == other.name
        });
        let state = pair::DurableState::decode(&other.disk.state).unwrap();
        stands_in && state.in_sync && other.disk.survived && self.oracle.is_in(&other.disk.log)
    }
}
