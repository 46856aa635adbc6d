//! From a seed that fails to the shortest schedule that still does, and the command that plays it again.

use crate::minimise::minimise;
use crate::plan::Plan;
use crate::schedule::Fault;
use crate::world::{self, Report};
use runtime::canary::Canary;

/// Runs that shortening may take.
const MAX_TRIES: usize = 200;

/// A seed that failed, shortened.
#[derive(Debug)]
pub struct Finding {
    /// The seed.
    pub seed: u64,
    /// What failed, with the whole schedule.
    pub failure: String,
    /// Places in the seed's schedule of the faults that are needed.
    pub kept: Vec<usize>,
    /// Those.
    pub faults: Vec<Fault>,
    /// How many there were.
    pub drawn: usize,
    /// What plays it again.
    pub command: String,
}

/// Runs a plan on a thread of its own, so that what hash tables do follows from the seed alone.
pub fn run(plan: &Plan, faults: &[Fault], planted: Option<Canary>, trace: bool) -> Report {
    crate::seeds::alone(plan.seed, || world::run(plan, faults, planted, trace))
}

/// The faults at these places of a plan's schedule.
pub fn kept(plan: &Plan, places: &[usize]) -> Vec<Fault> {
    places.iter().filter_map(|place| plan.faults.get(*place).copied()).collect()
}

/// Shortens the schedule of a seed that failed.
pub fn shorten(seed: u64, planted: Option<Canary>, failure: String) -> Finding {
    let plan = Plan::of(seed);
    let all: Vec<usize> = (0..plan.faults.len()).collect();
    let fails = |places: &[usize]| run(&plan, &kept(&plan, places), planted, false).failure.is_some();
    let places = minimise(&all, MAX_TRIES, fails);
    let list: Vec<String> = places.iter().map(usize::to_string).collect();
    let canary = planted.map_or(String::new(), |canary| format!(" --canary {canary:?}"));
    let command = format!("cargo xtask sim --seed {seed} --keep={}{canary} --trace", list.join(","));
    let faults = kept(&plan, &places);
    Finding { seed, failure, kept: places, faults, drawn: plan.faults.len(), command }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.failure)?;
        writeln!(f, "still with {} of {} faults:", self.faults.len(), self.drawn)?;
        for fault in &self.faults {
            writeln!(f, "    {:>6} ms {:?}", fault.at_ms, fault.kind)?;
        }
        write!(f, "replay: {}", self.command)
    }
}
