//! One machine of the pair: its log's memory and its disk, which outlive its processes, and the process that runs.

use super::World;
use crate::invariants::committed_stays;
use crate::plan::Plan;
use ::witness::{WitnessConfig, WitnessKeeper};
use apply_engine::simulation::{DiskCrash, DiskWork, SimDisk};
use config::{
    ConsistencyPointConfig, FuseConfig, HooksConfig, LinkConfig, LogConfig, LogKind, NodeConfig, PeerConfig,
    Persistence, RdmaConfig, ResyncConfig, TimerConfig, TransportKind, VolumeConfig,
};
use ids::{AnswerFrom, VolumeId};
use node::simulation::{SimNode, SimParts};
use nvlog::sim::SimRegion;
use pair::PairMode;
use scheduler::NodeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The volume.
pub const VOLUME: VolumeId = VolumeId([0x51; 16]);
/// The hosts' names.
pub const NAMES: [&str; 2] = ["a", "b"];
/// What a change of the disk takes, in microseconds.
const EFFECT_US: u64 = 10;

/// A process.
#[derive(Clone)]
pub struct Life {
    /// Where its threads run.
    pub node: NodeId,
    /// The node, once it has started.
    pub sim: Option<Arc<SimNode>>,
    /// Which one it is of this host.
    pub number: u64,
}

/// See the module.
pub struct Host {
    pub region: SimRegion,
    pub disk: SimDisk,
    pub life: Option<Life>,
    /// Lives so far.
    pub lives: u64,
    /// How many times longer the disk takes than usual.
    slow: Arc<AtomicU32>,
    /// Until then its process stands still or is stopping, if it is still the same one.
    pub busy_until: Duration,
    /// How fast its clock runs, and what its wall clock says at virtual time zero.
    pub clock: (i64, Duration),
}

impl Host {
    pub fn new(plan: &Plan, host: usize) -> Host {
        let len_bytes = nvlog::format::RING_OFFSET_BYTES + plan.capacity_bytes;
        let region = match plan.volatile_logs() {
            true => SimRegion::volatile(len_bytes),
            false => SimRegion::new(len_bytes),
        };
        let options =
            nvlog::FormatOptions { volume: VOLUME, capacity_bytes: plan.capacity_bytes, overwrite: false };
        nvlog::Log::format(Box::new(region.clone()), options).expect("an empty region is formatted");
        let slow = Arc::new(AtomicU32::new(1));
        let clock = (plan.clock_ppm[host], Duration::from_secs(1_700_000_000));
        let disk = SimDisk::new();
        disk.set_refusing(plan.refusing(host));
        let host = Host { region, disk, life: None, lives: 0, slow, busy_until: Duration::ZERO, clock };
        host.pace(plan.flush_us);
        host
    }

    /// The disk takes virtual time.
    fn pace(&self, flush_us: u64) {
        let slow = self.slow.clone();
        self.disk.set_pace(Some(Arc::new(move |work| {
            let us = match work {
                DiskWork::Effect => EFFECT_US,
                DiskWork::Flush { effects: 0 } => EFFECT_US,
                DiskWork::Flush { .. } => 1 + scheduler::random(flush_us),
            };
            scheduler::sleep(Duration::from_micros(us) * slow.load(Ordering::Relaxed));
        })));
    }

    pub fn set_slow(&self, times: u32) {
        self.slow.store(times, Ordering::Relaxed);
    }

    /// What a process that died, or power that was lost, leaves for the next.
    pub fn crash(&mut self, plan: &Plan, power: Option<u64>) {
        match power {
            None => {
                // A log on a device has its image in the process's own memory.
                self.region = match plan.answer() {
                    AnswerFrom::Memory => self.region.crash_losing_all(),
                    AnswerFrom::Power => self.region.kill_process(),
                };
                self.disk = self.disk.crash(DiskCrash::Process);
            }
            Some(seed) => {
                self.region = self.region.crash(seed);
                self.disk = self.disk.crash(DiskCrash::Power { seed });
            }
        }
        self.pace(plan.flush_us);
    }
}

impl World {
    /// Starts a process on a host that has none. Returns when it runs, or has died.
    pub fn start(self: &Arc<World>, host: usize) {
        let (node, region, disk) = {
            let mut hosts = self.hosts.lock();
            let this = &mut hosts[host];
            if this.life.is_some() {
                return;
            }
            this.lives += 1;
            this.busy_until = Duration::ZERO;
            let node = scheduler::add_node(&format!("{}{}", NAMES[host], this.lives));
            scheduler::set_clock(node, this.clock.0, this.clock.1);
            this.life = Some(Life { node, sim: None, number: this.lives });
            (node, this.region.clone(), this.disk.clone())
        };
        let links = Box::new(self.network.source(host, region.clone()));
        let (config, witness) = (config(&self.plan, host), self.witness.client(host));
        let parts = SimParts { config, region, disk, links, witness };
        let started = scheduler::spawn_on(node, "start", move || SimNode::start(parts));
        let Ok(started) = started.join() else { return };
        let sim =
            Arc::new(started.unwrap_or_else(|error| panic!("{} does not start: {error:?}", NAMES[host])));
        let number = {
            let mut hosts = self.hosts.lock();
            let Some(life) = hosts[host].life.as_mut().filter(|life| life.node == node) else { return };
            life.sim = Some(sim.clone());
            life.number
        };
        self.watch(host, number, sim);
    }

    /// Ends a host's process where it stands; with it, in `power` cuts, the machine.
    pub fn end(self: &Arc<World>, host: usize, power: Option<u64>) {
        self.note_loss();
        // What it has committed since the last look, nobody may be able to show later.
        let (running, region) = {
            let hosts = self.hosts.lock();
            (hosts[host].life.clone().and_then(|life| life.sim), hosts[host].region.clone())
        };
        if let Some(sim) = running {
            committed_stays::extended(host, &mut self.chain.lock(), &sim.glance(), &region);
        }
        let life = {
            let mut hosts = self.hosts.lock();
            let this = &mut hosts[host];
            let life = this.life.take();
            if life.is_some() || power.is_some() {
                this.crash(&self.plan, power);
            }
            life
        };
        let Some(life) = life else { return };
        // At once: whoever could run in between would be answered out of a memory and a disk that nobody has any more.
        scheduler::kill(life.node);
        self.network.host_died(host, power.is_none());
    }
}

impl World {
    /// Before a host ends: unless both are mirrored, what is in memory only may be lost with it.
    fn note_loss(&self) {
        let is_mirrored = |state: &node::simulation::Observed| {
            state.pair.as_ref().is_some_and(|pair| pair.mode == PairMode::Mirrored)
        };
        if !self.observe().is_some_and(|both| both.iter().all(is_mirrored)) {
            self.counters.losses.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What both nodes are configured with.
fn config(plan: &Plan, host: usize) -> NodeConfig {
    let address = |host: usize| format!("127.0.0.1:{}", 1000 + host).parse().expect("an address");
    let name = |host: usize| NAMES[host].parse().expect("a node's name");
    let ms = Duration::from_millis;
    let volume = VolumeConfig {
        name: "v".parse().expect("a volume's name"),
        id: VOLUME,
        base: "/simulated".into(),
        peer: PeerConfig { name: name(1 - host), address: address(1 - host), public_key: None },
        transport: if plan.one_sided { TransportKind::Verbs } else { TransportKind::Tcp },
        rdma: RdmaConfig {
            persistence: if plan.one_sided { Persistence::Flush } else { Persistence::Message },
            ..RdmaConfig::default()
        },
        link: LinkConfig::default(),
        log: LogConfig {
            kind: if plan.volatile_logs() { LogKind::Emulated } else { LogKind::DevDax },
            path: "/simulated".into(),
            capacity_bytes: plan.capacity_bytes,
        },
        answer: plan.answer(),
        fuse: FuseConfig {
            mount: None,
            writeback_cache: false,
            threads: 1,
            allow_other: false,
            nosuid: true,
            nodev: true,
            read_only: false,
        },
        timers: TimerConfig::default(),
        consistency_point: ConsistencyPointConfig {
            interval: ms(plan.point_ms),
            bytes: plan.capacity_bytes / 4,
            memory: plan.point_memory,
        },
        resync: ResyncConfig::default(),
        hooks: HooksConfig::default(),
        floating_ip: None,
        preferred_primary: None,
    };
    NodeConfig {
        name: name(host),
        listen: address(host),
        control: "/simulated".into(),
        metrics_listen: None,
        private_key: None,
        plaintext: true,
        log_level: String::new(),
        log_format: config::LogFormat::Text,
        witness: Some(WitnessConfig {
            keeper: WitnessKeeper::BuiltIn(Vec::new()),
            public_key: None,
            timeout: ms(1_000),
        }),
        volumes: vec![volume],
    }
}
