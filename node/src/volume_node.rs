//! Starts and stops the threads of one volume, and answers for it.

use super::applier::ApplierState;
use super::event::{NodeEvent, WitnessQuestion};
use super::executor::Executor;
use super::faults::Faults;
use super::follower::Follower;
use super::front::Front;
use super::link;
use super::open::Opened;
use super::rdma::Rdma;
use super::replay::Replay;
use super::resync::state::ResyncState;
use super::room::RoomState;
use super::shared::{Shared, fresh_layers};
use super::split::talk::SplitState;
use super::verify::{self, VerifyState};
use super::write_behind::{self, WriteBehind};
use super::{NodeError, applier, report, witness_requests};
use admin_api::control::{Caller, ControlError, ErrorKind};
use admin_api::metrics::{LinkMetrics, Metrics, VolumeMetrics};
use admin_api::status::{ConsistencyPointStatus, FaultKind, VolumeStatus};
use commit::stack::DeltaStack;
use commit::{BaseReads, CommitEvents, CommitPath, Gate};
use config::{NodeConfig, VolumeConfig};
use hooks::RoleHooks;
use ids::{Cursors, LogPoint, Lsn, Oid};
use nvlog::{Log, RecoveryReport, SuperblockHealth};
use pair::{DurableState, MonoMs, Operator, Pair, PairStatus, RoleName};
use rdma_transport::tls::LinkKeys;
use rdma_transport::{Counters, LinkError, LinkParams, LinkSource};
use runtime::channel::{Receiver, Sender, bounded, unbounded};
use runtime::{Instant, JoinHandle, Mutex, Uptime, mark};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use witness::WitnessClient;

/// Log space that clients cannot take, beside one longest record for the padding at the ring's end: room for
/// the node's own records.
const LOG_RESERVE_BYTES: u64 = 64 << 10;
/// How often a wait for the pair looks.
const LOOK: Duration = Duration::from_millis(2);
/// How often the pump looks for records that nobody waits for.
const PUMP_INTERVAL: Duration = Duration::from_millis(5);
/// Threads that try parked requests again.
const PARKED_THREADS: usize = 3;
/// Threads that try those again that have to read the base; all of them may hang with it.
const BASE_THREADS: usize = 4;

/// One volume of a running node.
pub(super) struct VolumeNode {
    shared: Arc<Shared>,
    witness_address: Option<String>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What an operator ordered, and for how long.
struct Order<'a> {
    /// `None`: nothing had to be asked for.
    wish: Option<Operator>,
    timeout: Duration,
    caller: &'a dyn Caller,
    /// How many switchovers had been called off when this was asked for.
    before: u64,
}

struct ToExecutor(Sender<NodeEvent>, Arc<ApplierState>, Arc<RoomState>, Arc<WriteBehind>);

impl CommitEvents for ToExecutor {
    fn mirror_lost(&self, link: u64, error: LinkError) {
        let _ended = self.0.send(NodeEvent::MirrorLost { id: link, reason: error.to_string() });
    }
    fn log_failed(&self, error: String) {
        let _ended = self.0.send(NodeEvent::LogFailed(error));
    }
    fn want_consistency_point(&self) {
        self.1.request();
    }
    fn partner_has_room(&self, committed: Lsn, oid: Oid, range: Range<u64>) -> bool {
        self.2.ask(committed, oid, range)
    }
    fn want_partner_durable(&self, lsn: Lsn) {
        self.3.want(lsn);
    }
}

impl VolumeNode {
    /// Starts everything that runs for a volume. `links` tells where its links come from, and has the keys for them.
    pub fn start(
        opened: Opened,
        node: &NodeConfig,
        metrics: &Metrics,
        (links, keys): (
            impl FnOnce(&Shared, &LinkParams) -> Result<Box<dyn LinkSource>, LinkError>,
            Option<LinkKeys>,
        ),
        client: Box<dyn WitnessClient>,
        started: Uptime,
    ) -> Result<VolumeNode, NodeError> {
        let (events, inbox) = unbounded();
        let Opened { config, log, recovery, rdma, base, base_filesystem, role_state } = opened;
        let metrics = metrics.volume(config.name.as_str());
        let (shared, to_verify) = share((node, config), (log, rdma, base), metrics, events, started)?;
        shared.resync.set_replacing(role_state.resync);
        shared.gate.set_local_space(shared.log.tail().lsn, shared.local_space());
        tell_what_was_found(&shared, &recovery, &role_state)?;
        shared.hooks.clear_leftovers();
        let pair_error = |why: String| NodeError::Pair { volume: shared.name().to_owned(), why };
        let (pair, first) = Pair::new(
            shared.config.pair(&node.name, node.witness.is_some(), base_filesystem, shared.base.limits()),
            role_state,
            shared.log_summary(),
            MonoMs(shared.now_ms()),
        )
        .map_err(|error| pair_error(error.to_string()))?;
        let params = link::params(&shared, keys);
        let source = links(&shared, &params).map_err(|error| pair_error(error.to_string()))?;
        let (questions, to_witness) = unbounded();
        let front = Front::start(shared.clone()).map_err(NodeError::Thread)?;
        let mut volume = VolumeNode {
            witness_address: node.witness.as_ref().map(|witness| witness.keeper.address()),
            shared: shared.clone(),
            threads: Mutex::default(),
        };
        let executor = Executor::new(shared, pair, first, inbox, questions, front);
        volume.spawn_pair(executor, (source, params), (client, to_witness), to_verify)?;
        volume.spawn_commit_path()?;
        Ok(volume)
    }

    /// The pair's executor, who it waits for, and who follows and compares.
    fn spawn_pair(
        &mut self,
        executor: Executor,
        (source, params): (Box<dyn LinkSource>, LinkParams),
        (mut client, to_witness): (Box<dyn WitnessClient>, Receiver<WitnessQuestion>),
        to_verify: Receiver<verify::Task>,
    ) -> Result<(), NodeError> {
        // The first one: who waits until the volume has stopped waits for it before all others.
        self.spawn("pair", move || executor.run())?;
        let s = self.shared.clone();
        self.spawn("link", move || link::run(&s, source.as_ref(), &params))?;
        let s = self.shared.clone();
        self.spawn("witness", move || witness_requests::run(&s, client.as_mut(), &to_witness))?;
        let s = self.shared.clone();
        self.spawn("apply", move || applier::run(&s))?;
        let s = self.shared.clone();
        self.spawn("verify", move || verify::run(&s, &to_verify))
    }

    /// Who serves clients that hold no thread, and moves what nobody waits for.
    fn spawn_commit_path(&mut self) -> Result<(), NodeError> {
        let s = self.shared.clone();
        self.spawn("answer", move || {
            runtime::be_urgent();
            s.path.drive_for_answers();
        })?;
        for _ in 0..PARKED_THREADS {
            let s = self.shared.clone();
            self.spawn("parked", move || s.path.serve_parked())?;
        }
        for _ in 0..BASE_THREADS {
            let s = self.shared.clone();
            self.spawn("base", move || s.path.serve_base())?;
        }
        if write_behind::is_for(&self.shared.config) {
            let s = self.shared.clone();
            self.spawn("flush", move || write_behind::run(&s))?;
        }
        let s = self.shared.clone();
        self.spawn("pump", move || {
            runtime::be_urgent();
            while !s.is_stopping() {
                let more = s.path.pump();
                s.path.watch_behind();
                if !more {
                    runtime::sleep(PUMP_INTERVAL);
                }
            }
        })
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), NodeError> {
        let thread = runtime::spawn(name, run).map_err(NodeError::Thread)?;
        self.threads.get_mut().push(thread);
        Ok(())
    }

    /// What its threads share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn name(&self) -> &str {
        self.shared.name()
    }

    pub fn status(&self) -> VolumeStatus {
        report::volume(&self.shared, self.witness_address.as_deref())
    }

    /// Asks the pair to hand over or stop.
    pub fn request_stop(&self) {
        self.shared.tell(NodeEvent::Shutdown);
    }

    /// Waits until the pair has stopped, then ends the other threads.
    pub fn wait_stopped(&self) {
        let mut threads = std::mem::take(&mut *self.threads.lock()).into_iter();
        if let Some(executor) = threads.next() {
            let _panicked = executor.join();
        }
        // What is committed goes to the base tree, so that the next start has nothing to do.
        // No more: nobody tells any more what else is committed.
        self.shared.applier.request_and_wait(CLEAN_STOP_APPLY, || true);
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.applier.request();
        self.shared.path.end_serving();
        for thread in threads {
            let _panicked = thread.join();
        }
    }

    /// Tells the pair what an operator wants. One that it did not take up in time it will not take up later.
    pub fn wish(&self, wish: Operator) -> Result<(), ControlError> {
        let stopped = || ControlError::new(ErrorKind::Failed, "the volume has stopped");
        let (answer, answered) = bounded(1);
        self.shared.tell(NodeEvent::Operator { wish, answer });
        answered.recv_timeout(Duration::from_secs(10)).map_err(|_| stopped())?
    }

    /// Gives the primary's place to the partner, and waits until it has it or that is called off.
    pub fn switchover(&self, timeout: Duration, caller: &dyn Caller) -> Result<(), ControlError> {
        if self.role() != Some(RoleName::Primary) {
            let text = "this node is not the primary: `twinfiler takeover VOLUME` here would make it so";
            return Err(ControlError::new(ErrorKind::Refused, text));
        }
        let before = self.shared.called_off.lock().0;
        self.wish(Operator::Switchover)?;
        let handed_over = |status: &PairStatus| status.role == RoleName::Partner && !status.serving;
        self.wait(Order { wish: Some(Operator::Switchover), timeout, caller, before }, handed_over)
    }

    /// Makes this node primary, with the primary's consent unless `force` is set, and waits until it is or the primary
    /// refuses. A node that serves already is what was asked for.
    pub fn takeover(&self, force: bool, timeout: Duration, caller: &dyn Caller) -> Result<(), ControlError> {
        let serves = |status: &PairStatus| status.role == RoleName::Primary && status.serving;
        let before = self.shared.called_off.lock().0;
        let wish = match (force, self.role()) {
            (true, _) => Some(Operator::ForceTakeover),
            (false, Some(RoleName::Primary)) => None,
            (false, _) => Some(Operator::Switchover),
        };
        wish.map_or(Ok(()), |wish| self.wish(wish))?;
        self.wait(Order { wish, timeout, caller, before }, serves)
    }

    fn role(&self) -> Option<RoleName> {
        self.shared.pair.lock().as_ref().map(|status| status.role)
    }

    /// Waits until what was ordered has come about. An order ends with the command that gave it: whatever made it take
    /// too long, it does not happen later, when nobody expects it.
    fn wait(&self, order: Order<'_>, reached: impl Fn(&PairStatus) -> bool) -> Result<(), ControlError> {
        let deadline = Instant::now() + order.timeout;
        let what = match order.wish {
            Some(Operator::ForceTakeover) => "takeover",
            _ => "switchover",
        };
        while !self.shared.pair.lock().as_ref().is_some_and(&reached) {
            let (times, why) = self.shared.called_off.lock().clone();
            if order.wish.is_some() && times > order.before {
                let text = format!("the {what} was called off: {why}");
                return Err(ControlError::new(ErrorKind::Refused, text));
            }
            if Instant::now() > deadline || order.caller.is_gone() {
                if let Some(wish) = order.wish {
                    tracing::info!(
                        volume = self.shared.name(),
                        what,
                        "an operator's order has ended with its command"
                    );
                    self.shared.tell(NodeEvent::Withdrawn(wish));
                }
                let text =
                    "not reached in time, and withdrawn; see `twinfiler status` for what the volume is doing";
                return Err(ControlError::new(ErrorKind::TimedOut, text));
            }
            runtime::sleep(LOOK);
        }
        Ok(())
    }

    /// Begins to compare both base trees.
    pub fn verify(&self, options: verify::Options) -> Result<u64, ControlError> {
        verify::begin(&self.shared, options)
    }

    /// Takes consistency points of everything that has been answered.
    pub fn consistency_point(&self, limit: Duration) -> Option<ConsistencyPointStatus> {
        applier::apply_all(&self.shared, limit).then(|| {
            let last = self.shared.last_point.lock().clone();
            last.unwrap_or(ConsistencyPointStatus {
                at_unix_ms: runtime::unix_ms(),
                duration_us: 0,
                objects: 0,
                bytes: 0,
                applied: self.shared.path.cursors().applied(),
            })
        })
    }
}

/// What the threads of a volume share, and what the one that compares trees is told.
fn share(
    (node, config): (&NodeConfig, VolumeConfig),
    (log, rdma, base): (Log, Option<Rdma>, apply_engine::Base),
    metrics: Arc<VolumeMetrics>,
    events: Sender<NodeEvent>,
    started: Uptime,
) -> Result<(Arc<Shared>, Receiver<verify::Task>), NodeError> {
    let (log, base) = (Arc::new(log), Arc::new(base));
    let (tail, end) = (log.tail(), log.end());
    let cursors = Cursors::new(log.capacity_bytes(), tail.lsn, tail.lsn, end.lsn)?;
    let gate = Gate::new(log.capacity_bytes(), log.max_payload_bytes() + LOG_RESERVE_BYTES, tail.lsn);
    let counters = Arc::new(Counters::default());
    metrics.set_link(LinkMetrics {
        counters: counters.clone(),
        transport: config.transport.to_string(),
        persistence: config.persistence().to_string(),
    });
    let applier = Arc::new(ApplierState::new(end.lsn > tail.lsn));
    let room = Arc::new(RoomState::default());
    let write_behind = Arc::new(WriteBehind::default());
    let to_executor =
        Box::new(ToExecutor(events.clone(), applier.clone(), room.clone(), write_behind.clone()));
    let path = CommitPath::new(log.clone(), cursors, gate.clone(), metrics.clone(), to_executor, started);
    let (verify, to_verify) = VerifyState::new();
    let reads = BaseReads::of_threads(config.fuse.threads);
    let stack = Arc::new(DeltaStack::new(fresh_layers(&base, &reads, &log, tail.lsn)));
    // Up to here the tree may be half applied: one Delta has to cover it.
    let stands = base.applied().map_or(tail.lsn, |applied| applied.lsn);
    let replay = Replay::new(config.name.as_str(), tail.lsn, end.lsn);
    let seal_from = log.applying_end().max(stands).min(end.lsn);
    let faults = Faults::new(config.name.as_str());
    let shared = Arc::new(Shared {
        me: node.name.clone(),
        hooks: Arc::new(RoleHooks::new(&config)),
        config,
        log,
        rdma,
        base,
        reads,
        stack,
        path: Arc::new(path),
        gate,
        metrics,
        counters,
        events,
        follower: Follower::new(tail, seal_from),
        replay,
        applier,
        resync: ResyncState::default(),
        called_off: Mutex::default(),
        split: SplitState::default(),
        verify,
        room,
        write_behind,
        started,
        stopping: AtomicBool::new(false),
        volume: Mutex::new(None),
        pair: Mutex::new(None),
        peer_durability: Mutex::new(None),
        space: Mutex::default(),
        mounted_at: Mutex::new(None),
        kernel_cache: Mutex::new(None),
        last_point: Mutex::new(None),
        last_takeover: Mutex::new(None),
        witness_error: Mutex::new(None),
        faults,
    });
    Ok((shared, to_verify))
}

/// Tells what opening has found, for as long as it is so.
fn tell_what_was_found(
    shared: &Shared,
    recovery: &RecoveryReport,
    role_state: &DurableState,
) -> Result<(), NodeError> {
    let (tail, end) = (shared.log.tail(), shared.log.end());
    if let SuperblockHealth::OneBad { copy, why } = &recovery.superblock {
        let what = format!(
            "the log's superblock was damaged: copy {copy} ({why}); it was written anew from the other one"
        );
        shared.faults.raise(
            FaultKind::LogCopyDamaged,
            &what,
            "check the log's medium; this is told until the next start that finds both copies good",
        );
    }
    if recovery.memory_lost {
        let why = recovery.lost.map_or_else(|| LOST_BEFORE.to_owned(), |lost| lost.to_string());
        shared.faults.raise(FaultKind::LogAndTreeDiffer, &format!("{NO_PAIR}: {why}"), RESYNC_COMES);
    }
    let stands = shared.base.applied().filter(|stands| is_another(&shared.log, *stands));
    if let Some(stands) = stands.filter(|_| !shared.resync.is_replacing()) {
        let what = match stands.lsn > end.lsn {
            true => format!(
                "{NO_PAIR}: the tree stands at {stands} of a log, this log ends at {end}: an older log was brought \
                 back, or its medium has lost what it had flushed"
            ),
            false => format!(
                "{NO_PAIR}: the tree stands at {stands} of a log, this log begins at {tail}: an older tree was \
                 brought back (a backup, a snapshot, another disk), or the log of another tree"
            ),
        };
        mark!("tree of another log");
        shared.faults.raise(FaultKind::LogAndTreeDiffer, &what, RESYNC_COMES);
        let lose = |superblock: &mut nvlog::SuperblockDraft| superblock.memory_lost = true;
        shared.log.update_superblock(lose).map_err(|error| NodeError::Log {
            volume: shared.name().to_owned(),
            path: shared.config.log.path.display().to_string(),
            source: error.into(),
        })?;
    }
    if let Some(holds) =
        role_state.granted.as_ref().and_then(|granted| shared.base.limits().lacks_of(granted))
    {
        let what = format!("the base filesystem holds less than before: {holds}");
        let remedy = "was it mounted or made anew with other options? Give it those from before";
        shared.faults.raise(FaultKind::BaseHoldsLess, &what, remedy);
    }
    Ok(())
}

const NO_PAIR: &str = "the log and the tree of this node do not go together";
const RESYNC_COMES: &str = "this node gets a resync as soon as the other one is primary; if that is gone for good: \
                            `twinfiler takeover VOLUME --force` serves what is here";

const LOST_BEFORE: &str = "the log lacks what it once held, as an earlier start found";

/// Is the tree that stands there not the one to which this log's records before its tail were applied? A tree may be
/// ahead of a tail that a crash did not let move, but never of the log's end: only what is durable is applied.
fn is_another(log: &Log, stands: LogPoint) -> bool {
    stands.lsn < log.tail().lsn || log.point_at(stands.lsn) != Some(stands)
}

/// Longest time that a clean stop applies what is left.
const CLEAN_STOP_APPLY: Duration = Duration::from_secs(10);
