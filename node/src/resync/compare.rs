//! The receiver's comparison: which objects cannot be known to be the same on both sides.
//!
//! Which labels mean the same on both sides: those before the common end of both logs, of objects that no record in
//! this node's own log touches (a consistency point over those may have been cut off), if the log survived at all.
//! Every other label counts as one that no source has.
//!
//! What can go wrong: as anywhere in a session ([`ReceiveError`]). A log that cannot be read is one that did not
//! survive.

use super::error::ReceiveError;
use super::receive::Receive;
use super::source::add;
use super::wire::{Answer, Question, RANGE_OIDS, VERSION};
use crate::follower::Follower;
use apply_engine::resync::{self, ObjectLabel};
use commit::stack::DeltaStack;
use ids::{Lsn, Oid};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::Ordering;

/// What the source believes of this node's labels.
pub(super) struct Begun {
    /// Labels with an LSN before this mean the same on both sides.
    pub trusted_below: Lsn,
    /// But for these objects.
    touched: HashSet<Oid>,
}

impl Begun {
    fn known(&self, label: ObjectLabel) -> ObjectLabel {
        let trusted = label.last_lsn < self.trusted_below && !self.touched.contains(&label.oid);
        ObjectLabel { last_lsn: if trusted { label.last_lsn } else { resync::INCOMPLETE }, ..label }
    }
}

impl Receive {
    /// Begins the session.
    pub(super) fn begin(&self) -> Result<Begun, ReceiveError> {
        let superblock = self.shared.log.superblock();
        let touched = self.touched();
        let distrusts = self.shared.resync.distrust.load(Ordering::Acquire);
        let begin = Question::Begin {
            version: VERSION,
            history: superblock.epoch_history,
            end: self.shared.log.end().lsn,
            survived: !superblock.memory_lost && !distrusts && touched.is_some(),
        };
        let trusted_below = self.ask_one(&begin, |answer| match answer {
            Answer::Begun { trusted_below } => Some(trusted_below),
            _ => None,
        })?;
        Ok(Begun { trusted_below, touched: touched.unwrap_or_default() })
    }

    /// OIDs of what may differ, ascending. Both sides walk the same part of their labels in turns, so neither waits
    /// long for the other, and nothing is kept of what agrees.
    pub(super) fn compare(&self, begun: &Begun) -> Result<Vec<Oid>, ReceiveError> {
        let mut suspects: BTreeSet<Oid> = self.shared.resync.extra.lock().clone();
        let mut from = Some(0);
        while let Some(first) = from {
            let (ranges, next) = self.ask_one(&Question::Digests { from: first }, |answer| match answer {
                Answer::Digests { ranges, next } => Some((ranges, next)),
                _ => None,
            })?;
            // Ascends, or the source would keep this node for ever.
            let next = next.filter(|next| *next > first);
            let mut ours = Vec::new();
            let end = next.map(|next| Oid(next.saturating_mul(RANGE_OIDS)));
            self.own_labels(Oid(first.saturating_mul(RANGE_OIDS)), end, |label| {
                add(&mut ours, &begun.known(label));
            })?;
            let ours: BTreeMap<u64, u128> = ours.into_iter().collect();
            let theirs: BTreeMap<u64, u128> = ranges.into_iter().collect();
            let within = |range: &u64| *range >= first && next.is_none_or(|next| *range < next);
            let all: BTreeSet<u64> = ours.keys().chain(theirs.keys()).copied().filter(within).collect();
            for range in all.into_iter().filter(|range| ours.get(range) != theirs.get(range)) {
                self.compare_range(begun, range, &mut suspects)?;
            }
            from = next;
        }
        let (trusted_below, found) = (begun.trusted_below, suspects.len());
        tracing::info!(volume = self.shared.name(), suspects = found, %trusted_below, "labels compared");
        Ok(suspects.into_iter().collect())
    }

    fn compare_range(
        &self,
        begun: &Begun,
        range: u64,
        suspects: &mut BTreeSet<Oid>,
    ) -> Result<(), ReceiveError> {
        let mut labels = HashSet::new();
        let first = Oid(range.saturating_mul(RANGE_OIDS));
        let end = Oid(first.0.saturating_add(RANGE_OIDS));
        self.own_labels(first, Some(end), |label| {
            labels.insert(begun.known(label));
        })?;
        let mut oids: BTreeSet<Oid> = labels.iter().map(|label| label.oid).collect();
        let mut from = Some(first);
        while let Some(at) = from {
            let question = Question::Labels { range, from: at };
            let (theirs, next) = self.ask_one(&question, |answer| match answer {
                Answer::Labels { labels, next } => Some((labels, next)),
                _ => None,
            })?;
            for label in theirs {
                if !(at..end).contains(&label.oid) {
                    return Err(ReceiveError::Answer);
                }
                match labels.contains(&label) {
                    true => oids.remove(&label.oid),
                    false => oids.insert(label.oid),
                };
            }
            from = next.filter(|next| *next > at && *next < end);
        }
        suspects.append(&mut oids);
        Ok(())
    }

    /// Objects that the tree may hold in a state between two consistency points: those that records in this node's own
    /// log touch, of which it may have been applied. `None`: it cannot be read.
    fn touched(&self) -> Option<HashSet<Oid>> {
        let (log, tail) = (&self.shared.log, self.shared.log.tail());
        let (follower, mut touched) = (Follower::new(tail, tail.lsn), HashSet::new());
        // In pieces: all of a large log may not fit into memory.
        loop {
            let stack = DeltaStack::new(self.shared.fresh_layers(tail.lsn));
            let all = follower.absorb(log, &stack, log.applying_end(), self.shared.delta_memory()).ok()?;
            let layers = stack.snapshot();
            let delta = layers.active.read();
            touched.extend(delta.objects().map(|(oid, _)| oid).chain(delta.directories()));
            if all {
                return Some(touched);
            }
        }
    }

    /// Shows this node's labels from `first` on, before `end`.
    pub(super) fn own_labels(
        &self,
        first: Oid,
        end: Option<Oid>,
        mut show: impl FnMut(ObjectLabel),
    ) -> Result<(), ReceiveError> {
        let mut at = Some(first);
        while let Some(oid) = at {
            self.check_alive()?;
            let (labels, next) = resync::labels(&self.shared.base, oid, RANGE_OIDS as usize)?;
            let within = |oid: Oid| end.is_none_or(|end| oid < end);
            labels.into_iter().filter(|label| within(label.oid)).for_each(&mut show);
            at = next.filter(|oid| within(*oid));
        }
        Ok(())
    }
}
