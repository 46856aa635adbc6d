//! Both nodes' wall clocks are set forward and back under load: nobody is deposed, nobody waits, nothing is lost.
//!
//! Leases, failure timeouts and all other waits run on the monotonic clock, which nobody can set. What clients see of
//! the wall clock are timestamps: each record carries the primary's, so both trees still get the same ones.

use super::{PROGRESS, pair_machines};
use crate::lab::Side;
use crate::pair::node::shell;
use crate::pair::plan::Plan;
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};
use std::time::Duration;

pub const SCENARIO: Scenario = Scenario {
    name: "clock-steps",
    about: "wall clocks set forward and back by hours under load: no change of roles, no wait, nothing lost",
    machines: pair_machines,
    run,
};

/// By how many seconds which clock is set: forward and back, on either node, in the end by more than a day.
const STEPS_S: [(Side, i64); 6] = [
    (Side::A, 3_600),
    (Side::B, -3_600),
    (Side::A, -7_200),
    (Side::B, 100_000),
    (Side::A, 200_000),
    (Side::B, -300_000),
];

/// Longer than lease and failure timeout: what they would do, they would have done.
const AFTERWARDS: Duration = Duration::from_secs(3);

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let mut pair = Pair::start(run, &lab, Plan::default())?;
    let primary = pair.wait_mirrored(LIMIT)?;
    let epoch = pair.primaries().newest().map_or(0, |(epoch, _)| epoch);
    let load = pair.start_load(primary)?;
    load.wait_progress(100, PROGRESS)?;
    for (side, seconds) in STEPS_S {
        shell(pair.guest(side), &format!("date -s @$(($(date +%s) + {seconds}))"))?;
        load.wait_progress(50, PROGRESS)?;
        pair.pass(AFTERWARDS)?;
        if pair.wait_mirrored(LIMIT)? != primary {
            bail!("the roles changed when the clock of node {} was set by {seconds} s", side.name());
        }
    }
    if let Some((later, side)) = pair.primaries().since(epoch).next() {
        bail!("node {} began epoch {later} because of a clock\n{}", side.name(), pair.diagnosis());
    }
    load.expect_no_error()?;
    load.stop(pair.guest(primary))?;
    pair.expect_equal()
}
