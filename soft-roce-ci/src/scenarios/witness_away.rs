//! The link is cut while the witness does not answer either: nobody may go on alone.

use super::{PROGRESS, expect_healed, pair_machines};
use crate::lab::{Cut, Side};
use crate::pair::plan::Plan;
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

pub const SCENARIO: Scenario = Scenario {
    name: "witness-away",
    about: "link cut while the witness is unreachable: frozen, no acknowledgement, no error; heals by itself",
    machines: pair_machines,
    run,
};

/// How long the frozen pair is watched. Less than the 30 s after which reads of a frozen primary fail.
const FROZEN: Duration = Duration::from_secs(6);

/// Reports of what was acknowledged before may be under way for so long.
const LATE_REPORTS: Duration = Duration::from_secs(2);

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let mut pair = Pair::start(run, &lab, Plan::default())?;
    let primary = pair.wait_mirrored(LIMIT)?;
    let epoch = pair.primaries().newest().map_or(0, |(epoch, _)| epoch);
    let load = pair.start_load(primary)?;
    load.wait_progress(100, PROGRESS)?;

    // Without the witness a mirrored pair goes on.
    pair.witness.pause()?;
    load.wait_progress(50, PROGRESS)?;

    lab.wire().cut(Cut::Both);
    pair.wait("both nodes to acknowledge nothing", LIMIT, |views| {
        let silent = |side: Side| views[side.index()].as_ref().is_some_and(|view| !view.acknowledges());
        Side::BOTH.into_iter().all(silent).then_some(())
    })?;
    pair.pass(LATE_REPORTS)?;
    let (frozen, acknowledged) = (Instant::now(), load.acknowledged());
    pair.pass(FROZEN)?;
    if load.acknowledged() != acknowledged || load.last_acknowledged_at() > frozen {
        bail!("operations were acknowledged while the pair was frozen\n{}", pair.diagnosis());
    }
    // Clients wait; a frozen pair fails nobody.
    load.expect_no_error()?;

    lab.wire().heal();
    pair.witness.resume()?;
    expect_healed(&mut pair, &load, epoch)
}
