//! What the host knows of a run of the load, from the reports that reached it.
//!
//! Invariant: `from` never is more than what the writer was answered, and `to` never less than what it began, so
//! that a state outside of both is a fault of the volume and not of the reports.

use super::content::Writer;
use super::report::Report;
use super::verdict::{Allowed, Point};
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// One thread of a run.
#[derive(Clone, Debug)]
struct Thread {
    from: Point,
    to: Point,
    ended: bool,
    error: Option<String>,
}

/// One run of the load on one mount.
#[derive(Clone, Debug)]
pub struct Oracle {
    run: u32,
    threads: BTreeMap<u32, Thread>,
}

impl Oracle {
    /// A run of `threads` threads that each do `operations` operations at most.
    pub fn new(run: u32, threads: u32, operations: u64) -> Oracle {
        let thread =
            Thread { from: Point::default(), to: Point::after(operations), ended: false, error: None };
        Oracle { run, threads: (0..threads).map(|number| (number, thread.clone())).collect() }
    }

    /// Takes a report in.
    ///
    /// # Errors
    /// A report that cannot be true: of an unknown thread, or of less than was reported before.
    pub fn observe(&mut self, report: &Report) -> Result<()> {
        let Some(thread) = self.threads.get_mut(&report.thread()) else {
            bail!("a report of an unknown thread: {report}")
        };
        let done = match report {
            Report::Acknowledged { operation, .. } => *operation,
            Report::Failed { done, .. } | Report::Ended { done, .. } => *done,
        };
        if thread.ended || Point::after(done) < thread.from || Point::after(done) > thread.to {
            bail!("the report {report:?} does not follow {thread:?}");
        }
        thread.from = Point::after(done);
        match report {
            Report::Acknowledged { .. } => {}
            Report::Ended { .. } => {
                thread.to = thread.from;
                thread.ended = true;
            }
            Report::Failed { what, .. } => {
                // The operation that got the error may have happened or not.
                thread.to = Point::after(done + 1);
                thread.ended = true;
                thread.error = Some(what.clone());
            }
        }
        Ok(())
    }

    /// The directory of a thread was seen in this state: it must not show another one from now on, if the load has
    /// ended.
    pub fn seen(&mut self, writer: Writer, point: Point) {
        if let Some(thread) = self.threads.get_mut(&writer.thread).filter(|_| writer.run == self.run) {
            thread.from = point;
            thread.to = point;
        }
    }

    /// What the directories may show.
    pub fn allowed(&self) -> impl Iterator<Item = Allowed> {
        self.threads.iter().map(|(number, thread)| Allowed {
            writer: Writer { run: self.run, thread: *number },
            from: thread.from,
            to: thread.to,
        })
    }

    /// Operations that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.threads.values().map(|thread| thread.from.operations).sum()
    }

    /// True when every thread has said its last.
    pub fn has_ended(&self) -> bool {
        self.threads.values().all(|thread| thread.ended)
    }

    /// The errors that threads were answered with.
    pub fn errors(&self) -> Vec<String> {
        let told = |(number, thread): (&u32, &Thread)| {
            let (error, run) = (thread.error.as_ref()?, self.run);
            Some(format!("run {run}, thread {number}, after {} operations: {error}", thread.from.operations))
        };
        self.threads.iter().filter_map(told).collect()
    }
}
