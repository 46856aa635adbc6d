//! Power cut of the partner under load.

use super::{PROGRESS, pair_machines};
use crate::pair::plan::Plan;
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};

pub const SCENARIO: Scenario = Scenario {
    name: "power-cut-partner",
    about: "power cut of the partner under load: the primary goes on alone, no client gets an error; it rejoins",
    machines: pair_machines,
    run,
};

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let mut pair = Pair::start(run, &lab, Plan::default())?;
    let primary = pair.wait_mirrored(LIMIT)?;
    let load = pair.start_load(primary)?;
    load.wait_progress(150, PROGRESS)?;

    pair.power_cut(primary.other())?;
    let solo = pair.wait_solo(primary, LIMIT)?;
    if !solo.acknowledges() || !solo.peer_durability().is_empty() {
        bail!("alone, an acknowledgement waits for one log only: {}", solo.pretty());
    }
    load.wait_progress(100, PROGRESS)?;

    pair.boot(primary.other())?;
    if pair.wait_mirrored(LIMIT)? != primary {
        bail!("node {} should have stayed primary", primary.name());
    }
    load.wait_progress(50, PROGRESS)?;
    load.stop(pair.guest(primary))?;
    pair.expect_equal()
}
