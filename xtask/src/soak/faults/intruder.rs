//! What somebody at the machine does to a node: unmounts the volume, aborts its mount, leaves a file below a mount
//! point, brings an old log back.

use super::act::RESYNC_LIMIT;
use crate::cluster::{Cluster, Side, wait};
use crate::interrupt;
use crate::load::fleet::Fleet;
use crate::steps;
use anyhow::{Context, Result, bail};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longest time for a command of the system.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// `umount --lazy` of the volume, while no client asks for anything. It must be mounted again.
pub fn unmount(cluster: &mut Cluster, fleet: &mut Fleet, primary: Side) -> Result<()> {
    fleet.hold()?;
    rustix::mount::unmount(cluster.mount_path(primary), rustix::mount::UnmountFlags::DETACH)?;
    cluster.wait_serving(primary, wait::LIMIT).context("after umount")
}

/// The connection of the mount is aborted, under its clients. It must be mounted again.
pub fn abort(cluster: &mut Cluster, fleet: &mut Fleet, primary: Side) -> Result<()> {
    fleet.expect_refusals(true);
    let at = cluster.mount_path(primary);
    let device = std::fs::metadata(&at).context("the volume does not answer")?.dev();
    let switch = format!("/sys/fs/fuse/connections/{}/abort", rustix::fs::minor(device));
    let control = Path::new("/sys/fs/fuse/connections");
    if std::fs::read_dir(control)?.next().is_none() {
        quiet(cluster, Command::new("mount").args(["-t", "fusectl", "fusectl"]).arg(control))?;
    }
    std::fs::write(&switch, "1").with_context(|| format!("cannot write {switch}"))?;
    fleet.hold()?;
    cluster.wait_serving(primary, wait::LIMIT).context("after an abort of the mount")
}

/// The primary dies while a file lies below its partner's mount point.
pub fn stray(cluster: &mut Cluster, fleet: &mut Fleet, primary: Side, lasts: Duration) -> Result<()> {
    let partner = primary.other();
    std::fs::write(cluster.mount_path(partner).join("stray"), b"somebody else's")?;
    cluster.kill(primary);
    fleet.hold()?;
    cluster.wait_serving(partner, wait::LIMIT).context("with a file below the mount point")?;
    interrupt::sleep(lasts)?;
    cluster.start_node(primary)
}

/// The log that a partner had some work ago is put in place of its log. It must not be believed.
pub fn old_log(cluster: &mut Cluster, fleet: &Fleet, primary: Side, lasts: Duration) -> Result<()> {
    let partner = primary.other();
    cluster.kill(partner);
    cluster.copy_log(partner)?;
    cluster.start_node(partner)?;
    cluster.wait_mirrored(wait::LIMIT)?;
    fleet.wait_progress(|| cluster.check_alive())?;
    // Its tree goes on from there.
    cluster.consistency_point(partner)?;
    cluster.kill(partner);
    interrupt::sleep(lasts)?;
    // Only while the primary is certain to have everything.
    cluster.wait_serving(primary, wait::LIMIT)?;
    fleet.wait_progress(|| cluster.check_alive())?;
    cluster.bring_log_back(partner)?;
    cluster.start_node(partner)?;
    if cluster.wait_mirrored(RESYNC_LIMIT)? != primary {
        bail!("a node with an old log serves");
    }
    Ok(())
}

fn quiet(cluster: &Cluster, command: &mut Command) -> Result<()> {
    steps::run(cluster.dir(), "command", command, COMMAND_LIMIT).map(drop)
}
