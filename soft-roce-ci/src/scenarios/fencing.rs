//! A primary that does not know that it was deposed: its writes must fail in the partner's NIC, not by its own will.

use super::{CLIENTS_NOTICE, PROGRESS, pair_machines};
use crate::lab::Side;
use crate::pair::node::shell;
use crate::pair::plan::{MOUNT, Plan};
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};
use std::time::Duration;

pub const STOPPED: Scenario = Scenario {
    name: "fencing",
    about: "primary stopped for longer than the failure timeout, deposed, continued: acknowledges nothing, rejoins",
    machines: pair_machines,
    run: stopped,
};

pub const UNAWARE: Scenario = Scenario {
    name: "fencing-unaware",
    about: "primary deposed while it hears nothing and RDMA works on: only the partner's NIC stops its writes",
    machines: pair_machines,
    run: unaware,
};

/// Reports of what was acknowledged before may be under way for so long.
const LATE_REPORTS: Duration = Duration::from_secs(2);

fn stopped(run: &Context) -> Result<()> {
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
    pair.guest(old).resume()?;
    before.wait_over(CLIENTS_NOTICE)?;
    if before.errors().is_empty() {
        bail!("the clients of the deposed primary got no error: who answered their last operations?");
    }
    if pair.wait_mirrored(LIMIT)? != new {
        bail!("node {} should have stayed primary", new.name());
    }
    after.wait_progress(50, PROGRESS)?;
    after.stop(pair.guest(new))?;
    // What the old primary acknowledged after the takeover, or what landed after it, would show here.
    pair.expect_equal()
}

/// Takeovers until one finds a write on its way.
const ATTEMPTS: usize = 4;

/// When its last write had landed and was never answered, the deposed primary has nothing under way that could be
/// refused. Everything else must hold then too.
fn unaware(run: &Context) -> Result<()> {
    for number in 1..=ATTEMPTS {
        if refused_unaware(&run.attempt(number))? {
            return Ok(());
        }
    }
    bail!("in {ATTEMPTS} takeovers the deposed primary never said that the partner's NIC refused its write")
}

/// The control connection falls silent, RDMA does not; the primary does not reach the witness, which would tell it,
/// and is patient. It would write on for long, one-sided, into the log of a partner that has long taken over.
/// Whether it was told that it must not.
fn refused_unaware(run: &Context) -> Result<bool> {
    let lab = run.lab(&pair_machines())?;
    let (old, new) = (Side::A, Side::B);
    let plan = Plan { patient: Some(old), ..Plan::default() };
    let mut pair = Pair::start(run, &lab, plan)?;
    if pair.wait_mirrored(LIMIT)? != old {
        bail!("node {} should be primary", old.name());
    }
    let before = pair.start_load(old)?;
    before.wait_progress(150, PROGRESS)?;
    // Names and reads end with the lease, before the partner takes over; writes into an open file need none. Several, so
    // that one is on its way while another has landed and is not answered.
    for writer in 1..=4 {
        let write = "while printf x >&3; do :; done >/dev/null 2>&1 &";
        shell(pair.guest(old), &format!("exec 3>{MOUNT}/open-{writer}; {write}"))?;
    }

    shell(pair.guest(old), "ip link set eth1 down")?;
    lab.wire().cut_tcp();
    // Until it is deposed it goes on: the NICs need no control connection.
    before.wait_progress(20, PROGRESS)?;
    pair.wait_solo(new, LIMIT)?;
    pair.pass(LATE_REPORTS)?;
    let acknowledged = before.acknowledged();
    let refused = pair.node(old).log().contains(REFUSED);
    let after = pair.start_load(new)?;
    after.wait_progress(100, PROGRESS)?;
    if before.acknowledged() != acknowledged {
        bail!("the deposed primary acknowledged operations\n{}", pair.diagnosis());
    }

    lab.wire().heal();
    shell(pair.guest(old), "ip link set eth1 up")?;
    before.wait_over(CLIENTS_NOTICE)?;
    if pair.wait_mirrored(LIMIT)? != new {
        bail!("node {} should have stayed primary", new.name());
    }
    after.wait_progress(50, PROGRESS)?;
    after.stop(pair.guest(new))?;
    pair.expect_equal()?;
    Ok(refused)
}

/// What the transport says when a write completes with a remote access error.
const REFUSED: &str = "the peer did not let this node write into its log";
