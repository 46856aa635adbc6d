//! Power cut of both nodes at once, under load: what was acknowledged is in both NVDIMMs.

use super::{PROGRESS, pair_machines};
use crate::lab::Side;
use crate::pair::plan::Plan;
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};

pub const SCENARIO: Scenario = Scenario {
    name: "power-cut-both",
    about: "power cut of both at once, under load: both boot, nothing acknowledged is lost",
    machines: pair_machines,
    run,
};

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let mut pair = Pair::start(run, &lab, Plan::default())?;
    let primary = pair.wait_mirrored(LIMIT)?;
    let before = pair.start_load(primary)?;
    before.wait_progress(200, PROGRESS)?;

    for side in Side::BOTH {
        pair.power_cut(side)?;
    }
    before.wait_over(LIMIT)?;
    pair.boot_both()?;
    let primary = pair.wait_mirrored(LIMIT)?;
    let found = pair.check_loads(primary)?;
    if found < before.acknowledged() {
        bail!("{found} operations are there of {} acknowledged", before.acknowledged());
    }
    let after = pair.start_load(primary)?;
    after.wait_progress(50, PROGRESS)?;
    after.stop(pair.guest(primary))?;
    pair.expect_equal()
}
