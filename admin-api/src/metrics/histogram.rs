//! Latencies, counted by many threads at once.
//!
//! What is counted goes into buckets of atomics, because a commit may take no lock for it: octaves of nanoseconds, each cut
//! in eight, so a quantile is at most 12.5 % off. Everything that is asked of the counts is asked of an `hdrhistogram`.
//! Prometheus is told the octaves only. Invariant: an observation is counted in exactly one bucket. Reading while others
//! observe may miss the newest ones; it never counts one twice.

use crate::status::LatencySummary;
use hdrhistogram::Histogram;
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
    /// Nanoseconds, each as the largest value of its bucket.
    values: Histogram<u64>,
    sum_ns: u64,
    max_ns: u64,
}

/// Keeps neighbouring buckets apart.
const SIGNIFICANT_DIGITS: u8 = 2;

#[inline]
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
    #[inline]
    pub fn observe(&self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        self.max_ns.fetch_max(ns, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut values = Histogram::new_with_bounds(1, 1 << (LAST_OCTAVE + 1), SIGNIFICANT_DIGITS)
            .expect("the bounds are in order, and the digits few");
        for (index, bucket) in self.buckets.iter().enumerate() {
            let count = bucket.load(Ordering::Relaxed);
            values.record_n(upper_ns(index) - 1, count).expect("every bucket lies within the bounds");
        }
        HistogramSnapshot {
            values,
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
        }
    }
}

impl HistogramSnapshot {
    /// Observations.
    pub fn count(&self) -> u64 {
        self.values.len()
    }

    /// Sum of all observations, seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &HistogramSnapshot) {
        self.values.add(&other.values).expect("both have the same bounds");
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// What was counted since an earlier moment. The longest one is known by its bucket only.
    #[must_use]
    pub fn since(mut self, earlier: &HistogramSnapshot) -> HistogramSnapshot {
        self.values.subtract(&earlier.values).expect("counts only grow");
        self.sum_ns = self.sum_ns.wrapping_sub(earlier.sum_ns);
        self.max_ns = self.max_ns.min(self.values.value_at_quantile(1.0));
        self
    }

    /// (upper bound in seconds, observations) for each octave; the last bound is infinite.
    pub fn octaves(&self) -> Vec<(f64, u64)> {
        let mut below = 0;
        let mut octaves: Vec<(f64, u64)> = (FIRST_OCTAVE..=LAST_OCTAVE)
            .map(|octave| {
                let end_ns = 1 << (octave + 1);
                let count = self.values.count_between(below, end_ns - 1);
                below = end_ns;
                (end_ns as f64 / 1e9, count)
            })
            .collect();
        if let Some(last) = octaves.last_mut() {
            last.0 = f64::INFINITY;
        }
        octaves
    }

    /// The latency that the part `quantile` (0 to 1) of the observations does not exceed, microseconds.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.values.value_at_quantile(quantile).min(self.max_ns) as f64 / 1e3
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

    #[test]
    fn octaves_count_what_lies_in_them() {
        let histogram = LatencyHistogram::default();
        for ns in [0, 255, 256, 511, 512, 1 << 20, (1 << 21) - 1, 1 << 34, u64::MAX] {
            histogram.observe(Duration::from_nanos(ns));
        }
        let octaves = histogram.snapshot().octaves();
        let counted: Vec<(usize, u64)> =
            octaves.iter().map(|(_, count)| *count).enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0, 4), (1, 1), (12, 2), (26, 2)]);
        assert_eq!((octaves[0].0, octaves[12].0), (512e-9, (1u64 << 21) as f64 / 1e9));
        assert!(octaves[26].0.is_infinite());
    }

    #[test]
    fn what_was_counted_since_then_is_what_is_left() {
        let histogram = LatencyHistogram::default();
        (0..100).for_each(|_| histogram.observe(Duration::from_millis(900)));
        let then = histogram.snapshot();
        assert_eq!(then.clone().since(&then).summary(), None);
        (0..10).for_each(|_| histogram.observe(Duration::from_micros(10)));
        let summary = histogram.snapshot().since(&then).summary().unwrap();
        assert_eq!(summary.count, 10);
        assert!((10.0..=11.3).contains(&summary.max_us), "{summary:?}");
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
