//! `cargo xtask fuzz`: coverage-guided fuzzing (libFuzzer) of everything that reads bytes from a disk, a network or
//! a person. The targets are a workspace of their own in `fuzz/`, because every crate in them is instrumented.
//!
//! Each target starts from the inputs in `fuzz/corpus/TARGET`; what a run finds goes to a copy, unless `--keep` asks
//! for the new inputs that reach more code. An input that breaks a target is left in the log directory, and the
//! error says how to run it again.

use crate::steps;
use crate::workspace::{CARGO_LIMIT, Workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// In the order of their worth.
const TARGETS: [&str; 8] = [
    "log_recovery",
    "log_ingest",
    "pair_message",
    "partner_talk",
    "operation",
    "handshake",
    "stored_state",
    "config",
];

/// Where cargo puts programs built for an explicit target: then build scripts are not instrumented.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What makes rustc count which code an input reaches, in the way that libFuzzer reads.
const INSTRUMENT: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// One input may take so long.
const INPUT_LIMIT_SECONDS: u64 = 10;
/// And the whole process so much memory.
const MEMORY_LIMIT_MIB: u64 = 2048;
/// Time for starting and for the corpus, beside what was asked for.
const GRACE: Duration = Duration::from_secs(120);

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Only these targets
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    pub targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Add to the corpus what reaches more code than the corpus does
    #[arg(long)]
    pub keep: bool,
}

/// Builds the targets and runs them one after the other.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let programs = build(workspace)?;
    let wanted = TARGETS.iter().filter(|target| {
        arguments.targets.is_empty() || arguments.targets.iter().any(|asked| asked == *target)
    });
    for target in wanted {
        let inputs = run_one(workspace, &programs, target, arguments.seconds, arguments.keep)?;
        println!("{target}: {inputs} inputs tried, nothing broke");
    }
    Ok(())
}

/// A short run of every target; how many there are.
pub fn run_short(workspace: &Workspace, seconds: u64) -> Result<u64> {
    let programs = build(workspace)?;
    for target in TARGETS {
        run_one(workspace, &programs, target, seconds, false)?;
    }
    Ok(TARGETS.len() as u64)
}

/// Checks that the targets go with what they feed, without the minutes that building them takes.
pub fn check(workspace: &Workspace) -> Result<()> {
    cargo(workspace, "check")
}

/// Where the built targets are.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    cargo(workspace, "build")?;
    Ok(target_dir(workspace).join(TRIPLE).join("release"))
}

fn cargo(workspace: &Workspace, action: &str) -> Result<()> {
    let mut command = workspace.cargo(&[action, "--release", "--bins", "--locked", "--target", TRIPLE]);
    command.arg("--manifest-path").arg(workspace.root().join("fuzz/Cargo.toml"));
    command.env("RUSTFLAGS", INSTRUMENT).env("CARGO_TARGET_DIR", target_dir(workspace));
    steps::run(&workspace.log_dir(), &format!("fuzz-{action}"), &mut command, CARGO_LIMIT).map(drop)
}

fn target_dir(workspace: &Workspace) -> PathBuf {
    workspace.target_dir().join("fuzz")
}

fn run_one(workspace: &Workspace, programs: &Path, target: &str, seconds: u64, keep: bool) -> Result<u64> {
    let corpus = workspace.root().join("fuzz/corpus").join(target);
    let artifacts = workspace.log_dir().join("fuzz-artifacts");
    fs::create_dir_all(&artifacts)?;
    let grown = tempfile::tempdir()?;
    let program = programs.join(target);
    let fuzzer = || {
        let mut command = Command::new(&program);
        command
            .arg(format!("-artifact_prefix={}/{target}-", artifacts.display()))
            .arg(format!("-timeout={INPUT_LIMIT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"));
        command
    };
    let limit = Duration::from_secs(seconds) + GRACE;
    let name = format!("fuzz-{target}");
    let mut search = fuzzer();
    search.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1").arg(grown.path());
    if corpus.is_dir() {
        search.arg(&corpus);
    }
    let output = steps::run(&workspace.log_dir(), &name, &mut search, limit).with_context(|| {
        format!("an input breaks {target}; it is in {}: run {} FILE", artifacts.display(), program.display())
    })?;
    if keep {
        fs::create_dir_all(&corpus)?;
        let mut merge = fuzzer();
        merge.arg("-merge=1").arg(&corpus).arg(grown.path());
        steps::run(&workspace.log_dir(), &format!("{name}-merge"), &mut merge, limit)?;
    }
    inputs_tried(&fs::read_to_string(&output)?)
}

/// What libFuzzer's closing statistics say.
fn inputs_tried(output: &str) -> Result<u64> {
    let tried = output.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let tried = tried.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
    if tried == 0 {
        bail!("the fuzzer tried no input:\n{output}");
    }
    Ok(tried)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_inputs_is_a_failure() {
        let said = "INFO: seed corpus\nstat::number_of_executed_units: 123\nstat::peak_rss_mb: 40\n";
        assert_eq!(inputs_tried(said).expect("a run"), 123);
        assert!(inputs_tried("stat::number_of_executed_units: 0").is_err());
        assert!(inputs_tried("").is_err());
    }
}
