//! Faults, and their end.

use super::World;
use super::host::NAMES;
use crate::network::{Acknowledge, Network, NetworkConfig};
use crate::plan::Plan;
use crate::schedule::Kind;
use pair::{Operator, PairMode};
use runtime::marks;
use std::sync::Arc;
use std::time::Duration;

/// What somebody else leaves free of a disk that he fills.
const LEFT_BYTES: u64 = 64 << 10;
/// What a clean stop takes at most.
const LONGEST_STOP: Duration = Duration::from_secs(12);
/// A peer that takes no byte for so long is dead.
const DEAD_PEER: Duration = Duration::from_millis(1_600);

/// The network of a plan.
pub fn network(plan: &Plan) -> Network {
    Network::new(NetworkConfig {
        latency: usual_latency(plan),
        ack: if plan.one_sided { Acknowledge::Adapter } else { Acknowledge::Message },
        dead_peer_timeout: DEAD_PEER,
    })
}

fn usual_latency(plan: &Plan) -> std::ops::Range<Duration> {
    Duration::from_micros(plan.latency_us[0])..Duration::from_micros(plan.latency_us[1])
}

impl World {
    /// Does what a fault says, and sees to its end.
    pub fn strike(self: &Arc<World>, kind: Kind) {
        scheduler::trace(|| format!("* {kind:?}"));
        match kind {
            Kind::Kill { host, for_ms } => self.down(host, None, for_ms),
            Kind::PowerCut { host, for_ms } => {
                if self.may_lose_power(host) {
                    self.down(host, Some(scheduler::random(u64::MAX)), for_ms);
                }
            }
            Kind::PowerCutBoth { for_ms } => {
                if !self.plan.volatile_logs() {
                    marks::note("power lost on both");
                    (0..2).for_each(|host| self.end(host, Some(scheduler::random(u64::MAX))));
                    (0..2).for_each(|host| self.down(host, None, for_ms[host]));
                }
            }
            Kind::CutFrom { host, for_ms } => {
                self.network.cut(host, 1 - host);
                self.later(for_ms, move |world| world.network.heal(host, 1 - host));
            }
            Kind::CutBoth { for_ms } => {
                self.cut_links();
                self.later(for_ms, |world| world.heal_links());
            }
            Kind::Isolate { host, for_ms } => {
                self.cut_links();
                self.witness.set_reachable(host, false);
                self.later(for_ms, move |world| {
                    world.heal_links();
                    world.witness.set_reachable(host, true);
                });
            }
            Kind::Break => self.network.break_links(),
            Kind::WitnessAway { host, for_ms } => {
                self.witness.set_reachable(host, false);
                self.later(for_ms, move |world| world.witness.set_reachable(host, true));
            }
            Kind::WitnessGone { for_ms } => {
                (0..2).for_each(|host| self.witness.set_reachable(host, false));
                self.later(for_ms, |world| (0..2).for_each(|host| world.witness.set_reachable(host, true)));
            }
            Kind::WitnessRestored { back } => self.restore_witness(back),
            Kind::WitnessEmptied => {
                marks::note("witness emptied");
                self.witness.empty();
            }
            Kind::SlowNetwork { up_to_us, for_ms } => {
                self.network.set_latency(Duration::from_micros(20)..Duration::from_micros(up_to_us));
                self.later(for_ms, |world| world.network.set_latency(usual_latency(&world.plan)));
            }
            Kind::BadTalk { one_in, for_ms } => {
                self.network.spoil_talk(Some(one_in));
                self.later(for_ms, |world| world.network.spoil_talk(None));
            }
            Kind::Stall { host, for_ms } => self.stall(host, Duration::from_millis(for_ms)),
            Kind::Clock { host, ppm, jump_s } => {
                let mut hosts = self.hosts.lock();
                hosts[host].clock = (ppm, Duration::from_secs(1_700_000_000 + jump_s));
                if let Some(life) = hosts[host].life.clone() {
                    scheduler::set_clock(life.node, ppm, Duration::from_secs(1_700_000_000 + jump_s));
                }
            }
            Kind::SlowDisk { host, times, for_ms } => {
                self.hosts.lock()[host].set_slow(times);
                self.later(for_ms, move |world| world.hosts.lock()[host].set_slow(1));
            }
            Kind::FailingDisk { host, for_ms } => {
                self.hosts.lock()[host].disk.set_failing(true);
                self.later(for_ms, move |world| world.hosts.lock()[host].disk.set_failing(false));
            }
            Kind::FullDisk { host, for_ms } => {
                let disk = self.hosts.lock()[host].disk.clone();
                disk.set_total_bytes(Some(disk.used_bytes() + LEFT_BYTES));
                self.later(for_ms, move |world| world.hosts.lock()[host].disk.set_total_bytes(None));
            }
            Kind::Switchover { host } => self.wish(host, Operator::Switchover),
            Kind::Stop { host, for_ms } => self.stop(host, for_ms),
        }
    }

    fn cut_links(&self) {
        self.network.cut(0, 1);
        self.network.cut(1, 0);
    }

    fn stall(&self, host: usize, stalled_for: Duration) {
        let mut hosts = self.hosts.lock();
        hosts[host].busy_until = scheduler::virtual_now() + stalled_for;
        if let Some(life) = hosts[host].life.clone() {
            scheduler::stall(life.node, stalled_for);
        }
    }

    /// Everything that was broken works from now on.
    pub fn repair(self: &Arc<World>) {
        scheduler::trace(|| "* repaired".to_owned());
        self.heal_links();
        self.network.set_latency(usual_latency(&self.plan));
        self.network.spoil_talk(None);
        for host in 0..2 {
            self.witness.set_reachable(host, true);
            let hosts = self.hosts.lock();
            hosts[host].set_slow(1);
            hosts[host].disk.set_failing(false);
            hosts[host].disk.set_total_bytes(None);
            drop(hosts);
            self.start(host);
        }
    }

    fn heal_links(&self) {
        self.network.heal(0, 1);
        self.network.heal(1, 0);
    }

    /// Ends a host's process, and starts the next one after a while.
    fn down(self: &Arc<World>, host: usize, power: Option<u64>, for_ms: u64) {
        self.end(host, power);
        self.later(for_ms, move |world| world.start(host));
    }

    /// In a task of the world, after a while.
    fn later(self: &Arc<World>, after_ms: u64, act: impl FnOnce(&Arc<World>) + Send + 'static) {
        let world = self.clone();
        let wait = move || {
            scheduler::sleep(Duration::from_millis(after_ms));
            act(&world);
        };
        scheduler::spawn_on(scheduler::NodeId::WORLD, "later", wait);
    }

    fn wish(self: &Arc<World>, host: usize, wish: Operator) {
        let Some(life) = self.hosts.lock()[host].life.clone() else { return };
        if let Some(sim) = life.sim {
            scheduler::spawn_on(life.node, "operator", move || sim.wish(wish));
        }
    }

    /// A clean stop, as the service manager does it; then a start.
    fn stop(self: &Arc<World>, host: usize, for_ms: u64) {
        let Some(life) = self.hosts.lock()[host].life.clone() else { return };
        let Some(sim) = life.sim else { return };
        self.hosts.lock()[host].busy_until = scheduler::virtual_now() + LONGEST_STOP;
        let world = self.clone();
        let wait = move || {
            let stopped = scheduler::spawn_on(life.node, "stop", move || sim.stop());
            if stopped.join().is_ok() {
                let same =
                    world.hosts.lock()[host].life.as_ref().is_some_and(|now| now.number == life.number);
                if same {
                    marks::note("clean stop");
                    world.down(host, None, for_ms);
                }
            }
        };
        scheduler::spawn_on(scheduler::NodeId::WORLD, "stopping", wait);
    }

    /// A log that power takes away may be lost while another one holds everything, and not before.
    fn may_lose_power(&self, host: usize) -> bool {
        if !self.plan.volatile_logs() {
            return true;
        }
        let mirrored = |state: &node::simulation::Observed| {
            state.pair.as_ref().is_some_and(|pair| pair.mode == PairMode::Mirrored)
        };
        let register = self.witness.register();
        let agreed = register.is_some_and(|register| register.mode == pair::witness::Mode::Mirrored);
        let stands_in = agreed && self.observe().is_some_and(|both| both.iter().all(mirrored));
        if stands_in {
            marks::note("log lost");
        }
        scheduler::trace(|| format!("power of {}: {stands_in}", NAMES[host]));
        stands_in
    }
}
