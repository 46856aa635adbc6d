//! A log device that answers nothing, not even with an error.
//!
//! Whoever writes to it waits for it, and with them every client, while this thread, and so heartbeats and lease, go on: the
//! partner sees nothing wrong. So this thread looks itself. A write that has not come back for [`HANGS`] is told as a
//! fault; a primary whose partner could go on counts as one whose log has failed. What can go wrong: this thread writes to the log,
//! too, when roles change; if it hangs there, the partner sees the silence of a node that is dead.

use super::Executor;
use admin_api::status::FaultKind;
use ids::Lsn;
use pair::{Event, FailedPart, MonoMs, PairMode, RoleName};
use runtime::Instant;
use std::time::Duration;

/// How long one write may take. Longer than a device needs that tries again, or a path that is switched.
const HANGS: Duration = Duration::from_secs(5);
/// After this a write is a reason for the partner's acknowledgements not to be seen.
const SLOW: Duration = Duration::from_millis(500);

/// The write that is under way, told by what was durable when it was first seen, and since when.
#[derive(Debug, Default)]
pub(super) struct LogDevice(Option<(Lsn, Instant)>);

impl LogDevice {
    /// Was it seen for longer than the partner's acknowledgements may be late?
    pub fn is_slow(&self) -> bool {
        self.0.is_some_and(|(_, since)| since.elapsed() >= SLOW)
    }

    /// For how long it has been seen. `writing`: what is durable, while something more is written.
    fn lasts(&mut self, writing: Option<Lsn>) -> Duration {
        match (self.0, writing) {
            (Some((at, since)), Some(durable)) if at == durable => return since.elapsed(),
            (_, writing) => self.0 = writing.map(|durable| (durable, Instant::now())),
        }
        Duration::ZERO
    }
}

impl Executor {
    /// See the module. Whether the device answers, so that what waits behind it may be looked at.
    pub(super) fn look_at_log(&mut self) -> bool {
        let shared = &self.shared;
        let writing = shared.log.is_writing().then(|| shared.log.persisted());
        let lasts = self.log_device.lasts(writing);
        if lasts < HANGS {
            if lasts.is_zero() {
                shared.faults.clear(FaultKind::LogHangs);
            }
            return lasts < SLOW;
        }
        let what = format!("a write to the log's device has not come back for {} s", HANGS.as_secs());
        let remedy =
            "check the device and the kernel log; what was answered is on the partner, if there was one";
        shared.faults.raise(FaultKind::LogHangs, &what, remedy);
        let status = self.pair.status(MonoMs(shared.now_ms()));
        let partner_can = status.peer_vitals.is_some_and(|vitals| vitals.healthy);
        if status.mode == PairMode::Mirrored && status.role == RoleName::Primary && partner_can {
            shared.path.give_log_up();
            self.apply(Event::CommandFailed { part: FailedPart::Log, error: what });
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_lasts_until_more_is_durable() {
        let mut device = LogDevice::default();
        assert_eq!(device.lasts(Some(Lsn(64))), Duration::ZERO, "just seen");
        assert!(!device.lasts(Some(Lsn(64))).is_zero());
        assert_eq!(device.lasts(Some(Lsn(128))), Duration::ZERO, "another one");
        assert_eq!(device.lasts(None), Duration::ZERO, "none");
        assert_eq!(device.lasts(Some(Lsn(128))), Duration::ZERO, "a new one");
    }
}
