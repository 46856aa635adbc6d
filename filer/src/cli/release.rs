//! `twinfiler release-address`: gives up the floating addresses that a killed daemon has left on this node.
//!
//! A daemon that is killed takes nothing back, and the partner that takes over adds the address on its side: until the
//! daemon runs again, both nodes would answer for it. So the unit runs this whenever the daemon has ended, however it did.
//!
//! Invariants: it does nothing beside a daemon that lives, which may be the one that serves; of all rights it keeps the one
//! to change addresses. What can go wrong: `ip` is missing, the interface is gone (then the address is, too).

use super::commands::{QUICK_LIMIT, remark, say};
use super::exit::{ExitCode, Failure};
use crate::rights;
use admin_api::control::{ClientError, Request, call};
use anyhow::Context;
use config::NodeConfig;
use hooks::{FloatingIp, FloatingIpError};
use rustix::thread::CapabilitySet;
use std::path::Path;

/// Gives up what this node has no daemon for.
pub(super) fn release(path: &Path) -> anyhow::Result<()> {
    let config = NodeConfig::load(path).context(
        "the floating addresses stay on this node, and the other one may have them too: mend the file and run \
         `twinfiler release-address`, or take them away with `ip address del ADDRESS dev INTERFACE`",
    )?;
    match call(&config.control, &Request::Status, QUICK_LIMIT) {
        Err(ClientError::NotRunning { .. }) => {}
        Err(error @ ClientError::NotAllowed { .. }) => return Err(error.into()),
        Ok(_) | Err(_) => {
            let message = "the daemon is running, and its addresses go where its volumes are served: nothing was changed. \
                           Use `twinfiler switchover VOLUME`, or stop it";
            return Err(Failure::new(ExitCode::TryAgain, message).into());
        }
    }
    rights::keep_only(CapabilitySet::NET_ADMIN).context("giving up the rights that are not needed")?;
    let mut first_error = None;
    for volume in &config.volumes {
        let Some(floating) = volume.floating_ip.clone() else { continue };
        let (name, address) = (&volume.name, FloatingIp::new(floating));
        let shown = address.config().address;
        let released = address.is_held().and_then(|held| address.release().map(|()| held));
        match released {
            Ok(true) => say(&format!("{name}: gave up {shown}\n"))?,
            // Nothing was left behind; without the interface nothing can be.
            Ok(false) | Err(FloatingIpError::NoInterface(_)) => {}
            Err(error) => {
                remark(&format!("twinfiler: volume {name}: {shown} could not be given up: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(()), |error| Err(Failure::new(ExitCode::Unavailable, error.to_string()).into()))
}
