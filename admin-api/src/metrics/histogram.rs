//! A latency histogram of atomics.
//!
//! Buckets are log-linear: octaves of nanoseconds, each cut in eight, so a quantile is at most 12.5 % off. Prometheus is
//! told the octaves only. Invariant: an observation is counted in exactly one bucket. Reading while others
//! observe may miss the newest ones; it never counts one twice.

use crate::status::LatencySummary;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Everything below 2^8 ns = 256 ns shares the first octave.
const FIRST_OCTAVE: u32 = 8;
/// Everything from 2^34 ns = 17 s on shares the last.
const LAST_OCTAVE: u32 = 34;
const OCTAVES: usize = (LAST_OCTAVE - FIRST_OCTAVE + 1) as usize;
const STEPS_BITS: u32 = 3;
const STEPS: usize = 1 << STEPS_BITS;

/// Latencies, observed by many threads at once.
#[derive(Debug)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; OCTAVES * STEPS],
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for LatencyHistogram {
    fn default() -> LatencyHistogram {
        LatencyHistogram {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }
}

/// Counts as they were at one moment.
#[derive(Clone, Debug)]
pub struct HistogramSnapshot {
    counts: Vec<u64>,
    sum_ns: u64,
    max_ns: u64,
}

fn bucket_of(ns: u64) -> usize {
    let octave = (63 - (ns | 1).leading_zeros()).clamp(FIRST_OCTAVE, LAST_OCTAVE);
    let clamped = ns.clamp(1 << FIRST_OCTAVE, (1 << (LAST_OCTAVE + 1)) - 1);
    let step = (clamped >> (octave - STEPS_BITS)) as usize & (STEPS - 1);
    (octave - FIRST_OCTAVE) as usize * STEPS + step
}

/// The first value past bucket `index`.
fn upper_ns(index: usize) -> u64 {
    let octave = FIRST_OCTAVE + (index / STEPS) as u32;
    (1 << octave) + ((index % STEPS) as u64 + 1) * (1 << (octave - STEPS_BITS))
}

impl LatencyHistogram {
    /// Counts one latency.
    pub fn observe(&self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        self.max_ns.fetch_max(ns, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            counts: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
        }
    }
}

impl HistogramSnapshot {
    /// Observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of all observations, seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &HistogramSnapshot) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// (upper bound in seconds, observations) for each octave; the last bound is infinite.
    pub fn octaves(&self) -> Vec<(f64, u64)> {
        let mut octaves: Vec<(f64, u64)> = self
            .counts
            .chunks_exact(STEPS)
            .enumerate()
            .map(|(octave, steps)| (upper_ns(octave * STEPS + STEPS - 1) as f64 / 1e9, steps.iter().sum()))
            .collect();
        if let Some(last) = octaves.last_mut() {
            last.0 = f64::INFINITY;
        }
        octaves
    }

    /// The latency that the part `quantile` (0 to 1) of the observations does not exceed, microseconds.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        let wanted = (self.count() as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_ns(index).min(self.max_ns) as f64 / 1e3;
            }
        }
        self.max_ns as f64 / 1e3
    }

    /// The usual quantiles; `None` without observations.
    pub fn summary(&self) -> Option<LatencySummary> {
        let count = self.count();
        (count > 0).then(|| LatencySummary {
            count,
            p50_us: self.quantile_us(0.5),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
            max_us: self.max_ns as f64 / 1e3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ends_have_buckets() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), OCTAVES * STEPS - 1);
        assert_eq!(upper_ns(OCTAVES * STEPS - 1), 1 << (LAST_OCTAVE + 1));
    }

    #[test]
    fn quantiles_are_close() {
        let histogram = LatencyHistogram::default();
        assert_eq!(histogram.snapshot().summary(), None);
        for us in 1..=1000 {
            histogram.observe(Duration::from_micros(us));
        }
        let summary = histogram.snapshot().summary().unwrap();
        assert_eq!((summary.count, summary.max_us), (1000, 1000.0));
        assert!((500.0..=563.0).contains(&summary.p50_us), "{summary:?}");
        assert!((990.0..=1000.0).contains(&summary.p99_us), "{summary:?}");
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(ns in (1u64 << FIRST_OCTAVE)..(1 << (LAST_OCTAVE + 1))) {
            let index = bucket_of(ns);
            prop_assert!(ns < upper_ns(index));
            prop_assert!(index == 0 || ns >= upper_ns(index - 1));
        }
    }
}
