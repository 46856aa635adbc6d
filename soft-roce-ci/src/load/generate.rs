//! The command that runs in a guest and puts load on the mount: several writers, each with its own directory.

use super::content::Writer;
use super::directory::Root;
use super::report::Report;
use super::sequence::Sequence;
use anyhow::{Context, Result};
use rustix::io::Errno;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Arguments of the hidden command `load`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The mounted volume
    #[arg(long)]
    pub mount: PathBuf,
    /// Number of this run, and the seed of its operations
    #[arg(long)]
    pub run: u32,
    /// Writers
    #[arg(long)]
    pub threads: u32,
    /// Operations of each writer at most
    #[arg(long)]
    pub operations: u64,
    /// Pause of a writer between two operations, so that a slow machine does other things too
    #[arg(long, default_value_t = 0)]
    pub pause_ms: u64,
    /// The writers end when this file exists
    #[arg(long)]
    pub stop: PathBuf,
}

/// Runs the load until its end.
pub fn run(arguments: &Arguments) -> Result<()> {
    let root = Arc::new(Root::of_mount(&arguments.mount)?);
    let writers = (0..arguments.threads).map(|thread| {
        let (root, arguments) = (Arc::clone(&root), arguments.clone());
        let name = format!("writer-{thread}");
        std::thread::Builder::new().name(name).spawn(move || write(&root, &arguments, thread))
    });
    let writers = writers.collect::<io::Result<Vec<_>>>().context("cannot start a thread")?;
    for writer in writers {
        writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
    }
    Ok(())
}

fn write(root: &Root, arguments: &Arguments, thread: u32) -> Result<()> {
    let mut sequence = Sequence::new(Writer { run: arguments.run, thread });
    while sequence.done() < arguments.operations && !has_stopped(&arguments.stop) {
        if let Err(error) = root.perform(&sequence) {
            let what = format!("{} by {:?}", name_of(&error), sequence.next());
            return say(&Report::Failed { thread, done: sequence.done(), what });
        }
        sequence.advance();
        say(&Report::Acknowledged { thread, operation: sequence.done() })?;
        if arguments.pause_ms > 0 {
            std::thread::sleep(Duration::from_millis(arguments.pause_ms));
        }
    }
    say(&Report::Ended { thread, done: sequence.done() })
}

fn has_stopped(stop: &Path) -> bool {
    stop.exists()
}

/// One write for the whole line: nothing of it stays behind in a buffer.
fn say(report: &Report) -> Result<()> {
    let line = format!("{report}\n");
    io::stdout().lock().write_all(line.as_bytes()).context("nobody reads the reports")?;
    io::stdout().lock().flush().context("nobody reads the reports")
}

/// The errors that a client of a lost node may see are told by their names.
fn name_of(error: &io::Error) -> String {
    let names = [
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::SHUTDOWN, "ESHUTDOWN"),
        (Errno::IO, "EIO"),
        (Errno::STALE, "ESTALE"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::NOENT, "ENOENT"),
        (Errno::EXIST, "EEXIST"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
    ];
    let name = error
        .raw_os_error()
        .and_then(|code| names.iter().find(|(errno, _)| errno.raw_os_error() == code))
        .map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| error.to_string())
}
