//! How fast a source sends: as fast as it may while its clients are idle, slowly while they write.
//!
//! What clients do is seen by how far the log has moved. The rate falls to a quarter at each look that finds it moved,
//! down to the lower bound, and doubles at each that does not, up to the upper one: from 1 GiB to 10 MiB per second it
//! takes less than half a second to give way, and a client that writes now and then hardly slows a resync. One that wrote
//! while the session began has the lower bound at once.

use ids::Lsn;
use runtime::Instant;
use std::time::Duration;

/// How often it is looked at what clients do.
const LOOK: Duration = Duration::from_millis(100);

/// What was not used of the rate for so long may be sent at once: reading, sealing and a sleep that lasts too long do not
/// add to the pauses.
const CREDIT: Duration = Duration::from_millis(20);

/// See the module. Rates are in bytes per second.
#[derive(Debug)]
pub(crate) struct Throttle {
    min_rate: u64,
    max_rate: u64,
    rate: u64,
    /// Nothing was sent yet.
    fresh: bool,
    looked: Instant,
    seen: Lsn,
    /// When what was sent so far is paid for.
    paid: Instant,
    /// How much of what comes is paid for already.
    credit: Duration,
}

impl Throttle {
    /// A session begins, and the log ends at `end`.
    pub fn new(min_rate: u64, max_rate: u64, end: Lsn, now: Instant) -> Throttle {
        let max_rate = max_rate.max(1);
        let min_rate = min_rate.clamp(1, max_rate);
        Throttle {
            min_rate,
            max_rate,
            rate: max_rate,
            fresh: true,
            looked: now,
            seen: end,
            paid: now,
            credit: Duration::ZERO,
        }
    }

    /// `bytes` were sent, and the log ends at `end`: how long to wait before more is sent.
    pub fn pause(&mut self, bytes: u64, end: Lsn, now: Instant) -> Duration {
        if std::mem::take(&mut self.fresh) && end > self.seen {
            self.rate = self.min_rate;
            (self.looked, self.seen) = (now, end);
        }
        if now.duration_since(self.looked) >= LOOK {
            self.rate = match end > self.seen {
                true => (self.rate / 4).max(self.min_rate),
                false => self.rate.saturating_mul(2).min(self.max_rate),
            };
            (self.looked, self.seen) = (now, end);
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.credit = (self.credit + now.saturating_duration_since(self.paid)).min(CREDIT);
        self.paid = self.paid.max(now) + cost.saturating_sub(self.credit);
        self.credit = self.credit.saturating_sub(cost);
        self.paid.duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_client_that_wrote_while_the_session_began_is_given_way_at_once() {
        let start = Instant::now();
        let mut throttle = Throttle::new(1 << 20, 64 << 20, Lsn(0), start);
        assert_eq!(throttle.pause(1 << 20, Lsn(64), start), SECOND);
        let mut idle = Throttle::new(1 << 20, 64 << 20, Lsn(64), start);
        assert_eq!(idle.pause(64 << 20, Lsn(64), start), SECOND);
    }

    #[test]
    fn it_gives_way_to_clients_and_comes_back() {
        let start = Instant::now();
        let mut throttle = Throttle::new(1 << 20, 64 << 20, Lsn(0), start);
        assert_eq!(throttle.pause(64 << 20, Lsn(0), start), SECOND);
        let credited = throttle.pause(64 << 20, Lsn(0), start + SECOND + CREDIT / 2);
        assert_eq!(credited, SECOND - CREDIT / 2, "what took time by itself is not waited for again");
        for look in 2..=4_u32 {
            throttle.pause(0, Lsn(u64::from(look)), start + SECOND * look);
        }
        assert_eq!(throttle.rate, 1 << 20, "the lower bound");
        for look in 5..=10 {
            throttle.pause(0, Lsn(4), start + SECOND * look);
        }
        assert_eq!(throttle.rate, 64 << 20, "the upper bound");
        let slow = throttle.pause(640 << 10, Lsn(4), start + SECOND * 11);
        assert!(slow.is_zero(), "less than was not used: {slow:?}");
        let slow = throttle.pause(64 << 20, Lsn(4), start + SECOND * 11);
        let expected = SECOND + Duration::from_millis(10) - CREDIT;
        assert!(slow.abs_diff(expected) < Duration::from_millis(1), "{slow:?}: the credit is bounded");
    }
}
