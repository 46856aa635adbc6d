//! Counts of one volume's mirroring, over all its links. Plain atomics: whoever exports metrics reads them.
//!
//! Buckets are powers of two: bucket `i` counts values in `[2^i, 2^(i+1))`, bucket 0 also zero, the last one
//! everything above.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets of a histogram.
pub const BUCKETS: usize = 32;

/// A histogram of powers of two, with the sum that an exporter wants beside it.
#[derive(Default, Debug)]
pub struct Buckets {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Buckets {
    pub(crate) fn add(&self, value: u64) {
        let index = (value.max(1).ilog2() as usize).min(BUCKETS - 1);
        self.counts[index].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    fn read(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|i| self.counts[i].load(Relaxed))
    }
}

/// Counts since the process started.
#[derive(Default, Debug)]
pub struct Counters {
    pub(crate) writes: AtomicU64,
    pub(crate) batches_sent: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) batches_received: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) acknowledgements: AtomicU64,
    pub(crate) spins: AtomicU64,
    pub(crate) vain_polls: AtomicU64,
    pub(crate) sleeps: AtomicU64,
    pub(crate) links: AtomicU64,
    pub(crate) link_resets: AtomicU64,
    pub(crate) batch_bytes: Buckets,
    pub(crate) round_trip_us: Buckets,
}

/// The counts at one moment (each for itself: they are not read at the same instant).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CounterSnapshot {
    /// Calls of `write`.
    pub writes: u64,
    /// Messages that carried log bytes to the peer; fewer than writes when writes gathered.
    pub batches_sent: u64,
    /// Log bytes sent.
    pub bytes_sent: u64,
    /// Messages with log bytes from the peer.
    pub batches_received: u64,
    /// Log bytes received.
    pub bytes_received: u64,
    /// Acknowledgements sent to the peer.
    pub acknowledgements: u64,
    /// Waits that ended while polling.
    pub spins: u64,
    /// Waits that polled in vain before they slept.
    pub vain_polls: u64,
    /// Waits that slept.
    pub sleeps: u64,
    /// Links made.
    pub links: u64,
    /// Links that ended by a failure, not by a close from this side.
    pub link_resets: u64,
    /// Sizes of sent batches, bytes, in powers of two.
    pub batch_bytes: [u64; BUCKETS],
    /// Sum of the batch sizes.
    pub batch_bytes_sum: u64,
    /// Time from write to acknowledgement, microseconds, in powers of two.
    pub round_trip_us: [u64; BUCKETS],
    /// Sum of the round trips.
    pub round_trip_us_sum: u64,
}

impl Counters {
    /// Reads all.
    pub fn snapshot(&self) -> CounterSnapshot {
        CounterSnapshot {
            writes: self.writes.load(Relaxed),
            batches_sent: self.batches_sent.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            batches_received: self.batches_received.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            acknowledgements: self.acknowledgements.load(Relaxed),
            spins: self.spins.load(Relaxed),
            vain_polls: self.vain_polls.load(Relaxed),
            sleeps: self.sleeps.load(Relaxed),
            links: self.links.load(Relaxed),
            link_resets: self.link_resets.load(Relaxed),
            batch_bytes: self.batch_bytes.read(),
            batch_bytes_sum: self.batch_bytes.sum.load(Relaxed),
            round_trip_us: self.round_trip_us.read(),
            round_trip_us_sum: self.round_trip_us.sum.load(Relaxed),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_their_power_of_two() {
        let buckets = Buckets::default();
        for value in [0, 1, 2, 3, 4, 4096, u64::MAX >> 1] {
            buckets.add(value);
        }
        let read = buckets.read();
        assert_eq!((read[0], read[1], read[2], read[12], read[BUCKETS - 1]), (2, 2, 1, 1, 1));
    }
}
