//! Two machines with the real node on each, a network, a witness, clients, and what is known of all that.
//!
//! Everything runs on one thread, under the scheduler; locks here are plain, and never held while somebody else can
//! run. Invariant: whether a run fails, and where, follows from plan and faults alone.

pub(crate) mod chain;
mod clients;
pub(crate) mod files;
mod forgetful;
mod host;
mod strike;
mod watch;

use crate::invariants::{committed_stays, heals};
use crate::network::Network;
use crate::plan::Plan;
use crate::schedule::Fault;
use crate::witness::Witness;
use chain::{Chain, Following};
use clients::{Client, Counters};
use host::Host;
use ids::{Epoch, Lsn};
use node::simulation::Observed;
use parking_lot::Mutex;
use runtime::canary::{self, Canary};
use runtime::marks::{self, Marks};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Until a fresh pair is mirrored.
const FORM_LIMIT: Duration = Duration::from_secs(20);
/// A run that is not over by then never ends.
const MAX_VIRTUAL: Duration = Duration::from_secs(600);
/// A run that has switched so often goes round in circles.
const MAX_SWITCHES: u64 = 20_000_000;

/// See the module.
pub(crate) struct World {
    pub plan: Plan,
    hosts: Mutex<[Host; 2]>,
    network: Network,
    witness: Witness,
    chain: Mutex<Chain>,
    followed: Mutex<[Following; 2]>,
    /// Where both trees were compared last.
    compared: Mutex<Lsn>,
    /// Which hosts acknowledge alone.
    alone: Mutex<[bool; 2]>,
    /// Which host acknowledged in which epoch.
    acknowledged_in: Mutex<BTreeMap<Epoch, usize>>,
    counters: Counters,
}

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// Why it failed.
    pub failure: Option<String>,
    /// The same run, the same hash.
    pub trace_hash: u64,
    /// How long it lasted, in its own time.
    pub virtual_time: Duration,
    /// How often the scheduler switched.
    pub switches: u64,
    /// What happened.
    pub marks: Marks,
}

/// From now on this thread's simulation has this bug and no other.
fn plant(canary: Option<Canary>) {
    canary::plant(canary);
    // `pair` uses nothing of a machine, so it has a switch of its own.
    pair::planted::believe_old_registers(canary == Some(Canary::OldRegisterBelieved));
}

/// Runs a plan with these of its faults. On a thread of its own, or what hash tables do differs from run to run.
pub fn run(plan: &Plan, faults: &[Fault], planted: Option<Canary>, trace: bool) -> Report {
    plant(planted);
    let _earlier = marks::take();
    let config = scheduler::Config {
        max_virtual: MAX_VIRTUAL,
        max_switches: MAX_SWITCHES,
        prints: trace,
        ..scheduler::Config::new(plan.seed)
    };
    let (plan, faults) = (plan.clone(), faults.to_vec());
    let outcome = scheduler::run(&config, move || World::new(plan).live(&faults));
    plant(None);
    Report {
        failure: outcome.result.err().map(|failure| failure.to_string()),
        trace_hash: outcome.trace_hash,
        virtual_time: outcome.virtual_time,
        switches: outcome.switches,
        marks: marks::take(),
    }
}

impl World {
    fn new(plan: Plan) -> Arc<World> {
        let hosts = [0, 1].map(|host| Host::new(&plan, host));
        let log = nvlog::Log::open(Box::new(hosts[0].region.crash_losing_all()), None)
            .expect("an empty log opens")
            .0;
        let chain = Chain::new(log.tail());
        let followed = [chain.following(), chain.following()];
        Arc::new(World {
            network: strike::network(&plan),
            witness: Witness::new(plan.keeper()),
            hosts: Mutex::new(hosts),
            chain: Mutex::new(chain),
            followed: Mutex::new(followed),
            compared: Mutex::new(Lsn(u64::MAX)),
            alone: Mutex::default(),
            acknowledged_in: Mutex::default(),
            counters: Counters::default(),
            plan,
        })
    }

    fn live(self: Arc<World>, faults: &[Fault]) {
        let starting: Vec<_> = (0..2)
            .map(|host| {
                let world = self.clone();
                scheduler::spawn_on(scheduler::NodeId::WORLD, "start", move || world.start(host))
            })
            .collect();
        for started in starting {
            started.join().expect("it starts");
        }
        heals::wait(&self, FORM_LIMIT, "a fresh pair is mirrored", heals::is_mirrored);
        let clients = (0..self.plan.clients)
            .map(|number| {
                let client = Client::new(&self, number);
                scheduler::spawn_on(scheduler::NodeId::WORLD, "client", move || client.run())
            })
            .collect();
        let began = scheduler::virtual_now();
        for fault in faults {
            sleep_until(began + Duration::from_millis(fault.at_ms));
            self.strike(fault.kind);
        }
        sleep_until(began + Duration::from_millis(self.plan.until_ms));
        self.repair();
        heals::check(&self, clients);
        self.note_what_happened();
    }

    /// Both nodes, if both run.
    pub fn observe(&self) -> Option<[Observed; 2]> {
        let sims = {
            let hosts = self.hosts.lock();
            let sim = |host: &Host| host.life.as_ref().and_then(|life| life.sim.clone());
            [sim(&hosts[0])?, sim(&hosts[1])?]
        };
        Some(sims.map(|sim| sim.observe()))
    }

    /// Clients begin nothing more.
    pub fn stop_clients(&self) {
        self.counters.stop.store(true, Ordering::Relaxed);
    }

    /// Every operation is applied on both nodes, and was looked at there.
    pub fn is_at_rest(&self) -> bool {
        let Some(both) = self.observe() else { return false };
        let end = self.committed_operations_end();
        let quiet = |node: &Observed| node.cursors.trimmed() >= end && !node.half_applied;
        let followed = self.followed.lock();
        heals::is_mirrored(&both) && both.iter().all(quiet) && followed.iter().all(|tree| tree.at() >= end)
    }

    /// Where the last committed operation ends, also one that no watch has seen yet.
    fn committed_operations_end(&self) -> Lsn {
        let (sims, regions): (Vec<_>, Vec<_>) = {
            let hosts = self.hosts.lock();
            let sim = |host: &Host| host.life.as_ref().and_then(|life| life.sim.clone());
            hosts.iter().map(|host| (sim(host), host.region.clone())).unzip()
        };
        let mut chain = self.chain.lock();
        let glances = sims.iter().enumerate().filter_map(|(host, sim)| Some((host, sim.as_ref()?.glance())));
        let mut glances: Vec<_> = glances.collect();
        // A log that began anew holds nothing of what came before: the other one does.
        glances.sort_by_key(|(_, glance)| glance.tail.lsn);
        for (host, glance) in &glances {
            committed_stays::extended(*host, &mut chain, glance, &regions[*host]);
        }
        chain.operations_end()
    }

    /// Nothing moves any more: both trees hold everything.
    pub fn assert_equal_at_the_end(&self) {
        let disks = {
            let hosts = self.hosts.lock();
            [0, 1].map(|host| hosts[host].disk.clone())
        };
        let end = self.chain.lock().end().lsn;
        crate::invariants::trees_are_equal::check(&mut Lsn(u64::MAX), end, [&disks[0], &disks[1]]);
    }

    fn note_what_happened(&self) {
        let Counters { acknowledged, cut_off, synced, lost, .. } = &self.counters;
        let note = |what, count: u64| (0..count).for_each(|_| marks::note(what));
        note("operation acknowledged", acknowledged.load(Ordering::Relaxed));
        note("fsync answered", synced.load(Ordering::Relaxed));
        note("answered and lost with both nodes", lost.load(Ordering::Relaxed));
        note("cut off and made", cut_off[0].load(Ordering::Relaxed));
        note("cut off and not made", cut_off[1].load(Ordering::Relaxed));
    }
}

fn sleep_until(when: Duration) {
    scheduler::sleep(when.saturating_sub(scheduler::virtual_now()));
}
