//! A run of the load in a guest, with the host's oracle beside it.

use super::followed::{Followed, Over};
use super::plan::MOUNT;
use crate::agent::protocol::{End, Stream};
use crate::lab::{Guest, Side};
use crate::load::check::Found;
use crate::load::oracle::Oracle;
use crate::load::report::Report;
use crate::load::verdict::Allowed;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Writers of a run.
const THREADS: u32 = 3;

/// Operations of a writer at most: the run's bound if nobody stops it.
const OPERATIONS: u64 = 20_000;

/// A writer's pause between two operations. The load must keep the pair busy, not the emulator.
const PAUSE_MS: u64 = 2;

/// How long writers may take to end when they are told so: their operations may be waiting for a takeover.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(20);

struct Known {
    oracle: Oracle,
    /// When the last acknowledgement arrived here.
    last: Instant,
    /// Reports that cannot be true, and what the load complained of.
    complaints: Vec<String>,
}

/// One run of the load.
pub struct Load {
    /// Its node.
    pub side: Side,
    program: Followed,
    known: Arc<Mutex<Known>>,
    stop_file: String,
}

impl Load {
    /// Starts run number `run` on the mount of a guest.
    pub fn start(guest: &Guest, side: Side, harness: &Path, run: u32) -> Result<Load> {
        let stop_file = format!("/run/load-{run}-stop");
        let harness = harness.to_str().context("the path of this program is not UTF-8")?;
        let (number, threads) = (run.to_string(), THREADS.to_string());
        let (operations, pause) = (OPERATIONS.to_string(), PAUSE_MS.to_string());
        let mut argv = vec![harness, "load", "--mount", MOUNT, "--run", &number, "--threads", &threads];
        argv.extend(["--operations", &operations, "--pause-ms", &pause, "--stop", &stop_file]);
        let running = guest.spawn(&argv)?;
        let known = Arc::new(Mutex::new(Known {
            oracle: Oracle::new(run, THREADS, OPERATIONS),
            last: Instant::now(),
            complaints: Vec::new(),
        }));
        let shared = Arc::clone(&known);
        let take = move |stream, text: &str| lock(&shared).take(stream, text);
        let program = Followed::start(&format!("load-{run}"), running, take)?;
        Ok(Load { side, program, known, stop_file })
    }

    /// Operations that were acknowledged, as far as it was reported.
    pub fn acknowledged(&self) -> u64 {
        lock(&self.known).oracle.acknowledged()
    }

    /// When the last report of an acknowledgement arrived.
    pub fn last_acknowledged_at(&self) -> Instant {
        lock(&self.known).last
    }

    /// True when every writer has ended, or the guest is gone.
    pub fn is_over(&self) -> bool {
        self.program.over().is_some()
    }

    /// The errors that writers were answered with.
    pub fn errors(&self) -> Vec<String> {
        lock(&self.known).oracle.errors()
    }

    /// Waits until this many more operations than now are acknowledged, without an error to any writer.
    pub fn wait_progress(&self, more: u64, limit: Duration) -> Result<()> {
        let (wanted, deadline) = (self.acknowledged() + more, Instant::now() + limit);
        while self.acknowledged() < wanted {
            self.expect_no_error()?;
            if self.is_over() || Instant::now() > deadline {
                let (have, complaints) = (self.acknowledged(), lock(&self.known).complaints.join("\n"));
                bail!(
                    "the load on node {} has {have} of {wanted} operations acknowledged after {limit:?}\n{complaints}",
                    self.side.name()
                );
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Lets the writers end after their current operations, which must be answered without an error.
    pub fn stop(&self, guest: &Guest) -> Result<()> {
        guest.write_file(&self.stop_file, b"stop")?;
        self.wait_over(STOP_LIMIT)?;
        self.expect_no_error()
    }

    /// The writers end after their current operations when this file exists in their guest.
    pub fn stop_file(&self) -> &str {
        &self.stop_file
    }

    /// Waits until every writer has ended or the guest is gone; errors are allowed.
    pub fn wait_over(&self, limit: Duration) -> Result<()> {
        let over = self.program.wait_over(limit)?;
        let known = lock(&self.known);
        if let Some(complaint) = known.complaints.first() {
            bail!("the load on node {}: {complaint}", self.side.name());
        }
        match over {
            Over::GuestGone => Ok(()),
            Over::Ended(End::Exited(0)) if known.oracle.has_ended() => Ok(()),
            Over::Ended(end) => bail!("the load on node {} ended with {end:?}", self.side.name()),
        }
    }

    /// An error when a writer was answered with one.
    pub fn expect_no_error(&self) -> Result<()> {
        let errors = self.errors();
        if !errors.is_empty() {
            bail!(
                "clients of node {} got errors that are not true:\n{}",
                self.side.name(),
                errors.join("\n")
            );
        }
        Ok(())
    }

    /// What its directories may show.
    pub fn allowed(&self) -> Vec<Allowed> {
        lock(&self.known).oracle.allowed().collect()
    }

    /// Takes in what a check has seen of its directories.
    pub fn seen(&self, found: &[Found]) {
        let mut known = lock(&self.known);
        for found in found {
            if let Some(point) = found.point() {
                known.oracle.seen(found.writer(), point);
            }
        }
    }
}

impl Known {
    fn take(&mut self, stream: Stream, text: &str) {
        for line in text.lines() {
            let report = match stream {
                Stream::Stdout => line.parse::<Report>(),
                Stream::Stderr => Err(anyhow::anyhow!("it says: {line}")),
            };
            let taken = report.and_then(|report| {
                self.last = Instant::now();
                self.oracle.observe(&report)
            });
            if let Err(error) = taken {
                self.complaints.push(format!("{error:#}"));
            }
        }
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
