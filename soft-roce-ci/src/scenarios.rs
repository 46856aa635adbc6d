//! The scenarios. Each is a file to read from top to bottom: what is done to a pair, and what must be true.
//!
//! Besides what a file says, always held: one primary in an epoch ([`crate::pair::primaries`]), no daemon ends by
//! itself, and what was acknowledged is never lost ([`crate::load`]).

mod boot;
mod clock_steps;
mod disk_hangs;
mod fencing;
mod link_cut;
mod mirrored_commit;
mod over_tcp;
mod persistence_modes;
mod power_cut_both;
mod power_cut_partner;
mod power_cut_primary;
mod refused_logs;
mod transport;
mod witness_away;

use crate::lab::Spec;
use crate::pair::client::Load;
use crate::pair::{LIMIT, Pair};
use crate::scenario::Scenario;
use anyhow::{Result, bail};
use std::time::Duration;

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    boot::SCENARIO,
    transport::SCENARIO,
    mirrored_commit::SCENARIO,
    fencing::STOPPED,
    fencing::UNAWARE,
    power_cut_primary::SCENARIO,
    power_cut_partner::SCENARIO,
    power_cut_both::SCENARIO,
    link_cut::BOTH_WAYS,
    link_cut::ONE_WAY,
    link_cut::FLAPPING,
    witness_away::SCENARIO,
    clock_steps::SCENARIO,
    disk_hangs::SCENARIO,
    persistence_modes::SCENARIO,
    refused_logs::SCENARIO,
    over_tcp::SCENARIO,
];

/// How long operations may take to be acknowledged. A takeover may lie in between.
const PROGRESS: Duration = Duration::from_secs(60);

/// How long clients of a node that was deposed may take to notice.
const CLIENTS_NOTICE: Duration = Duration::from_secs(60);

/// Two machines with a devdax NVDIMM, a disk and Soft-RoCE each: what most scenarios need.
fn pair_machines() -> Spec {
    Spec::default()
}

/// Ends a load whose node may have been deposed meanwhile. Errors are true only then; a node that stayed primary
/// must have answered everything.
fn end_load(pair: &Pair<'_>, load: &Load, epoch_before: u64) -> Result<()> {
    let others = pair.primaries().since(epoch_before).filter(|(_, side)| *side != load.side).count();
    if others == 0 {
        return load.stop(pair.guest(load.side));
    }
    pair.guest(load.side).write_file(load.stop_file(), b"stop")?;
    load.wait_over(CLIENTS_NOTICE)?;
    for error in load.errors() {
        if !TRUE_ERRORS.iter().any(|name| error.contains(name)) {
            bail!("a client of a deposed primary got an error that says something else: {error}");
        }
    }
    Ok(())
}

/// The pair is mirrored again by itself, whichever node serves by now; clients go on, and nothing is missing.
fn expect_healed(pair: &mut Pair<'_>, load: &Load, epoch_before: u64) -> Result<()> {
    let primary = pair.wait_mirrored(LIMIT)?;
    if pair.primaries().since(epoch_before).all(|(_, side)| side == load.side) {
        load.wait_progress(50, PROGRESS)?;
    }
    end_load(pair, load, epoch_before)?;
    let after = pair.start_load(primary)?;
    after.wait_progress(50, PROGRESS)?;
    after.stop(pair.guest(primary))?;
    pair.expect_equal()
}

/// What a client of a mount is told when its node is no longer the primary: gone, shut down, not connected, or, for an
/// operation that was under way, not known to have happened.
const TRUE_ERRORS: [&str; 4] = ["ENOTCONN", "ECONNABORTED", "ESHUTDOWN", "EIO"];
