//! Power cut of the primary under load, over verbs.

use super::{PROGRESS, pair_machines};
use crate::pair::plan::Plan;
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};

pub const SCENARIO: Scenario = Scenario {
    name: "power-cut-primary",
    about: "power cut of the primary under load: everything acknowledged is on the partner; the node rejoins",
    machines: pair_machines,
    run,
};

fn run(run: &Context) -> Result<()> {
    survive(run, Plan::default())
}

/// The same for any transport.
pub fn survive(run: &Context, plan: Plan) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let mut pair = Pair::start(run, &lab, plan)?;
    let dead = pair.wait_mirrored(LIMIT)?;
    let heir = dead.other();
    let before = pair.start_load(dead)?;
    before.wait_progress(200, PROGRESS)?;

    pair.power_cut(dead)?;
    before.wait_over(LIMIT)?;
    pair.wait_solo(heir, LIMIT)?;
    // At once, from the partner's log and memory: its local tree is behind.
    let found = pair.check_loads(heir)?;
    if found < before.acknowledged() {
        bail!("{found} operations are there of {} acknowledged", before.acknowledged());
    }

    let after = pair.start_load(heir)?;
    after.wait_progress(100, PROGRESS)?;
    // With its NVDIMM and its disk as the power cut left them: it cuts its log where the new epoch begins, and
    // catches up while clients write on.
    pair.boot(dead)?;
    let primary = pair.wait_mirrored(LIMIT)?;
    if primary != heir {
        bail!("node {} should have stayed primary", heir.name());
    }
    after.wait_progress(50, PROGRESS)?;
    after.stop(pair.guest(heir))?;
    pair.expect_equal()
}
