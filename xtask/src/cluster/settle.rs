//! Bringing both local trees to the same point, and comparing them.

use super::{Cluster, Side};
use crate::interrupt;
use crate::tree::{Comparison, compare};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// The longest time until both nodes have applied everything.
const LIMIT: Duration = Duration::from_secs(60);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

impl Cluster {
    /// Waits until both local trees hold everything that was acknowledged. Clients must have stopped.
    pub fn settle(&mut self) -> Result<()> {
        let mut problem = None;
        let settled = interrupt::poll(LIMIT, PAUSE, || match self.both_applied_everything() {
            Ok(true) => Some(()),
            Ok(false) => None,
            Err(error) => {
                problem = Some(error);
                None
            }
        })?;
        match (settled, problem) {
            (Some(()), _) => Ok(()),
            (None, Some(error)) => Err(error.context(format!("no consistency point within {LIMIT:?}"))),
            (None, None) => bail!("the local trees did not settle within {LIMIT:?}\n{}", self.diagnosis()),
        }
    }

    fn both_applied_everything(&self) -> Result<bool> {
        for side in Side::BOTH {
            self.consistency_point(side)
                .with_context(|| format!("consistency point of node {}", side.name()))?;
        }
        let mut reached = Vec::new();
        for side in Side::BOTH {
            let view = self.status(side)?;
            reached.extend([view.cursor("applied"), view.cursor("committed")]);
        }
        Ok(reached[0].is_some() && reached.iter().all(|cursor| *cursor == reached[0]))
    }

    /// Compares the local trees of both nodes.
    pub fn compare_trees(&self) -> Result<Comparison> {
        compare(&self.base_path(Side::A), &self.base_path(Side::B)).context("cannot read a local tree")
    }
}
