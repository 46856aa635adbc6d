//! One volume's node under a simulation: everything of it that decides something, over a log, a disk, a link and a
//! witness that are given. No mount, no hooks, no sockets.
//!
//! Invariant: whatever runs here is what runs in production; this file only hands parts in and shows state. What can
//! go wrong: what can go wrong when a node starts.

use super::NodeError;
use super::open::Opened;
use super::shared::Shared;
use super::volume_node::VolumeNode;
use admin_api::metrics::Metrics;
use apply_engine::Base;
use apply_engine::simulation::SimDisk;
use config::NodeConfig;
use ids::{AckRule, Cursors, Epoch, LogPoint, Lsn};
use nvlog::sim::SimRegion;
use nvlog::{CutReason, Log};
use pair::{DurableState, Operator, PairStatus};
use rdma_transport::{LinkParams, LinkSource};
use runtime::{Uptime, mark};
use std::sync::Arc;
use volume::Volume;
use witness::WitnessClient;

/// What a node is made of.
pub struct SimParts {
    /// Its configuration, with one volume.
    pub config: NodeConfig,
    /// The memory of its log.
    pub region: SimRegion,
    /// Its disk.
    pub disk: SimDisk,
    /// Where its links come from.
    pub links: Box<dyn LinkSource>,
    /// Its way to the witness.
    pub witness: Box<dyn WitnessClient>,
}

/// A running node.
pub struct SimNode {
    node: VolumeNode,
}

/// What an observer sees of a node without letting anybody else run meanwhile.
pub struct Glance {
    /// Everything before this is committed, as far as this node knows.
    pub committed: Lsn,
    /// Where the log begins: the tree stands here, between two consistency points.
    pub tail: LogPoint,
    /// The base tree may stand between two consistency points.
    pub half_applied: bool,
    /// The base tree belongs to no point of the log.
    pub replacing: bool,
    /// Whose logs an acknowledgement waits for.
    pub rule: AckRule,
    /// The last epoch that its log knows.
    pub epoch: Option<Epoch>,
    /// Its log.
    pub log: Arc<Log>,
}

/// What an observer sees of a node; it may have to wait.
#[derive(Clone, Debug)]
pub struct Observed {
    /// How far records have come.
    pub cursors: Cursors,
    /// End of the log.
    pub end: Lsn,
    /// The pair's state after its last event.
    pub pair: Option<PairStatus>,
    /// The base tree may stand between two consistency points.
    pub half_applied: bool,
    /// The base tree belongs to no point of the log.
    pub replacing: bool,
    /// What status shows as wrong.
    pub faults: Vec<String>,
}

impl SimNode {
    /// Opens log and base, recovers, and starts every thread of the volume.
    ///
    /// # Errors
    /// As a node in production.
    pub fn start(parts: SimParts) -> Result<SimNode, NodeError> {
        let SimParts { config, region, disk, links, witness } = parts;
        let volume = config.volumes.first().cloned().expect("a simulated node has one volume");
        let log_error = |source: Box<dyn std::error::Error + Send + Sync>| NodeError::Log {
            volume: volume.name.to_string(),
            path: "simulated".to_owned(),
            source,
        };
        let (log, recovery) =
            Log::open(Box::new(region), Some(volume.id)).map_err(|error| log_error(error.into()))?;
        if matches!(recovery.cut, CutReason::ChainBroken | CutReason::PayloadBroken) {
            mark!("torn recovery");
        }
        let role_state =
            DurableState::decode(&log.superblock().role_state).map_err(|error| log_error(error.into()))?;
        let opened = Opened {
            base: Base::simulated(disk, volume.id),
            config: volume,
            log,
            recovery,
            rdma: None,
            base_filesystem: "a simulated disk".to_owned(),
            role_state,
        };
        let source = |_: &Shared, _: &LinkParams| Ok(links);
        let node =
            VolumeNode::start(opened, &config, &Metrics::new(), (source, None), witness, Uptime::now())?;
        Ok(SimNode { node })
    }

    /// The volume, while this node serves it.
    pub fn volume(&self) -> Option<Arc<Volume>> {
        self.node.shared().volume.lock().clone()
    }

    /// The last epoch that its log knows.
    pub fn epoch(&self) -> Option<Epoch> {
        let history = self.node.shared().log.superblock().epoch_history;
        history.entries().last().map(|entry| entry.epoch)
    }

    /// What can be seen at once.
    pub fn glance(&self) -> Glance {
        let shared = self.node.shared();
        Glance {
            committed: shared.path.committed(),
            tail: shared.log.tail(),
            half_applied: shared.applier.is_half_applied(),
            replacing: shared.resync.is_replacing(),
            rule: shared.path.rule(),
            epoch: self.epoch(),
            log: shared.log.clone(),
        }
    }

    /// Tells the pair what an operator wants; not whether it can be done.
    pub fn wish(&self, wish: Operator) {
        let _refused = self.node.wish(wish);
    }

    /// Stops cleanly.
    pub fn stop(&self) {
        self.node.request_stop();
        self.node.wait_stopped();
    }

    /// What can be seen now.
    pub fn observe(&self) -> Observed {
        let shared = self.node.shared();
        Observed {
            cursors: shared.path.cursors(),
            end: shared.log.end().lsn,
            pair: shared.pair.lock().clone(),
            half_applied: shared.applier.is_half_applied(),
            replacing: shared.resync.is_replacing(),
            faults: shared.faults.all().into_iter().map(|fault| fault.what).collect(),
        }
    }
}
