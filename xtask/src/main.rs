//! The project's own commands, run as `cargo xtask COMMAND`. README names the ones that people need; CI runs
//! `cargo xtask test` and nothing else.
//!
//! This program uses no crate of the product: it talks to the built daemon as an operator does, through its
//! configuration file, control socket and mount. So it also compiles quickly.

mod bench;
mod ci;
mod cluster;
mod demo;
mod dependencies;
mod fuzz;
mod interrupt;
mod load;
mod oracle;
mod packages;
mod posix;
mod random;
mod sim;
mod soak;
mod steps;
mod tidy;
mod tree;
mod verify;
mod workspace;

use clap::{Parser, Subcommand};
use workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Twinfiler's own commands", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a pair at work: real load, a SIGKILL, a takeover, and proof that nothing was lost
    Demo(demo::Arguments),
    /// Everything that CI runs
    Test(ci::Arguments),
    /// Kill random processes under load, again and again
    Soak(soak::Arguments),
    /// Run whole pairs in a deterministic simulation: each seed another pair, load, and row of faults
    Sim(sim::Arguments),
    /// Run pjdfstest and fsx on the mount
    Posix(posix::Arguments),
    /// Feed hostile bytes to everything that reads them (libFuzzer)
    Fuzz(fuzz::Arguments),
    /// Check formatting, clippy, documentation and the repository's rules; changes nothing
    Verify,
    /// Repair formatting and what clippy can
    Fix,
    /// Check the repository's rules alone
    Tidy,
    /// Measure
    Bench(bench::Arguments),
}

fn main() {
    let arguments = Arguments::parse();
    let outcome =
        interrupt::install().and_then(|()| Workspace::find()).and_then(|workspace| match arguments.command {
            Command::Demo(arguments) => demo::run(&workspace, &arguments),
            Command::Test(arguments) => ci::run(&workspace, &arguments),
            Command::Soak(arguments) => soak::run(&workspace, &arguments),
            Command::Sim(arguments) => sim::run(&workspace, &arguments),
            Command::Posix(arguments) => posix::run(&workspace, &arguments),
            Command::Fuzz(arguments) => fuzz::run(&workspace, &arguments),
            Command::Verify => verify::run(&workspace),
            Command::Fix => verify::fix(&workspace),
            Command::Tidy => tidy::run(&workspace),
            Command::Bench(arguments) => bench::run(&workspace, &arguments),
        });
    if let Err(error) = outcome {
        eprintln!("error: {error:#}");
        std::process::exit(if interrupt::requested() { interrupt::EXIT_CODE } else { 1 });
    }
}
