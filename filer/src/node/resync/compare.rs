//! The receiver's comparison: which objects can not be known to be the same on both sides.
//!
//! Which labels mean the same on both sides: those before the common end of both logs, of objects that no record in
//! this node's own log touches (a consistency point over those may have been cut off), if the log survived at all.
//! Every other label counts as one that no source has.
//!
//! What can go wrong: as anywhere in a session ([`ReceiveError`]). A log that can not be read is one that did not
//! survive.

use super::receive::{Receive, ReceiveError};
use super::source::add;
use super::wire::{Answer, Question, RANGE_OIDS, VERSION};
use crate::node::follower::Follower;
use crate::stack::DeltaStack;
use apply_engine::resync::{self, ObjectLabel};
use ids::Oid;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::Ordering;

impl Receive {
    /// OIDs of what may differ.
    pub(super) fn compare(&self) -> Result<Vec<Oid>, ReceiveError> {
        let shared = &self.shared;
        let superblock = shared.log.superblock();
        let touched = self.touched();
        let distrusts = shared.resync.distrust.load(Ordering::Acquire);
        let begin = Question::Begin {
            version: VERSION,
            history: superblock.epoch_history,
            end: shared.log.end().lsn,
            survived: !superblock.memory_lost && !distrusts && touched.is_some(),
        };
        let trusted_below = self.ask_one(&begin, |answer| match answer {
            Answer::Begun { trusted_below } => Some(trusted_below),
            _ => None,
        })?;
        let touched = touched.unwrap_or_default();
        let known = |label: ObjectLabel| {
            let trusted = label.last_lsn < trusted_below && !touched.contains(&label.oid);
            ObjectLabel { last_lsn: if trusted { label.last_lsn } else { resync::INCOMPLETE }, ..label }
        };
        let mut ours = Vec::new();
        self.own_labels(Oid(0), None, |label| add(&mut ours, &known(label)))?;
        let ours: BTreeMap<u64, u128> = ours.into_iter().collect();
        let mut differing: BTreeSet<u64> = ours.keys().copied().collect();
        let mut from = Some(0);
        while let Some(range) = from {
            let (ranges, next) = self.ask_one(&Question::Digests { from: range }, |answer| match answer {
                Answer::Digests { ranges, next } => Some((ranges, next)),
                _ => None,
            })?;
            for (range, digest) in ranges {
                match ours.get(&range) == Some(&digest) {
                    true => differing.remove(&range),
                    false => differing.insert(range),
                };
            }
            // Ascends, or the source would keep this node for ever.
            from = next.filter(|next| *next > range);
        }
        let mut suspects = Vec::new();
        for range in differing {
            let mut labels = HashSet::new();
            let first = Oid(range.saturating_mul(RANGE_OIDS));
            let end = Oid(first.0.saturating_add(RANGE_OIDS));
            self.own_labels(first, Some(end), |label| {
                labels.insert(known(label));
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
                    match labels.contains(&label) {
                        true => oids.remove(&label.oid),
                        false => oids.insert(label.oid),
                    };
                }
                from = next.filter(|next| *next > at);
            }
            suspects.extend(oids);
        }
        tracing::info!(volume = shared.name(), suspects = suspects.len(), %trusted_below, "labels compared");
        Ok(suspects)
    }

    /// Objects that records in this node's own log touch. `None`: it can not be read.
    fn touched(&self) -> Option<HashSet<Oid>> {
        let (log, tail) = (&self.shared.log, self.shared.log.tail());
        let stack = DeltaStack::new(self.shared.fresh_layers(tail.lsn));
        Follower::new(tail, tail.lsn).absorb(log, &stack, log.end().lsn).ok()?;
        let layers = stack.snapshot();
        let delta = layers.active.read();
        Some(delta.objects().map(|(oid, _)| oid).chain(delta.directories()).collect())
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
