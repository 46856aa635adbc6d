//! Watches one process as long as it lives: every invariant that can be told from outside, at every look.

use super::World;
use crate::invariants::{
    committed_stays, one_acknowledges_alone, one_acknowledges_in_an_epoch, only_committed_is_applied,
    tree_follows_log, trees_are_equal,
};
use ids::AckRule;
use node::simulation::{Glance, SimNode};
use std::sync::Arc;
use std::time::Duration;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(2);
/// Looks between two comparisons of whole logs.
const LOOKS_PER_PREFIX: u32 = 25;

impl World {
    /// Starts to watch a process.
    pub fn watch(self: &Arc<World>, host: usize, life: u64, sim: Arc<SimNode>) {
        let world = self.clone();
        let watching = move || {
            let mut looks = 0;
            while world.hosts.lock()[host].life.as_ref().is_some_and(|current| current.number == life) {
                world.look(host, &sim, looks);
                looks = looks.wrapping_add(1);
                scheduler::sleep(LOOK);
            }
        };
        scheduler::spawn_on(scheduler::NodeId::WORLD, "watch", watching);
    }

    /// One look. Nothing in it lets anybody else run.
    fn look(&self, host: usize, sim: &SimNode, looks: u32) {
        let glance = sim.glance();
        let mut chain = self.chain.lock();
        let regions = self.hosts.lock().each_ref().map(|host| host.region.clone());
        // A log that begins anew holds nothing of what came before: the other one does.
        let other = self.hosts.lock()[1 - host].life.as_ref().and_then(|life| life.sim.clone());
        if let Some(theirs) = other.as_ref().map(|sim| sim.glance()) {
            committed_stays::extended(1 - host, &mut chain, &theirs, &regions[1 - host]);
        }
        committed_stays::extended(host, &mut chain, &glance, &regions[host]);
        if looks.is_multiple_of(LOOKS_PER_PREFIX) {
            committed_stays::prefix(host, &chain, &glance);
        }
        let disk = self.hosts.lock()[host].disk.clone();
        only_committed_is_applied::check(host, &chain, &glance, &disk);
        self.alone.lock()[host] = glance.rule == AckRule::Local;
        one_acknowledges_alone::check(&self.alone.lock());
        one_acknowledges_in_an_epoch::check(&mut self.acknowledged_in.lock(), host, &glance);
        if !is_settled(&glance) {
            return;
        }
        tree_follows_log::check(host, &chain, &mut self.followed.lock()[host], &glance, &disk);
        let hosts = self.hosts.lock();
        let other = &hosts[1 - host];
        if let Some(theirs) = other.life.as_ref().and_then(|life| life.sim.as_ref()).map(|sim| sim.glance())
            && is_settled(&theirs)
            && theirs.tail.lsn == glance.tail.lsn
        {
            trees_are_equal::check(&mut self.compared.lock(), glance.tail.lsn, [&disk, &other.disk]);
        }
    }
}

/// The tree stands where the log begins.
fn is_settled(glance: &Glance) -> bool {
    !glance.half_applied && !glance.replacing && !glance.log.superblock().memory_lost
}
