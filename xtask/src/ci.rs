//! `cargo xtask test`: everything that CI runs, in the order in which failures are cheapest to find.
//!
//! Quiet but for one line for each step and what failed; all output is in files under the target directory. The
//! last line counts every test of the test runner and every step of the scenarios.

mod guests;
mod long;
mod runner;

use crate::cluster::disk::Filesystem;
use crate::steps::{Counts, Report};
use crate::workspace::Workspace;
use crate::{bench, demo, fuzz, packages, posix, sim, soak, verify};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Processes killed by the short soak.
const SOAK_KILLS: u64 = 15;

/// Faults that the short soak goes through.
const SOAK_FAULTS: u64 = 12;

/// Seeds of the simulation; a person runs thousands.
const SIMULATED_PAIRS: u64 = 300;

/// Seconds for each fuzz target.
const FUZZ_SECONDS: u64 = 4;

/// Seconds of work before the kill in the short demos.
const DEMO_SECONDS: u64 = 4;

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Leave the guests out, on a machine that cannot run them: RDMA, fencing and power cuts are not tested then
    #[arg(long)]
    pub without_guests: bool,
    /// Instead: what takes hours (10,000 cases of each property, 2,000 seeds, an hour under load, fuzzing, 100 faults)
    #[arg(long, conflicts_with_all = ["only", "without_guests"])]
    pub long: bool,
}

/// A part of the tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Part {
    /// Formatting, clippy, documentation, tidy
    Verify,
    /// Unit, property and documentation tests
    Unit,
    /// The demo over both transports
    Demo,
    /// Whole pairs in a deterministic simulation
    Sim,
    /// A short run of every fuzz target
    Fuzz,
    /// A short soak
    Soak,
    /// pjdfstest and fsx
    Posix,
    /// The scenarios in two guests with Soft-RoCE and NVDIMMs
    Guests,
    /// Benches on tiny sizes
    Bench,
}

/// Runs everything.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if arguments.long {
        return long::run(workspace);
    }
    if arguments.without_guests && arguments.only.contains(&Part::Guests) {
        bail!("--only guests and --without-guests contradict each other");
    }
    let started = Instant::now();
    let wanted = |part: Part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut report = Report::default();
    let ready = report.step("install what is missing", || install(workspace));
    if wanted(Part::Verify) && ready {
        verify::steps(workspace, &mut report)?;
    }
    if wanted(Part::Unit) && ready {
        report.counted("unit and property tests", || runner::unit_tests(workspace));
        report.counted("documentation tests", || runner::doc_tests(workspace));
    }
    if wanted(Part::Sim) && ready {
        report.counted("the simulation's own tests", || runner::simulation_tests(workspace));
        report.counted("simulated pairs", || sim::run_short(workspace, SIMULATED_PAIRS));
    }
    // Building the targets takes minutes: among all, they are only checked, and `--long` runs them.
    if arguments.only.contains(&Part::Fuzz) && ready {
        report.counted("fuzzing, short", || {
            Ok(Counts { passed: fuzz::run_short(workspace, FUZZ_SECONDS)?, failed: 0 })
        });
    }
    let guests = wanted(Part::Guests) && !arguments.without_guests;
    let scenarios = guests || [Part::Demo, Part::Soak, Part::Posix].into_iter().any(wanted);
    let mut program = None;
    if scenarios && ready {
        report.step("build twinfiler (release)", || {
            program = Some(workspace.build_daemon(false)?);
            Ok(())
        });
    }
    if let Some(program) = &program {
        scenario_steps(workspace, &mut report, program, wanted);
        if guests {
            guests::steps(workspace, &mut report, program);
        }
    }
    if wanted(Part::Guests) && arguments.without_guests {
        report.left_out(guests::LEFT_OUT);
    }
    if wanted(Part::Bench) && ready {
        report.step("benches, tiny", || bench::run_tiny(workspace));
    }
    println!("{}", report.summary());
    eprintln!("in {:.0?}", Duration::from_secs(started.elapsed().as_secs()));
    if !report.all_passed() {
        bail!("something failed; all output is in {}", workspace.log_dir().display());
    }
    Ok(())
}

fn scenario_steps(workspace: &Workspace, report: &mut Report, program: &Path, wanted: impl Fn(Part) -> bool) {
    if wanted(Part::Demo) {
        for (fs, transport) in [(Filesystem::Ext4, "tcp"), (Filesystem::Xfs, "shm")] {
            report.step(&format!("demo on {} over {transport}", fs.name()), || {
                demo_once(workspace, program, fs, transport)
            });
        }
    }
    let soaks = [
        ("short soak over ext4, XFS and btrfs", None),
        ("short soak with faults of all kinds", Some(SOAK_FAULTS)),
    ];
    for (name, faults) in soaks.into_iter().filter(|_| wanted(Part::Soak)) {
        report.counted(name, || {
            let arguments = soak::Arguments::unattended(program, SOAK_KILLS, faults);
            let rounds = soak::perform(workspace, &arguments)?.rounds();
            Ok(Counts { passed: rounds, failed: 0 })
        });
    }
    if wanted(Part::Posix) {
        let mut tools: Option<PathBuf> = None;
        report.step("install pjdfstest and fsx", || {
            tools = Some(posix::install(workspace)?);
            Ok(())
        });
        let Some(tools) = tools else { return };
        let (program, logs, root) =
            (program.to_path_buf(), workspace.log_dir(), workspace.root().to_path_buf());
        let suite = posix::Suite { tools, program, logs, root };
        for filesystem in Filesystem::REAL {
            report.counted(&format!("POSIX on {}", filesystem.name()), || suite.run(filesystem));
        }
    }
}

fn install(workspace: &Workspace) -> Result<()> {
    packages::require_root_and_fuse()?;
    let mut needs = [packages::WORKLOAD, packages::BUILD, packages::TESTS, packages::FAULTS].concat();
    Filesystem::REAL.iter().for_each(|fs| needs.extend(packages::for_filesystem(fs.name())));
    packages::ensure(&needs, &workspace.log_dir())
}

fn demo_once(workspace: &Workspace, program: &Path, fs: Filesystem, transport: &str) -> Result<()> {
    let arguments = demo::Arguments {
        json: true,
        keep: false,
        fs,
        transport: transport.to_owned(),
        seconds: DEMO_SECONDS,
        seed: 1,
        program: Some(program.to_path_buf()),
    };
    let outcome = demo::perform(workspace, &arguments)?;
    std::fs::write(
        workspace.log_dir().join(format!("demo-{}-{transport}.json", fs.name())),
        outcome.to_json().to_string(),
    )?;
    if !outcome.passed() {
        bail!("{}", outcome.to_text());
    }
    Ok(())
}
