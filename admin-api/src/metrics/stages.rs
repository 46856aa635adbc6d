//! Where the time of a commit goes: how long each of its stages takes, of one commit in [`SAMPLED`].

use super::histogram::LatencyHistogram;
use crate::status::StageLatency;
use std::time::Duration;

/// One commit in so many is followed.
pub const SAMPLED: u64 = 64;

/// A stage, by what it ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Let in: from asking for room in the log.
    Admitted,
    /// Sealed into a batch: from the record being whole.
    Sealed,
    /// The batch was given to the link: from the seal.
    Posted,
    /// Durable in this node's log: from the seal.
    Here,
    /// The partner has said that it holds it: from the posting.
    There,
    /// The thread that waits for the answer goes on: from the moment at which that was allowed to go out.
    Woken,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 6] =
        [Stage::Admitted, Stage::Sealed, Stage::Posted, Stage::Here, Stage::There, Stage::Woken];

    /// As status and metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Admitted => "admitted",
            Stage::Sealed => "sealed",
            Stage::Posted => "posted",
            Stage::Here => "durable-here",
            Stage::There => "durable-there",
            Stage::Woken => "woken",
        }
    }
}

/// How long each stage took.
#[derive(Debug, Default)]
pub struct StageLatencies([LatencyHistogram; Stage::ALL.len()]);

impl StageLatencies {
    /// Counts one.
    pub fn observe(&self, stage: Stage, took: Duration) {
        self.of(stage).observe(took);
    }

    pub(super) fn of(&self, stage: Stage) -> &LatencyHistogram {
        &self.0[stage as usize]
    }

    /// Quantiles of those that were seen.
    pub fn summary(&self) -> Vec<StageLatency> {
        let told = |stage: Stage| {
            let latency = self.of(stage).snapshot().summary()?;
            Some(StageLatency { stage: stage.as_str().to_owned(), latency })
        };
        Stage::ALL.into_iter().filter_map(told).collect()
    }
}
