//! What happens outside when this node's role changes: commands, and an address that follows the primary.
//!
//! Invariants: commands run on a thread of their own, so none can hold up a change of roles; the address is changed by the
//! caller, each `ip` within its time limit. A failure is told (log and status) but never undoes a takeover: a volume that is
//! served without its floating address is better than one that is not served. What can go wrong: a command hangs (its whole
//! process group is killed), a command leaves children behind (they are killed with it), `ip` is missing, the interface is
//! gone, somebody else changes the address (it is changed back).

mod command;
mod floating_ip;
mod neighbours;
mod queue;
mod watched;

#[cfg(test)]
mod tests;

pub use command::{CommandError, run};
pub use floating_ip::{FloatingIp, FloatingIpError};

use admin_api::status::{FloatingIpStatus, HookStatus, Role, role_name};
use config::{CommandLine, HooksConfig, VolumeConfig};
use ids::Epoch;
use queue::{Job, Queue};
use std::sync::Arc;
use watched::WatchedAddress;

const ON_PRIMARY: &str = "on_primary";
const ON_DEMOTE: &str = "on_demote";

/// The hooks and the floating address of one volume. Calls that change the address block, for as long as `ip` takes.
pub struct RoleHooks {
    volume: String,
    hooks: HooksConfig,
    queue: Arc<Queue>,
    address: Option<WatchedAddress>,
}

impl RoleHooks {
    /// Hooks as `volume` has them. Does nothing yet.
    pub fn new(volume: &VolumeConfig) -> RoleHooks {
        let name = volume.name.to_string();
        RoleHooks {
            queue: Queue::new(name.clone(), volume.hooks.time_limit),
            address: volume.floating_ip.clone().map(|address| WatchedAddress::new(name.clone(), address)),
            volume: name,
            hooks: volume.hooks.clone(),
        }
    }

    /// This node has become primary and serves: takes the address, tells the neighbours, and has `on_primary` run.
    pub fn became_primary(&self, epoch: Epoch) {
        self.queue.new_term();
        self.change_address(true);
        self.run(ON_PRIMARY, self.hooks.on_primary.as_ref(), Role::Primary, epoch);
    }

    /// This node serves no more: gives the address up, before anything else that may take long, and ends an `on_primary`
    /// that still runs.
    pub fn stops_serving(&self) {
        self.change_address(false);
        self.queue.new_term();
        self.queue.give_up(ON_PRIMARY);
    }

    /// This node has ceased to be primary, or is about to stop, and has given the address up: has `on_demote` run.
    pub fn ceased_to_be_primary(&self, role: Role, epoch: Epoch) {
        self.run(ON_DEMOTE, self.hooks.on_demote.as_ref(), role, epoch);
    }

    /// The daemon ends: waits for hooks that are due, for as long as one of them may take.
    pub fn end(&self) {
        self.queue.end();
    }

    /// A daemon that starts holds nothing: takes away an address that a crash left behind, runs no hook.
    pub fn clear_leftovers(&self) {
        self.change_address(false);
    }

    /// The last run of each hook.
    pub fn status(&self) -> Vec<HookStatus> {
        self.queue.status()
    }

    /// The hook of the present role, if it failed.
    pub fn failure(&self, serves: bool) -> Option<HookStatus> {
        self.queue.failure(if serves { ON_PRIMARY } else { ON_DEMOTE })
    }

    /// A floating address is configured.
    pub fn has_address(&self) -> bool {
        self.address.is_some()
    }

    /// The floating address, if one is configured.
    pub fn address_status(&self) -> Option<FloatingIpStatus> {
        self.address.as_ref().map(WatchedAddress::status)
    }

    /// Does again what failed, and takes back what somebody else has done to the address. From the thread that makes all
    /// other changes: none may come between. It is added where this node `serves` only.
    pub fn look_at_address(&self, serves: bool) {
        if let Some(address) = &self.address {
            address.look(serves);
        }
    }

    fn change_address(&self, take: bool) {
        if let Some(address) = &self.address {
            address.change(take);
        }
    }

    fn run(&self, hook: &'static str, command: Option<&CommandLine>, role: Role, epoch: Epoch) {
        let Some(command) = command.cloned() else { return };
        let environment = [
            ("TWINFILER_VOLUME", self.volume.clone()),
            ("TWINFILER_ROLE", role_name(role).to_owned()),
            ("TWINFILER_EPOCH", epoch.to_string()),
        ];
        self.queue.add(Job { hook, command, environment });
    }
}
