//! How far a comparison is.
//!
//! Each walk is a round with numbers of its own: one over everything, and one over what was repaired. Within a round what
//! is done never goes back. How long it takes is told while objects are compared, and only where somebody has weighed them:
//! nobody knows how long a repair takes; the resync that it is tells that of itself.

use crate::progress::{Counter, Pace};
use admin_api::status::VerifyProgress;
use runtime::Instant;

/// What a comparison does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Doing {
    /// Everything that was acknowledged before is applied.
    #[default]
    Beginning,
    /// How much there is to compare is found out.
    Weighing,
    Comparing,
    /// Where does that lie which differs?
    Naming,
    Repairing,
    /// What was repaired is compared again.
    ComparingAgain,
}

impl Doing {
    fn words(self) -> &'static str {
        match self {
            Doing::Beginning => "beginning",
            Doing::Weighing => "looking how much there is",
            Doing::Comparing => "comparing",
            Doing::Naming => "naming what differs",
            Doing::Repairing => "repairing",
            Doing::ComparingAgain => "comparing what was repaired",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Progress {
    doing: Doing,
    round: u32,
    counter: Counter,
    weighed: bool,
    differing: u64,
}

impl Progress {
    /// From here on it does this.
    pub fn doing(&mut self, doing: Doing) {
        self.doing = doing;
    }

    /// A round begins, over so many objects. Nobody knows yet what they hold.
    pub fn begin_round(&mut self, objects: u64) {
        *self = Progress { doing: Doing::Weighing, round: self.round + 1, ..Progress::default() };
        self.counter.add(objects, 0);
    }

    /// The objects of this round hold so much.
    pub fn weighed(&mut self, bytes: u64) {
        self.counter.add(0, bytes);
        self.weighed = true;
    }

    /// So much more was compared, and so many objects of the round differ by now.
    pub fn done(&mut self, objects: u64, bytes: u64, differing: u64, now: Instant) {
        self.counter.done(objects, bytes, now);
        self.differing = differing;
    }

    /// Everything of the round was compared: what is gone, and content that has become less, included.
    pub fn end_round(&mut self) {
        self.counter.end();
    }

    /// For status and metrics.
    pub fn status(&self, now: Instant) -> VerifyProgress {
        let amounts = self.counter.amounts();
        let pace = match self.doing {
            Doing::Comparing | Doing::ComparingAgain => self.counter.pace(now),
            _ => Pace::default(),
        };
        VerifyProgress {
            doing: self.doing.words().to_owned(),
            round: self.round,
            objects_done: amounts.objects_done,
            objects_total: amounts.objects_total,
            bytes_done: amounts.bytes_done,
            bytes_total: self.weighed.then_some(amounts.bytes_total),
            bytes_per_s: pace.bytes_per_s,
            differing: self.differing,
            eta_s: pace.eta_s.filter(|_| self.weighed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SMALL_BYTES: u64 = 4 << 10;
    const LARGE_BYTES: u64 = 50 << 30;
    const PIECE_BYTES: u64 = 8 << 20;

    fn begun(objects: u64, bytes: u64) -> Progress {
        let mut progress = Progress::default();
        progress.begin_round(objects);
        progress.weighed(bytes);
        progress.doing(Doing::Comparing);
        progress
    }

    /// Pieces of large files, ten in a second.
    fn read(progress: &mut Progress, from: Instant, seconds: u64) -> Instant {
        let mut now = from;
        for _ in 0..seconds * 10 {
            now += Duration::from_millis(100);
            progress.done(0, PIECE_BYTES, 0, now);
        }
        now
    }

    #[test]
    fn a_large_file_behind_small_ones_is_in_the_estimate_while_it_is_read() {
        let mut progress = begun(1_001, 1_000 * SMALL_BYTES + LARGE_BYTES);
        let mut now = Instant::now();
        assert_eq!(progress.status(now).eta_s, None, "nobody knows yet");
        progress.done(1_001, 1_000 * SMALL_BYTES, 0, now);
        for _ in 0..5 {
            now = read(&mut progress, now, 60);
            let status = progress.status(now);
            let left = (LARGE_BYTES - status.bytes_done) / (10 * PIECE_BYTES);
            assert!(status.eta_s.is_some_and(|eta_s| eta_s.abs_diff(left) <= left / 50 + 1), "{status:?}");
            assert!(status.bytes_per_s.abs_diff(10 * PIECE_BYTES) < PIECE_BYTES, "{status:?}");
        }
    }

    #[test]
    fn what_has_slowed_down_takes_longer() {
        let mut progress = begun(1, LARGE_BYTES);
        let now = read(&mut progress, Instant::now(), 120);
        let before = progress.status(now).eta_s.unwrap();
        // Nothing comes for a while, as when the partner does not answer.
        let after = progress.status(now + Duration::from_secs(30)).eta_s.unwrap();
        assert!(after >= before * 19 / 10, "{before} {after}");
    }

    #[test]
    fn where_nobody_knows_no_estimate_is_made() {
        let mut progress = Progress::default();
        let start = Instant::now();
        assert_eq!(progress.status(start).eta_s, None);
        progress.begin_round(1_000);
        progress.doing(Doing::Comparing);
        let now = read(&mut progress, start, 10);
        let status = progress.status(now);
        assert_eq!((status.eta_s, status.bytes_total), (None, None), "nobody weighed it");
        assert!(status.bytes_per_s > 0);

        let mut progress = begun(1_000, LARGE_BYTES);
        let now = read(&mut progress, start, 10);
        assert!(progress.status(now).eta_s.is_some());
        for doing in [Doing::Naming, Doing::Repairing] {
            progress.doing(doing);
            let status = progress.status(now + Duration::from_secs(5));
            assert_eq!((status.eta_s, status.bytes_per_s), (None, 0), "{doing:?}");
        }
    }

    #[test]
    fn what_was_repaired_is_a_round_of_its_own_and_within_one_nothing_goes_back() {
        let mut progress = begun(1_000, 1_000 * SMALL_BYTES);
        let mut now = Instant::now();
        let mut before = progress.status(now);
        for _ in 0..100 {
            now += Duration::from_millis(100);
            // Eleven where there were ten: clients make files meanwhile.
            progress.done(11, 11 * SMALL_BYTES, 3, now);
            let status = progress.status(now);
            assert!(status.objects_done > before.objects_done && status.bytes_done > before.bytes_done);
            assert!(
                status.objects_done <= status.objects_total && Some(status.bytes_done) <= status.bytes_total
            );
            before = status;
        }
        progress.end_round();
        progress.doing(Doing::Repairing);
        let status = progress.status(now);
        assert_eq!((status.round, status.objects_done, status.objects_total), (1, 1_100, 1_100));
        assert_eq!((status.differing, status.eta_s), (3, None));
        progress.begin_round(3);
        progress.weighed(3 * SMALL_BYTES);
        progress.doing(Doing::ComparingAgain);
        progress.done(1, SMALL_BYTES, 0, now);
        let status = progress.status(now);
        assert_eq!((status.round, status.objects_done, status.objects_total), (2, 1, 3));
        assert_eq!((status.bytes_done, status.differing), (SMALL_BYTES, 0));
    }
}
