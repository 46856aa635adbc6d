//! What happens outside when this node's role changes: commands, and an address that follows the primary.
//!
//! Invariants: nothing here can hold up the pair for longer than its time limit, and a failure is told (log and
//! status) but never undoes a takeover: a volume that is served without its floating address is better than
//! one that is not served. What can go wrong: a command hangs (its whole process group is killed), a command
//! leaves children behind (they are killed with it), `ip` is missing, the interface is gone.

mod command;
mod floating_ip;
mod neighbours;

#[cfg(test)]
mod tests;

pub use command::{CommandError, run};
pub use floating_ip::{FloatingIp, FloatingIpError};

use admin_api::status::{FloatingIpStatus, HookStatus, Role, role_name};
use config::{HooksConfig, VolumeConfig};
use ids::Epoch;
use parking_lot::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The hooks and the floating address of one volume. Calls block; make them from a thread that may.
pub struct RoleHooks {
    volume: String,
    hooks: HooksConfig,
    address: Option<FloatingIp>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hooks: Vec<HookStatus>,
    /// What it should be.
    address_wanted: bool,
    address_held: bool,
    address_error: Option<String>,
}

impl RoleHooks {
    /// Hooks as `volume` has them. Does nothing yet.
    pub fn new(volume: &VolumeConfig) -> RoleHooks {
        RoleHooks {
            volume: volume.name.to_string(),
            hooks: volume.hooks.clone(),
            address: volume.floating_ip.clone().map(FloatingIp::new),
            state: Mutex::new(State::default()),
        }
    }

    /// This node has become primary and serves: takes the address, tells the neighbours, runs `on_primary`.
    pub fn became_primary(&self, epoch: Epoch) {
        self.change_address(true);
        if let Some(command) = &self.hooks.on_primary {
            self.run("on_primary", command, Role::Primary, epoch);
        }
    }

    /// This node serves no more: gives the address up, before anything else that may take long.
    pub fn release_address(&self) {
        self.change_address(false);
    }

    /// This node has ceased to be primary, or is about to stop, and has given the address up: runs `on_demote`.
    pub fn ceased_to_be_primary(&self, role: Role, epoch: Epoch) {
        if let Some(command) = &self.hooks.on_demote {
            self.run("on_demote", command, role, epoch);
        }
    }

    /// A daemon that starts holds nothing: takes away an address that a crash left behind, runs no hook.
    pub fn clear_leftovers(&self) {
        self.change_address(false);
    }

    /// The last run of each hook.
    pub fn status(&self) -> Vec<HookStatus> {
        self.state.lock().hooks.clone()
    }

    /// The floating address, if one is configured.
    pub fn address_status(&self) -> Option<FloatingIpStatus> {
        let address = self.address.as_ref()?;
        let state = self.state.lock();
        Some(FloatingIpStatus {
            address: address.config().address.to_string(),
            interface: address.config().interface.clone(),
            held: state.address_held,
            error: state.address_error.clone(),
        })
    }

    /// The address is not as it should be.
    pub fn address_failed(&self) -> bool {
        self.state.lock().address_error.is_some()
    }

    /// Does again what failed. From the thread that makes all other changes: none may come between.
    pub fn try_address_again(&self) {
        let wanted = self.state.lock().address_wanted;
        self.change_address(wanted);
    }

    fn change_address(&self, take: bool) {
        let Some(address) = &self.address else { return };
        self.state.lock().address_wanted = take;
        let (volume, shown) = (&self.volume, address.config().address);
        let result = if take { address.take() } else { address.release() };
        let mut state = self.state.lock();
        match result {
            Ok(()) => {
                tracing::info!(volume, address = %shown, taken = take, "floating address");
                state.address_held = take;
                state.address_error = None;
            }
            Err(error) => {
                let error = error.to_string();
                // Tried again and again, and told once.
                if state.address_error.as_ref() != Some(&error) {
                    tracing::error!(volume, address = %shown, taken = take, error, "floating address failed");
                }
                state.address_error = Some(error);
            }
        }
    }

    fn run(&self, hook: &str, command: &config::CommandLine, role: Role, epoch: Epoch) {
        let environment = [
            ("TWINFILER_VOLUME", self.volume.clone()),
            ("TWINFILER_ROLE", role_name(role).to_owned()),
            ("TWINFILER_EPOCH", epoch.to_string()),
        ];
        let started = Instant::now();
        let result = run(command, &environment, self.hooks.time_limit);
        let status = outcome(hook, started.elapsed(), &result);
        if status.succeeded {
            tracing::info!(volume = self.volume, hook, duration_ms = status.duration_ms, "hook done");
        } else {
            tracing::error!(volume = self.volume, hook, outcome = status.outcome, "hook failed");
        }
        let mut state = self.state.lock();
        state.hooks.retain(|earlier| earlier.hook != hook);
        state.hooks.push(status);
    }
}

fn outcome(hook: &str, took: Duration, result: &Result<String, CommandError>) -> HookStatus {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    HookStatus {
        hook: hook.to_owned(),
        at_unix_ms: at.as_millis() as u64,
        duration_ms: took.as_millis() as u64,
        succeeded: result.is_ok(),
        outcome: match result {
            Ok(_) => "succeeded".to_owned(),
            Err(error) => error.to_string(),
        },
    }
}
