//! `cargo xtask soak`: SIGKILL to random processes of a pair under load, again and again, over loop-mounted ext4,
//! XFS and btrfs. After each takeover and at the end everything that was acknowledged is checked by content, and
//! both local trees are compared with each other and with what was promised.
//!
//! Each wait has a limit; what does not come in time ends the soak with the status of both nodes and the last
//! lines of all logs. The seed is printed first and fixes the plan ([`plan`]). With `--faults` the pair goes through
//! faults of all kinds instead ([`faults`]).

mod faults;
mod plan;
mod round;

use crate::cluster::disk::Filesystem;
use crate::cluster::{Cluster, Options, Side, wait};
use crate::load::Load;
use crate::load::blocks::{Blocks, Latencies};
use crate::load::fleet::{Fleet, check_copies};
use crate::load::sqlite::{JournalMode, Sqlite};
use crate::oracle::writer::Writer;
use crate::packages;
use crate::random::Random;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use plan::{Round, rounds};
use round::Times;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Length of each log: it reaches over an outage of some seconds under full load, and wraps now and then.
const LOG_BYTES: u64 = 512 << 20;

/// How many threads do random operations.
const WRITERS: u64 = 4;

/// Pause of a writer after each step, so that the processes under test get the processors too.
const PAUSE: Duration = Duration::from_micros(500);

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// How many processes are killed in all
    #[arg(long, default_value_t = 60)]
    pub kills: u64,
    /// Go through this many random faults of all kinds instead, in all
    #[arg(long, conflicts_with = "kills")]
    pub faults: Option<u64>,
    /// Only faults whose name begins so (`disk hangs`, `unmounted`, …; each run prints the names)
    #[arg(long, requires = "faults")]
    pub only: Option<String>,
    /// Replays a plan; default: a new one
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop after this many seconds even if fewer processes were killed
    #[arg(long)]
    pub seconds: Option<u64>,
    /// What the local trees lie on, one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["ext4", "xfs", "btrfs"])]
    pub fs: Vec<Filesystem>,
    /// How log bytes reach the partner
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "shm"])]
    pub transport: String,
    /// Use this program instead of building twinfiler
    #[arg(long)]
    pub program: Option<PathBuf>,
}

impl Arguments {
    /// A new plan with this program, on all filesystems: so many kills, or faults of all kinds instead.
    pub fn unattended(program: &Path, kills: u64, faults: Option<u64>) -> Arguments {
        Arguments {
            kills,
            faults,
            only: None,
            seed: None,
            seconds: None,
            fs: Filesystem::REAL.to_vec(),
            transport: "tcp".to_owned(),
            program: Some(program.to_path_buf()),
        }
    }
}

/// Runs the soak and prints a summary as JSON.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    println!("{}", perform(workspace, arguments)?.to_json(true));
    Ok(())
}

/// Runs the soak.
pub fn perform(workspace: &Workspace, arguments: &Arguments) -> Result<Summary> {
    packages::require_root_and_fuse()?;
    if arguments.fs.is_empty() {
        bail!("name at least one filesystem");
    }
    let mut needs = packages::WORKLOAD.to_vec();
    if arguments.faults.is_some() {
        needs.extend(packages::FAULTS);
    }
    arguments.fs.iter().for_each(|fs| needs.extend(packages::for_filesystem(fs.name())));
    packages::ensure(&needs, &workspace.log_dir())?;
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => workspace.build_daemon(true)?,
    };
    let clock = || {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64 % 1_000_000)
    };
    let seed = arguments.seed.unwrap_or_else(clock);
    let what = match arguments.faults {
        Some(faults) => match &arguments.only {
            Some(only) => format!("--faults {faults} --only '{only}'"),
            None => format!("--faults {faults}"),
        },
        None => format!("--kills {}", arguments.kills),
    };
    let on: Vec<&str> = arguments.fs.iter().map(|fs| fs.name()).collect();
    eprintln!("soak: seed {seed}; replay with `cargo xtask soak --seed {seed} {what} --fs {}`", on.join(","));
    let mut soak = Soak {
        logs: workspace.log_dir(),
        deadline: arguments.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        summary: Summary { seed, ..Summary::default() },
    };
    let random = Random::new(seed);
    for (number, filesystem) in arguments.fs.iter().enumerate() {
        // What is left, in equal parts: a round may kill one process more than its part.
        let parts = (arguments.fs.len() - number) as u64;
        let part = |all: u64, done: u64| all.saturating_sub(done).div_ceil(parts);
        let with_faults = arguments.faults.is_some();
        let options = Options {
            program: program.clone(),
            filesystem: *filesystem,
            transport: arguments.transport.clone(),
            log_bytes: if with_faults { faults::FAULTS_LOG_BYTES } else { LOG_BYTES },
            keep: false,
            wire: with_faults,
            suspendable: with_faults,
        };
        let (summary, random) = (&soak.summary, random.fork(number as u64));
        let outcome = match arguments.faults {
            Some(count) => {
                let count = part(count, summary.faults.count());
                soak.faults(options, random, count, arguments.only.as_deref())
            }
            None => {
                let kills = part(arguments.kills, summary.killed);
                soak.filesystem(options, random, kills)
            }
        };
        if let Err(error) = outcome {
            eprintln!("until then: {}", soak.summary.to_json(false));
            return Err(error.context(format!("soak with seed {seed} on {} failed", filesystem.name())));
        }
    }
    Ok(soak.summary)
}

struct Soak {
    logs: PathBuf,
    deadline: Option<Instant>,
    summary: Summary,
}

impl Soak {
    fn filesystem(&mut self, options: Options, mut random: Random, kills: u64) -> Result<()> {
        let plan = rounds(&mut random, kills);
        self.on_cluster(options, |soak, cluster, outside| soak.rounds(cluster, outside, &random, &plan))
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn on_cluster(
        &mut self,
        options: Options,
        act: impl FnOnce(&mut Soak, &mut Cluster, &Path) -> Result<()>,
    ) -> Result<()> {
        let name = options.filesystem.name();
        let outside = tempfile::Builder::new().prefix("twinfiler-outside-").tempdir()?;
        let mut cluster = Cluster::start(options)?;
        let outcome = act(self, &mut cluster, outside.path());
        if outcome.is_err() {
            let saved = self.logs.join("soak-failed");
            cluster.save_logs(&saved)?;
            return outcome.with_context(|| format!("logs are in {}", saved.display()));
        }
        self.summary.filesystems.push(name);
        Ok(())
    }

    fn rounds(
        &mut self,
        cluster: &mut Cluster,
        outside: &Path,
        random: &Random,
        plan: &[Round],
    ) -> Result<()> {
        let mut primary = cluster.wait_mirrored(wait::LIMIT)?;
        let mut fleet = Fleet::start(loads(random, outside)?)?;
        fleet.send_to(&cluster.mount_path(primary));
        fleet.wait_verified(|| cluster.check_alive())?;
        let bar = ProgressBar::new(plan.len() as u64);
        bar.set_style(ProgressStyle::with_template("  {bar:24} {pos}/{len} rounds  {msg}")?);
        for (number, round) in plan.iter().enumerate() {
            if self.is_over() {
                break;
            }
            bar.set_message(format!("{} operations; killing: {}", fleet.acknowledged(), round.victim.name()));
            let outcome = round::run(cluster, &mut fleet, primary, round);
            let (after, times) = outcome.with_context(|| format!("round {number}: {round:?}"))?;
            primary = after;
            self.summary.record(round, times);
            bar.inc(1);
        }
        bar.finish_and_clear();
        finish(&mut self.summary, cluster, fleet, primary)
    }
}

/// Stops the clients; both local trees must be equal and hold what was promised, and both nodes end cleanly.
fn finish(summary: &mut Summary, cluster: &mut Cluster, fleet: Fleet, primary: Side) -> Result<()> {
    summary.acknowledged += fleet.acknowledged();
    summary.checked += fleet.checked();
    fleet.check_undisturbed()?;
    let mut loads = fleet.stop()?;
    cluster.settle()?;
    let trees = cluster.compare_trees()?;
    if !trees.differences.is_empty() {
        bail!("the local trees differ:\n{}", trees.differences.join("\n"));
    }
    let paths = Side::BOTH.map(|side| cluster.base_path(side));
    let (compared, lost) = check_copies(&mut loads, &[&paths[0], &paths[1]])?;
    summary.checked += compared + trees.entries;
    if !lost.is_empty() {
        bail!("the local trees do not hold what was acknowledged:\n{}", lost.join("\n"));
    }
    cluster.stop_cleanly(primary)
}

fn loads(random: &Random, outside: &Path) -> Result<Vec<Box<dyn Load>>> {
    let mut loads: Vec<Box<dyn Load>> = vec![
        Box::new(Blocks::new(random.fork(1), Latencies::new()?, PAUSE)),
        Box::new(Sqlite::new(JournalMode::Delete, outside)),
    ];
    for number in 0..WRITERS {
        loads.push(Box::new(Writer::new(&format!("writer-{number}"), random.fork(100 + number), PAUSE)));
    }
    Ok(loads)
}

/// What a soak did.
#[derive(Default)]
pub struct Summary {
    seed: u64,
    filesystems: Vec<&'static str>,
    victims: BTreeMap<&'static str, u64>,
    killed: u64,
    acknowledged: u64,
    checked: u64,
    takeovers: Vec<Duration>,
    rejoins: Vec<Duration>,
    faults: faults::Seen,
}

impl Summary {
    /// How many rounds and faults were gone through.
    pub fn rounds(&self) -> u64 {
        self.victims.values().sum::<u64>() + self.faults.count()
    }

    fn record(&mut self, round: &Round, times: Times) {
        *self.victims.entry(round.victim.name()).or_default() += 1;
        self.killed += round.victim.kills();
        self.takeovers.extend(times.takeover);
        self.rejoins.extend(times.rejoin);
    }

    fn to_json(&self, passed: bool) -> Value {
        json!({
            "passed": passed,
            "seed": self.seed,
            "kills": self.killed,
            "rounds_by_victim": self.victims,
            "filesystems_completed": self.filesystems,
            "acknowledged_operations": self.acknowledged,
            "checked": self.checked,
            "takeover_ms": spread(&self.takeovers),
            "rejoin_ms": spread(&self.rejoins),
            "faults": self.faults.to_json(),
        })
    }
}

fn spread(times: &[Duration]) -> Value {
    let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return Value::Null };
    json!({"min": first, "median": sorted[sorted.len() / 2], "max": last, "count": sorted.len()})
}
