//! The cursors of one volume on one node, in the one type that checks their order.
//!
//! ```text
//! trimmed ≤ applied ≤ committed ≤ min(local_durable, peer_durable) ≤ appended ≤ reserved
//! committed ≤ answerable ≤ appended; peer_durable ≤ peer_held ≤ appended
//! reserved − min(trimmed here, trimmed at the peer) ≤ capacity
//! ```
//!
//! The peer terms hold only while acknowledgements wait for the peer. "Durable" is what one node has made
//! persistent, "held" what it has at least in memory; "committed" is durable wherever the acknowledgement rule wants
//! it, and only that is applied and satisfies an fsync; "answerable" may be answered and shown. The two are one, unless
//! the rule is [`AckRule::Memory`].
//! What a rule change can do wrong: neither moves back, so a rule that asks for more only delays the next advance.

use crate::{LogPoint, Lsn};
use serde::{Deserialize, Serialize};

/// What an acknowledgement waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckRule {
    /// Nothing is acknowledged (frozen, not primary, deposed).
    Nobody,
    /// This node's log only (solo).
    Local,
    /// Both nodes' logs (mirrored, and the barrier before it).
    Both,
    /// Both nodes' memory; an fsync waits for both logs (mirrored, where the volume is configured so).
    Memory,
}

impl AckRule {
    /// Does an answer wait for the partner?
    pub fn waits_for_partner(self) -> bool {
        matches!(self, AckRule::Both | AckRule::Memory)
    }
}

/// What answers of a volume wait for while both nodes hold it, as an administrator chose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerFrom {
    /// Both nodes' memory: an answer survives the loss of one node, an fsync that of power on both.
    Memory,
    /// Both nodes' logs: an answer survives what an fsync does.
    #[default]
    Power,
}

impl std::fmt::Display for AnswerFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AnswerFrom::Memory => "memory",
            AnswerFrom::Power => "power",
        })
    }
}

/// A change that would break the order of the cursors. Always a bug or a lying peer, never bad luck.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cursor {cursor} cannot move to LSN {to}: {why} (cursors: {now:?})")]
pub struct CursorError {
    /// The cursor that should have moved.
    pub cursor: &'static str,
    /// Where to.
    pub to: Lsn,
    /// The rule it would break.
    pub why: &'static str,
    /// The cursors as they are.
    pub now: Box<Cursors>,
}

/// How far answers out of memory may be ahead of what is committed, at most; a quarter of the ring where that is less.
const MAX_AHEAD_BYTES: u64 = 16 << 20;

/// The cursors of one volume. All but `peer_durable`, `peer_held` and `peer_trimmed` only move forward.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Cursors {
    trimmed: Lsn,
    applied: Lsn,
    committed: Lsn,
    #[serde(default)]
    answerable: Lsn,
    local_durable: Lsn,
    peer_durable: Lsn,
    #[serde(default)]
    peer_held: Lsn,
    appended: Lsn,
    reserved: Lsn,
    peer_trimmed: Lsn,
    capacity_bytes: u64,
    rule: AckRule,
    /// Nothing more is answered out of memory for now: what was is not durable for too long.
    #[serde(default)]
    answers_held: bool,
}

impl Cursors {
    /// Cursors of a log that holds `[trimmed, end)`, of which `[trimmed, committed)` may be applied.
    ///
    /// # Errors
    /// When the three are out of order.
    pub fn new(capacity_bytes: u64, trimmed: Lsn, committed: Lsn, end: Lsn) -> Result<Cursors, CursorError> {
        let cursors = Cursors {
            trimmed,
            applied: trimmed,
            committed,
            answerable: committed,
            local_durable: end,
            peer_durable: Lsn::ZERO,
            peer_held: Lsn::ZERO,
            appended: end,
            reserved: end,
            peer_trimmed: trimmed,
            capacity_bytes,
            rule: AckRule::Nobody,
            answers_held: false,
        };
        cursors.check("committed", committed)?;
        Ok(cursors)
    }

    /// Start of what recovery would read; the ring before it may be overwritten.
    pub fn trimmed(&self) -> Lsn {
        self.trimmed
    }
    /// End of what the local filesystem holds, flushed.
    pub fn applied(&self) -> Lsn {
        self.applied
    }
    /// End of what is durable wherever it has to be: it may be applied, and an fsync of it answered.
    pub fn committed(&self) -> Lsn {
        self.committed
    }
    /// End of what may be acknowledged and shown to clients.
    pub fn answerable(&self) -> Lsn {
        self.answerable
    }
    /// End of what this node's log holds durably.
    pub fn local_durable(&self) -> Lsn {
        self.local_durable
    }
    /// End of what the partner's log holds durably, as far as known.
    pub fn peer_durable(&self) -> Lsn {
        self.peer_durable
    }
    /// End of what the partner holds in memory at least, as far as known.
    pub fn peer_held(&self) -> Lsn {
        self.peer_held
    }
    /// End of what both nodes hold in memory at least: more cannot be done for an answer out of memory.
    pub fn held(&self) -> Lsn {
        self.appended.min(self.peer_held)
    }
    /// End of the sealed records.
    pub fn appended(&self) -> Lsn {
        self.appended
    }
    /// End of the space given to records.
    pub fn reserved(&self) -> Lsn {
        self.reserved
    }
    /// The partner's `trimmed`, as it last told.
    pub fn peer_trimmed(&self) -> Lsn {
        self.peer_trimmed
    }
    /// What an acknowledgement waits for.
    pub fn rule(&self) -> AckRule {
        self.rule
    }
    /// Length of both rings.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// The log position before which ring space can be reserved again.
    pub fn space_floor(&self) -> Lsn {
        match self.rule {
            AckRule::Both | AckRule::Memory => self.trimmed.min(self.peer_trimmed),
            AckRule::Local | AckRule::Nobody => self.trimmed,
        }
    }

    /// Changes what acknowledgements wait for, and returns the new `committed` (it may advance when the
    /// rule asks for less).
    ///
    /// # Errors
    /// Never for a legal sequence of rules; see [`CursorError`].
    pub fn set_rule(&mut self, rule: AckRule) -> Result<Lsn, CursorError> {
        self.rule = rule;
        self.checked("committed", self.committed, |_| {})?;
        Ok(self.committed)
    }

    /// Space was given to records up to `to`.
    pub fn set_reserved(&mut self, to: Lsn) -> Result<(), CursorError> {
        self.forward("reserved", to, |c| &mut c.reserved)
    }

    /// Records up to `to` are sealed: their bytes and chained CRCs are final.
    pub fn set_appended(&mut self, to: Lsn) -> Result<(), CursorError> {
        self.forward("appended", to, |c| &mut c.appended)
    }

    /// Records up to `to` are sealed, in space that was given to them before: [`Cursors::set_reserved`] and
    /// [`Cursors::set_appended`] in one, for who follows a log that does both. Nothing to do is no error.
    ///
    /// # Errors
    /// As those.
    pub fn set_sealed(&mut self, to: Lsn) -> Result<(), CursorError> {
        if to <= self.appended {
            return Ok(());
        }
        self.checked("appended", to, |c| {
            c.reserved = c.reserved.max(to);
            c.appended = to;
        })
    }

    /// The local log holds everything before `to`. Returns the new `committed`.
    pub fn set_local_durable(&mut self, to: Lsn) -> Result<Lsn, CursorError> {
        self.forward("local_durable", to, |c| &mut c.local_durable)?;
        Ok(self.committed)
    }

    /// The partner's log holds everything before `to.lsn`. A new link may start further back than the one
    /// before it. Returns the new `committed`.
    pub fn set_peer_durable(&mut self, to: LogPoint) -> Result<Lsn, CursorError> {
        self.checked("peer_durable", to.lsn, |c| {
            c.peer_durable = to.lsn;
            c.peer_held = c.peer_held.max(to.lsn);
        })?;
        Ok(self.committed)
    }

    /// The partner has everything before `to.lsn` in memory. That its log has it may have been heard before.
    pub fn set_peer_held(&mut self, to: LogPoint) -> Result<(), CursorError> {
        self.checked("peer_held", to.lsn, |c| c.peer_held = c.peer_held.max(to.lsn))
    }

    /// Mirroring begins anew at `from.lsn`, which the partner has durably: it may lie further back than before.
    pub fn set_peer_start(&mut self, from: LogPoint) -> Result<Lsn, CursorError> {
        self.checked("peer_durable", from.lsn, |c| (c.peer_durable, c.peer_held) = (from.lsn, from.lsn))?;
        Ok(self.committed)
    }

    /// Whether nothing more is answered out of memory than what is durable.
    pub fn hold_answers(&mut self, held: bool) -> Result<(), CursorError> {
        self.answers_held = held;
        self.checked("answerable", self.answerable, |_| {})
    }

    /// A partner learns from its primary what is committed.
    pub fn set_committed_by_primary(&mut self, to: Lsn) -> Result<(), CursorError> {
        if to < self.committed {
            return Err(self.error("committed", to, "it would move back"));
        }
        self.checked("committed", to, |c| {
            c.committed = to;
            c.answerable = c.answerable.max(to);
        })
    }

    /// The local filesystem holds everything before `to`, flushed.
    pub fn set_applied(&mut self, to: Lsn) -> Result<(), CursorError> {
        self.forward("applied", to, |c| &mut c.applied)
    }

    /// The superblock's tail is durable at `to`.
    pub fn set_trimmed(&mut self, to: Lsn) -> Result<(), CursorError> {
        self.forward("trimmed", to, |c| &mut c.trimmed)
    }

    /// The partner told where its tail is. It may lie further back than before: another partner log.
    pub fn set_peer_trimmed(&mut self, to: Lsn) -> Result<(), CursorError> {
        self.checked("peer_trimmed", to, |c| c.peer_trimmed = to)
    }

    /// The log was cut at `end`, which nothing committed may lie behind (a deposed primary that rejoins).
    pub fn truncate(&mut self, end: Lsn) -> Result<(), CursorError> {
        self.checked("reserved", end, |c| {
            c.reserved = end;
            c.appended = end;
            c.local_durable = end;
            c.peer_durable = c.peer_durable.min(end);
            c.peer_held = c.peer_held.min(end);
            // What was answered out of memory and is on no disk is gone with the node that went on without it.
            c.answerable = c.answerable.min(end).max(c.committed);
        })
    }

    /// Moves `committed` and `answerable` as far as the rule lets them.
    fn release(&mut self) {
        let releasable = match self.rule {
            AckRule::Nobody => return,
            AckRule::Local => self.local_durable,
            AckRule::Both | AckRule::Memory => self.local_durable.min(self.peer_durable),
        };
        self.committed = self.committed.max(releasable);
        self.answerable = self.answerable.max(self.committed);
        if self.rule == AckRule::Memory && !self.answers_held {
            let ahead = MAX_AHEAD_BYTES.min(self.capacity_bytes / 4);
            self.answerable = self.answerable.max(self.held().min(self.committed.plus(ahead)));
        }
    }

    fn forward(
        &mut self,
        cursor: &'static str,
        to: Lsn,
        field: impl Fn(&mut Cursors) -> &mut Lsn,
    ) -> Result<(), CursorError> {
        if to < *field(self) {
            return Err(self.error(cursor, to, "it would move back"));
        }
        self.checked(cursor, to, |c| *field(c) = to)
    }

    fn checked(
        &mut self,
        cursor: &'static str,
        to: Lsn,
        change: impl Fn(&mut Cursors),
    ) -> Result<(), CursorError> {
        let before = *self;
        change(self);
        self.release();
        self.check(cursor, to).inspect_err(|_| *self = before)
    }

    fn check(&self, cursor: &'static str, to: Lsn) -> Result<(), CursorError> {
        // Asked several times for each commit: the rules one by one, not as a table that is built and walked.
        let broken = if self.trimmed > self.applied {
            "trimmed ≤ applied"
        } else if self.applied > self.committed {
            "applied ≤ committed"
        } else if self.committed > self.local_durable {
            "committed ≤ local_durable"
        } else if self.local_durable > self.appended {
            "local_durable ≤ appended"
        } else if self.committed > self.answerable {
            "committed ≤ answerable"
        } else if self.answerable > self.appended {
            "answerable ≤ appended"
        } else if self.peer_durable > self.peer_held {
            "peer_durable ≤ peer_held"
        } else if self.peer_held > self.appended {
            "peer_held ≤ appended"
        } else if self.appended > self.reserved {
            "appended ≤ reserved"
        } else if self.reserved.since(self.trimmed) > self.capacity_bytes {
            "reserved − trimmed ≤ capacity"
        } else {
            return Ok(());
        };
        Err(self.error(cursor, to, broken))
    }

    #[cold]
    fn error(&self, cursor: &'static str, to: Lsn, why: &'static str) -> CursorError {
        CursorError { cursor, to, why, now: Box::new(*self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChainCrc;
    use proptest::prelude::*;

    fn point(lsn: u64) -> LogPoint {
        LogPoint { lsn: Lsn(lsn), crc: ChainCrc(0) }
    }

    fn written(to: u64) -> Cursors {
        let mut c = Cursors::new(1024, Lsn(0), Lsn(0), Lsn(0)).unwrap();
        c.set_reserved(Lsn(to)).unwrap();
        c.set_appended(Lsn(to)).unwrap();
        c
    }

    #[test]
    fn mirrored_commits_the_smaller_of_both() {
        let mut c = written(640);
        c.set_rule(AckRule::Both).unwrap();
        assert_eq!(c.set_local_durable(Lsn(640)).unwrap(), Lsn(0));
        assert_eq!(c.set_peer_durable(point(320)).unwrap(), Lsn(320));
        assert_eq!(c.set_rule(AckRule::Nobody).unwrap(), Lsn(320));
        assert_eq!(c.set_peer_durable(point(640)).unwrap(), Lsn(320), "frozen: nothing is released");
        assert_eq!(c.set_rule(AckRule::Local).unwrap(), Lsn(640));
    }

    #[test]
    fn sealing_takes_the_space_that_nobody_noted() {
        let mut c = written(64);
        c.set_reserved(Lsn(256)).unwrap();
        c.set_sealed(Lsn(128)).unwrap();
        assert_eq!((c.appended(), c.reserved()), (Lsn(128), Lsn(256)));
        c.set_sealed(Lsn(512)).unwrap();
        assert_eq!((c.appended(), c.reserved()), (Lsn(512), Lsn(512)));
        c.set_sealed(Lsn(0)).unwrap();
        assert_eq!(c.appended(), Lsn(512), "old news");
        assert_eq!(c.set_sealed(Lsn(1088)).unwrap_err().why, "reserved − trimmed ≤ capacity");
        assert_eq!((c.appended(), c.reserved()), (Lsn(512), Lsn(512)));
    }

    #[test]
    fn nothing_committed_is_truncated() {
        let mut c = written(640);
        c.set_local_durable(Lsn(640)).unwrap();
        c.set_committed_by_primary(Lsn(320)).unwrap();
        assert_eq!(c.truncate(Lsn(256)).unwrap_err().why, "committed ≤ local_durable");
        c.truncate(Lsn(320)).unwrap();
        assert_eq!(c.reserved(), Lsn(320));
    }

    #[test]
    fn the_ring_is_never_overrun() {
        let mut c = written(1024);
        assert!(c.set_reserved(Lsn(1088)).is_err());
        assert_eq!(c.reserved(), Lsn(1024), "a refused change leaves nothing behind");
    }

    #[test]
    fn out_of_memory_is_answered_before_it_is_committed() {
        let mut c = written(640);
        c.set_rule(AckRule::Memory).unwrap();
        c.set_peer_held(point(640)).unwrap();
        assert_eq!(
            (c.answerable(), c.committed()),
            (Lsn(256), Lsn(0)),
            "a quarter of the ring ahead at most"
        );
        assert_eq!(c.set_local_durable(Lsn(640)).unwrap(), Lsn(0), "the partner has it in memory only");
        assert_eq!(c.set_peer_durable(point(64)).unwrap(), Lsn(64));
        assert_eq!(c.answerable(), Lsn(320));
        c.hold_answers(true).unwrap();
        assert_eq!(c.set_peer_durable(point(128)).unwrap(), Lsn(128));
        assert_eq!(c.answerable(), Lsn(320), "too long behind: nothing more");
        c.hold_answers(false).unwrap();
        assert_eq!(c.answerable(), Lsn(384));
        c.set_peer_held(point(64)).unwrap();
        assert_eq!(c.held(), Lsn(640), "old news");
        assert_eq!(c.set_rule(AckRule::Nobody).unwrap(), Lsn(128));
        assert_eq!(c.answerable(), Lsn(384), "what was answered is not taken back");
        assert_eq!(c.set_rule(AckRule::Local).unwrap(), Lsn(640));
        assert_eq!(c.answerable(), Lsn(640), "alone: when it is durable here");
    }

    #[test]
    fn only_the_rule_of_memory_answers_what_is_not_durable() {
        let mut c = written(640);
        c.set_peer_held(point(640)).unwrap();
        for rule in [AckRule::Nobody, AckRule::Local, AckRule::Both] {
            c.set_rule(rule).unwrap();
            assert_eq!(c.answerable(), Lsn(0), "{rule:?}");
        }
    }

    proptest! {
        /// Whatever is tried in whatever order, the cursors that result are in order.
        #[test]
        fn the_order_always_holds(steps in prop::collection::vec((0..13u8, 0..2048u64), 0..64)) {
            let mut c = Cursors::new(1024, Lsn(0), Lsn(0), Lsn(0)).unwrap();
            for (which, lsn) in steps {
                let (committed, answerable) = (c.committed(), c.answerable());
                let to = Lsn(lsn);
                let rules = [AckRule::Both, AckRule::Local, AckRule::Nobody, AckRule::Memory];
                let _ = match which {
                    0 => c.set_reserved(to),
                    1 => c.set_appended(to),
                    2 => c.set_local_durable(to).map(drop),
                    3 => c.set_peer_durable(point(lsn)).map(drop),
                    4 => c.set_applied(to),
                    5 => c.set_trimmed(to),
                    6 => c.set_rule(rules[lsn as usize % 4]).map(drop),
                    7 => c.truncate(to),
                    8 => c.set_sealed(to),
                    9 => c.set_peer_held(point(lsn)),
                    10 => c.set_peer_start(point(lsn)).map(drop),
                    11 => c.hold_answers(lsn % 2 == 0),
                    _ => c.set_committed_by_primary(to),
                };
                prop_assert!(c.trimmed() <= c.applied() && c.applied() <= c.committed());
                prop_assert!(c.committed() <= c.local_durable() && c.local_durable() <= c.appended());
                prop_assert!(c.appended() <= c.reserved() && c.peer_durable() <= c.appended());
                prop_assert!(c.reserved().since(c.trimmed()) <= 1024);
                prop_assert!(c.committed() <= c.answerable() && c.answerable() <= c.appended());
                prop_assert!(c.peer_durable() <= c.peer_held() && c.peer_held() <= c.appended());
                prop_assert!(c.committed() >= committed, "committed never moves back");
                prop_assert!(c.answerable() >= answerable || which == 7, "but for a cut, nor does answerable");
            }
        }
    }
}
