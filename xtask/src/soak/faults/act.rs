//! One fault: inflicted, lasted out, taken away; then the pair must heal by itself and clients find everything.

use super::intruder;
use super::plan::{Fault, Kind, Whom};
use super::refuse;
use crate::cluster::wire::State;
use crate::cluster::{Cluster, Side, wait};
use crate::interrupt;
use crate::load::fleet::Fleet;
use crate::random::Random;
use crate::soak::round;
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// How long a disk stays full, hung or broken at least: a consistency point must meet it.
const DISK_LASTS: Duration = Duration::from_millis(1500);

/// How many times longer than a frozen filesystem a device hangs.
const SUSPENDED_TIMES: u32 = 5;

/// The longest time until a partner that lost its log has the primary's tree, which yields to clients.
pub const RESYNC_LIMIT: Duration = Duration::from_secs(240);

/// What must fit again when a disk is not full any more.
const ROOM_BYTES: usize = 8 << 20;

/// Inflicts a fault on a mirrored pair whose clients work on `primary`, and heals it. Gives the primary afterwards.
pub fn run(
    cluster: &mut Cluster,
    fleet: &mut Fleet,
    primary: Side,
    fault: &Fault,
    noise: &mut Random,
) -> Result<Side> {
    fleet.check_undisturbed()?;
    if let Kind::Killed(round) = fault.kind {
        return round::run(cluster, fleet, primary, &round).map(|(after, _)| after);
    }
    inflict(cluster, fleet, primary, fault, noise)?;
    let limit = if fault.kind == Kind::LogLost { RESYNC_LIMIT } else { wait::LIMIT };
    if let Kind::Full(_) = fault.kind {
        wait_for_room(cluster)?;
    }
    let after = settle(cluster, fleet, limit)?;
    fleet.expect_refusals(false);
    let stays = matches!(
        fault.kind,
        Kind::Stopped(Whom::Partner)
            | Kind::Ended(Whom::Partner)
            | Kind::Broken(Whom::Partner)
            | Kind::IndexLost { whom: Whom::Partner, .. }
            | Kind::WitnessStopped
            | Kind::LogLost
            | Kind::LogOld
            | Kind::Suspended(Whom::Partner)
            | Kind::Refused(Whom::Partner)
            | Kind::Unmounted
            | Kind::Aborted
    );
    if stays && after != primary {
        bail!("node {} was primary, and its partner was touched", primary.name());
    }
    Ok(after)
}

/// Inflicts it, lasts it out, and takes it away.
fn inflict(
    cluster: &mut Cluster,
    fleet: &mut Fleet,
    primary: Side,
    fault: &Fault,
    noise: &mut Random,
) -> Result<()> {
    let of = |whom: Whom| match whom {
        Whom::Primary => primary,
        Whom::Partner => primary.other(),
    };
    match fault.kind {
        // A round of its own, see above.
        Kind::Killed(_) => {}
        Kind::Stopped(whom) => {
            cluster.signal(of(whom), Signal::STOP)?;
            let slept = interrupt::sleep(fault.lasts);
            cluster.signal(of(whom), Signal::CONT)?;
            slept?;
        }
        Kind::WitnessStopped => {
            cluster.signal_witness(Signal::STOP)?;
            let slept = interrupt::sleep(fault.lasts);
            cluster.signal_witness(Signal::CONT)?;
            slept?;
            fleet.check_undisturbed().context("clients noticed that the witness stood still")?;
        }
        Kind::Ended(whom) => {
            cluster.terminate(of(whom))?;
            interrupt::sleep(fault.lasts)?;
            cluster.start_node(of(whom))?;
        }
        Kind::Switchover => {
            // On a machine so busy that a node is not heard in time it may be called off, and says so.
            if let Err(error) = cluster.switchover(primary) {
                eprintln!("  called off: {error:#}");
            }
        }
        Kind::Cut | Kind::Silent => {
            let state = if fault.kind == Kind::Cut { State::Cut } else { State::Silent };
            cluster.wire()?.set(state);
            let slept = interrupt::sleep(fault.lasts);
            cluster.wire()?.set(State::Whole);
            slept?;
        }
        Kind::Full(whom) => {
            fleet.expect_refusals(true);
            let foreign = cluster.disk(of(whom))?.fill()?;
            interrupt::sleep(fault.lasts.max(DISK_LASTS))?;
            drop(foreign);
        }
        Kind::Hangs(whom) => {
            let frozen = cluster.disk(of(whom))?.freeze()?;
            interrupt::sleep(fault.lasts.max(DISK_LASTS))?;
            drop(frozen);
        }
        Kind::Suspended(whom) => {
            // Who reads what is not in memory waits; some of these last longer than a hand-over takes.
            fleet.expect_refusals(true);
            let suspended = cluster.disk(of(whom))?.suspend()?;
            interrupt::sleep(fault.lasts.max(DISK_LASTS) * SUSPENDED_TIMES)?;
            drop(suspended);
        }
        Kind::Refused(whom) => refuse::objects(cluster, fleet, (primary, of(whom)), fault.lasts, noise)?,
        Kind::Unmounted => intruder::unmount(cluster, fleet, primary)?,
        Kind::Aborted => intruder::abort(cluster, fleet, primary)?,
        Kind::Stray => intruder::stray(cluster, fleet, primary, fault.lasts)?,
        Kind::LogOld => intruder::old_log(cluster, fleet, primary, fault.lasts)?,
        Kind::Broken(whom) => break_disk(cluster, fleet, (primary, of(whom)), fault.lasts)?,
        Kind::IndexLost { whom, noise: overwritten } => {
            cluster.kill(of(whom));
            let path = cluster.index_path(of(whom));
            match overwritten {
                true => overwrite(&path, noise)?,
                false => std::fs::remove_file(path)?,
            }
            interrupt::sleep(fault.lasts)?;
            cluster.start_node(of(whom))?;
        }
        Kind::LogLost => lose_log(cluster, fleet, primary, fault.lasts)?,
    }
    Ok(())
}

/// The disk of `side` answers nothing but EIO; it is repaired while the node is down.
fn break_disk(
    cluster: &mut Cluster,
    fleet: &mut Fleet,
    (primary, side): (Side, Side),
    lasts: Duration,
) -> Result<()> {
    // Reads of the base get EIO until the mount has moved; sqlite3 ends at the first one.
    fleet.expect_refusals(true);
    cluster.disk(side)?.shut_down()?;
    // A primary must hand over; a partner must stay what it is.
    cluster.wait_serving(primary.other_if(side == primary), wait::LIMIT)?;
    interrupt::sleep(lasts)?;
    cluster.kill(side);
    cluster.mount_again(side)?;
    cluster.start_node(side)
}

/// The partner is killed, and its log made anew while it is down.
fn lose_log(cluster: &mut Cluster, fleet: &Fleet, primary: Side, lasts: Duration) -> Result<()> {
    let partner = primary.other();
    cluster.kill(partner);
    interrupt::sleep(lasts)?;
    // Only while the primary is certain to have everything.
    cluster.wait_serving(primary, wait::LIMIT)?;
    fleet.wait_progress(|| cluster.check_alive())?;
    cluster.lose_log(partner)?;
    cluster.start_node(partner)
}

/// XFS and btrfs give removed files' room back a little later; clients who are told of a full disk wait for a new mount.
fn wait_for_room(cluster: &mut Cluster) -> Result<()> {
    let primary = cluster.wait_mirrored(wait::LIMIT)?;
    let file = cluster.mount_path(primary).join("room");
    let wrote = interrupt::poll(wait::LIMIT, Duration::from_millis(100), || {
        std::fs::write(&file, vec![1; ROOM_BYTES]).ok()
    })?;
    wrote.with_context(|| format!("no room for {ROOM_BYTES} bytes {:?} after it was given back", wait::LIMIT))
}

/// Waits until the pair has healed by itself; clients check everything on whatever primary it settled on.
fn settle(cluster: &mut Cluster, fleet: &mut Fleet, limit: Duration) -> Result<Side> {
    cluster.wait_mirrored(limit)?;
    // A disk that was full is tried again now and then.
    cluster.wait_healthy(wait::LIMIT)?;
    let primary = cluster.wait_mirrored(wait::LIMIT)?;
    fleet.hold()?;
    fleet.send_to(&cluster.mount_path(primary));
    fleet.wait_verified(|| cluster.check_alive())?;
    fleet.wait_progress(|| cluster.check_alive())?;
    fleet.check()?;
    Ok(primary)
}

/// Overwrites a part of a file with noise.
fn overwrite(path: &std::path::Path, noise: &mut Random) -> Result<()> {
    let file = std::fs::File::options().write(true).open(path)?;
    let len = file.metadata()?.len();
    let mut bytes = vec![0; 1 + noise.index(16 << 10)];
    noise.fill(&mut bytes);
    file.write_all_at(&bytes, noise.below(len))?;
    file.set_len(len)?;
    Ok(())
}
