//! When one commit in some reaches each stage of the path: what stands behind its latency.
//!
//! One commit is followed at a time, by the end of its record. Whoever brings records further tells how far, and looks at
//! one number to see whether that concerns the followed one. So all others cost a load at each stage, and no clock.
//!
//! What can go wrong: the followed one is never answered (its node was deposed). The next one takes its place.

use admin_api::metrics::{SAMPLED, Stage, StageLatencies};
use ids::Lsn;
use runtime::{Instant, Mutex};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const NOBODY: u64 = u64::MAX;
/// Who was not answered for so long is not followed any further.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Trace {
    /// The end of the record that is followed.
    end: AtomicU64,
    followed: Mutex<Option<Followed>>,
}

#[derive(Debug)]
struct Followed {
    end: Lsn,
    logged: Instant,
    sealed: Option<Instant>,
    posted: Option<Instant>,
    here: Option<Instant>,
    there: Option<Instant>,
    answerable: Option<Instant>,
    /// Nobody waits for it on a thread.
    owed: bool,
}

/// How far records have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reached {
    Sealed,
    Posted,
    Here,
    There,
    Answerable,
}

/// Picks one event in [`SAMPLED`].
#[derive(Default, Debug)]
pub(super) struct Sampler(AtomicU64);

impl Sampler {
    /// Whether this event is one that is looked at.
    pub fn is_sampled(&self) -> bool {
        // Of two at once one is not counted, which is cheaper than to count it.
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.wrapping_add(1), Ordering::Relaxed);
        before.is_multiple_of(SAMPLED)
    }
}

impl Trace {
    pub fn new() -> Trace {
        Trace { end: AtomicU64::new(NOBODY), followed: Mutex::new(None) }
    }

    /// Follows the commit of a record that is whole since `logged`, unless another one is followed.
    pub fn follow(&self, end: Lsn, logged: Instant) {
        let mut followed = self.followed.lock();
        let lives = |other: &Followed| logged.saturating_duration_since(other.logged) < GIVEN_UP_AFTER;
        if followed.as_ref().is_some_and(lives) {
            return;
        }
        let [sealed, posted, here, there, answerable] = [None; 5];
        *followed = Some(Followed { end, logged, sealed, posted, here, there, answerable, owed: false });
        self.end.store(end.0, Ordering::Release);
    }

    /// Everything before `to` has come so far.
    #[inline(always)]
    pub fn reached(&self, what: Reached, to: Lsn, stages: &StageLatencies) {
        if self.end.load(Ordering::Acquire) <= to.0 {
            self.note(what, to, stages);
        }
    }

    #[cold]
    fn note(&self, what: Reached, to: Lsn, stages: &StageLatencies) {
        let mut slot = self.followed.lock();
        let Some(followed) = slot.as_mut().filter(|followed| followed.end <= to) else { return };
        let moment = match what {
            Reached::Sealed => &mut followed.sealed,
            Reached::Posted => &mut followed.posted,
            Reached::Here => &mut followed.here,
            Reached::There => &mut followed.there,
            Reached::Answerable => &mut followed.answerable,
        };
        moment.get_or_insert_with(Instant::now);
        if followed.answerable.is_some() && followed.owed {
            self.end(&mut slot, None, stages);
        }
    }

    /// The thread that waited until everything before `end` is answerable goes on: because it is, or because others
    /// answer in its place.
    pub fn goes_on(&self, end: Lsn, stages: &StageLatencies) {
        if self.end.load(Ordering::Acquire) != end.0 {
            return;
        }
        let mut slot = self.followed.lock();
        let Some(followed) = slot.as_mut().filter(|followed| followed.end == end) else { return };
        match followed.answerable {
            Some(_) => self.end(&mut slot, Some(Instant::now()), stages),
            None => followed.owed = true,
        }
    }

    fn end(&self, slot: &mut Option<Followed>, woken: Option<Instant>, stages: &StageLatencies) {
        self.end.store(NOBODY, Ordering::Release);
        let Some(followed) = slot.take() else { return };
        let Followed { logged, sealed, posted, here, there, answerable, .. } = followed;
        for (stage, from, to) in [
            (Stage::Sealed, Some(logged), sealed),
            (Stage::Posted, sealed, posted),
            (Stage::Here, sealed.or(Some(logged)), here),
            (Stage::There, posted, there),
            (Stage::Woken, answerable, woken),
        ] {
            if let (Some(from), Some(to)) = (from, to) {
                stages.observe(stage, to.saturating_duration_since(from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(stages: &StageLatencies) -> Vec<(String, u64)> {
        stages.summary().into_iter().map(|told| (told.stage, told.latency.count)).collect()
    }

    fn expect(stages: &StageLatencies, names: &[&str]) {
        assert_eq!(counts(stages), names.iter().map(|name| ((*name).to_owned(), 1)).collect::<Vec<_>>());
    }

    #[test]
    fn one_event_in_some_is_looked_at() {
        let sampler = Sampler::default();
        let picked = (0..4 * SAMPLED).filter(|_| sampler.is_sampled()).count();
        assert_eq!(picked, 4);
    }

    #[test]
    fn each_stage_of_the_followed_commit_is_told_once() {
        let (trace, stages) = (Trace::new(), StageLatencies::default());
        trace.reached(Reached::Sealed, Lsn(64), &stages);
        trace.follow(Lsn(128), Instant::now());
        trace.follow(Lsn(192), Instant::now());
        for what in [Reached::Sealed, Reached::Posted, Reached::Here, Reached::There, Reached::Answerable] {
            trace.reached(what, Lsn(64), &stages);
            trace.reached(what, Lsn(256), &stages);
            trace.reached(what, Lsn(320), &stages);
        }
        assert_eq!(counts(&stages), [], "it is not over");
        trace.goes_on(Lsn(192), &stages);
        trace.goes_on(Lsn(128), &stages);
        trace.goes_on(Lsn(128), &stages);
        expect(&stages, &["sealed", "posted", "durable-here", "durable-there", "woken"]);
    }

    #[test]
    fn an_answer_that_is_owed_wakes_nobody() {
        let (trace, stages) = (Trace::new(), StageLatencies::default());
        trace.follow(Lsn(128), Instant::now());
        trace.reached(Reached::Here, Lsn(128), &stages);
        trace.goes_on(Lsn(128), &stages);
        assert_eq!(counts(&stages), []);
        trace.reached(Reached::Answerable, Lsn(128), &stages);
        expect(&stages, &["durable-here"]);
        trace.follow(Lsn(256), Instant::now());
        assert!(trace.followed.lock().is_some(), "the next one");
    }

    #[test]
    fn one_that_is_never_answered_is_given_up() {
        let (trace, stages) = (Trace::new(), StageLatencies::default());
        let now = Instant::now();
        trace.follow(Lsn(128), now);
        trace.follow(Lsn(256), now + GIVEN_UP_AFTER);
        trace.goes_on(Lsn(128), &stages);
        trace.reached(Reached::Answerable, Lsn(256), &stages);
        trace.goes_on(Lsn(256), &stages);
        expect(&stages, &["woken"]);
    }
}
