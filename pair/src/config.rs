//! What a pair is configured with, and the one unit of time that everything here uses.
//!
//! Times are whole milliseconds of the node's own monotonic clock. Clocks of two nodes are never compared:
//! a lease is counted from the holder's own send time, which the other side only echoes. What can go wrong is
//! a clock that runs fast or slow; `drift_margin_ms` pays for it.

use ids::{BaseLimits, NodeName};
use serde::{Deserialize, Serialize};

/// A moment on this node's monotonic clock, in milliseconds since an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct MonoMs(pub u64);

impl MonoMs {
    /// The moment `wait_ms` later.
    pub fn plus(self, wait_ms: u64) -> MonoMs {
        MonoMs(self.0.saturating_add(wait_ms))
    }

    /// Milliseconds from `earlier` to here; 0 when `earlier` is later.
    pub fn since(self, earlier: MonoMs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Fewest heartbeats within a lease: one may be lost without stopping reads.
pub const HEARTBEATS_PER_LEASE: u64 = 3;

/// Timers of the pair. All in milliseconds.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Timers {
    /// How often a node tells the other that it lives (default 20). The runtime sends a `Tick` at least as
    /// often.
    pub heartbeat_ms: u64,
    /// Silence after which the other node counts as lost, while nothing tells more (default 250). A link that breaks
    /// does: then the end of the lease counts.
    pub failure_timeout_ms: u64,
    /// How long after it sent a heartbeat a primary may serve reads, if the partner answered it
    /// (default 100; must stay below `failure_timeout_ms`).
    pub lease_ms: u64,
    /// What clocks of two nodes may differ by while a lease runs, and what whole milliseconds leave out (default 10).
    pub drift_margin_ms: u64,
    /// A primary whose link broke waits this long for a new one before it asks the witness (default 60). The partner
    /// leaves it a heartbeat more, so that who lives keeps the volume.
    pub link_grace_ms: u64,
    /// A restarted node that the witness does not name primary waits this long for the one it names
    /// (default 2000).
    pub start_grace_ms: u64,
    /// First pause after a witness that did not answer (default 100); doubles up to `witness_retry_max_ms`.
    pub witness_retry_ms: u64,
    /// Longest pause between two attempts at the witness (default 500).
    pub witness_retry_max_ms: u64,
    /// How often each node asks the witness, whatever it does (default 1000).
    pub witness_check_ms: u64,
    /// After this long without an answer a request to the witness counts as lost (default 3000). The
    /// runtime's own limit should be shorter.
    pub witness_timeout_ms: u64,
    /// Longest wait for in-flight operations in a switchover or stop (default 5000).
    pub drain_timeout_ms: u64,
    /// Longest time clients wait in the barrier of a rejoin before it is given up for now (default 1000).
    pub barrier_timeout_ms: u64,
    /// Pause before a join that failed is tried again (default 500).
    pub join_retry_ms: u64,
    /// The barrier begins when the partner misses no more than this many bytes (default 1 MiB).
    pub barrier_lag_bytes: u64,
    /// For how long a partner that stalled once is not waited for (default 10000); doubled each time, up to 32 times.
    pub distrust_ms: u64,
}

impl Timers {
    /// How long a witness must have told the same before a node claims by it. Whoever was granted something newer, and
    /// can ask, has asked in that time, and made the witness tell it.
    pub(crate) fn steady_ms(&self) -> u64 {
        self.witness_check_ms * 2
    }

    /// A partner that has been good for so long is trusted as ever.
    pub(crate) fn distrust_forgotten_ms(&self) -> u64 {
        self.distrust_ms * 60
    }
}

impl Default for Timers {
    fn default() -> Timers {
        Timers {
            heartbeat_ms: 20,
            failure_timeout_ms: 250,
            lease_ms: 100,
            drift_margin_ms: 10,
            link_grace_ms: 60,
            start_grace_ms: 2_000,
            witness_retry_ms: 100,
            witness_retry_max_ms: 500,
            witness_check_ms: 1_000,
            witness_timeout_ms: 3_000,
            drain_timeout_ms: 5_000,
            barrier_timeout_ms: 1_000,
            join_retry_ms: 500,
            barrier_lag_bytes: 1 << 20,
            distrust_ms: 10_000,
        }
    }
}

/// A configuration that cannot work, and what to change.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Both nodes have the same name.
    #[error("this node and its partner are both named {0}; give them different names")]
    SameName(NodeName),
    /// `preferred` names neither node.
    #[error("preferred primary {0} is neither this node nor its partner")]
    UnknownPreferred(NodeName),
    /// A takeover could begin before the read lease ended.
    #[error(
        "lease_ms {lease_ms} + drift_margin_ms {margin_ms} must be below failure_timeout_ms {timeout_ms}; \
         lower the lease or raise the timeout"
    )]
    LeaseTooLong {
        /// Configured lease.
        lease_ms: u64,
        /// Configured margin.
        margin_ms: u64,
        /// Configured failure timeout.
        timeout_ms: u64,
    },
    /// A heartbeat would not fit into the lease.
    #[error("heartbeat_ms {heartbeat_ms} must be 1 to a third of lease_ms {lease_ms}")]
    HeartbeatTooSlow {
        /// Configured heartbeat.
        heartbeat_ms: u64,
        /// Configured lease.
        lease_ms: u64,
    },
}

/// One volume's pair, as this node sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeName,
    /// The other node.
    pub peer: NodeName,
    /// Is a witness configured? Without one a node that loses its partner freezes.
    pub witness: bool,
    /// Who becomes primary of a fresh pair; the lower name when `None`. Must be the same on both nodes.
    pub preferred: Option<NodeName>,
    /// What the base tree lies on, for people.
    pub base_filesystem: String,
    /// What it can hold. Both nodes apply the same records, so clients may do what both can hold; a partner that holds
    /// less than what clients were granted so far is refused.
    pub base_limits: BaseLimits,
    /// Timers.
    pub timers: Timers,
}

impl Config {
    /// A pair with a witness and default timers.
    pub fn new(me: NodeName, peer: NodeName) -> Config {
        Config {
            me,
            peer,
            witness: true,
            preferred: None,
            base_filesystem: String::new(),
            base_limits: BaseLimits::LINUX,
            timers: Timers::default(),
        }
    }

    /// Checks names and timers.
    ///
    /// # Errors
    /// The first rule that does not hold; each error says what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.me == self.peer {
            return Err(ConfigError::SameName(self.me.clone()));
        }
        if let Some(name) = &self.preferred
            && *name != self.me
            && *name != self.peer
        {
            return Err(ConfigError::UnknownPreferred(name.clone()));
        }
        let Timers {
            lease_ms, drift_margin_ms: margin_ms, failure_timeout_ms: timeout_ms, heartbeat_ms, ..
        } = self.timers;
        if lease_ms + margin_ms >= timeout_ms {
            return Err(ConfigError::LeaseTooLong { lease_ms, margin_ms, timeout_ms });
        }
        if heartbeat_ms == 0 || heartbeat_ms > lease_ms / HEARTBEATS_PER_LEASE {
            return Err(ConfigError::HeartbeatTooSlow { heartbeat_ms, lease_ms });
        }
        Ok(())
    }

    /// 0 for the lower name, 1 for the higher: the parity of the epochs that a node opens.
    pub(crate) fn rank_of_me(&self) -> u64 {
        u64::from(self.me > self.peer)
    }
}
