//! How long to poll before sleeping, learnt from how it went.
//!
//! Polling pays when the answer comes while one polls: it saves both sides a wake-up, which costs tens of
//! microseconds in a virtual machine. It is pure loss when the other side needs this very processor to answer, or
//! when nothing comes. So hits earn the right to poll and misses cost it, twice as fast; without the right one wait
//! in [`FIRST_PROBE`] tries again whether times have changed, and more seldom the longer they have not.

use std::time::Duration;

/// Waits without polling before the first that tries it again.
const FIRST_PROBE: u32 = 32;
/// The most of them, after probes that missed.
const LAST_PROBE: u32 = 1024;
/// Credit for polling: at most so much, at least [`ENOUGH`] to poll at every wait.
const MOST: u32 = 8;
const ENOUGH: u32 = 2;
const COST_OF_A_MISS: u32 = 2;

/// What one waiting place has learnt. Public because the bare loops of the benches wait in the same way.
pub struct Spin {
    limit: Duration,
    credit: u32,
    skipped: u32,
    probe_every: u32,
}

impl Spin {
    /// Polls for at most `limit` at a time.
    pub fn new(limit: Duration) -> Spin {
        Spin { limit, credit: MOST / 2, skipped: 0, probe_every: FIRST_PROBE }
    }

    /// How long to poll this time. When it is not zero, [`hit`](Self::hit) or [`missed`](Self::missed) follows.
    pub fn limit(&mut self) -> Duration {
        if self.credit >= ENOUGH {
            return self.limit;
        }
        self.skipped += 1;
        if self.skipped < self.probe_every {
            return Duration::ZERO;
        }
        self.skipped = 0;
        self.limit
    }

    /// The answer came while polling.
    pub fn hit(&mut self) {
        self.credit = (self.credit + 1).min(MOST);
        if self.credit < ENOUGH {
            // One hit may be chance: look again soon.
            self.skipped = self.probe_every;
        } else if self.credit == MOST {
            self.probe_every = FIRST_PROBE;
        }
    }

    /// It did not.
    pub fn missed(&mut self) {
        if self.credit < ENOUGH {
            self.probe_every = (self.probe_every * 2).min(LAST_PROBE);
        }
        self.credit = self.credit.saturating_sub(COST_OF_A_MISS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_stops_when_it_is_in_vain_and_comes_back() {
        let most = Duration::from_micros(50);
        let mut spin = Spin::new(most);
        let mut polls = 0;
        for _ in 0..10 * LAST_PROBE {
            if !spin.limit().is_zero() {
                polls += 1;
                spin.missed();
            }
        }
        assert!(polls < 20, "{polls} polls in vain");
        let mut waits = 0;
        while spin.credit < MOST {
            waits += 1;
            if !spin.limit().is_zero() {
                spin.hit();
            }
        }
        assert!(waits <= LAST_PROBE + MOST, "{waits} waits until it polls again");
        assert_eq!(spin.limit(), most);
        assert_eq!(Spin::new(Duration::ZERO).limit(), Duration::ZERO);
    }
}
