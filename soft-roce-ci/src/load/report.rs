//! What a load says on its standard output: one line for each thing, written before the thread goes on.
//!
//! A line that is lost with a guest's power makes the oracle know less, never something wrong: it then only knows an
//! earlier state as acknowledged.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::str::FromStr;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// All operations up to this one were answered.
    Acknowledged {
        /// The thread.
        thread: u32,
        /// Number of the operation.
        operation: u64,
    },
    /// The operation after `done` was answered with an error. The thread ends.
    Failed {
        /// The thread.
        thread: u32,
        /// Operations before it.
        done: u64,
        /// The error's name, such as `EIO`, or what was wrong with what was read.
        what: String,
    },
    /// The thread ends because it was told so, with nothing under way.
    Ended {
        /// The thread.
        thread: u32,
        /// Operations that were done.
        done: u64,
    },
}

impl Report {
    /// The thread that it is about.
    pub fn thread(&self) -> u32 {
        match self {
            Report::Acknowledged { thread, .. }
            | Report::Failed { thread, .. }
            | Report::Ended { thread, .. } => *thread,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Acknowledged { thread, operation } => write!(f, "acknowledged {thread} {operation}"),
            Report::Failed { thread, done, what } => {
                write!(f, "failed {thread} {done} {}", what.replace('\n', " "))
            }
            Report::Ended { thread, done } => write!(f, "ended {thread} {done}"),
        }
    }
}

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Report> {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().with_context(|| format!("not a report: {line:?}"));
        let (kind, thread, number) = (word()?, word()?.parse()?, word()?.parse()?);
        Ok(match kind {
            "acknowledged" => Report::Acknowledged { thread, operation: number },
            "failed" => Report::Failed { thread, done: number, what: word()?.to_owned() },
            "ended" => Report::Ended { thread, done: number },
            _ => bail!("not a report: {line:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        for report in [
            Report::Acknowledged { thread: 3, operation: 17 },
            Report::Failed { thread: 0, done: 9, what: "EIO while it did a thing".to_owned() },
            Report::Ended { thread: 1, done: 0 },
        ] {
            assert_eq!(report.to_string().parse::<Report>().unwrap(), report);
        }
        assert!("acknowledged 3".parse::<Report>().is_err());
        assert!("something 3 4".parse::<Report>().is_err());
    }
}
