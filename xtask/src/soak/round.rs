//! One round of a soak: clients work, processes die and come back, everything promised is checked.

use super::plan::{Round, Victim};
use crate::cluster::{Cluster, Side, wait};
use crate::interrupt;
use crate::load::fleet::Fleet;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// How long things took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// From the kill of the primary until the other node served its mount.
    pub takeover: Option<Duration>,
    /// From the last start until the pair was mirrored.
    pub rejoin: Option<Duration>,
}

/// Carries out a round on a mirrored pair whose clients work on `primary`. Gives the primary afterwards.
pub fn run(cluster: &mut Cluster, fleet: &mut Fleet, primary: Side, round: &Round) -> Result<(Side, Times)> {
    fleet.check_undisturbed()?;
    interrupt::sleep(round.work)?;
    let (after, times) = match round.victim {
        Victim::Primary => kill_primary(cluster, fleet, primary, round)?,
        Victim::Partner => kill_partner(cluster, fleet, primary, round)?,
        Victim::Both => kill_both(cluster, fleet, primary, round)?,
        Victim::Witness => {
            cluster.kill_witness();
            interrupt::sleep(round.dead)?;
            fleet.wait_progress(|| cluster.check_alive())?;
            cluster.start_witness()?;
            fleet.check_undisturbed()?;
            (primary, Times::default())
        }
        Victim::WitnessAndPartner => {
            cluster.kill_witness();
            interrupt::sleep(round.gap)?;
            cluster.kill(primary.other());
            interrupt::sleep(round.dead)?;
            cluster.start_witness()?;
            fleet
                .wait_progress(|| cluster.check_alive())
                .context("the primary is still frozen although the witness is back")?;
            let times = bring_back(cluster, primary.other())?;
            fleet.check_undisturbed()?;
            (primary, times)
        }
        Victim::PrimaryDuringRejoin => kill_primary_during_rejoin(cluster, fleet, primary, round)?,
    };
    fleet.wait_progress(|| cluster.check_alive())?;
    fleet.check()?;
    Ok((after, times))
}

fn kill_primary(
    cluster: &mut Cluster,
    fleet: &mut Fleet,
    primary: Side,
    round: &Round,
) -> Result<(Side, Times)> {
    let killed = Instant::now();
    cluster.kill(primary);
    cluster.wait_serving(primary.other(), wait::LIMIT)?;
    let takeover = killed.elapsed();
    fleet.hold()?;
    fleet.send_to(&cluster.mount_path(primary.other()));
    fleet.wait_verified(|| cluster.check_alive())?;
    interrupt::sleep(round.dead.saturating_sub(killed.elapsed()))?;
    let times = bring_back(cluster, primary)?;
    fleet.check_undisturbed()?;
    Ok((primary.other(), Times { takeover: Some(takeover), ..times }))
}

fn kill_partner(
    cluster: &mut Cluster,
    fleet: &mut Fleet,
    primary: Side,
    round: &Round,
) -> Result<(Side, Times)> {
    lose_partner(cluster, fleet, primary, round)?;
    let times = bring_back(cluster, primary.other())?;
    fleet.check_undisturbed()?;
    Ok((primary, times))
}

/// The partner dies, and the primary goes on alone.
fn lose_partner(cluster: &mut Cluster, fleet: &mut Fleet, primary: Side, round: &Round) -> Result<()> {
    cluster.kill(primary.other());
    interrupt::sleep(round.dead)?;
    fleet.wait_progress(|| cluster.check_alive()).context("the primary does not go on without its partner")
}

fn kill_both(
    cluster: &mut Cluster,
    fleet: &mut Fleet,
    primary: Side,
    round: &Round,
) -> Result<(Side, Times)> {
    cluster.kill(primary);
    cluster.kill(primary.other());
    fleet.hold()?;
    interrupt::sleep(round.dead)?;
    let first = if round.partner_first { primary.other() } else { primary };
    cluster.start_node(first)?;
    interrupt::sleep(round.gap)?;
    cluster.start_node(first.other())?;
    settle_on_any(cluster, fleet)
}

fn kill_primary_during_rejoin(
    cluster: &mut Cluster,
    fleet: &mut Fleet,
    primary: Side,
    round: &Round,
) -> Result<(Side, Times)> {
    lose_partner(cluster, fleet, primary, round)?;
    cluster.start_node(primary.other())?;
    interrupt::sleep(round.gap)?;
    cluster.kill(primary);
    fleet.hold()?;
    // The other node may take over only if it had caught up; otherwise the killed one must come back first.
    interrupt::sleep(round.dead)?;
    cluster.start_node(primary)?;
    settle_on_any(cluster, fleet)
}

fn bring_back(cluster: &mut Cluster, side: Side) -> Result<Times> {
    let started = Instant::now();
    cluster.start_node(side)?;
    cluster.wait_mirrored(wait::LIMIT)?;
    Ok(Times { takeover: None, rejoin: Some(started.elapsed()) })
}

/// Waits for whatever primary the pair settles on, and sends the clients there.
fn settle_on_any(cluster: &mut Cluster, fleet: &mut Fleet) -> Result<(Side, Times)> {
    let started = Instant::now();
    let primary = cluster.wait_mirrored(wait::LIMIT)?;
    let rejoin = started.elapsed();
    fleet.send_to(&cluster.mount_path(primary));
    fleet.wait_verified(|| cluster.check_alive())?;
    Ok((primary, Times { takeover: None, rejoin: Some(rejoin) }))
}
