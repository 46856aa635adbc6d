//! A latency of about the last minute, beside that since the start: an hour of good commits hides a bad minute.
//!
//! What was counted is remembered each time that somebody passes by (a consistency point, whoever asks), at intervals. Nothing
//! wakes up for it: where nothing happens there is nothing to tell.

use super::histogram::HistogramSnapshot;
use crate::status::RecentLatency;
use parking_lot::Mutex;
use runtime::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// How far apart counts are remembered, at least.
const EVERY: Duration = Duration::from_secs(10);
/// How long.
const KEPT: Duration = Duration::from_secs(65);

/// Counts of earlier moments, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Intervals(Mutex<VecDeque<(Instant, HistogramSnapshot)>>);

impl Intervals {
    /// Somebody passes by at `now`.
    pub fn cut(&self, now: Instant, snapshot: impl FnOnce() -> HistogramSnapshot) {
        let mut cuts = self.0.lock();
        // Counts of long ago would make an old minute one of the last.
        cuts.retain(|(at, _)| now - *at < KEPT);
        if cuts.back().is_none_or(|(at, _)| now - *at >= EVERY) {
            cuts.push_back((now, snapshot()));
        }
    }

    /// What was counted since the oldest moment that is remembered.
    pub fn recent(
        &self,
        now: Instant,
        snapshot: impl FnOnce() -> HistogramSnapshot,
    ) -> Option<RecentLatency> {
        let cuts = self.0.lock();
        let (at, earlier) = cuts.front()?;
        // Taken after the earlier one: all are, under this lock.
        let latency = snapshot().since(earlier).summary()?;
        Some(RecentLatency { seconds: (now - *at).as_secs_f64(), latency })
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::LatencyHistogram;
    use super::*;

    #[test]
    fn a_bad_minute_shows_and_goes() {
        let (histogram, intervals) = (LatencyHistogram::default(), Intervals::default());
        let start = Instant::now();
        assert_eq!(intervals.recent(start, || histogram.snapshot()), None);
        intervals.cut(start, || histogram.snapshot());
        (0..1000).for_each(|_| histogram.observe(Duration::from_micros(10)));
        let mut told = Vec::new();
        for second in 1..=150 {
            let now = start + Duration::from_secs(second);
            let took = if (60..80).contains(&second) { 5_000 } else { 10 };
            histogram.observe(Duration::from_micros(took));
            intervals.cut(now, || histogram.snapshot());
            let recent = intervals.recent(now, || histogram.snapshot());
            told.push(recent.map(|recent| (recent.seconds as u64, recent.latency.max_us > 4_000.0)));
        }
        assert_eq!(told[0], Some((1, false)));
        assert_eq!(told[69], Some((60, true)), "that since the start still has a median of 10 us");
        assert!(told.iter().flatten().all(|(seconds, _)| *seconds <= 65), "{told:?}");
        assert_eq!(told[149].map(|(_, bad)| bad), Some(false));
        // After a night in which nobody came by, the evening before is none of the last minutes.
        let morning = start + Duration::from_secs(40_000);
        intervals.cut(morning, || histogram.snapshot());
        assert_eq!(intervals.recent(morning, || histogram.snapshot()), None);
        assert!(histogram.snapshot().summary().unwrap().max_us > 4_000.0);
    }
}
