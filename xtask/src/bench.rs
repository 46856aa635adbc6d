//! `cargo xtask bench`: builds and runs the benches in release mode; their table goes to the terminal. With
//! `--guests` the ones that need RDMA and DRBD, in two guests.

use crate::steps;
use crate::workspace::{CARGO_LIMIT, Workspace};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Measure in two guests with Soft-RoCE, beside a bare loop, perftest and DRBD
    #[arg(long)]
    guests: bool,
    /// Passed on to the benches
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Runs the benches with their output on the terminal.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let mut command = if arguments.guests { in_guests(workspace)? } else { benches(workspace)? };
    let status = command.args(&arguments.rest).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the benches failed: {status}");
    }
    Ok(())
}

/// Runs them on sizes that take seconds, so that they never rot.
pub fn run_tiny(workspace: &Workspace) -> Result<()> {
    let mut command = benches(workspace)?;
    steps::run(&workspace.log_dir(), "bench", command.arg("--tiny"), CARGO_LIMIT).map(drop)
}

/// The benches in guests, with a daemon and benches of the same sources.
fn in_guests(workspace: &Workspace) -> Result<Command> {
    let (program, bench) =
        (workspace.build_daemon(true)?, workspace.build("bench", "twinfiler-bench", true)?);
    let mut command = Command::new(workspace.build("soft-roce-ci", "soft-roce-ci", true)?);
    command.arg("bench").arg("--program").arg(program).arg("--bench").arg(bench);
    Ok(command)
}

/// The benches, with a daemon of the same sources.
fn benches(workspace: &Workspace) -> Result<Command> {
    let program = workspace.build_daemon(true)?;
    let mut command = workspace.cargo(&["run", "--release", "--quiet", "--package", "bench", "--"]);
    command.arg("--program").arg(program);
    Ok(command)
}
