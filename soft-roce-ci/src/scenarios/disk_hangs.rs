//! The primary's disk hangs, for those who read and for those who write, and answers again later.

use super::{PROGRESS, end_load, pair_machines};
use crate::lab::Side;
use crate::pair::plan::{Plan, SUSPENDABLE};
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};
use std::time::Duration;

pub const SCENARIO: Scenario = Scenario {
    name: "disk-hangs",
    about: "the primary's disk hangs under load: the partner serves everything acknowledged; heals by itself",
    machines: pair_machines,
    run,
};

/// How long telling the device mapper may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let mut pair = Pair::start(run, &lab, Plan { disks_can_hang: true, ..Plan::default() })?;
    let primary = pair.wait_mirrored(LIMIT)?;
    let heir = primary.other();
    let epoch = pair.primaries().newest().map_or(0, |(epoch, _)| epoch);
    let load = pair.start_load(primary)?;
    load.wait_progress(200, PROGRESS)?;

    // Without a flush before, and with nothing on its way to the disk waited for: as if the disk just stopped.
    map(&pair, primary, &["suspend", "--nolockfs", "--noflush", SUSPENDABLE])?;
    // The log takes what clients write meanwhile.
    load.wait_progress(50, PROGRESS)?;
    pair.wait_view(heir, "the partner to serve", LIMIT, |view| view.serves())?;
    end_load(&pair, &load, epoch)?;
    let found = pair.check_loads(heir)?;
    if found < load.acknowledged() {
        bail!("{found} operations are there of {} acknowledged", load.acknowledged());
    }
    let after = pair.start_load(heir)?;
    after.wait_progress(100, PROGRESS)?;

    map(&pair, primary, &["resume", SUSPENDABLE])?;
    if pair.wait_mirrored(LIMIT)? != heir {
        bail!("node {} should have stayed primary", heir.name());
    }
    after.wait_progress(50, PROGRESS)?;
    after.stop(pair.guest(heir))?;
    pair.expect_equal()
}

fn map(pair: &Pair<'_>, side: Side, arguments: &[&str]) -> Result<()> {
    let argv: Vec<&str> = ["dmsetup"].iter().chain(arguments).copied().collect();
    pair.guest(side).run(&argv, COMMAND_LIMIT)?.ok().map(drop)
}
