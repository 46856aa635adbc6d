//! The status model.

use super::fault::Fault;
use super::verify::VerifyStatus;
use ids::{Cursors, Durability, Epoch, Lsn, NodeName, VolumeId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What this node is for a volume, and how the volume is protected: the pair's own words.
pub use pair::{PairMode as Mode, RoleName as Role};

/// A node with its volumes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name.
    pub node: NodeName,
    /// Version of the program.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// Milliseconds since the Unix epoch when this status was taken; other times are told relative to it.
    pub now_unix_ms: u64,
    /// The volumes, in the order of the configuration.
    pub volumes: Vec<VolumeStatus>,
}

/// A role in words.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Partner => "partner",
        Role::None => "none",
    }
}

/// What an acknowledgement survives: the durability of each log that it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct AckLevel {
    /// Durability of this node's log.
    pub local: Durability,
    /// Durability of the partner's log; `None` when acknowledgements do not wait for it.
    pub peer: Option<Durability>,
}

impl AckLevel {
    /// The weaker of the durabilities: what may be promised.
    pub fn weakest(self) -> Durability {
        self.peer.map_or(self.local, |peer| peer.min(self.local))
    }

    /// Number of logs that hold an acknowledged operation.
    pub fn nodes(self) -> u8 {
        1 + u8::from(self.peer.is_some())
    }
}

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            None => write!(f, "{} on 1 node", self.local),
            Some(peer) if peer == self.local => write!(f, "{} on 2 nodes", self.local),
            Some(peer) => write!(f, "{} here, {peer} at the partner", self.local),
        }
    }
}

/// A volume on this node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its identity.
    pub id: VolumeId,
    /// What this node is for it.
    pub role: Role,
    /// How it is protected.
    pub mode: Mode,
    /// What it waits for or what to do, in one line; empty when all is well.
    pub detail: String,
    /// This node may take over by itself.
    pub eligible: bool,
    /// The epoch.
    pub epoch: Epoch,
    /// The cursors; `None` before recovery.
    pub cursors: Option<Cursors>,
    /// What an acknowledgement survives now; `None` when nothing is acknowledged.
    pub acknowledgement: Option<AckLevel>,
    /// What an fsync survives now; `None` when nothing is acknowledged.
    #[serde(default)]
    pub synced: Option<AckLevel>,
    /// Committed here and not in the local tree yet.
    pub apply_lag: Lag,
    /// Written here and not durable at the partner yet.
    pub partner_lag: Option<Lag>,
    /// The log.
    pub log: LogStatus,
    /// Where the volume is mounted now.
    pub mounted_at: Option<String>,
    /// Front door: `true` when the kernel gathers writes and only fsync makes them durable.
    pub writeback_cache: bool,
    /// The last consistency point.
    pub last_consistency_point: Option<ConsistencyPointStatus>,
    /// What clients can still store.
    pub space: Option<SpaceStatus>,
    /// What this start applies of what its log held; `None` when that is done, or was next to nothing.
    #[serde(default)]
    pub replay: Option<ReplayStatus>,
    /// Resync of this node or of its partner; `None` when none is under way and none has failed.
    #[serde(default)]
    pub resync: Option<ResyncStatus>,
    /// Where what only this node held was kept aside, if this process did so.
    #[serde(default)]
    pub salvaged: Option<String>,
    /// Comparisons of both base trees; `None` before the first.
    #[serde(default)]
    pub verify: Option<VerifyStatus>,
    /// The partner as this node sees it.
    pub partner: PartnerView,
    /// The witness as this node sees it; `None` when none is configured.
    pub witness: Option<WitnessStatus>,
    /// The read lease; `None` on a node that is not primary.
    pub lease: Option<LeaseStatus>,
    /// The link to the partner.
    pub transport: TransportCounters,
    /// Latency of commits since the start; `None` before the first.
    pub commit_latency: Option<LatencySummary>,
    /// That of about the last minute; `None` without commits in it.
    pub commit_latency_recent: Option<RecentLatency>,
    /// What that consists of, of one commit in 64: the stages of which some were seen.
    pub commit_stages: Vec<StageLatency>,
    /// How the last takeover by this node went.
    pub last_takeover: Option<TakeoverTiming>,
    /// The last run of each hook.
    pub hooks: Vec<HookStatus>,
    /// The floating address, if one is configured.
    pub floating_ip: Option<FloatingIpStatus>,
    /// What is wrong now, newest last.
    pub faults: Vec<Fault>,
}

/// A distance between two cursors.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Lag {
    /// Records in between; for a partner that is far behind, counted up to a limit.
    pub operations: u64,
    /// Log bytes in between.
    pub bytes: u64,
    /// How long there has been something in between.
    pub seconds: f64,
}

/// The log of a volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LogStatus {
    /// What it lies in ("emulated", "block", "fsdax", "devdax").
    pub kind: String,
    /// File or device.
    pub path: String,
    /// What it survives.
    pub durability: Durability,
    /// Length of the ring.
    pub capacity_bytes: u64,
    /// Ring space that cannot be reused yet.
    pub used_bytes: u64,
    /// The log did not survive the last restart of the machine, or is not that of the tree: no takeover by itself.
    pub lost_at_boot: bool,
}

/// How far a start is with what its log held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplayStatus {
    /// Log bytes that are in the tree now.
    pub done_bytes: u64,
    /// Log bytes that were not when the node started.
    pub total_bytes: u64,
}

/// Which side of a resync this node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResyncSide {
    /// Its tree is being replaced.
    Receiving,
    /// Its tree is what the partner gets.
    Sending,
}

/// How far a resync is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ResyncStatus {
    /// `None`: nothing is under way; the last attempt failed.
    pub side: Option<ResyncSide>,
    /// What it does, in words.
    pub doing: String,
    /// Which round it is; each is about what changed in the one before.
    pub round: u32,
    /// Objects that are whole, of all rounds so far. All of these numbers are the receiver's, on both nodes.
    pub objects_done: u64,
    /// Objects of all rounds so far.
    pub objects_total: u64,
    /// File content that was compared or sent.
    pub bytes_done: u64,
    /// File content of all rounds so far, holes left out.
    pub bytes_total: u64,
    /// Compared or sent lately, per second.
    pub bytes_per_s: u64,
    /// Seconds until that is done at the pace of late; `None` when nobody knows, or nothing is left.
    pub eta_s: Option<u64>,
    /// What is sent is being compressed.
    #[serde(default)]
    pub compressed: bool,
    /// Why the last attempt ended, until one succeeds.
    pub error: Option<String>,
}

/// A consistency point that was finished.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConsistencyPointStatus {
    /// When it was finished.
    pub at_unix_ms: u64,
    /// How long it took, sync included.
    pub duration_us: u64,
    /// Objects that were changed in the local tree.
    pub objects: u64,
    /// Bytes written to the local tree.
    pub bytes: u64,
    /// The local tree holds everything before this.
    pub applied: Lsn,
}

/// What clients can store: the smaller of both nodes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Objects that can be created; `None` where no number limits them.
    pub free_inodes: Option<u64>,
}

/// The partner, as last heard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PartnerView {
    /// Its name.
    pub name: NodeName,
    /// Its address.
    pub address: String,
    /// A link stands.
    pub connected: bool,
    /// Milliseconds since its last message; `None` = never heard.
    pub heard_ms_ago: Option<u64>,
    /// Its role, as it says.
    pub role: Option<Role>,
    /// Its epoch, as it says.
    pub epoch: Option<Epoch>,
    /// What it has committed.
    pub committed: Option<Lsn>,
    /// What its local tree holds.
    pub applied: Option<Lsn>,
    /// Ring space used at the partner, 0 to 1.
    pub log_fill: Option<f64>,
    /// Free bytes of its base filesystem.
    pub free_bytes: Option<u64>,
    /// What is wrong there, as it says.
    pub fault: Option<String>,
}

/// The witness, as last heard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WitnessStatus {
    /// Its address.
    pub address: String,
    /// It answered the last request.
    pub reachable: bool,
    /// The epoch it holds.
    pub epoch: Option<Epoch>,
    /// The primary it holds.
    pub primary: Option<NodeName>,
    /// Mirrored or solo, as it holds.
    pub mode: Option<Mode>,
    /// Why the last request failed.
    pub error: Option<String>,
}

/// The right to serve reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Reads are served.
    pub valid: bool,
    /// Time left; `None` = it has no end, because nobody else can become primary (solo).
    pub remaining_ms: Option<u64>,
}

/// What went over the link since the daemon started.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TransportCounters {
    /// "tcp", "shm", "verbs".
    pub kind: String,
    /// Both nodes prove their keys, and what goes through sockets is encrypted.
    #[serde(default)]
    pub tls: bool,
    /// What makes bytes durable at the partner: "message" (its processor says so), "read", "flush".
    #[serde(default)]
    pub persistence: String,
    /// The operator declares that DMA bypasses the caches on both nodes; "read" rests on that.
    #[serde(default)]
    pub ddio_off_declared: bool,
    /// The RDMA device, for "verbs".
    #[serde(default)]
    pub rdma: Option<RdmaStatus>,
    /// Log bytes sent.
    pub sent_bytes: u64,
    /// Log bytes received.
    pub received_bytes: u64,
    /// Batches sent.
    pub sent_batches: u64,
    /// Batches received.
    pub received_batches: u64,
    /// Links that were made.
    pub connects: u64,
    /// Links that broke.
    pub breaks: u64,
    /// Ranges given to the link; fewer batches than writes when they gathered.
    #[serde(default)]
    pub writes: u64,
    /// Acknowledgements sent to the partner.
    #[serde(default)]
    pub acknowledgements: u64,
    /// Waits for the partner that ended while polling.
    #[serde(default)]
    pub spins: u64,
    /// Waits that slept.
    #[serde(default)]
    pub sleeps: u64,
    /// File content sent to the partner by resyncs.
    #[serde(default)]
    pub resync_sent_bytes: u64,
    /// All that a resync sent, as it went over the link.
    #[serde(default)]
    pub resync_sent_wire_bytes: u64,
    /// File content received from it.
    #[serde(default)]
    pub resync_received_bytes: u64,
}

/// The RDMA device of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RdmaStatus {
    /// Its name.
    pub device: String,
    /// Its port, counted from 1.
    pub port: u8,
    /// Entry of the GID table.
    pub gid_index: u8,
    /// That GID.
    pub gid: String,
    /// "roce" or "infiniband".
    pub link_layer: String,
    /// Active MTU of the port.
    pub mtu_bytes: u32,
    /// How the partner's right to write is taken away: "memory window" or "registration".
    pub fencing: String,
}

/// Quantiles of a latency.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Observations.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Longest.
    pub max_us: f64,
}

/// A latency of late.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RecentLatency {
    /// How far it goes back.
    pub seconds: f64,
    /// What was observed since then.
    pub latency: LatencySummary,
}

/// How long one stage of a commit takes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StageLatency {
    /// What it ends with: `admitted`, `sealed`, `posted`, `durable-here`, `durable-there`, `woken`.
    pub stage: String,
    /// How long.
    pub latency: LatencySummary,
}

/// A takeover, step by step.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TakeoverTiming {
    /// When the first operation was served.
    pub at_unix_ms: u64,
    /// Why ("partner lost", "switchover", "forced", or "start": of this node, with nobody serving).
    pub reason: String,
    /// The new epoch.
    pub epoch: Epoch,
    /// From the partner's last message until it counted as lost; where its link broke, that waits out its lease.
    pub detection_us: u64,
    /// Revoking its right to write, and waiting its lease out.
    pub fencing_us: u64,
    /// Asking the witness, and waiting until what it says can be relied on (a moment after a start, or after the pair formed).
    pub witness_us: u64,
    /// From the grant until the first operation was served.
    pub first_served_us: u64,
}

impl TakeoverTiming {
    /// The whole takeover.
    pub fn total_us(&self) -> u64 {
        self.detection_us + self.fencing_us + self.witness_us + self.first_served_us
    }
}

/// How a hook ended, last time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookStatus {
    /// "on_primary", "on_demote".
    pub hook: String,
    /// When it ended.
    pub at_unix_ms: u64,
    /// How long it ran.
    pub duration_ms: u64,
    /// It ended with status 0 within its time.
    pub succeeded: bool,
    /// How it ended, in words.
    pub outcome: String,
}

/// The floating address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FloatingIpStatus {
    /// Address and prefix.
    pub address: String,
    /// The interface.
    pub interface: String,
    /// This node holds it.
    pub held: bool,
    /// Why the last change failed.
    pub error: Option<String>,
}
