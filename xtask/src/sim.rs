//! `cargo xtask sim`: whole pairs in a deterministic simulation (the crate `simulation`), one for each seed.
//!
//! The simulation is a program of its own, because it is built with features that no program has which serves. What
//! it finds it tells with the command that shows the same run again.

use crate::steps::{self, Counts};
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest time of a run, building not included.
const LIMIT: Duration = Duration::from_secs(8 * 3600);
/// And of the short one among the tests.
const SHORT_LIMIT: Duration = Duration::from_secs(900);

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 2000, conflicts_with = "seed")]
    pub seeds: u64,
    /// The first one
    #[arg(long, default_value_t = 0)]
    pub first: u64,
    /// Only this one
    #[arg(long)]
    pub seed: Option<u64>,
    /// Only these of the seed's faults, by their places in its schedule
    #[arg(long, requires = "seed")]
    pub keep: Option<String>,
    /// Plant this bug, which it must find
    #[arg(long)]
    pub canary: Option<String>,
    /// Show what happens
    #[arg(long, requires = "seed")]
    pub trace: bool,
}

/// Builds the program and runs it in the terminal.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let program = build(workspace, true)?;
    let mut command = Command::new(&program);
    match arguments.seed {
        Some(seed) => command.arg("--seed").arg(seed.to_string()),
        None => command
            .arg("--seeds")
            .arg(arguments.seeds.to_string())
            .arg("--first")
            .arg(arguments.first.to_string()),
    };
    for (option, value) in [("--keep", &arguments.keep), ("--canary", &arguments.canary)] {
        if let Some(value) = value {
            command.arg(format!("{option}={value}"));
        }
    }
    if arguments.trace {
        command.arg("--trace");
    }
    let shown =
        steps::run_shown(&workspace.log_dir(), "sim", &mut command, LIMIT, |line| println!("{line}"))?;
    match shown.code {
        Some(0) => Ok(()),
        _ => bail!("the simulation failed: {}\n{}", shown.output.display(), steps::tail(&shown.complaints)),
    }
}

/// So many seeds; how many passed.
pub fn run_short(workspace: &Workspace, seeds: u64) -> Result<Counts> {
    run_from(workspace, 0, seeds, SHORT_LIMIT)
}

/// So many seeds that nobody ran before, and which they are; how many passed.
pub fn run_unknown(workspace: &Workspace, seeds: u64) -> Result<Counts> {
    let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() * 1000;
    println!("          seeds from {first}");
    run_from(workspace, first, seeds, LIMIT)
}

fn run_from(workspace: &Workspace, first: u64, seeds: u64, limit: Duration) -> Result<Counts> {
    let program = build(workspace, false)?;
    let mut command = Command::new(program);
    command.arg("--seeds").arg(seeds.to_string()).arg("--first").arg(first.to_string());
    let mut counts = None;
    let shown = steps::run_shown(&workspace.log_dir(), "sim", &mut command, limit, |line| {
        if let Some(failed) = line.strip_prefix("FAILED ") {
            println!("          {failed}");
        }
        counts = summary(line).or(counts.take());
    })?;
    judge(shown.code, counts, seeds).map_err(|why| {
        anyhow::anyhow!("{why}; see {}\n{}", shown.output.display(), steps::tail(&shown.complaints))
    })
}

fn judge(code: Option<i32>, counts: Option<Counts>, seeds: u64) -> Result<Counts> {
    match counts {
        Some(counts) if counts.passed + counts.failed != seeds => bail!("not every seed was run"),
        Some(counts) if (counts.failed > 0) == (code != Some(0)) => Ok(counts),
        _ => bail!("the simulation ended with {code:?} and no clear result"),
    }
}

/// Reads "298 passed, 2 failed".
fn summary(line: &str) -> Option<Counts> {
    let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
    Some(Counts { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
}

fn build(workspace: &Workspace, shown: bool) -> Result<PathBuf> {
    workspace.build("simulation", "simulation", shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_result_counts() {
        let counts = |passed, failed| Some(Counts { passed, failed });
        assert_eq!(summary("298 passed, 2 failed"), counts(298, 2));
        assert_eq!(summary("seed 7 passed"), None);
        assert_eq!(judge(Some(0), counts(3, 0), 3).ok(), counts(3, 0));
        assert_eq!(judge(Some(1), counts(2, 1), 3).ok(), counts(2, 1));
        for (code, unclear) in
            [(Some(0), counts(2, 1)), (Some(1), counts(3, 0)), (Some(0), counts(2, 0)), (None, None)]
        {
            assert!(judge(code, unclear, 3).is_err());
        }
    }
}
