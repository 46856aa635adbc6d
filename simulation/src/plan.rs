//! What a seed decides before anything happens: what the pair is like, what its clients do, and the faults.

use crate::schedule::{self, Fault, Kinds};
use crate::witness::Keeper;
use apply_engine::simulation::Refusing;
use ids::AnswerFrom;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// In one seed of so many the witness forgets.
const FORGETFUL_ONE_IN: u64 = 5;

/// Seeds with these rests by 7 have a cluster of etcd. (Not those that found a bug once: they stay what they were.)
const ETCD_RESTS: [u64; 3] = [0, 3, 6];

/// Which faults a run is about, beside the common ones: each needs a pair and a load of its own to lead anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Theme {
    /// Processes, power, links, the witness, clocks, operators: close together.
    Roles,
    /// Nodes that are away for longer than the log reaches back.
    Absence,
    /// Disks that are slow, full or failing.
    Disks,
    /// Logs in memory that does not survive power.
    VolatileLogs,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What it is about.
    pub theme: Theme,
    /// The faults, in order of time.
    pub faults: Vec<Fault>,
    /// When faults end, in milliseconds of virtual time since the pair was mirrored.
    pub until_ms: u64,
    /// Clients.
    pub clients: usize,
    /// Longest pause of a client between two operations, in microseconds.
    pub think_us: u64,
    /// Length of both rings.
    pub capacity_bytes: u64,
    /// Time between two consistency points.
    pub point_ms: u64,
    /// Memory that a Delta may take; so little that a start takes many pieces, in most runs.
    pub point_memory: u64,
    /// The primary's adapter knows by itself when bytes are durable at the partner.
    pub one_sided: bool,
    /// Parts per million by which each node's clock runs fast.
    pub clock_ppm: [i64; 2],
    /// Time that bytes and messages take, at least and at most, in microseconds.
    pub latency_us: [u64; 2],
    /// Time that a flush takes at most, in microseconds.
    pub flush_us: u64,
}

impl Plan {
    /// What this seed decides.
    pub fn of(seed: u64) -> Plan {
        let rng = &mut StdRng::seed_from_u64(seed);
        let theme = match rng.random_range(0..10) {
            0..5 => Theme::Roles,
            5..8 => Theme::Absence,
            8 => Theme::Disks,
            _ => Theme::VolatileLogs,
        };
        let mut until_ms = rng.random_range(3_000..8_000);
        let kinds = match theme {
            Theme::Roles => Kinds::ROLES,
            Theme::Absence => Kinds::ABSENCE,
            Theme::Disks => Kinds::DISKS,
            Theme::VolatileLogs => Kinds::VOLATILE,
        };
        let mut faults = schedule::draw(rng, until_ms, kinds);
        if is_forgetful(seed) && theme != Theme::VolatileLogs {
            // Drawn on their own: the rest of a seed is what it would be without them.
            until_ms = schedule::add_forgetfulness(&mut faults, seed, until_ms);
        }
        if answers_from_memory(seed) && theme != Theme::VolatileLogs {
            schedule::add_double_losses(&mut faults, seed, until_ms);
        }
        let busy = theme == Theme::Absence;
        let slowest = [200, 2_000, 20_000][rng.random_range(0..3)];
        Plan {
            seed,
            theme,
            faults,
            until_ms,
            clients: rng.random_range(1..=3),
            think_us: if busy { 3_000 } else { [2_000, 10_000, 40_000][rng.random_range(0..3)] },
            capacity_bytes: if busy { 256 << 10 } else { [256 << 10, 1 << 20][rng.random_range(0..2)] },
            point_ms: [50, 200, 1_000][rng.random_range(0..3)],
            // Of its own, so that a seed is still about what it was about.
            point_memory: [4 << 10, 64 << 10, 256 << 20][(seed % 3) as usize],
            one_sided: rng.random_bool(0.3),
            clock_ppm: [0, 1].map(|_| rng.random_range(-10_000..=10_000)),
            latency_us: [20, slowest],
            flush_us: [500, 5_000, 40_000][rng.random_range(0..3)],
        }
    }

    /// What a host's disk refuses for good: in one seed of four, one change in so many, on each host others.
    pub fn refusing(&self, host: usize) -> Option<Refusing> {
        let one_in = 24;
        (self.seed % 4 == 3).then_some(Refusing { seed: self.seed ^ host as u64, one_in })
    }

    /// What answers wait for: in one seed of four, where the partner's processor acknowledges, both nodes' memory.
    pub fn answer(&self) -> AnswerFrom {
        match answers_from_memory(self.seed) && !self.one_sided && !self.volatile_logs() {
            true => AnswerFrom::Memory,
            false => AnswerFrom::Power,
        }
    }

    /// Who keeps the register.
    pub fn keeper(&self) -> Keeper {
        if ETCD_RESTS.contains(&(self.seed % 7)) { Keeper::Etcd } else { Keeper::BuiltIn }
    }

    /// Whether the witness forgets, as the other faults go on.
    pub fn is_forgetful(&self) -> bool {
        is_forgetful(self.seed) && !self.volatile_logs()
    }

    /// Whether power takes the logs away.
    pub fn volatile_logs(&self) -> bool {
        self.theme == Theme::VolatileLogs
    }
}

fn is_forgetful(seed: u64) -> bool {
    seed.is_multiple_of(FORGETFUL_ONE_IN)
}

/// Of these seeds both nodes answer out of memory, if their logs and links let them. (Not those that found a bug once.)
fn answers_from_memory(seed: u64) -> bool {
    seed % 4 == 2
}
