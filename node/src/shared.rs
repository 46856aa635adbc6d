//! What the threads of one volume share.

use super::applier::ApplierState;
use super::event::NodeEvent;
use super::faults::Faults;
use super::follower::{Follower, UNBOUNDED};
use super::rdma::Rdma;
use super::replay::Replay;
use super::resync::state::ResyncState;
use super::room::RoomState;
use super::split::changes::ChangesError;
use super::split::talk::SplitState;
use super::verify::VerifyState;
use super::write_behind::WriteBehind;
use admin_api::metrics::VolumeMetrics;
use admin_api::status::{AckLevel, ConsistencyPointStatus, FaultKind, TakeoverTiming};
use apply_engine::{Base, Delta, Layers, Vanished};
use commit::stack::DeltaStack;
use commit::{Ask, BaseReads, CommitPath, Gate, Needs, PatientBase, Room, SpaceBudget};
use config::VolumeConfig;
use fuse_door::KernelCache;
use hooks::RoleHooks;
use ids::{AckRule, Durability, Lsn, NodeName, Oid};
use nvlog::Log;
use pair::{LogSummary, PairStatus, Vitals};
use rdma_transport::Counters;
use runtime::channel::Sender;
use runtime::memory;
use runtime::{Mutex, Uptime};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use volume::Volume;

/// How often it is tried to look at what is counted, and what that needs, in one moment.
const LOOKS_AT_COUNTED: usize = 4;
/// Of a reason that the partner tells, so much is shown.
pub(super) const MAX_REASON_CHARS: usize = 1000;

/// So many times `consistency_point.memory` may be taken by what is not applied, before clients wait.
const DELTAS_IN_MEMORY: u64 = 4;

/// Less room than for this is scarce.
pub(super) const SCARCE: Ask = Ask {
    payload_bytes: 1 << 20,
    allocate_bytes: 0,
    map_bytes: 0,
    inodes: 1,
    content: true,
    grows: true,
    room: Room::New,
};

/// One volume on this node.
pub(super) struct Shared {
    pub config: VolumeConfig,
    pub me: NodeName,
    pub log: Arc<Log>,
    /// With the log's ring registered.
    pub rdma: Option<Rdma>,
    pub base: Arc<Base>,
    /// How many threads of front doors may read it at once.
    pub reads: Arc<BaseReads>,
    pub stack: Arc<DeltaStack>,
    pub path: Arc<CommitPath>,
    pub gate: Arc<Gate>,
    pub metrics: Arc<VolumeMetrics>,
    pub hooks: Arc<RoleHooks>,
    pub counters: Arc<Counters>,
    pub events: Sender<NodeEvent>,
    pub follower: Follower,
    pub applier: Arc<ApplierState>,
    pub replay: Replay,
    pub resync: ResyncState,
    pub split: SplitState,
    pub verify: VerifyState,
    pub room: Arc<RoomState>,
    pub write_behind: Arc<WriteBehind>,
    pub started: Uptime,
    pub stopping: AtomicBool,
    /// The volume while this node serves it.
    pub volume: Mutex<Option<Arc<Volume>>>,
    pub pair: Mutex<Option<PairStatus>>,
    /// How many times a switchover was called off, and why the last time.
    pub called_off: Mutex<(u64, String)>,
    pub peer_durability: Mutex<Option<Durability>>,
    /// What the local filesystem could store when it was last asked.
    pub space: Mutex<SpaceBudget>,
    pub mounted_at: Mutex<Option<String>>,
    /// What the kernel keeps of the mounted volume.
    pub kernel_cache: Mutex<Option<Arc<KernelCache>>>,
    pub last_point: Mutex<Option<ConsistencyPointStatus>>,
    pub last_takeover: Mutex<Option<TakeoverTiming>>,
    pub witness_error: Mutex<Option<String>>,
    pub faults: Faults,
}

impl Shared {
    pub fn name(&self) -> &str {
        self.config.name.as_str()
    }

    /// Milliseconds since the node started: the clock of the pair and of leases.
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// A fault of the disk is over; the pair hears it when there is none left.
    pub fn healed(&self) {
        let of_the_disk = [FaultKind::BaseFailed, FaultKind::BaseSlow, FaultKind::BaseUnreadable];
        if !of_the_disk.into_iter().any(|kind| self.faults.has(kind)) {
            self.tell(NodeEvent::Healed);
        }
    }

    /// Tells the executor. A volume that has ended takes nothing any more, which is all right.
    pub fn tell(&self, event: NodeEvent) {
        let _ended = self.events.send(event);
    }

    /// This node's log as the partner must know it. What the pair hears of is on the log's device.
    pub fn log_summary(&self) -> LogSummary {
        self.path.persist_all();
        let superblock = self.log.superblock();
        LogSummary {
            volume: self.config.id,
            capacity_bytes: self.log.capacity_bytes(),
            tail: self.log.tail(),
            end: self.log.end(),
            committed: self.path.committed(),
            history: superblock.epoch_history,
            survived: !superblock.memory_lost,
            durability: self.log.durability(),
            answer_from: self.config.answer,
            base_empty: self.base_is_empty(),
        }
    }

    /// Nothing but the root directory, and no object was ever made.
    fn base_is_empty(&self) -> bool {
        self.base.next_oid() == ids::Oid::FIRST_FREE && self.base.object_count().is_ok_and(|count| count <= 1)
    }

    pub fn vitals(&self) -> Vitals {
        let cursors = self.path.cursors();
        let (counted, needs) = self.counted();
        let space = self.known_space().after(needs);
        if needs != Needs::default() && !space.without_margin().holds(Needs::of(&SCARCE)) {
            // Clients may be waiting for what a consistency point of this node will show.
            self.applier.request();
        }
        let used = self.log.reserved().since(cursors.trimmed());
        Vitals {
            committed: cursors.committed(),
            applied: cursors.applied(),
            trimmed: cursors.trimmed(),
            end: self.log.end().lsn,
            peer_durable: cursors.peer_durable(),
            counted,
            free_bytes: space.free_bytes,
            free_metadata_bytes: space.metadata.map(|room| (room.free_bytes, room.unallocated_bytes)),
            free_inodes: if space.total_inodes == 0 { u64::MAX } else { space.free_inodes },
            likely_inodes: space.shown_inodes(),
            log_is_slow: false,
            log_fill_permille: (used * 1000 / cursors.capacity_bytes().max(1)) as u16,
            replays: self.follower.is_in_pieces(),
            healthy: true,
        }
    }

    /// What is not applied may need so much, up to here. Were more counted than is told, what is told of the space would
    /// look like all that there is.
    fn counted(&self) -> (Lsn, Needs) {
        let absorbed = || self.follower.absorbed().unwrap_or_else(|| self.path.cursors().applied());
        // In this order: what is absorbed later is not counted yet, and what has been applied meanwhile has been
        // looked at before it was dropped.
        let mut counted = absorbed();
        let mut needs = self.unapplied_needs();
        for _ in 0..LOOKS_AT_COUNTED {
            let now = absorbed();
            if now == counted {
                break;
            }
            (counted, needs) = (now, self.unapplied_needs());
        }
        (counted, needs)
    }

    /// What the last look at the local filesystem found, which is what admission goes by: heartbeats tell it, and
    /// ask no filesystem that may hang.
    pub fn known_space(&self) -> SpaceBudget {
        *self.space.lock()
    }

    /// What the local filesystem can still store; nothing when it cannot be asked.
    pub fn local_space(&self) -> SpaceBudget {
        let space = self.ask_for_space();
        *self.space.lock() = space;
        space
    }

    fn ask_for_space(&self) -> SpaceBudget {
        match self.base.space() {
            Ok(space) => {
                self.faults.clear(FaultKind::SpaceUnknown);
                space.into()
            }
            Err(error) => {
                let what = format!("the base filesystem cannot be asked for its space: {error}");
                self.faults.raise(FaultKind::SpaceUnknown, &what, "check the disk");
                SpaceBudget::default()
            }
        }
    }

    /// Layers without any Delta content, over `[from, ..)`. What is absorbed first may have been applied
    /// already, wholly or in part, before a crash.
    pub fn fresh_layers(&self, from: Lsn) -> Layers {
        fresh_layers(&self.base, &self.reads, &self.log, from)
    }

    /// The tree with everything that this node's log holds, committed or not, as a client of this node would see it.
    /// For a node that serves nobody and follows nobody: nothing is added meanwhile.
    ///
    /// # Errors
    /// It takes more memory than there is.
    pub fn whole_log_layers(&self) -> Result<Layers, ChangesError> {
        let tail = self.log.tail();
        let stack = DeltaStack::new(self.fresh_layers(tail.lsn));
        let (end, spare_bytes) = (self.log.end().lsn, memory::spare_bytes());
        let most = spare_bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(UNBOUNDED);
        match Follower::new(tail, tail.lsn).absorb(&self.log, &stack, end, most) {
            Ok(true) => {}
            Ok(false) => {
                let log_bytes = end.since(tail.lsn);
                return Err(ChangesError::Memory { log_bytes, spare_bytes: spare_bytes.unwrap_or_default() });
            }
            Err(error) => {
                tracing::warn!(volume = self.name(), %error, "the log cannot be read to its end");
            }
        }
        let whole = stack.snapshot();
        Ok((*whole).clone())
    }

    /// Where what only this node holds is kept aside.
    pub fn salvage_path(&self) -> PathBuf {
        let own = || self.config.base.join(apply_engine::base::HIDDEN_NAME).join("salvage");
        self.config.chosen_salvage().unwrap_or_else(own)
    }

    /// What an answer survives under a rule, and what an fsync does; `None`: there is none.
    pub fn levels(&self, rule: AckRule) -> (Option<AckLevel>, Option<AckLevel>) {
        let local = self.log.durability();
        let both = AckLevel { local, peer: Some(self.peer_durability()) };
        let memory = AckLevel { local: Durability::Memory, peer: Some(Durability::Memory) };
        match rule {
            AckRule::Nobody => (None, None),
            AckRule::Local => [AckLevel { local, peer: None }; 2].map(Some).into(),
            AckRule::Both => [both; 2].map(Some).into(),
            AckRule::Memory => (Some(memory), Some(both)),
        }
    }

    /// The partner's log is as durable as it said; before it has, nothing better than a process.
    pub fn peer_durability(&self) -> Durability {
        self.peer_durability.lock().unwrap_or(Durability::Process)
    }

    /// Past every OID that was ever given.
    pub fn next_oid(&self) -> Oid {
        let given = self.volume.lock().as_ref().map_or(Oid(0), |volume| volume.next_oid());
        given.max(self.base.next_oid()).max(self.follower.next_oid())
    }

    /// Throws the Deltas away and builds them anew from the log, up to what is committed.
    pub fn rebuild(&self) -> Result<(), super::NodeError> {
        let _no_consistency_point = self.applier.exclusive();
        let tail = self.log.tail();
        self.stack.reset(self.fresh_layers(tail.lsn));
        self.applier.begin_anew();
        self.gate.forget_pending();
        let committed = self.path.committed();
        self.follower.restart_at(tail, committed.min(self.log.applying_end()));
        self.absorb(committed).map(|_all| ())
    }

    /// Records in the Deltas, which the local tree does not hold yet.
    pub fn unapplied_records(&self) -> u64 {
        let layers = self.stack.snapshot();
        let sealed: u64 = layers.sealed.iter().map(|delta| delta.stats().records).sum();
        sealed + layers.active.read().stats().records
    }

    /// Tells admission what memory those records take. Where nothing can be applied nobody waits for that to end.
    pub fn tell_unapplied_memory(&self) {
        let layers = self.stack.snapshot();
        let sealed: usize = layers.sealed.iter().map(|delta| delta.stats().memory_bytes).sum();
        let taken = sealed + layers.active.read().stats().memory_bytes;
        let most = self.config.consistency_point.memory.saturating_mul(DELTAS_IN_MEMORY);
        self.gate.set_unapplied_memory(if self.applier.is_failing() { 0 } else { taken as u64 }, most);
    }

    /// What those records may need on disk.
    pub fn unapplied_needs(&self) -> Needs {
        let (layers, map_bytes) = (self.stack.snapshot(), self.base.limits().map_bytes());
        let mut needs = Needs::of_delta(&layers.active.read().stats(), map_bytes);
        layers.sealed.iter().for_each(|delta| needs.add(Needs::of_delta(&delta.stats(), map_bytes)));
        needs
    }

    /// Absorbs records up to `to` into the active Delta, or until that takes as much memory as it may: false.
    pub fn absorb(&self, to: Lsn) -> Result<bool, super::NodeError> {
        self.follower.absorb(&self.log, &self.stack, to, self.delta_memory())
    }

    /// Memory that the active Delta may take before it is sealed. While what was sealed cannot be applied there is no
    /// bound: what is committed is served from memory then, as long as there is any.
    pub fn delta_memory(&self) -> usize {
        match self.applier.is_failing() {
            true => UNBOUNDED,
            false => usize::try_from(self.config.consistency_point.memory).unwrap_or(UNBOUNDED),
        }
    }
}

pub(super) fn fresh_layers(base: &Arc<Base>, reads: &Arc<BaseReads>, log: &Arc<Log>, from: Lsn) -> Layers {
    let bytes: Arc<dyn apply_engine::LogBytes> = log.clone();
    let base = PatientBase::over(base.reader(), reads.clone());
    Layers::new(Delta::new(from, Vanished::Keep), Vec::new(), base, bytes)
}
