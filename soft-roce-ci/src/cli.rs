//! The command line.

mod bench;
mod exec;
mod program;
mod run;
mod shell;

use anyhow::Result;
use clap::{Parser, Subcommand};
use soft_roce_ci::{agent, in_guest, lab};
use std::path::PathBuf;

/// Exit codes besides 0.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const CANNOT_RUN: i32 = 3;

/// Everything after the program's name.
#[derive(Parser)]
#[command(name = "soft-roce-ci", about = "Scenarios in two guests with Soft-RoCE and emulated NVDIMMs")]
#[command(max_term_width = 100)]
pub struct Arguments {
    /// Where kernels and the guests' files are kept [default: beside cargo's output]
    #[arg(long, global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what scenarios there are
    List {
        /// Print one JSON object for each
        #[arg(long)]
        json: bool,
    },
    /// Run scenarios
    Run(run::Arguments),
    /// Boot two guests and give a terminal of each
    Shell(shell::Arguments),
    /// Boot a guest, run a command in it, show what it writes, end with its exit code
    Exec(exec::Arguments),
    /// Measure in two guests, beside bare peers
    Bench(bench::Arguments),
    /// The harness's hand inside a guest
    #[command(hide = true)]
    Agent,
    #[command(flatten)]
    InGuest(in_guest::GuestCommand),
}

/// The person asked for something that there is not.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Whether an error says that guests cannot run on this machine at all.
fn chain_cannot_run(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<lab::CannotRun>())
}

/// Carries out the command and gives the exit code.
pub fn run(arguments: Arguments) -> i32 {
    if let Some(cache) = &arguments.cache {
        lab::use_cache(cache);
    }
    act(&arguments.command).unwrap_or_else(|error| {
        eprintln!("soft-roce-ci: {error:#}");
        match () {
            () if chain_cannot_run(&error) => CANNOT_RUN,
            () if error.is::<Usage>() => USAGE,
            () => FAILED,
        }
    })
}

fn act(command: &Command) -> Result<i32> {
    // The commands inside a guest end with it; the others must not leave machines behind.
    if !matches!(command, Command::Agent | Command::InGuest(_)) {
        lab::end_with_us(shell::restore_terminal)?;
    }
    match command {
        Command::List { json } => run::list(*json),
        Command::Run(arguments) => return run::run(arguments),
        Command::Shell(arguments) => return shell::run(arguments),
        Command::Exec(arguments) => return exec::run(arguments),
        Command::Bench(arguments) => bench::run(arguments)?,
        Command::Agent => agent::serve()?,
        Command::InGuest(command) => command.run()?,
    }
    Ok(0)
}
