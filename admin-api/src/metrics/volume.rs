//! What is counted for one volume.

use super::histogram::{HistogramSnapshot, LatencyHistogram};
use super::intervals::Intervals;
use super::link::{self, LinkMetrics};
use super::stages::{Stage, StageLatencies};
use crate::status::{AckLevel, LatencySummary, RecentLatency};
use ids::Durability;
use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use runtime::Instant;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The levels that a latency is told under: (durability, nodes), as labels.
const LEVELS: [(&str, &str); 7] = [
    ("none", "0"),
    ("memory", "1"),
    ("memory", "2"),
    ("process", "1"),
    ("process", "2"),
    ("power", "1"),
    ("power", "2"),
];

fn level_index(level: Option<AckLevel>) -> usize {
    let Some(level) = level else { return 0 };
    let durability = match level.weakest() {
        Durability::Memory => 1,
        Durability::Process => 3,
        Durability::Power => 5,
    };
    durability + usize::from(level.nodes() - 1)
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A latency, kept apart by the durability level that was in force when it was measured.
#[derive(Debug)]
pub struct LeveledLatency {
    level: Arc<AtomicUsize>,
    histograms: [LatencyHistogram; LEVELS.len()],
    intervals: Intervals,
}

impl LeveledLatency {
    fn new(level: &Arc<AtomicUsize>) -> LeveledLatency {
        LeveledLatency {
            level: Arc::clone(level),
            histograms: Default::default(),
            intervals: Intervals::default(),
        }
    }

    /// Counts one latency under the level in force.
    #[inline]
    pub fn observe(&self, latency: Duration) {
        self.histograms[self.level.load(Ordering::Relaxed).min(LEVELS.len() - 1)].observe(latency);
    }

    /// Quantiles over all levels; `None` without observations.
    pub fn summary(&self) -> Option<LatencySummary> {
        self.all().summary()
    }

    /// Remembers what was counted, to tell what was counted since.
    pub fn cut(&self) {
        self.intervals.cut(Instant::now(), || self.all());
    }

    /// Quantiles over all levels of about the last minute; `None` without observations in it.
    pub fn recent(&self) -> Option<RecentLatency> {
        self.cut();
        self.intervals.recent(Instant::now(), || self.all())
    }

    fn all(&self) -> HistogramSnapshot {
        let mut all = self.histograms[0].snapshot();
        self.histograms[1..].iter().for_each(|histogram| all.add(&histogram.snapshot()));
        all
    }

    fn snapshots(&self) -> impl Iterator<Item = ((&'static str, &'static str), HistogramSnapshot)> + '_ {
        let counted =
            self.histograms.iter().zip(LEVELS).map(|(histogram, level)| (level, histogram.snapshot()));
        counted.filter(|(_, snapshot)| snapshot.count() > 0)
    }
}

/// The metrics of one volume. Every field can be used from any thread.
#[derive(Debug)]
pub struct VolumeMetrics {
    name: String,
    level: Arc<AtomicUsize>,
    synced_level: Arc<AtomicUsize>,
    /// From reserving a record to its answer: what a client waits for.
    pub commit: LeveledLatency,
    /// What an fsync waits for that answers do not; told under what an fsync survives.
    pub sync: LeveledLatency,
    /// What a commit's time consists of.
    pub stages: StageLatencies,
    /// Making a batch durable in the local log.
    pub persist: LeveledLatency,
    /// A whole consistency point.
    pub apply: LeveledLatency,
    /// Operations committed.
    pub operations: Counter,
    /// Bytes written to the local tree by consistency points.
    pub applied_bytes: Counter,
    /// Consistency points finished.
    pub consistency_points: Counter,
    /// Consistency points that failed (and are tried again).
    pub apply_failures: Counter,
    /// Operations that a filling log slowed down.
    pub throttled: Counter,
    /// Times that this node became primary.
    pub takeovers: Counter,
    /// Consistency points whose digests were compared with the partner's (on a primary).
    pub digests_compared: Counter,
    /// Those that differed.
    pub digests_differ: Counter,
    /// Microseconds spent on digests.
    pub digest_us: Counter,
    /// Times that the thread which sends heartbeats was scheduled later than one heartbeat.
    pub late_ticks: Counter,
    link: OnceLock<LinkMetrics>,
}

impl VolumeMetrics {
    fn new(name: &str) -> VolumeMetrics {
        let [level, synced_level] = [0; 2].map(|none| Arc::new(AtomicUsize::new(none)));
        VolumeMetrics {
            name: name.to_owned(),
            commit: LeveledLatency::new(&level),
            persist: LeveledLatency::new(&level),
            apply: LeveledLatency::new(&level),
            sync: LeveledLatency::new(&synced_level),
            level,
            synced_level,
            stages: StageLatencies::default(),
            operations: Counter::default(),
            applied_bytes: Counter::default(),
            consistency_points: Counter::default(),
            apply_failures: Counter::default(),
            throttled: Counter::default(),
            takeovers: Counter::default(),
            digests_compared: Counter::default(),
            digests_differ: Counter::default(),
            digest_us: Counter::default(),
            late_ticks: Counter::default(),
            link: OnceLock::new(),
        }
    }

    /// Tells what the volume's link counts. The first one stays.
    pub fn set_link(&self, link: LinkMetrics) {
        let _first = self.link.set(link);
    }

    /// What an acknowledgement survives from now on, and what an fsync does; `None` = nothing is acknowledged.
    pub fn set_level(&self, level: Option<AckLevel>, synced: Option<AckLevel>) {
        self.level.store(level_index(level), Ordering::Relaxed);
        self.synced_level.store(level_index(synced), Ordering::Relaxed);
    }

    fn latencies(&self) -> [(&'static str, &'static str, &LeveledLatency); 4] {
        [
            (
                "commit_latency",
                "Time from writing a record to its answer, which a client waits for",
                &self.commit,
            ),
            ("sync_latency", "Time that an fsync waits, where answers come out of memory", &self.sync),
            ("persist_latency", "Time to make a batch durable in the local log", &self.persist),
            ("apply_latency", "Time of a whole consistency point", &self.apply),
        ]
    }

    fn counters(&self) -> [(&'static str, &'static str, &Counter); 10] {
        [
            ("operations", "Operations committed", &self.operations),
            ("applied_bytes", "Bytes that consistency points wrote to the local tree", &self.applied_bytes),
            ("consistency_points", "Consistency points finished", &self.consistency_points),
            ("apply_failures", "Consistency points that failed and are tried again", &self.apply_failures),
            ("throttled_operations", "Operations that a filling log slowed down", &self.throttled),
            ("takeovers", "Times that this node became primary", &self.takeovers),
            (
                "digests_compared",
                "Consistency points compared with the partner's by digest",
                &self.digests_compared,
            ),
            ("digests_differ", "Consistency points after which the trees differed", &self.digests_differ),
            ("digest_microseconds", "Time spent on digests of consistency points", &self.digest_us),
            (
                "late_ticks",
                "Heartbeats late by more than one, for want of processor time or memory",
                &self.late_ticks,
            ),
        ]
    }
}

fn encode_histogram(mut metric: MetricEncoder<'_>, snapshot: &HistogramSnapshot) -> Result<(), fmt::Error> {
    let (sum_s, count, octaves) = (snapshot.sum_s(), snapshot.count(), snapshot.octaves());
    metric.encode_histogram::<NoLabelSet>(sum_s, count, &octaves, None)
}

/// The volumes of a node, as a collector.
#[derive(Debug, Default)]
pub(super) struct Volumes(RwLock<Vec<Arc<VolumeMetrics>>>);

impl Volumes {
    pub(super) fn get_or_add(&self, name: &str) -> Arc<VolumeMetrics> {
        let mut volumes = self.0.write();
        if let Some(volume) = volumes.iter().find(|volume| volume.name == name) {
            return Arc::clone(volume);
        }
        let volume = Arc::new(VolumeMetrics::new(name));
        volumes.push(Arc::clone(&volume));
        volume
    }
}

impl Collector for Volumes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let volumes = self.0.read();
        let Some(first) = volumes.first() else { return Ok(()) };
        for (index, (name, help, _)) in first.latencies().into_iter().enumerate() {
            let mut metric =
                encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
            for volume in volumes.iter() {
                for ((durability, nodes), snapshot) in volume.latencies()[index].2.snapshots() {
                    let labels =
                        [("volume", volume.name.as_str()), ("durability", durability), ("nodes", nodes)];
                    encode_histogram(metric.encode_family(&labels)?, &snapshot)?;
                }
            }
        }
        let help = "Time of one stage of a commit, of one commit in 64";
        let mut metric =
            encoder.encode_descriptor("commit_stage", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (volume, stage) in volumes.iter().flat_map(|volume| Stage::ALL.map(|stage| (volume, stage))) {
            let snapshot = volume.stages.of(stage).snapshot();
            let labels = [("volume", volume.name.as_str()), ("stage", stage.as_str())];
            encode_histogram(metric.encode_family(&labels)?, &snapshot)?;
        }
        for (index, (name, help, _)) in first.counters().into_iter().enumerate() {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for volume in volumes.iter() {
                let labels = [("volume", volume.name.as_str())];
                let value = volume.counters()[index].2.get();
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
            }
        }
        let links: Vec<link::Named<'_>> =
            volumes.iter().filter_map(|volume| Some((volume.name.as_str(), volume.link.get()?))).collect();
        link::encode(&mut encoder, &links)
    }
}
