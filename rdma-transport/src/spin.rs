//! How long to poll before sleeping, learnt from how it went.
//!
//! Polling pays when the answer comes while one polls: it saves both sides a wake-up, which costs tens of
//! microseconds in a virtual machine. It is pure loss when the other side needs this very processor to answer, or
//! when nothing comes. So a poll that hits keeps the whole limit, misses halve it down to none, and then one wait in
//! [`PROBE_EVERY`] tries again whether times have changed.

use std::time::Duration;

/// Waits without polling between two that try it.
const PROBE_EVERY: u32 = 32;
/// A limit below this is none.
const LEAST: Duration = Duration::from_micros(2);

/// The learnt limit of one waiting place.
pub(crate) struct Spin {
    most: Duration,
    now: Duration,
    skipped: u32,
}

impl Spin {
    pub(crate) fn new(most: Duration) -> Spin {
        Spin { most, now: most, skipped: 0 }
    }

    /// How long to poll this time.
    pub(crate) fn limit(&mut self) -> Duration {
        if self.now.is_zero() {
            self.skipped += 1;
            if self.skipped < PROBE_EVERY {
                return Duration::ZERO;
            }
            self.skipped = 0;
            return self.most;
        }
        self.now
    }

    /// The answer came while polling.
    pub(crate) fn hit(&mut self) {
        self.now = self.most;
    }

    /// It did not.
    pub(crate) fn missed(&mut self) {
        self.now /= 2;
        if self.now < LEAST {
            self.now = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_stops_when_it_is_in_vain_and_comes_back() {
        let most = Duration::from_micros(50);
        let mut spin = Spin::new(most);
        let polled = |spin: &mut Spin| {
            let limit = spin.limit();
            if !limit.is_zero() {
                spin.missed();
            }
            limit
        };
        let total: Duration = (0..3200).map(|_| polled(&mut spin)).sum();
        assert!(total < most * 3200 / PROBE_EVERY + most * 2, "{total:?}");
        while spin.limit().is_zero() {}
        spin.hit();
        assert_eq!((spin.limit(), spin.limit()), (most, most));
        assert_eq!(Spin::new(Duration::ZERO).limit(), Duration::ZERO);
    }
}
