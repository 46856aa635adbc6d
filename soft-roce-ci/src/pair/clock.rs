//! Does a guest's clock run as fast as the host's?
//!
//! Leases and failure timeouts of two nodes mean something only when their clocks run alike. An emulated machine
//! can take a wrong measure of its clock when it boots on a busy host; whatever is found out in such a guest is worth
//! nothing, so it is an error by itself.

use std::time::{Duration, Instant};

/// Over less time than this a late status says more about the host than about the clock.
const MIN_SPAN: Duration = Duration::from_secs(10);

/// How much of the time a clock may run ahead or behind.
const MAX_DRIFT: f64 = 0.2;

/// So many statuses in a row must tell the same: those of a machine that stood still come late.
const SUSPICIONS: u32 = 10;

/// What was seen of a clock.
#[derive(Debug, Default)]
pub struct ClockCheck {
    first: Option<(Duration, Instant)>,
    suspicions: u32,
    wrong: Option<String>,
}

impl ClockCheck {
    /// A guest's clock showed this when the host's showed that.
    pub fn observe(&mut self, guest: Duration, host: Instant) {
        let (first_guest, first_host) = *self.first.get_or_insert((guest, host));
        let (guest, host) = (guest.saturating_sub(first_guest), host.saturating_duration_since(first_host));
        if host < MIN_SPAN {
            return;
        }
        let rate = guest.as_secs_f64() / host.as_secs_f64();
        self.suspicions = if (rate - 1.0).abs() > MAX_DRIFT { self.suspicions + 1 } else { 0 };
        if self.suspicions >= SUSPICIONS {
            self.wrong = Some(format!("its clock ran {guest:.1?} in {host:.1?}, {rate:.2} times as fast"));
        }
    }

    /// What is wrong with it.
    pub fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_runs_at_another_rate_is_noticed_and_a_late_status_is_not() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let run = |rate: f64, late: Duration| {
            let mut check = ClockCheck::default();
            for number in 0..40 {
                let host = second * number;
                check.observe(
                    host.mul_f64(rate),
                    start + host + if number > 20 && number < 25 { late } else { Duration::ZERO },
                );
            }
            check.wrong().map(str::to_owned)
        };
        assert_eq!(run(1.0, second * 20), None);
        assert!(run(4.0, Duration::ZERO).is_some_and(|wrong| wrong.contains("4.00 times")));
        assert!(run(0.5, Duration::ZERO).is_some());
    }
}
