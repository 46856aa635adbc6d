//! What each tick looks at because nobody tells it: a partner that lives and takes nothing in, and a local disk that
//! answers too late.
//!
//! Both are told from ordinary load by comparison: the partner answers heartbeats while its log stands still with
//! bytes outstanding; the disk is slow only if the partner's has done the same work long ago. What can go wrong: a
//! limit that is too short makes a busy pair change roles; so a disk stays suspected for a while after it has
//! recovered (`applier`), and a partner that stalls again pays for each time with a whole catch-up before clients wait
//! for it again.

use super::Executor;
use admin_api::status::FaultKind;
use ids::{AckRule, Lsn};
use pair::{Event, LinkId, LocalFault, MonoMs, PairMode, RoleName};
use runtime::Instant;
use std::time::Duration;

/// By how much the primary's consistency point may come after the partner's; from half a log on, when clients begin
/// to feel it, only by [`SLOW_AND_FILLING`].
const SLOW: Duration = Duration::from_secs(10);
const SLOW_AND_FILLING: Duration = Duration::from_secs(5);
/// How often it is said that this thread is late.
const SAY_LATE_EVERY: Duration = Duration::from_secs(10);
/// For so long after a read of the base has failed, or has come back too late, the disk counts as one that cannot be read:
/// roles must not go to and fro with each of them.
const UNREADABLE: Duration = Duration::from_secs(60);
/// What counts as half a log, in thousandths.
const FILLING_PERMILLE: u16 = 500;

/// What was seen of the partner's progress.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The last point that it acknowledged, over which link, while it owes more, and since when.
    owes: Option<((u64, Lsn), Instant)>,
    /// The consistency point that it has behind it and this node has not, and since when.
    ahead: Option<(Lsn, Instant)>,
    /// When a read of the base was last seen to hang.
    hung: Option<Instant>,
}

impl Progress {
    /// For how long the partner has had something to acknowledge and did not, if that is longer than `patience`.
    fn stands_still(&mut self, durable: (u64, Lsn), outstanding: bool, patience: Duration) -> bool {
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
        match self.look_at_log() {
            true => self.look_at_partner(),
            // Who waits for this node's log hears no partner.
            false => self.progress.owes = None,
        }
        self.look_at_disk();
        self.look_at_reads();
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
        let outstanding = match cursors.rule() {
            AckRule::Both | AckRule::Memory => here > durable,
            // Nobody waits for its answer, but what it misses is kept for it until the log is full. What its ring has
            // no room for is another matter: then it takes in what it can, and its disk is slow.
            AckRule::Local => shared.path.posted() > durable,
            AckRule::Nobody => false,
        };
        let patience = shared.config.link.tuning(shared.config.timers.peer_timeout).dead_peer_timeout;
        let Some(link) = self.peer.as_ref().map(super::Peer::id) else { return };
        if !self.progress.stands_still((link, durable), outstanding, patience) {
            return;
        }
        tracing::warn!(
            volume = shared.name(),
            link,
            acknowledged = %durable,
            sent = %here,
            "the partner answers, but acknowledges nothing: its link is given up"
        );
        self.progress = Progress { hung: self.progress.hung, ..Progress::default() };
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
        if self.progress.ahead_of(end) < limit || shared.faults.has(FaultKind::BaseSlow) {
            return;
        }
        let what = format!(
            "applying to the base filesystem hangs or is too slow: {} s later than the partner it is not done",
            limit.as_secs()
        );
        let remedy = "check the disk and the kernel log; what this node has logged is safe";
        shared.faults.raise(FaultKind::BaseSlow, &what, remedy);
        shared.applier.suspect();
        self.apply(Event::LocalFault(LocalFault::BaseSlow));
    }

    /// A disk that fails or hangs for those who read shows in no consistency point where nobody writes.
    fn look_at_reads(&mut self) {
        let reads = &self.shared.reads;
        let hangs = reads.oldest().filter(|age| *age >= SLOW);
        if hangs.is_some() {
            self.progress.hung = Some(Instant::now());
        }
        let hung = self.progress.hung.filter(|seen| seen.elapsed() < UNREADABLE);
        let failed = reads.last_failure().filter(|ago| *ago < UNREADABLE);
        let faults = &self.shared.faults;
        let told = faults.has(FaultKind::BaseUnreadable);
        let (what, fault) = match (hangs, failed) {
            (Some(_), _) => (
                format!("a read of the base filesystem hangs for {} s", SLOW.as_secs()),
                LocalFault::BaseSlow,
            ),
            (None, Some(_)) => ("reading the base filesystem fails".to_owned(), LocalFault::BaseIo),
            (None, None) => {
                if told && hung.is_none() {
                    faults.clear(FaultKind::BaseUnreadable);
                    self.shared.healed();
                }
                return;
            }
        };
        if !told {
            let remedy = "check the disk and the kernel log; what this node has logged is safe, and the partner has all of it";
            faults.raise(FaultKind::BaseUnreadable, &what, remedy);
            self.apply(Event::LocalFault(fault));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_partner_that_owes_an_answer_stands_still() {
        let (soon, late) = (Duration::ZERO, Duration::from_secs(60));
        let mut progress = Progress::default();
        assert!(!progress.stands_still((1, Lsn(64)), true, soon), "just begun");
        assert!(!progress.stands_still((1, Lsn(64)), true, late), "not for long");
        assert!(progress.stands_still((1, Lsn(64)), true, soon));
        assert!(!progress.stands_still((1, Lsn(128)), true, soon), "it went on");
        assert!(!progress.stands_still((1, Lsn(128)), false, soon), "nothing is outstanding");
        assert!(!progress.stands_still((1, Lsn(128)), true, soon), "and that counts from now");
        assert!(!progress.stands_still((2, Lsn(128)), true, soon), "over another link it has just begun");
    }
}
