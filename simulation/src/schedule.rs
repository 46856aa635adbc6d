//! The faults of a run as a list that is drawn from the seed before anything happens, so that a run can be repeated
//! with a part of it. Every fault ends by itself after its time.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Makes of a seed another one.
const FORGETFUL: u64 = 0x666f_7267_6574;

const DOUBLE_LOSS: u64 = 0x646f_7562_6c65;

/// One fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// When, in milliseconds of virtual time since the pair was mirrored.
    pub at_ms: u64,
    /// What.
    pub kind: Kind,
}

/// What goes wrong.
#[allow(missing_docs, reason = "`host` says where, `for_ms` how long")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A process dies; its machine goes on.
    Kill { host: usize, for_ms: u64 },
    /// Power is lost.
    PowerCut { host: usize, for_ms: u64 },
    /// Both at once.
    PowerCutBoth { for_ms: [u64; 2] },
    /// Nothing gets through from this host to the other.
    CutFrom { host: usize, for_ms: u64 },
    /// Nothing gets through either way.
    CutBoth { for_ms: u64 },
    /// The link breaks; a new one can be made at once.
    Break,
    /// A host reaches neither the other one nor the witness; its clients still reach it.
    Isolate { host: usize, for_ms: u64 },
    /// A host cannot reach the witness.
    WitnessAway { host: usize, for_ms: u64 },
    /// Nobody can.
    WitnessGone { for_ms: u64 },
    /// The witness comes back with the state that it had so many changes ago: one is a rolled back snapshot, more an
    /// older backup.
    WitnessRestored { back: usize },
    /// The witness comes back with nothing.
    WitnessEmptied,
    /// Messages and bytes take up to so long.
    SlowNetwork { up_to_us: u64, for_ms: u64 },
    /// Of what two nodes tell each other of their trees, one message in so many is cut short, lost, doubled or late.
    BadTalk { one_in: u64, for_ms: u64 },
    /// A process is stopped and goes on.
    Stall { host: usize, for_ms: u64 },
    /// A host's clocks change: how fast they run, and the wall clock jumps.
    Clock { host: usize, ppm: i64, jump_s: u64 },
    /// Changes and flushes take so many times longer.
    SlowDisk { host: usize, times: u32, for_ms: u64 },
    /// Changes and flushes fail.
    FailingDisk { host: usize, for_ms: u64 },
    /// Somebody else fills the disk.
    FullDisk { host: usize, for_ms: u64 },
    /// An operator hands over.
    Switchover { host: usize },
    /// An operator stops a node, and starts it again.
    Stop { host: usize, for_ms: u64 },
}

/// What may be drawn, by weight.
#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    weights: &'static [(u32, Drawn)],
    /// Longest pause between two faults.
    gap_ms: u64,
}

type Drawn = fn(&mut StdRng) -> Kind;

fn host(rng: &mut StdRng) -> usize {
    rng.random_range(0..2)
}

fn kill(rng: &mut StdRng) -> Kind {
    Kind::Kill { host: host(rng), for_ms: rng.random_range(0..2_000) }
}
fn power(rng: &mut StdRng) -> Kind {
    Kind::PowerCut { host: host(rng), for_ms: rng.random_range(0..2_500) }
}
fn power_both(rng: &mut StdRng) -> Kind {
    Kind::PowerCutBoth { for_ms: [0, 1].map(|_| rng.random_range(0..3_000)) }
}
fn long_power(rng: &mut StdRng) -> Kind {
    Kind::PowerCut { host: host(rng), for_ms: rng.random_range(1_500..5_000) }
}
fn cut_from(rng: &mut StdRng) -> Kind {
    Kind::CutFrom { host: host(rng), for_ms: rng.random_range(0..2_000) }
}
fn cut_both(rng: &mut StdRng) -> Kind {
    Kind::CutBoth { for_ms: rng.random_range(0..2_000) }
}
fn long_cut(rng: &mut StdRng) -> Kind {
    Kind::CutBoth { for_ms: rng.random_range(1_500..5_000) }
}
fn isolate(rng: &mut StdRng) -> Kind {
    Kind::Isolate { host: host(rng), for_ms: rng.random_range(300..2_500) }
}
fn breaks(_: &mut StdRng) -> Kind {
    Kind::Break
}
fn witness_away(rng: &mut StdRng) -> Kind {
    Kind::WitnessAway { host: host(rng), for_ms: rng.random_range(0..3_000) }
}
fn witness_gone(rng: &mut StdRng) -> Kind {
    Kind::WitnessGone { for_ms: rng.random_range(0..3_000) }
}
fn slow_network(rng: &mut StdRng) -> Kind {
    let up_to_us = [5_000, 50_000, 300_000][rng.random_range(0..3)];
    Kind::SlowNetwork { up_to_us, for_ms: rng.random_range(0..1_500) }
}
fn stall(rng: &mut StdRng) -> Kind {
    Kind::Stall { host: host(rng), for_ms: rng.random_range(50..1_500) }
}
fn clock(rng: &mut StdRng) -> Kind {
    Kind::Clock {
        host: host(rng),
        ppm: rng.random_range(-10_000..=10_000),
        jump_s: rng.random_range(0..100_000),
    }
}
fn slow_disk(rng: &mut StdRng) -> Kind {
    Kind::SlowDisk { host: host(rng), times: rng.random_range(10..200), for_ms: rng.random_range(100..3_000) }
}
fn failing_disk(rng: &mut StdRng) -> Kind {
    Kind::FailingDisk { host: host(rng), for_ms: rng.random_range(50..2_500) }
}
fn full_disk(rng: &mut StdRng) -> Kind {
    Kind::FullDisk { host: host(rng), for_ms: rng.random_range(50..2_500) }
}
fn switchover(rng: &mut StdRng) -> Kind {
    Kind::Switchover { host: host(rng) }
}
fn stop(rng: &mut StdRng) -> Kind {
    Kind::Stop { host: host(rng), for_ms: rng.random_range(0..2_000) }
}

impl Kinds {
    /// Everything that moves roles.
    pub const ROLES: Kinds = Kinds {
        weights: &[
            (4, kill),
            (4, power),
            (2, power_both),
            (3, cut_from),
            (4, cut_both),
            (3, isolate),
            (3, breaks),
            (2, witness_away),
            (2, witness_gone),
            (2, slow_network),
            (2, stall),
            (1, clock),
            (1, slow_disk),
            (3, switchover),
            (1, stop),
        ],
        gap_ms: 1_200,
    };
    /// Long absences, and what comes between.
    pub const ABSENCE: Kinds = Kinds {
        weights: &[
            (4, long_power),
            (4, long_cut),
            (2, kill),
            (2, power),
            (2, breaks),
            (1, stall),
            (1, witness_away),
            (1, slow_disk),
        ],
        gap_ms: 2_500,
    };
    /// Disks.
    pub const DISKS: Kinds = Kinds {
        weights: &[
            (3, slow_disk),
            (4, failing_disk),
            (4, full_disk),
            (2, kill),
            (2, power),
            (1, cut_both),
            (1, switchover),
        ],
        gap_ms: 1_500,
    };
    /// Volatile logs: power takes one away now and then.
    pub const VOLATILE: Kinds = Kinds {
        weights: &[
            (4, power),
            (3, kill),
            (2, cut_both),
            (2, breaks),
            (1, switchover),
            (1, witness_away),
            (1, stop),
        ],
        gap_ms: 2_000,
    };
}

/// A few times when the witness forgets, often soon after something that moved roles. Returns when the faults end now.
pub fn add_forgetfulness(faults: &mut Vec<Fault>, seed: u64, until_ms: u64) -> u64 {
    let rng = &mut StdRng::seed_from_u64(seed ^ FORGETFUL);
    for _ in 0..rng.random_range(1..=4) {
        let kind = match rng.random_range(0..4) {
            0 => Kind::WitnessEmptied,
            _ => Kind::WitnessRestored { back: rng.random_range(1..=4) },
        };
        let at_ms = match faults.get(rng.random_range(0..=faults.len())) {
            Some(after) => after.at_ms + rng.random_range(0..1_500),
            None => rng.random_range(200..until_ms),
        };
        faults.push(Fault { at_ms, kind });
    }
    let outdated = rng.random_bool(0.5);
    let until_ms = if outdated { add_outdated_survivor(faults, rng, until_ms) } else { until_ms };
    faults.sort_by_key(|fault| fault.at_ms);
    until_ms
}

/// Both nodes lose power, or their processes, at once or nearly so: what was answered and not synced may be gone then.
pub fn add_double_losses(faults: &mut Vec<Fault>, seed: u64, until_ms: u64) {
    let rng = &mut StdRng::seed_from_u64(seed ^ DOUBLE_LOSS);
    for _ in 0..rng.random_range(1..=3) {
        let at_ms = rng.random_range(200..until_ms);
        match rng.random_range(0..3) {
            0 => {
                let first = host(rng);
                let second_ms = at_ms + rng.random_range(0..60);
                faults.push(Fault {
                    at_ms,
                    kind: Kind::Kill { host: first, for_ms: rng.random_range(0..1_500) },
                });
                faults.push(Fault {
                    at_ms: second_ms,
                    kind: Kind::Kill { host: 1 - first, for_ms: rng.random_range(0..1_500) },
                });
            }
            _ => faults.push(Fault { at_ms, kind: power_both(rng) }),
        }
    }
    faults.sort_by_key(|fault| fault.at_ms);
}

/// One node comes back while the other, which went on alone, is down, and a register from before their last epochs tells it
/// that both have everything.
fn add_outdated_survivor(faults: &mut Vec<Fault>, rng: &mut StdRng, until_ms: u64) -> u64 {
    let (survivor, from_ms) = (host(rng), until_ms + 3_000);
    let to_restart_ms = rng.random_range(500..1_500);
    let (lost, killed) = (from_ms + 1_000, from_ms + 1_000 + rng.random_range(600..2_000));
    faults.extend([
        Fault { at_ms: from_ms, kind: Kind::Switchover { host: 0 } },
        Fault { at_ms: from_ms, kind: Kind::Switchover { host: 1 } },
        Fault { at_ms: lost, kind: Kind::Kill { host: survivor, for_ms: killed - lost + to_restart_ms } },
        Fault { at_ms: killed, kind: Kind::Kill { host: 1 - survivor, for_ms: 10_000 } },
        Fault { at_ms: killed + 1, kind: Kind::WitnessRestored { back: rng.random_range(2..=6) } },
    ]);
    killed + to_restart_ms + rng.random_range(3_000..6_000)
}

/// Draws a schedule.
pub fn draw(rng: &mut StdRng, until_ms: u64, kinds: Kinds) -> Vec<Fault> {
    let total: u32 = kinds.weights.iter().map(|(weight, _)| weight).sum();
    let mut faults = Vec::new();
    let mut at_ms = rng.random_range(200..1_500);
    while at_ms < until_ms {
        let mut left = rng.random_range(0..total);
        let drawn = kinds.weights.iter().find(|(weight, _)| {
            let found = left < *weight;
            left = left.saturating_sub(*weight);
            found
        });
        let (_, kind) = drawn.expect("the weights sum up to the total");
        faults.push(Fault { at_ms, kind: kind(rng) });
        // Often close together: what goes wrong needs two faults within one takeover.
        at_ms += if rng.random_range(0..3) == 0 {
            rng.random_range(0..60)
        } else {
            rng.random_range(0..kinds.gap_ms)
        };
    }
    faults
}
