//! The node: its volumes, each with its own log, role, threads and link to the partner.
//!
//! Per volume: one *executor* owns the pair's state machine and carries out its commands; *link* makes links
//! and one *control* thread reads each; *receive* takes the primary's bytes in; *pump* moves what no client
//! waits for; *apply* takes consistency points; *witness* asks the witness; *front* mounts and moves the floating address.
//! Clients' own threads drive the acknowledgement path ([`commit`]).
//!
//! What can go wrong at start is told with a remedy and touches nothing ([`NodeError`]); a panic in any of
//! these threads ends the process, because a half-dead node is worse than a dead one: the partner takes over.

mod applier;
mod event;
mod executor;
mod faults;
mod follower;
mod front;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod inbox;
mod link;
mod open;
mod peer;
mod progress;
mod rdma;
mod receiver;
mod replay;
mod report;
mod resync;
mod room;
mod shared;
#[cfg(feature = "simulation")]
pub mod simulation;
mod split;
mod standing;
mod verify;
mod volume_node;
mod witness_requests;
mod write_behind;

use admin_api::control::{Caller, ControlError, ControlTarget, ErrorKind};
use admin_api::metrics::Metrics;
use admin_api::status::{ConsistencyPointStatus, NodeStatus, SplitReport};
use config::NodeConfig;
use ids::Lsn;
use link::Listeners;
use pair::Operator;
use rdma_transport::LinkParams;
use rdma_transport::tls::{KeyError, LinkKeys, PrivateKey};
use runtime::Uptime;
use shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use volume_node::VolumeNode;

/// Longest wait for a consistency point that an operator asked for.
const CONSISTENCY_POINT_LIMIT: Duration = Duration::from_secs(120);
/// Longest wait for a takeover that an operator asked for: a switchover has its own limits, and ends before.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(60);

/// Why a node cannot start, or one of its volumes cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log cannot be opened.
    #[error("volume {volume}: the log {path} cannot be used")]
    Log {
        /// The volume.
        volume: String,
        /// The log.
        path: String,
        /// Why, and what to do.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The log is not what the configuration says.
    #[error(
        "volume {volume}: the log {path} has a capacity of {actual_bytes} bytes, but log.capacity says \
         {configured_bytes}; correct log.capacity (both nodes must agree)"
    )]
    Capacity {
        /// The volume.
        volume: String,
        /// The log.
        path: String,
        /// As the log says.
        actual_bytes: u64,
        /// As the configuration says.
        configured_bytes: u64,
    },
    /// The base tree cannot be opened.
    #[error("volume {volume}: the base directory cannot be used")]
    Base {
        /// The volume.
        volume: String,
        /// Why, and what to do.
        #[source]
        source: apply_engine::base::OpenError,
    },
    /// The base filesystem does not tell what it is.
    #[error("volume {volume}: the base filesystem does not tell what it is")]
    Statfs {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// RDMA cannot be used.
    #[error("volume {volume}: RDMA cannot be used")]
    Rdma {
        /// The volume.
        volume: String,
        /// Why, and what to do.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pair cannot work so.
    #[error("volume {volume}: {why}")]
    Pair {
        /// The volume.
        volume: String,
        /// Why, and what to do.
        why: String,
    },
    /// The configured witness cannot be asked.
    #[error(transparent)]
    Witness(#[from] witness::etcd::EtcdError),
    /// This node's private key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Nothing can listen.
    #[error("{what} cannot listen: {why}")]
    Listen {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// A thread could not be started.
    #[error("a thread could not be started ({0}); raise the limit of processes")]
    Thread(std::io::Error),
    /// A committed record cannot be read.
    #[error("the log cannot be read at LSN {lsn}: {why}")]
    Unreadable {
        /// Where.
        lsn: Lsn,
        /// Why.
        why: String,
    },
    /// The log cannot be cut there.
    #[error("no record ends at LSN {lsn}")]
    NoRecordBoundary {
        /// Where.
        lsn: Lsn,
    },
    /// Operations did not leave.
    #[error("clients' operations did not end after serving stopped")]
    StillInside,
    /// The partner's right to write could not be taken away.
    #[error(transparent)]
    Fence(#[from] rdma_transport::FenceError),
    /// The order of the cursors would break.
    #[error(transparent)]
    Cursor(#[from] ids::CursorError),
    /// What landed cannot be taken in.
    #[error(transparent)]
    Landed(#[from] nvlog::ChainError),
    /// What landed cannot be made durable.
    #[error("what the partner wrote cannot be made durable: {0}")]
    Persist(#[source] nvlog::PersistError),
    /// The log could not be cut.
    #[error(transparent)]
    Truncate(#[from] nvlog::TruncateError),
    /// The superblock could not be written.
    #[error(transparent)]
    Update(#[from] nvlog::UpdateError),
}

/// A running node.
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    config: NodeConfig,
    started: Uptime,
    volumes: Vec<VolumeNode>,
    /// Open as long as a volume may need it.
    _listeners: Listeners,
}

impl Node {
    /// Opens logs and base trees, recovers, and starts everything.
    ///
    /// # Errors
    /// See [`NodeError`]. Nothing has been changed then, and nothing runs.
    pub fn start(config: NodeConfig, metrics: &Metrics) -> Result<Node, NodeError> {
        die_with_any_thread();
        let started = Uptime::now();
        let own = config.private_key.as_deref().map(PrivateKey::load).transpose()?;
        let opened = open::all(&config)?;
        let listen = |error: rdma_transport::LinkError| NodeError::Listen {
            what: "node.listen",
            why: error.to_string(),
        };
        let listeners = Listeners::bind(&config, own.as_ref()).map_err(listen)?;
        let mut volumes = Vec::new();
        for opened in opened {
            let links = |shared: &Shared, params: &LinkParams| listeners.source(shared, params);
            let client = witness::client(config.witness.as_ref(), own.as_ref())?;
            let keys = own.clone().zip(opened.config.peer.public_key);
            let keys = keys.map(|(own, peer)| LinkKeys { own, peer });
            volumes.push(VolumeNode::start(opened, &config, metrics, (links, keys), client, started)?);
        }
        Ok(Node { inner: Arc::new(Inner { config, started, volumes, _listeners: listeners }) })
    }

    /// What the control socket commands.
    pub fn control(&self) -> Arc<dyn ControlTarget> {
        self.inner.clone()
    }

    /// Hands every volume over, or stops it cleanly.
    pub fn shutdown(self) {
        for volume in &self.inner.volumes {
            volume.request_stop();
        }
        for volume in &self.inner.volumes {
            volume.wait_stopped();
        }
    }
}

impl Inner {
    fn volume(&self, name: &str) -> Result<&VolumeNode, ControlError> {
        self.volumes.iter().find(|volume| volume.name() == name).ok_or_else(|| {
            let known: Vec<&str> = self.volumes.iter().map(VolumeNode::name).collect();
            ControlError::unknown_volume(name, &known)
        })
    }
}

impl ControlTarget for Inner {
    fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            now_unix_ms: runtime::unix_ms(),
            volumes: self.volumes.iter().map(VolumeNode::status).collect(),
        }
    }

    fn switchover(&self, volume: &str, timeout: Duration, caller: &dyn Caller) -> Result<(), ControlError> {
        self.volume(volume)?.switchover(timeout, caller)
    }

    fn takeover(&self, volume: &str, force: bool, caller: &dyn Caller) -> Result<(), ControlError> {
        self.volume(volume)?.takeover(force, TAKEOVER_LIMIT, caller)
    }

    fn resync(&self, volume: &str) -> Result<(), ControlError> {
        self.volume(volume)?.wish(Operator::Resync { by_content: true })
    }

    fn split_show(&self, volume: &str, rows: u32) -> Result<SplitReport, ControlError> {
        self.volume(volume)?.split_show(rows)
    }

    fn split_discard(&self, volume: &str, here: bool) -> Result<(), ControlError> {
        self.volume(volume)?.split_discard(here)
    }
    fn verify(&self, volume: &str, repair: bool, max_rate_bytes: Option<u64>) -> Result<u64, ControlError> {
        self.volume(volume)?.verify(verify::Options { repair, max_rate_bytes })
    }

    fn consistency_point(&self, volume: &str) -> Result<ConsistencyPointStatus, ControlError> {
        let volume = self.volume(volume)?;
        volume.consistency_point(CONSISTENCY_POINT_LIMIT).ok_or_else(|| {
            ControlError::new(
                ErrorKind::Failed,
                "the consistency point failed or took too long; `twinfiler status` shows the faults",
            )
        })
    }
}

/// A node that lost one of its threads would look alive and do nothing: better dead, so that the partner serves. The report
/// is the standard library's: where it cannot be written it is left out, and the process ends as it would with it.
fn die_with_any_thread() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            report(panic);
            std::process::abort();
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::die_with_any_thread;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    /// Set in the process that is to end.
    const INSIDE: &str = "TWINFILER_TEST_PANICS";

    #[test]
    fn a_panic_that_nobody_can_read_ends_the_process_all_the_same() {
        if std::env::var_os(INSIDE).is_some() {
            die_with_any_thread();
            panic!("as it should");
        }
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let name = "tests::a_panic_that_nobody_can_read_ends_the_process_all_the_same";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .stdout(Stdio::null())
            .stderr(full)
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    }
}
