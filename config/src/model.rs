//! The configuration as the program uses it: checked, with defaults filled in.
//!
//! docs/configuration.md describes every key; a test compares the keys here with the keys there.

use super::link::{LinkConfig, Persistence, RdmaConfig};
use super::units::AddressPrefix;
use ids::{AnswerFrom, BaseLimits, NodeName, VolumeId};
pub use rdma_transport::TransportKind;
use rdma_transport::tls::PublicKey;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use witness::WitnessConfig;

/// The whole file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// This node's name, unique in its pair.
    pub name: NodeName,
    /// Where partners connect.
    pub listen: SocketAddr,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Where metrics are served (loopback); `None` = not at all.
    pub metrics_listen: Option<SocketAddr>,
    /// Filter for log messages, in the syntax of `RUST_LOG`; the environment wins.
    pub log_level: String,
    /// Form of log messages.
    pub log_format: LogFormat,
    /// File of this node's private key; `None`: everything travels in the clear.
    pub private_key: Option<PathBuf>,
    /// The file says that it may travel in the clear over a network.
    pub plaintext: bool,
    /// The witness; without one a node that loses its partner freezes.
    pub witness: Option<WitnessConfig>,
    /// The volumes of this node.
    pub volumes: Vec<VolumeConfig>,
}

/// How log messages are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The name of a volume, as commands and metrics use it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeName(String);

impl VolumeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VolumeName {
    type Err = String;

    fn from_str(text: &str) -> Result<VolumeName, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > 63 || text.starts_with('-') || !text.bytes().all(allowed) {
            return Err(format!(
                "{text:?} must be 1 to 63 letters, digits, '-', '_' or '.', and not start with '-'"
            ));
        }
        Ok(VolumeName(text.to_owned()))
    }
}

/// One volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeConfig {
    /// Its name.
    pub name: VolumeName,
    /// Its identity, the same on both nodes.
    pub id: VolumeId,
    /// Root of the local tree that this node keeps.
    pub base: PathBuf,
    /// The partner.
    pub peer: PeerConfig,
    /// How log bytes reach the partner.
    pub transport: TransportKind,
    /// RDMA, for [`TransportKind::Verbs`].
    pub rdma: RdmaConfig,
    /// Waits on the link.
    pub link: LinkConfig,
    /// The log.
    pub log: LogConfig,
    /// What answers wait for while both nodes hold the volume; the stronger of both nodes' counts.
    pub answer: AnswerFrom,
    /// The mount.
    pub fuse: FuseConfig,
    /// Heartbeats, lease and time limits.
    pub timers: TimerConfig,
    /// When the local tree is brought up to date.
    pub consistency_point: ConsistencyPointConfig,
    /// How fast the partner's tree is brought up to date when the log cannot do it.
    pub resync: ResyncConfig,
    /// Commands run when the role changes.
    pub hooks: HooksConfig,
    /// An address that follows the primary.
    pub floating_ip: Option<FloatingIpConfig>,
    /// Who becomes primary of a fresh pair: this node or the partner, the same on both; `None` = the lower name.
    pub preferred_primary: Option<NodeName>,
}

/// The partner of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerConfig {
    /// Its `node.name`.
    pub name: NodeName,
    /// Its `node.listen`.
    pub address: SocketAddr,
    /// Its key, when there are keys.
    pub public_key: Option<PublicKey>,
}

/// What the log lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogKind {
    /// Memory that outlives the process but not the power: a file on tmpfs.
    Emulated,
    /// A file or block device written with O_DIRECT and DSYNC behind a memory image.
    Block,
    /// A file on a DAX filesystem.
    FsDax,
    /// A persistent-memory character device.
    DevDax,
}

impl LogKind {
    /// Every kind with its name in the file.
    pub const ALL: [(&'static str, LogKind); 4] = [
        ("emulated", LogKind::Emulated),
        ("block", LogKind::Block),
        ("fsdax", LogKind::FsDax),
        ("devdax", LogKind::DevDax),
    ];
}

impl From<LogKind> for nvlog::RegionKind {
    fn from(kind: LogKind) -> nvlog::RegionKind {
        match kind {
            LogKind::Emulated => nvlog::RegionKind::Emulated,
            LogKind::Block => nvlog::RegionKind::Block,
            LogKind::FsDax => nvlog::RegionKind::FsDax,
            LogKind::DevDax => nvlog::RegionKind::DevDax,
        }
    }
}

impl fmt::Display for LogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = LogKind::ALL.iter().find(|(_, kind)| kind == self).map_or("?", |(name, _)| name);
        f.write_str(name)
    }
}

/// The log of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// What it lies in.
    pub kind: LogKind,
    /// File or device.
    pub path: PathBuf,
    /// Length of the ring, the same on both nodes.
    pub capacity_bytes: u64,
}

/// The mount of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FuseConfig {
    /// Where the primary mounts the volume; `None` = not mounted (another front door serves it).
    pub mount: Option<PathBuf>,
    /// Let the kernel gather writes; then only fsync makes data durable.
    pub writeback_cache: bool,
    /// Threads that serve requests.
    pub threads: usize,
    /// Let other users than root in.
    pub allow_other: bool,
    /// Ignore set-user-id and set-group-id bits of programs.
    pub nosuid: bool,
    /// Ignore device nodes.
    pub nodev: bool,
    /// Refuse changes through the mount.
    pub read_only: bool,
}

/// Heartbeats, lease and time limits of a pair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimerConfig {
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Silence after which the partner counts as lost. One whose link broke counts as lost when the lease has ended.
    pub peer_timeout: Duration,
    /// How long a primary may serve reads on its partner's last answer. Below `peer_timeout`, by what clocks may
    /// differ.
    pub lease: Duration,
    /// Longest time between two attempts to connect; the first come sooner.
    pub reconnect: Duration,
    /// Longest time that a switchover or a clean stop waits for the operations that are under way.
    pub handover: Duration,
}

impl Default for FuseConfig {
    fn default() -> FuseConfig {
        FuseConfig {
            mount: None,
            writeback_cache: false,
            threads: 4,
            allow_other: true,
            nosuid: true,
            nodev: true,
            read_only: false,
        }
    }
}

impl Default for TimerConfig {
    fn default() -> TimerConfig {
        TimerConfig {
            heartbeat: Duration::from_millis(20),
            peer_timeout: Duration::from_millis(250),
            lease: Duration::from_millis(100),
            reconnect: Duration::from_millis(200),
            handover: Duration::from_secs(5),
        }
    }
}

/// The part of a lease in which the kernel is made to forget.
const CACHE_GUARD_SHARE: u32 = 3;

/// The end of each lease, in which nothing is answered any more and the kernel forgets what it has been answered.
pub fn cache_guard(lease: Duration) -> Duration {
    lease / CACHE_GUARD_SHARE
}

impl VolumeConfig {
    /// What makes log bytes durable at the partner.
    pub fn persistence(&self) -> Persistence {
        match self.transport {
            TransportKind::Verbs => self.rdma.persistence,
            TransportKind::Tcp | TransportKind::Shm => Persistence::Message,
        }
    }

    /// Where the file says that this volume's salvages go; `None`: into its base.
    pub fn chosen_salvage(&self) -> Option<PathBuf> {
        self.resync.salvage.as_ref().map(|salvage| salvage.join(self.name.as_str()))
    }

    /// What the pair's state machine is configured with, on the node called `me` whose base lies on
    /// `base_filesystem` and holds so much.
    pub fn pair(
        &self,
        me: &NodeName,
        witness: bool,
        base_filesystem: String,
        base_limits: BaseLimits,
    ) -> pair::Config {
        let whole_ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let default = pair::Timers::default();
        let lease_ms = whole_ms(self.timers.lease);
        let timers = pair::Timers {
            heartbeat_ms: whole_ms(self.timers.heartbeat),
            failure_timeout_ms: whole_ms(self.timers.peer_timeout),
            lease_ms,
            // Before the partner's turn comes, which is the end of the lease.
            link_grace_ms: default.link_grace_ms.min(lease_ms * 3 / 5),
            drain_timeout_ms: whole_ms(self.timers.handover),
            ..default
        };
        pair::Config {
            me: me.clone(),
            peer: self.peer.name.clone(),
            witness,
            preferred: self.preferred_primary.clone(),
            base_filesystem,
            base_limits,
            timers,
        }
    }
}

/// When the local tree is brought up to date.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsistencyPointConfig {
    /// At the latest after this time.
    pub interval: Duration,
    /// At the latest after this much log.
    pub bytes: u64,
    /// At the latest when what is in memory until then takes so much; a start replays the log in pieces of this size.
    pub memory: u64,
}

impl Default for ConsistencyPointConfig {
    fn default() -> ConsistencyPointConfig {
        ConsistencyPointConfig { interval: Duration::from_secs(1), bytes: 64 << 20, memory: 256 << 20 }
    }
}

/// How fast the primary sends its tree to a partner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResyncConfig {
    /// Bytes per second while clients write.
    pub min_rate_bytes: u64,
    /// Bytes per second while they do not.
    pub max_rate_bytes: u64,
    /// When what is sent is compressed.
    pub compress: Compress,
    /// Where a node keeps what only it holds before its tree is replaced; `None`: in its base directory.
    pub salvage: Option<PathBuf>,
}

/// When a resync is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compress {
    /// While the link is slower than the disks.
    #[default]
    Auto,
    /// All the time.
    Always,
    /// Never.
    Never,
}

impl Default for ResyncConfig {
    fn default() -> ResyncConfig {
        ResyncConfig {
            min_rate_bytes: 10 << 20,
            max_rate_bytes: 4 << 30,
            compress: Compress::Auto,
            salvage: None,
        }
    }
}

/// A program and its arguments; no shell in between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandLine {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Commands run when the role changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HooksConfig {
    /// After this node has become primary and serves.
    pub on_primary: Option<CommandLine>,
    /// After this node has ceased to be primary.
    pub on_demote: Option<CommandLine>,
    /// Time after which a hook and all that it started is killed.
    pub time_limit: Duration,
}

impl Default for HooksConfig {
    fn default() -> HooksConfig {
        HooksConfig { on_primary: None, on_demote: None, time_limit: Duration::from_secs(10) }
    }
}

/// An address that follows the primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FloatingIpConfig {
    /// The address and the length of its network prefix.
    pub address: AddressPrefix,
    /// The interface that carries it.
    pub interface: String,
}
