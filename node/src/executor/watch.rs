//! What each tick looks at because nobody tells it: a partner that lives and takes nothing in, and a local disk that
//! answers too late.
//!
//! Both are told from ordinary load by comparison: the partner answers heartbeats while its log stands still with
//! bytes outstanding; the disk is slow only if the partner's has done the same work long ago. What can go wrong: a
//! limit that is too short makes a busy pair change roles; so a disk stays suspected for a while after it has
//! recovered (`applier`), and a partner that stalls again pays for each time with a whole catch-up before clients wait
//! for it again.

use super::Executor;
use ids::Lsn;
use pair::{Event, LinkId, LocalFault, MonoMs, PairMode, RoleName};
use runtime::Instant;
use std::time::Duration;

/// By how much the primary's consistency point may come after the partner's; from half a log on, when clients begin
/// to feel it, only by [`SLOW_AND_FILLING`].
const SLOW: Duration = Duration::from_secs(10);
const SLOW_AND_FILLING: Duration = Duration::from_secs(5);
/// How often it is said that this thread is late.
const SAY_LATE_EVERY: Duration = Duration::from_secs(10);
/// What counts as half a log, in thousandths.
const FILLING_PERMILLE: u16 = 500;
/// The fault that a slow disk is told by begins so.
pub(crate) const SLOW_PREFIX: &str = "applying to the base filesystem hangs or is too slow";

/// What was seen of the partner's progress.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The last point that it acknowledged, while it owes more, and since when.
    owes: Option<(Lsn, Instant)>,
    /// The consistency point that it has behind it and this node has not, and since when.
    ahead: Option<(Lsn, Instant)>,
}

impl Progress {
    /// For how long the partner has had something to acknowledge and did not, if that is longer than `patience`.
    fn stands_still(&mut self, durable: Lsn, outstanding: bool, patience: Duration) -> bool {
        match self.owes {
            Some((at, since)) if outstanding && at == durable => since.elapsed() >= patience,
            _ => {
                self.owes = outstanding.then(|| (durable, Instant::now()));
                false
            }
        }
    }

    /// For how long the partner has been ahead of a consistency point that ends at `end`.
    fn ahead_of(&mut self, end: Lsn) -> Duration {
        match self.ahead {
            Some((at, since)) if at == end => since.elapsed(),
            _ => {
                self.ahead = Some((end, Instant::now()));
                Duration::ZERO
            }
        }
    }
}

impl Executor {
    /// See the module. Before the tick, so that it acts on it.
    pub(super) fn look_around(&mut self) {
        self.shared.path.look_at_partner();
        self.look_at_partner();
        self.look_at_disk();
        self.shared.tell_unapplied_memory();
    }

    /// This thread should have gone on at `due`. Late by more than a heartbeat it says so, as corosync does: a pair that
    /// falls apart on a machine without processor time or memory should show why.
    pub(in crate::executor) fn note_lateness(&mut self, due: Instant) {
        let (shared, late) = (&self.shared, due.elapsed());
        if late <= shared.config.timers.heartbeat {
            return;
        }
        shared.metrics.late_ticks.add(1);
        if self.said_late.is_none_or(|said| said.elapsed() >= SAY_LATE_EVERY) {
            self.said_late = Some(Instant::now());
            let (late_ms, limit_ms) = (late.as_millis(), shared.config.timers.peer_timeout.as_millis());
            tracing::warn!(
                volume = shared.name(),
                late_ms,
                limit_ms,
                "the thread that sends heartbeats was not scheduled in time: the machine lacks processor time or memory"
            );
        }
    }

    fn look_at_partner(&mut self) {
        let shared = &self.shared;
        let cursors = shared.path.cursors();
        let (durable, here) = (cursors.peer_durable(), cursors.local_durable());
        let outstanding = cursors.rule().waits_for_partner() && here > durable;
        let patience = shared.config.link.tuning(shared.config.timers.peer_timeout).dead_peer_timeout;
        if !self.progress.stands_still(durable, outstanding, patience) {
            return;
        }
        let Some(link) = self.peer.as_ref().map(super::Peer::id) else { return };
        tracing::warn!(
            volume = shared.name(),
            link,
            acknowledged = %durable,
            sent = %here,
            "the partner answers, but acknowledges nothing: its link is given up"
        );
        self.progress = Progress::default();
        self.apply(Event::PartnerStalls { link: LinkId(link) });
    }

    fn look_at_disk(&mut self) {
        let shared = &self.shared;
        let Some(end) = shared.applier.under_way() else { return };
        let status = self.pair.status(MonoMs(shared.now_ms()));
        let ahead = status.peer_vitals.is_some_and(|vitals| vitals.healthy && vitals.applied >= end);
        // A partner's slow disk shows in how full its log is; there is nothing to hand over.
        if status.mode != PairMode::Mirrored || status.role != RoleName::Primary || !ahead {
            self.progress.ahead = None;
            return;
        }
        let filling = shared.vitals().log_fill_permille >= FILLING_PERMILLE;
        let limit = if filling { SLOW_AND_FILLING } else { SLOW };
        if self.progress.ahead_of(end) < limit || shared.has_fault(SLOW_PREFIX) {
            return;
        }
        shared.report(
            &format!("{SLOW_PREFIX}: {} s later than the partner it is not done", limit.as_secs()),
            "check the disk and the kernel log; what this node has logged is safe",
        );
        shared.applier.suspect();
        self.apply(Event::LocalFault(LocalFault::BaseSlow));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_partner_that_owes_an_answer_stands_still() {
        let (soon, late) = (Duration::ZERO, Duration::from_secs(60));
        let mut progress = Progress::default();
        assert!(!progress.stands_still(Lsn(64), true, soon), "just begun");
        assert!(!progress.stands_still(Lsn(64), true, late), "not for long");
        assert!(progress.stands_still(Lsn(64), true, soon));
        assert!(!progress.stands_still(Lsn(128), true, soon), "it went on");
        assert!(!progress.stands_still(Lsn(128), false, soon), "nothing is outstanding");
        assert!(!progress.stands_still(Lsn(128), true, soon), "and that counts from now");
    }
}
