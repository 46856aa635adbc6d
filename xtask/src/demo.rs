//! `cargo xtask demo`: a pair and a witness on this machine, real work through the mount, the primary killed in
//! the middle, everything acknowledged checked by content on the other node, and both local trees compared.
//!
//! Passes only if nothing was lost, no client saw an error it must not see, and the trees are equal. Whatever
//! happens, processes, mounts and loop devices are gone afterwards, unless `--keep` asks for the contrary.

mod keep;
mod outcome;
mod takeover;

use crate::cluster::disk::Filesystem;
use crate::cluster::{Cluster, Options, Side, wait};
use crate::interrupt;
use crate::load::blocks::{Blocks, Latencies};
use crate::load::fleet::{Fleet, check_copies};
use crate::load::sqlite::{JournalMode, Sqlite};
use crate::load::{Load, archive::Archive, git::Git};
use crate::oracle::perform::clear_umask;
use crate::oracle::writer::Writer;
use crate::packages;
use crate::random::Random;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use outcome::Outcome;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Length of each log.
const LOG_BYTES: u64 = 128 << 20;

/// How many threads do random operations.
const WRITERS: u64 = 3;

/// Pause of a writer and of the overwrites after each step: a busy machine, not a flooded one.
const PAUSE: Duration = Duration::from_millis(1);

/// The archive that is unpacked is the largest one up to this size.
const MAX_ARCHIVE_BYTES: u64 = 2 << 20;

/// Where the kernel lists RDMA devices.
const RDMA_DEVICES: &str = "/sys/class/infiniband";

/// How often the progress line is renewed.
const REDRAW: Duration = Duration::from_millis(100);

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
    /// Leave the pair running at the end, and say how to use and how to stop it
    #[arg(long)]
    pub keep: bool,
    /// What the local trees lie on
    #[arg(long, value_enum, default_value = "ext4")]
    pub fs: Filesystem,
    /// How log bytes reach the partner
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "shm", "verbs"])]
    pub transport: String,
    /// Seconds of work before the primary is killed
    #[arg(long, default_value_t = 8)]
    pub seconds: u64,
    /// Seed of the random operations
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Use this program instead of building twinfiler
    #[arg(long)]
    pub program: Option<PathBuf>,
}

/// Runs the demo and shows its outcome. An error or a failed outcome is an error.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let outcome = perform(workspace, arguments)?;
    if arguments.json {
        println!("{}", outcome.to_json());
    } else {
        print!("{}", outcome.to_text());
    }
    eprint!("{}", outcome.hint);
    if !outcome.passed() {
        bail!("the demo failed; logs are in {}", failure_dir(workspace).display());
    }
    Ok(())
}

/// Refuses what this machine cannot show.
fn require_device(transport: &str, devices: &Path) -> Result<()> {
    let has_device = || std::fs::read_dir(devices).is_ok_and(|mut entries| entries.next().is_some());
    if transport != "verbs" || has_device() {
        return Ok(());
    }
    bail!(
        "this machine has no RDMA device. Show it in two virtual machines: `cargo run --release -p soft-roce-ci -- run \
         mirrored-commit`. Or make a device of an Ethernet port, where the kernel has Soft-RoCE: `modprobe rdma_rxe; \
         rdma link add rxe0 type rxe netdev INTERFACE`"
    )
}

/// Runs the demo. A failed outcome is no error here.
pub fn perform(workspace: &Workspace, arguments: &Arguments) -> Result<Outcome> {
    let logs = workspace.log_dir();
    packages::require_root_and_fuse()?;
    require_device(&arguments.transport, Path::new(RDMA_DEVICES))?;
    let needs = [packages::WORKLOAD, packages::for_filesystem(arguments.fs.name())].concat();
    packages::ensure(&needs, &logs)?;
    let say = Narrator::new(arguments.json);
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => {
            say.line("building twinfiler (release)");
            packages::ensure(packages::BUILD, &logs)?;
            workspace.build_daemon(true)?
        }
    };
    let outside = tempfile::Builder::new().prefix("twinfiler-outside-").tempdir()?;
    let options = Options {
        program,
        filesystem: arguments.fs,
        transport: arguments.transport.clone(),
        log_bytes: LOG_BYTES,
        keep: arguments.keep,
        wire: false,
        suspendable: false,
    };
    say.line(&format!("starting two nodes and a witness ({}, {})", arguments.fs.name(), arguments.transport));
    let mut cluster = Cluster::start(options)?;
    let outcome = scenario(&mut cluster, workspace, arguments, outside.path(), &say);
    if !outcome.as_ref().is_ok_and(Outcome::passed) {
        cluster.save_logs(&failure_dir(workspace))?;
    }
    let mut outcome = outcome
        .with_context(|| format!("the demo failed; logs are in {}", failure_dir(workspace).display()))?;
    if arguments.keep {
        outcome.hint = keep::hint(&cluster);
    }
    Ok(outcome)
}

fn failure_dir(workspace: &Workspace) -> PathBuf {
    workspace.log_dir().join("demo-failed")
}

fn scenario(
    cluster: &mut Cluster,
    workspace: &Workspace,
    arguments: &Arguments,
    outside: &Path,
    say: &Narrator,
) -> Result<Outcome> {
    let primary = cluster.wait_mirrored(wait::LIMIT)?;
    if primary != Side::A {
        bail!("node b is primary of a fresh pair, although node a is the preferred one");
    }
    let mut outcome = Outcome::new(arguments, cluster.status(Side::A)?.acknowledgement());
    let latencies = Latencies::new()?;
    let mut fleet = Fleet::start(loads(workspace, outside, arguments.seed, &latencies)?)?;
    fleet.send_to(&cluster.mount_path(Side::A));
    say.work("working on node a", Duration::from_secs(arguments.seconds), cluster, &fleet, &latencies)?;
    fleet.check_undisturbed()?;
    outcome.latency = Some(latencies.snapshot());
    outcome.acknowledged_before_kill = fleet.acknowledged();

    say.line("SIGKILL to node a, in the middle of all this");
    outcome.takeover = Some(takeover::kill_and_watch(cluster, Side::A)?);
    fleet.hold()?;
    say.line("node b serves; checking every acknowledged operation there by content");
    fleet.send_to(&cluster.mount_path(Side::B));
    let verified = fleet.wait_verified(|| cluster.check_alive());
    outcome.record_findings(&fleet);
    if verified.is_err() {
        return if outcome.passed_so_far() { verified.map(|()| outcome) } else { Ok(outcome) };
    }

    say.line("node a comes back while clients go on");
    let restarted = Instant::now();
    cluster.start_node(Side::A)?;
    let primary = cluster.wait_mirrored(wait::LIMIT)?;
    outcome.rejoin = Some(restarted.elapsed());
    if primary != Side::B {
        bail!("node a took the volume back without being asked");
    }
    say.work("mirrored again, working on node b", Duration::from_secs(2), cluster, &fleet, &latencies)?;
    fleet.check_undisturbed()?;
    outcome.per_load = fleet.per_load();
    outcome.record_findings(&fleet);

    say.line("stopping clients, comparing both local trees");
    let mut loads = fleet.stop()?;
    cluster.settle()?;
    outcome.trees = Some(cluster.compare_trees()?);
    let trees = Side::BOTH.map(|side| cluster.base_path(side));
    let (compared, lost) = check_copies(&mut loads, &[&trees[0], &trees[1]])?;
    outcome.checked += compared;
    outcome.lost.extend(lost);
    if !arguments.keep {
        cluster.stop_cleanly(Side::B)?;
    }
    Ok(outcome)
}

fn loads(
    workspace: &Workspace,
    outside: &Path,
    seed: u64,
    latencies: &Latencies,
) -> Result<Vec<Box<dyn Load>>> {
    // Before anything is unpacked: the copy for reference and those on the volume must get the same modes.
    clear_umask();
    let random = Random::new(seed);
    let archive = pick_archive(workspace, outside)?;
    let reference = outside.join("reference");
    let mut loads: Vec<Box<dyn Load>> = vec![
        Box::new(Blocks::new(random.fork(1), latencies.clone(), PAUSE)),
        Box::new(Archive::new(&archive, &reference)?),
        Box::new(Git::new(&reference, &outside.join("logs"), random.fork(2))?),
        Box::new(Sqlite::new(JournalMode::Delete, outside)),
        Box::new(Sqlite::new(JournalMode::Wal, outside)),
    ];
    for number in 0..WRITERS {
        let name = format!("writer-{number}");
        loads.push(Box::new(Writer::new(&name, random.fork(100 + number), PAUSE)));
    }
    Ok(loads)
}

/// A real source archive: one that cargo has downloaded to build this, else one made of this repository.
fn pick_archive(workspace: &Workspace, outside: &Path) -> Result<PathBuf> {
    let fits = |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.len() <= MAX_ARCHIVE_BYTES);
    if let Some(archive) = workspace.downloaded_archives().into_iter().find(fits) {
        return Ok(archive);
    }
    let made = outside.join("twinfiler.crate");
    let mut tar = std::process::Command::new("tar");
    tar.arg("-czf").arg(&made).arg("-C").arg(workspace.root()).args([
        "--exclude=./target",
        "--exclude=./.git",
        ".",
    ]);
    crate::steps::run(&outside.join("logs"), "tar", &mut tar, wait::LIMIT)
        .context("cannot make an archive")?;
    Ok(made)
}

/// Says on standard error what is going on.
struct Narrator {
    started: Instant,
    quiet: bool,
}

impl Narrator {
    fn new(quiet: bool) -> Self {
        Narrator { started: Instant::now(), quiet }
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            eprintln!("[{:6.1}s] {text}", self.started.elapsed().as_secs_f64());
        }
    }

    /// Lets the loads work for a while under a live line of progress.
    fn work(
        &self,
        text: &str,
        duration: Duration,
        cluster: &mut Cluster,
        fleet: &Fleet,
        latencies: &Latencies,
    ) -> Result<()> {
        fleet.wait_verified(|| cluster.check_alive())?;
        self.line(text);
        let bar =
            if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(duration.as_millis() as u64) };
        bar.set_style(ProgressStyle::with_template("          {bar:24} {msg}")?);
        let started = Instant::now();
        while started.elapsed() < duration {
            interrupt::sleep(REDRAW)?;
            fleet.check()?;
            cluster.check_alive()?;
            bar.set_position(started.elapsed().as_millis() as u64);
            let histogram = latencies.snapshot();
            let quantile = |q| histogram.value_at_quantile(q) as f64 / 1000.0;
            bar.set_message(format!(
                "{} operations acknowledged; 4 KiB write p50 {:.0} µs, p99 {:.0} µs",
                fleet.acknowledged(),
                quantile(0.5),
                quantile(0.99)
            ));
        }
        bar.finish_and_clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_wants_a_device_and_says_where_else_it_can_be_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert!(require_device("tcp", dir.path()).is_ok());
        let error = require_device("verbs", dir.path()).unwrap_err().to_string();
        assert!(error.contains("soft-roce-ci") && error.contains("rdma link add"), "{error}");
        assert!(require_device("verbs", &dir.path().join("none")).is_err());
        std::fs::create_dir(dir.path().join("rxe0")).unwrap();
        assert!(require_device("verbs", dir.path()).is_ok());
    }
}
