//! The command line.

mod exec;

use anyhow::Result;
use clap::{Parser, Subcommand};
use soft_roce_ci::{agent, lab};
use std::path::PathBuf;

/// Exit codes besides 0 and clap's 2.
const FAILED: i32 = 1;
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
    /// Boot a guest, run a command in it, show what it writes, end with its exit code
    Exec(exec::Arguments),
    /// The harness's hand inside a guest
    #[command(hide = true)]
    Agent,
}

/// Carries out the command and gives the exit code.
pub fn run(arguments: Arguments) -> i32 {
    if let Some(cache) = &arguments.cache {
        lab::use_cache(cache);
    }
    let outcome = match &arguments.command {
        Command::Agent => agent::serve().map(|()| 0),
        command => lab::end_with_us(|| ()).and_then(|()| act(command)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("soft-roce-ci: {error:#}");
        if error.chain().any(|cause| cause.is::<lab::CannotRun>()) { CANNOT_RUN } else { FAILED }
    })
}

fn act(command: &Command) -> Result<i32> {
    match command {
        Command::Exec(arguments) => exec::run(arguments),
        Command::Agent => unreachable!("the agent has no labs to end"),
    }
}
