//! `bench`: measurements in two guests.

use super::program::Program;
use anyhow::{Context, Result, bail};
use soft_roce_ci::bench::{self, Amount, Part, Tools};
use soft_roce_ci::lab;
use std::path::PathBuf;

/// What to measure, and with what.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// The twinfiler to measure [default: a release build, made if it is not up to date]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// The program twinfiler-bench
    #[arg(long, value_name = "PATH")]
    bench: PathBuf,
    /// Sizes that show that it works; the numbers mean nothing
    #[arg(long)]
    tiny: bool,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the logs go [default: beside cargo's output]
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

/// Measures and prints the table.
pub fn run(arguments: &Arguments) -> Result<()> {
    lab::make_ready()?;
    if !arguments.bench.is_file() {
        bail!("{} is missing: cargo build --release -p bench", arguments.bench.display());
    }
    let program = Program::find(arguments.program.as_deref())?;
    let bench = arguments.bench.canonicalize().context("cannot find the bench")?;
    lab::require_visible(&bench)?;
    let tools = Tools { program: program.path(), bench };
    let parts = if arguments.only.is_empty() { Part::ALL.to_vec() } else { arguments.only.clone() };
    let logs = match &arguments.logs {
        Some(logs) => logs.clone(),
        None => lab::cache()?.join("logs").join("bench"),
    };
    // Logs of an earlier run would be taken for this one's.
    let _ = std::fs::remove_dir_all(&logs);
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let amount = if arguments.tiny { Amount::Tiny } else { Amount::Full };
    bench::run(&tools, &parts, amount, &logs, arguments.json.as_deref())
}
