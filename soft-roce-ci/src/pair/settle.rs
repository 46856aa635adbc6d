//! When the load has ended: everything that was acknowledged is there, and both nodes hold the same.

use super::log::{Listing, common_records};
use super::plan::MOUNT;
use super::tree::differences;
use super::{LIMIT, Pair};
use crate::lab::Side;
use crate::load::check::Found;
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// Reading back everything that all loads wrote.
const CHECK_LIMIT: Duration = Duration::from_secs(90);

/// More records than any scenario writes between two consistency points.
const MAX_RECORDS: &str = "1000000";

impl Pair<'_> {
    /// Reads through a node's mount what all loads wrote. They must be over. Every directory must show exactly the
    /// first N operations of its writer, N being at least what was acknowledged, or what an earlier check has seen.
    /// Gives how many operations were found.
    pub fn check_loads(&self, side: Side) -> Result<u64> {
        let mut argv =
            vec![self.harness().to_owned(), "check".to_owned(), "--tree".to_owned(), MOUNT.to_owned()];
        for load in self.loads() {
            if !load.is_over() {
                bail!("a load still runs: what it has written cannot be judged");
            }
            argv.extend(load.allowed().iter().map(ToString::to_string));
        }
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let said = self.guest(side).run(&argv, CHECK_LIMIT)?.ok().context("the check itself failed")?;
        let found = said.lines().map(serde_json::from_str).collect::<Result<Vec<Found>, _>>()?;
        let wanted: usize = self.loads().iter().map(|load| load.allowed().len()).sum();
        if found.len() != wanted {
            bail!("{} directories were looked at instead of {wanted}", found.len());
        }
        let wrong: Vec<String> = found
            .iter()
            .flat_map(|found| {
                found.wrong.iter().map(|what| format!("run {}, thread {}: {what}", found.run, found.thread))
            })
            .collect();
        if !wrong.is_empty() {
            bail!(
                "node {} does not hold what was promised:\n{}\n{}",
                side.name(),
                wrong.join("\n"),
                self.diagnosis()
            );
        }
        for load in self.loads() {
            load.seen(&found);
        }
        Ok(found.iter().filter_map(Found::point).map(|point| point.operations).sum())
    }

    /// Compares the logs of both nodes, which must be mirrored with no load running. Gives how many records both hold.
    pub fn compare_logs(&self) -> Result<u64> {
        self.wait_same_committed()?;
        let inspect = |side: Side| {
            let path = self.plan.log.path();
            let said = self
                .node(side)
                .command(self.guest(side), &["log", "inspect", "--records", MAX_RECORDS, path])?;
            Listing::parse(&said)
        };
        let [a, b] = self.on_both(inspect)?;
        if a.end != b.end {
            bail!("the log of node a ends at {}, that of node b at {}", a.end, b.end);
        }
        common_records(&a, &b)
    }

    fn wait_same_committed(&self) -> Result<()> {
        self.wait("both nodes to have committed the same", LIMIT, |views| {
            let [a, b] = views.each_ref().map(|view| view.as_ref().and_then(|view| view.cursor("committed")));
            (a.is_some() && a == b).then_some(())
        })
    }

    /// Takes a consistency point on both nodes, which must be mirrored with no load running, and compares the local
    /// trees. Gives how many names they have.
    pub fn compare_trees(&self) -> Result<usize> {
        // What a node has committed before the point is asked for, its local tree holds afterwards. (Its cursor
        // may stay behind: the record that opens an epoch changes no tree.)
        self.wait_same_committed()?;
        self.on_both(|side| self.node(side).consistency_point(self.guest(side)))?;
        let [a, b] = self.on_both(|side| self.node(side).local_tree(self.guest(side), self.harness()))?;
        let differences = differences(&a, &b);
        if !differences.is_empty() {
            bail!("the local trees of a and b differ:\n{}", differences.join("\n"));
        }
        Ok(a.lines().count())
    }

    /// The end of most scenarios: the pair is mirrored, everything is there on the primary, and both nodes hold the
    /// same.
    pub fn expect_equal(&self) -> Result<()> {
        let primary = self.wait_mirrored(LIMIT)?;
        let operations = self.check_loads(primary)?;
        let names = self.compare_trees()?;
        self.compare_logs()?;
        if operations == 0 || names < 2 {
            bail!("nothing was compared: {operations} operations, {names} names");
        }
        self.check()
    }
}
