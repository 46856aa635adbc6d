//! A healthy pair: what clients write lands in both logs, byte for byte, and later in both local trees.

use super::{PROGRESS, pair_machines};
use crate::lab::Side;
use crate::pair::plan::Plan;
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};
use std::time::Duration;

pub const SCENARIO: Scenario = Scenario {
    name: "mirrored-commit",
    about: "load on the primary's mount; both logs and both local trees are equal afterwards",
    machines: pair_machines,
    run,
};

/// Operations that must be acknowledged.
const OPERATIONS: u64 = 600;

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    // No consistency point on the way: both logs keep every record, to be compared.
    let plan = Plan { consistency_interval: Duration::from_secs(3600), ..Plan::default() };
    let mut pair = Pair::start(run, &lab, plan)?;
    let primary = pair.wait_mirrored(LIMIT)?;
    if primary != Side::A {
        bail!("the preferred primary is a, and it is {}", primary.name());
    }
    let load = pair.start_load(primary)?;
    load.wait_progress(OPERATIONS, PROGRESS)?;

    let view = pair.wait_view(primary, "a status", LIMIT, |view| view.mode() == "mirrored")?;
    if (view.local_durability(), view.peer_durability()) != ("power", "power") {
        bail!("an acknowledgement should survive power on both nodes: {}", view.pretty());
    }
    load.stop(pair.guest(primary))?;

    // Reads and fsyncs make no record, everything else at least one.
    let (records, acknowledged) = (pair.compare_logs()?, load.acknowledged());
    if records < acknowledged / 2 {
        bail!("{records} records in both logs after {acknowledged} operations");
    }
    pair.expect_equal()
}
