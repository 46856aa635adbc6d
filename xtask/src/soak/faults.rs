//! `cargo xtask soak --faults N`: a pair under load goes through N random faults in a row, of every kind that can be
//! had on one machine ([`plan`]). After each the pair must be mirrored again by itself, and every client finds all that
//! it was acknowledged, by content; meanwhile others write and read on both mounts ([`probe`]). At the end both local
//! trees are equal and hold what was promised.
//!
//! What can go wrong beside the pair: the machine is too slow for the limits; then the error says which.

mod act;
mod intruder;
mod plan;
mod probe;
mod refuse;

use super::{LOG_BYTES, Soak, finish, loads, spread};
use crate::cluster::{Cluster, Options, wait};
use crate::interrupt;
use crate::load::fleet::Fleet;
use crate::random::Random;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use plan::{Fault, faults};
use probe::Probe;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Length of each log: an outage of some seconds under load fits. It wraps many times.
pub const FAULTS_LOG_BYTES: u64 = LOG_BYTES / 4;

/// What the faults of a soak did.
#[derive(Default)]
pub struct Seen {
    without_service: BTreeMap<String, Vec<Duration>>,
    healed: Vec<Duration>,
    reads: u64,
}

impl Seen {
    /// How many faults there were.
    pub fn count(&self) -> u64 {
        self.healed.len() as u64
    }

    /// For the summary.
    pub fn to_json(&self) -> Value {
        let kinds: BTreeMap<&String, Value> =
            self.without_service.iter().map(|(kind, times)| (kind, spread(times))).collect();
        json!({
            "count": self.count(),
            "without_service_ms": kinds,
            "until_clients_had_checked_everything_ms": spread(&self.healed),
            "reads_compared": self.reads,
        })
    }
}

impl Soak {
    /// Goes through faults on one filesystem.
    pub(super) fn faults(
        &mut self,
        options: Options,
        mut random: Random,
        count: u64,
        only: Option<&str>,
    ) -> Result<()> {
        let plan = faults(&mut random, count, options.filesystem, only)?;
        self.on_cluster(options, |soak, cluster, outside| soak.go_through(cluster, outside, &random, &plan))
    }

    fn go_through(
        &mut self,
        cluster: &mut Cluster,
        outside: &Path,
        random: &Random,
        plan: &[Fault],
    ) -> Result<()> {
        let mut primary = cluster.wait_mirrored(wait::LIMIT)?;
        let mut fleet = Fleet::start(loads(random, outside)?)?;
        fleet.send_to(&cluster.mount_path(primary));
        fleet.wait_verified(|| cluster.check_alive())?;
        let probe = Probe::start(crate::cluster::Side::BOTH.map(|side| cluster.mount_path(side)))?;
        let mut noise = random.fork(7);
        let bar = ProgressBar::new(plan.len() as u64);
        bar.set_style(ProgressStyle::with_template("  {bar:24} {pos}/{len} faults  {msg}")?);
        for (number, fault) in plan.iter().enumerate() {
            if self.is_over() {
                break;
            }
            let name = fault.kind.name();
            bar.set_message(format!("{} operations; {name}", fleet.acknowledged()));
            interrupt::sleep(fault.work)?;
            probe.reset();
            let began = Instant::now();
            let outcome = act::run(cluster, &mut fleet, primary, fault, &mut noise)
                .and_then(|after| probe.check().map(|()| after));
            primary = outcome.with_context(|| format!("fault {number}: {fault:?}"))?;
            let (without, healed) = (probe.without_service(), began.elapsed());
            let line = format!(
                "  {}: {number} {name}: {:.0} ms without service, all checked after {:.1} s",
                cluster.filesystem().name(),
                without.as_secs_f64() * 1e3,
                healed.as_secs_f64()
            );
            bar.println(&line);
            if bar.is_hidden() {
                eprintln!("{line}");
            }
            self.summary.faults.without_service.entry(name).or_default().push(without);
            self.summary.faults.healed.push(healed);
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.summary.faults.reads += probe.reads();
        probe.stop()?;
        finish(&mut self.summary, cluster, fleet, primary)
    }
}
