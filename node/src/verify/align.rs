//! The partner ends its Deltas where the primary ends its own, so that both trees stand at the same LSN after each
//! consistency point, and what they hold can be compared.
//!
//! Before the primary seals it asks the partner to absorb nothing more; then it seals, and says where. The partner
//! absorbs up to there, seals, and goes on: it never waits with absorbing for longer than that exchange takes, so a
//! takeover finds its Delta as full as ever. Not chosen: a mark in the log (a record that no client wrote, in a format
//! that is to stay), and absorbing only up to where the primary has sealed (a takeover would have to absorb a second's
//! worth of records first).
//!
//! Invariants: nothing here delays an acknowledgement or a takeover; a partner whose log fills, or that hears nothing,
//! seals by itself. What can go wrong: a word comes late or not at all; then that one point is not compared.

use ids::Lsn;
use runtime::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Longest time that a partner absorbs nothing because its primary is about to seal.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);
/// Ends of the primary's Deltas that a partner still has to reach, at most; the oldest go first.
const MAX_ENDS: usize = 16;

/// See the module: the partner's side.
#[derive(Debug, Default)]
pub(super) struct Align {
    paused: Option<(Lsn, Instant)>,
    ends: VecDeque<Lsn>,
    heard: Option<Instant>,
}

/// What a partner does with its Delta now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seal {
    /// It ends where the primary's ended.
    Here,
    /// The primary will say where.
    Wait,
    /// Nobody says anything: as it likes.
    Free,
}

impl Align {
    /// The primary is about to seal; everything committed here is before that.
    pub fn pause(&mut self, committed: Lsn, now: Instant) {
        self.paused = Some((committed, now));
    }

    /// The primary's Delta ended here.
    pub fn sealed(&mut self, end: Lsn, now: Instant) {
        self.paused = None;
        self.heard = Some(now);
        if self.ends.back().is_none_or(|last| *last < end) {
            self.ends.push_back(end);
        }
        if self.ends.len() > MAX_ENDS {
            self.ends.pop_front();
        }
    }

    /// The Delta was ended here.
    pub fn reached(&mut self, end: Lsn) {
        self.ends.retain(|wanted| *wanted > end);
    }

    /// How far to absorb of what is committed.
    pub fn absorb_to(&mut self, committed: Lsn, now: Instant) -> Lsn {
        if let Some(end) = self.ends.front() {
            return committed.min(*end);
        }
        match self.paused {
            Some((at, since)) if now.duration_since(since) < PAUSE_LIMIT => committed.min(at),
            _ => {
                self.paused = None;
                committed
            }
        }
    }

    /// Everything before `position` was absorbed. `patience`: how long the primary may say nothing.
    pub fn seal(&mut self, position: Lsn, patience: Duration, now: Instant) -> Seal {
        while self.ends.front().is_some_and(|end| *end < position) {
            self.ends.pop_front();
        }
        let heard = self.heard.is_some_and(|heard| now.duration_since(heard) < patience);
        match self.ends.front() {
            Some(end) if *end == position => Seal::Here,
            _ if heard => Seal::Wait,
            _ => {
                // Whatever was said is not waited for any more.
                self.ends.clear();
                Seal::Free
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    #[test]
    fn a_partner_seals_where_its_primary_did() {
        let (mut align, now) = (Align::default(), Instant::now());
        assert_eq!(align.absorb_to(Lsn(640), now), Lsn(640));
        assert_eq!(align.seal(Lsn(640), PATIENCE, now), Seal::Free);
        align.pause(Lsn(640), now);
        assert_eq!(align.absorb_to(Lsn(6400), now), Lsn(640), "until it is said where");
        align.sealed(Lsn(704), now);
        align.sealed(Lsn(1280), now);
        assert_eq!(align.absorb_to(Lsn(6400), now), Lsn(704));
        assert_eq!(align.seal(Lsn(640), PATIENCE, now), Seal::Wait);
        assert_eq!(align.seal(Lsn(704), PATIENCE, now), Seal::Here);
        align.reached(Lsn(704));
        assert_eq!(align.seal(Lsn(704), PATIENCE, now), Seal::Wait, "the next one");
        assert_eq!(align.absorb_to(Lsn(6400), now), Lsn(1280));
        assert_eq!(align.seal(Lsn(1280), PATIENCE, now), Seal::Here);
    }

    #[test]
    fn a_primary_that_says_nothing_is_not_waited_for() {
        let (mut align, now) = (Align::default(), Instant::now());
        align.pause(Lsn(64), now);
        assert_eq!(align.absorb_to(Lsn(640), now + PAUSE_LIMIT), Lsn(640));
        align.sealed(Lsn(128), now);
        assert_eq!(align.seal(Lsn(640), PATIENCE, now + PATIENCE), Seal::Free);
        assert_eq!(align.absorb_to(Lsn(6400), now + PATIENCE), Lsn(6400));
    }
}
