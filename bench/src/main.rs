//! How much Twinfiler costs beside a bare peer that does only what cannot be left out: `cargo xtask bench`.
//!
//! Every row is a ratio of two things measured in turns in one run on one machine, so that what else happens
//! there meets both; absolute times stand beside it for orientation. `--tiny` runs everything on sizes that take
//! seconds: it shows that the benches work, its numbers mean nothing. A missed bar is told and is no failure;
//! a part that cannot run is one.

mod append;
mod apply;
mod cluster;
mod coalesce;
mod commit;
mod disk;
mod machine;
mod mirror;
mod node;
mod operations;
mod pace;
mod peers;
mod profile;
mod report;
mod restart;
mod resync;
mod scale;
mod table;
mod takeover;
mod tls;
mod turns;
#[cfg(feature = "verbs")]
mod verbs;
#[cfg(feature = "verbs")]
mod verbs_loop;
mod verify;
mod write;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use report::Report;
use scale::Scale;
use std::path::PathBuf;

#[derive(Parser)]
#[command(name = "twinfiler-bench", about = "Ratios of Twinfiler to bare peers", max_term_width = 100)]
struct Arguments {
    /// Something else than the benches
    #[command(subcommand)]
    command: Option<Command>,
    /// Sizes that take seconds; the numbers mean nothing
    #[arg(long)]
    tiny: bool,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// So many kills of the primary instead of 100, for a machine that is quiet for a short time only
    #[arg(long, value_name = "N")]
    takeovers: Option<usize>,
    /// The program `twinfiler`; without it, the one beside this program
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Directory on the disk to measure on; on another filesystem than ext4, an ext4 image in it is used
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Subcommand)]
enum Command {
    /// Commits in a loop, for a profiler
    Profile(profile::Arguments),
    /// One end of a bench between two machines
    #[command(subcommand)]
    Peer(Peer),
    /// Judge rows that other programs have measured, and show them as a table
    Table(table::Arguments),
}

#[derive(Clone, Subcommand)]
enum Peer {
    /// Mirrored commit over RDMA beside a bare loop
    #[cfg(feature = "verbs")]
    Verbs(verbs::Arguments),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// Append and persist against a bare copy
    Append,
    /// Mirrored commit over TCP loopback
    Tcp,
    /// What keys cost over TCP loopback
    Tls,
    /// Mirrored commit over shared memory
    Shm,
    /// Mirrored commits from a cold start, after a pause and after a busy time
    Pace,
    /// 4 KiB durable writes through the mount against ext4 append and fsync
    Write,
    /// Large sequential data onto the local filesystem against fio
    Apply,
    /// A mail server's load: bytes on disk against bytes logged
    Coalesce,
    /// From SIGKILL to the first served operation
    Takeover,
    /// A start with a full log
    Restart,
    /// What a partner missed, as fast as link and disk; and what that costs clients
    Resync,
    /// Comparing trees against a sequential read, and what digests cost a consistency point
    Verify,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Profile(profile)) => profile::run(profile),
        #[cfg(feature = "verbs")]
        Some(Command::Peer(Peer::Verbs(verbs))) => verbs::run(verbs, arguments.tiny),
        #[cfg(not(feature = "verbs"))]
        Some(Command::Peer(peer)) => match *peer {},
        Some(Command::Table(table)) => table::run(table, arguments.json.as_deref(), arguments.tiny),
        None => benches(&arguments),
    }
}

fn benches(arguments: &Arguments) -> Result<()> {
    let mut scale = if arguments.tiny { Scale::tiny() } else { Scale::full() };
    scale.takeovers = arguments.takeovers.unwrap_or(scale.takeovers);
    let parts = match arguments.only.is_empty() {
        true => Part::value_variants().to_vec(),
        false => arguments.only.clone(),
    };
    let mut report = Report::new(arguments.tiny);
    let mut failed = Vec::new();
    for part in parts {
        eprintln!("{part:?} ...");
        if let Err(error) = measure(part, arguments, &scale, &mut report) {
            eprintln!("{part:?} failed: {error:#}");
            failed.push(part);
        }
    }
    report.finish();
    print!("{}", report.table());
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    if !failed.is_empty() {
        bail!("not measured: {failed:?}");
    }
    Ok(())
}

fn measure(part: Part, arguments: &Arguments, scale: &Scale, report: &mut Report) -> Result<()> {
    let place = || disk::Place::new(arguments.dir.as_deref(), scale.image_bytes);
    let program = || program(arguments);
    match part {
        Part::Append => append::measure(scale, report),
        Part::Tcp => mirror::measure_tcp(scale, report),
        Part::Tls => tls::measure(scale, report),
        Part::Shm => mirror::measure_shm(scale, report),
        Part::Pace => pace::measure(scale, report),
        Part::Write => write::measure(scale, &program()?, &place()?, report),
        Part::Apply => apply::measure(scale, &place()?, report),
        Part::Coalesce => coalesce::measure(scale, &program()?, &place()?, report),
        Part::Takeover => takeover::measure(scale, &program()?, &place()?, report),
        Part::Restart => restart::measure(scale, &program()?, &place()?, report),
        Part::Resync => resync::measure(scale, &program()?, &place()?, report),
        Part::Verify => verify::measure(scale, &place()?, report),
    }
}

fn program(arguments: &Arguments) -> Result<PathBuf> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("twinfiler"),
    };
    if !program.is_file() {
        bail!("{} is missing: cargo build --release -p filer, or name it with --program", program.display());
    }
    Ok(program)
}
