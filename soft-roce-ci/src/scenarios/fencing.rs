//! A primary that stands still and does not know that it was deposed: its writes must fail in the partner's NIC.

use super::{CLIENTS_NOTICE, PROGRESS, pair_machines};
use crate::pair::plan::Plan;
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};

pub const SCENARIO: Scenario = Scenario {
    name: "fencing",
    about: "primary stopped for longer than the failure timeout, deposed, continued: its writes fail, it rejoins",
    machines: pair_machines,
    run,
};

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let mut pair = Pair::start(run, &lab, Plan::default())?;
    let old = pair.wait_mirrored(LIMIT)?;
    let new = old.other();
    let before = pair.start_load(old)?;
    before.wait_progress(150, PROGRESS)?;
    let epoch = pair.primaries().newest().map_or(0, |(epoch, _)| epoch);

    // It stands still between two instructions, with operations of its clients under way.
    pair.guest(old).pause()?;
    let solo = pair.wait_solo(new, LIMIT)?;
    if solo.epoch() <= epoch {
        bail!("the new primary serves in epoch {}, the old one had {epoch}", solo.epoch());
    }
    let after = pair.start_load(new)?;
    after.wait_progress(100, PROGRESS)?;

    // It goes on where it stood: it sends what it had prepared, and what it sends must not land.
    let links_before = pair.node(old).log().len();
    pair.guest(old).resume()?;
    before.wait_over(CLIENTS_NOTICE)?;
    if before.errors().is_empty() {
        bail!("the clients of the deposed primary got no error: who answered their last operations?");
    }
    let primary = pair.wait_mirrored(LIMIT)?;
    if primary != new {
        bail!("node {} should have stayed primary", new.name());
    }
    expect_refused_by_nic(&pair.node(old).log()[links_before..])?;
    after.wait_progress(50, PROGRESS)?;
    after.stop(pair.guest(new))?;
    // What the old primary acknowledged after the takeover would be missing here: nothing is.
    pair.expect_equal()
}

/// The daemon of the deposed primary says why its link broke.
fn expect_refused_by_nic(log: &str) -> Result<()> {
    if !log.contains("remote access error") {
        bail!("the deposed primary does not say that the partner's NIC refused its write:\n{log}");
    }
    Ok(())
}
