//! Metrics: what the runtime counts, and the little HTTP server that Prometheus scrapes.
//!
//! Invariants: observing costs a few relaxed atomic additions and never waits; every latency carries the
//! durability level of the acknowledgements it was measured under, so that memory that only survives a process
//! is never plotted as persistent. Gauges are not maintained: they are read from the status at the moment of
//! the scrape, so that metrics and `twinfiler status` cannot disagree. What can go wrong: nothing that
//! touches clients; a scrape that hangs is cut off.
//!
//! prometheus-client's own histogram takes a lock for each observation, which is why [`LatencyHistogram`]
//! exists; its registry and text encoding are used.

mod gauges;
mod histogram;
mod http;
mod intervals;
mod link;
mod stages;
mod volume;

#[cfg(test)]
mod tests;

pub use histogram::LatencyHistogram;
pub use http::{MetricsServer, ServeError};
pub use link::LinkMetrics;
pub use stages::{SAMPLED, Stage, StageLatencies};
pub use volume::{Counter, LeveledLatency, VolumeMetrics};

use crate::status::NodeStatus;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// All metrics of a node.
#[derive(Debug)]
pub struct Metrics {
    volumes: Arc<volume::Volumes>,
    status: Arc<gauges::StatusGauges>,
    registry: Mutex<Registry>,
}

impl Metrics {
    /// Metrics of a node without volumes.
    pub fn new() -> Arc<Metrics> {
        let volumes = Arc::new(volume::Volumes::default());
        let status = Arc::new(gauges::StatusGauges::default());
        let mut registry = Registry::with_prefix("twinfiler");
        registry.register_collector(Box::new(Arc::clone(&volumes)));
        registry.register_collector(Box::new(Arc::clone(&status)));
        Arc::new(Metrics { volumes, status, registry: Mutex::new(registry) })
    }

    /// The metrics of the volume called `name`; made at the first call.
    pub fn volume(&self, name: &str) -> Arc<VolumeMetrics> {
        self.volumes.get_or_add(name)
    }

    /// Takes the gauges from `status`.
    pub fn observe_status(&self, status: NodeStatus) {
        self.status.set(status);
    }

    /// Everything in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }
}
