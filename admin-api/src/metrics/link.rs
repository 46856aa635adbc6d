//! What a volume's link counts, under the transport and the mode of persistence that it was counted with.
//!
//! The transport counts in powers of two: the bounds told here are theirs, exact and not estimated.

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use rdma_transport::{BUCKETS, CounterSnapshot, Counters};
use std::fmt;
use std::sync::Arc;

/// The link of one volume.
#[derive(Debug)]
pub struct LinkMetrics {
    /// What the transport counts.
    pub counters: Arc<Counters>,
    /// "tcp", "shm", "verbs".
    pub transport: String,
    /// "message", "read", "flush".
    pub persistence: String,
}

type Read = fn(&CounterSnapshot) -> u64;

const COUNTERS: [(&str, &str, Read); 10] = [
    ("link_writes", "Ranges of the log given to the link", |c| c.writes),
    ("link_sent_batches", "Messages that carried log bytes to the partner", |c| c.batches_sent),
    ("link_sent_bytes", "Log bytes sent", |c| c.bytes_sent),
    ("link_received_batches", "Messages with log bytes from the partner", |c| c.batches_received),
    ("link_received_bytes", "Log bytes received", |c| c.bytes_received),
    ("link_acknowledgements", "Acknowledgements sent to the partner", |c| c.acknowledgements),
    ("link_spins", "Waits for the partner that ended while polling", |c| c.spins),
    ("link_sleeps", "Waits for the partner that slept", |c| c.sleeps),
    ("links", "Links made", |c| c.links),
    ("link_resets", "Links that ended by a failure", |c| c.link_resets),
];

/// One volume's name with its link.
pub(super) type Named<'a> = (&'a str, &'a LinkMetrics);

/// All counters and histograms of the links.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, links: &[Named<'_>]) -> Result<(), fmt::Error> {
    let links: Vec<([(&str, &str); 3], CounterSnapshot)> =
        links.iter().map(|(volume, link)| (labels(volume, link), link.counters.snapshot())).collect();
    for (name, help, read) in COUNTERS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, counts) in &links {
            metric.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(&read(counts), None)?;
        }
    }
    let help = "Time from a write to its acknowledgement by the partner";
    let mut metric =
        encoder.encode_descriptor("link_round_trip", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (labels, counts) in &links {
        let buckets = bounded(&counts.round_trip_us, 1e-6);
        let total = counts.round_trip_us.iter().sum();
        metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(
            counts.round_trip_us_sum as f64 / 1e6,
            total,
            &buckets,
            None,
        )?;
    }
    let help = "Sizes of the batches sent";
    let mut metric =
        encoder.encode_descriptor("link_batch", help, Some(&Unit::Bytes), MetricType::Histogram)?;
    for (labels, counts) in &links {
        let buckets = bounded(&counts.batch_bytes, 1.0);
        let total = counts.batch_bytes.iter().sum();
        metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(
            counts.batch_bytes_sum as f64,
            total,
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn labels<'a>(volume: &'a str, link: &'a LinkMetrics) -> [(&'a str, &'a str); 3] {
    [("volume", volume), ("transport", &link.transport), ("persistence", &link.persistence)]
}

/// (upper bound, observations) for each power of two; the last bound is infinite.
fn bounded(counts: &[u64; BUCKETS], unit: f64) -> Vec<(f64, u64)> {
    let bound =
        |index: usize| if index + 1 == BUCKETS { f64::INFINITY } else { (2u64 << index) as f64 * unit };
    counts.iter().enumerate().map(|(index, count)| (bound(index), *count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers_of_two_and_the_last_has_no_end() {
        let mut counts = [0; BUCKETS];
        counts[3] = 7;
        let buckets = bounded(&counts, 1e-6);
        assert_eq!(buckets[3], (16e-6, 7));
        assert_eq!(buckets[BUCKETS - 1].0, f64::INFINITY);
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
