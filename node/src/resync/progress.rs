//! How far a resync is: the same numbers on both nodes.
//!
//! The receiver counts, and tells the source about twice a second ([`TELL_EVERY`]), which shows what it was told. Objects
//! and content are counted over the whole session: a round adds to what there is to do, and what is done never goes back.
//!
//! What can go wrong: nobody knows how much there is before labels are compared. Then no estimate is made.

use crate::progress::{Amounts, Counter, Pace};
use admin_api::status::{ResyncSide, ResyncStatus};
use runtime::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often the source is told.
pub(super) const TELL_EVERY: Duration = Duration::from_millis(500);

/// What a session does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Doing {
    /// What only the receiver holds is kept aside.
    KeepingAside,
    /// Which objects may differ?
    #[default]
    Comparing,
    /// Objects are brought.
    Bringing,
    /// All labels are summed up.
    SummingUp,
    /// Consistency points of the source stay away.
    LastRound,
    /// Is everything there?
    Checking,
}

impl Doing {
    fn words(self, side: ResyncSide) -> &'static str {
        match (self, side) {
            (Doing::KeepingAside, _) => "keeping aside what only the receiver holds",
            (Doing::Comparing, _) => "comparing labels",
            (Doing::Bringing, ResyncSide::Receiving) => "receiving",
            (Doing::Bringing, ResyncSide::Sending) => "sending",
            (Doing::SummingUp, _) => "summing labels up",
            (Doing::LastRound, _) => "last round",
            (Doing::Checking, _) => "checking",
        }
    }
}

/// What a receiver tells of its progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    pub doing: Doing,
    pub round: u32,
    pub amounts: Amounts,
    pub bytes_per_s: u64,
    pub eta_s: Option<u64>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    side: ResyncSide,
    told: Told,
    /// A receiver's.
    counter: Counter,
}

impl Progress {
    pub fn new(side: ResyncSide) -> Progress {
        Progress { side, told: Told::default(), counter: Counter::default() }
    }

    /// From here on it does this.
    pub fn doing(&mut self, doing: Doing) {
        self.told.doing = doing;
    }

    /// A round begins, over so much more.
    pub fn begin_round(&mut self, objects: u64, bytes: u64) {
        self.end_round();
        self.told.round += 1;
        self.counter.add(objects, bytes);
    }

    /// What a round was about is done.
    pub fn end_round(&mut self) {
        self.counter.end();
    }

    /// So much more is done.
    pub fn done(&mut self, objects: u64, bytes: u64, now: Instant) {
        self.counter.done(objects, bytes, now);
    }

    /// The source heard this.
    pub fn heard(&mut self, told: Told) {
        self.told = told;
    }

    /// What is to be told of a receiver, with pace and estimate as of now.
    pub fn told(&self, now: Instant) -> Told {
        if self.side == ResyncSide::Sending {
            return self.told;
        }
        let Pace { bytes_per_s, eta_s } = self.counter.pace(now);
        Told { amounts: self.counter.amounts(), bytes_per_s, eta_s, ..self.told }
    }

    /// For status and metrics.
    pub fn status(&self, error: Option<String>, now: Instant) -> ResyncStatus {
        let told = self.told(now);
        ResyncStatus {
            side: Some(self.side),
            doing: told.doing.words(self.side).to_owned(),
            round: told.round,
            objects_done: told.amounts.objects_done,
            objects_total: told.amounts.objects_total,
            bytes_done: told.amounts.bytes_done,
            bytes_total: told.amounts.bytes_total,
            bytes_per_s: told.bytes_per_s,
            eta_s: told.eta_s,
            compressed: false,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL_BYTES: u64 = 100;

    /// Small files at a steady pace, a batch of them each tenth of a second.
    fn bring(progress: &mut Progress, from: Instant, seconds: u64, per_s: u64) -> Instant {
        let mut now = from;
        for _ in 0..seconds * 10 {
            now += Duration::from_millis(100);
            progress.done(per_s / 10, per_s / 10 * SMALL_BYTES, now);
        }
        now
    }

    #[test]
    fn the_estimate_for_small_files_follows_the_pace() {
        let start = Instant::now();
        let mut progress = Progress::new(ResyncSide::Receiving);
        progress.begin_round(1_000_000, 1_000_000 * SMALL_BYTES);
        assert_eq!(progress.told(start).eta_s, None, "nobody knows yet");
        // At first ten times as slow as later: that is forgotten.
        let now = bring(&mut progress, start, 60, 250);
        let now = bring(&mut progress, now, 60, 2_500);
        let told = progress.told(now);
        assert_eq!((told.amounts.objects_done, told.amounts.bytes_done), (165_000, 165_000 * SMALL_BYTES));
        let expected = (1_000_000 - 165_000) / 2_500;
        assert!(told.eta_s.is_some_and(|eta_s| eta_s.abs_diff(expected) <= expected / 50), "{told:?}");
        assert!(told.bytes_per_s.abs_diff(250_000) < 10_000, "{told:?}");
    }

    #[test]
    fn what_is_done_never_goes_back_and_nothing_left_has_no_estimate() {
        let start = Instant::now();
        let mut progress = Progress::new(ResyncSide::Receiving);
        let mut before = progress.told(start).amounts;
        let mut now = start;
        for round in 1..=3 {
            progress.begin_round(50_000, 40_000 * SMALL_BYTES);
            // More content than was weighed, and fewer objects.
            now = bring(&mut progress, now, 4, 12_000);
            let told = progress.told(now).amounts;
            assert!(told.objects_done >= before.objects_done && told.bytes_done >= before.bytes_done);
            assert!(told.objects_done <= told.objects_total && told.bytes_done <= told.bytes_total);
            assert_eq!(progress.told(now).round, round);
            before = told;
        }
        progress.end_round();
        let told = progress.told(now);
        let amounts = told.amounts;
        assert_eq!((amounts.objects_done, amounts.bytes_done), (amounts.objects_total, amounts.bytes_total));
        assert_eq!(told.eta_s, None);
    }

    #[test]
    fn a_source_shows_what_it_was_told() {
        let now = Instant::now();
        let mut receiver = Progress::new(ResyncSide::Receiving);
        receiver.begin_round(10, 1 << 20);
        receiver.doing(Doing::Bringing);
        receiver.done(4, 1 << 19, now);
        let mut source = Progress::new(ResyncSide::Sending);
        source.heard(receiver.told(now));
        let (ours, theirs) = (receiver.status(None, now), source.status(None, now));
        assert_eq!((ours.doing.as_str(), theirs.doing.as_str()), ("receiving", "sending"));
        assert_eq!(ResyncStatus { doing: ours.doing.clone(), side: ours.side, ..theirs }, ours);
    }
}
