//! The sum over all labels of a tree that goes on changing, without reading all of it at one moment.
//!
//! All labels are walked once, in steps, while the tree changes; whoever changes it says which objects
//! ([`LabelSums::changed`]), and only the small ranges of OIDs that hold those are read again. So the moment at which
//! nothing may change is short, however many objects there are.
//!
//! Invariant: when [`LabelSums::step`] has said that nothing is left to do, and every object that changed since a label
//! of its range was last read has been told, [`LabelSums::total`] is the sum over all labels. Memory: some 50 bytes
//! for each range of [`RANGE_OIDS`] OIDs that holds an object. What can go wrong: labels that cannot be read.

use ids::Oid;
use std::collections::{BTreeMap, BTreeSet};

use super::site::{self, Site};
use super::{FIRST_CAST_OUT, ResyncError};
use crate::base::Base;

/// OIDs whose labels are read again when one of them changed.
const RANGE_OIDS: u64 = 64;
/// Labels of a walk that are read in one step.
const WALK_LABELS: usize = 4096;
/// Ranges that are read again in one step.
const RANGES_AT_ONCE: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct LabelSums {
    ranges: BTreeMap<u64, (u64, u128)>,
    /// Where the walk goes on; `None` when it is over.
    walk: Option<Oid>,
    /// Ranges that have to be read again.
    dirty: BTreeSet<u64>,
}

impl Default for LabelSums {
    fn default() -> LabelSums {
        LabelSums { ranges: BTreeMap::new(), walk: Some(Oid(0)), dirty: BTreeSet::new() }
    }
}

impl LabelSums {
    /// These objects have changed, came into being, or are gone.
    pub fn changed(&mut self, oids: impl IntoIterator<Item = Oid>) {
        self.dirty.extend(oids.into_iter().map(|oid| oid.0 / RANGE_OIDS));
        // What a receiver has made for itself comes and goes with every change, and nobody tells.
        let own = self.ranges.range(FIRST_CAST_OUT.0 / RANGE_OIDS..);
        self.dirty.extend(own.map(|(range, _)| *range));
    }

    /// Reads some labels; true when nothing is left to do.
    ///
    /// # Errors
    /// When the index or a label cannot be read.
    pub fn step(&mut self, base: &Base) -> Result<bool, ResyncError> {
        super::sum_labels(base, self)
    }

    pub(super) fn step_over(&mut self, site: &impl Site) -> Result<bool, ResyncError> {
        if let Some(from) = self.walk {
            let (labels, next) = site::labels(site, from, WALK_LABELS)?;
            for label in labels {
                let (objects, sum) = self.ranges.entry(label.oid.0 / RANGE_OIDS).or_default();
                *objects += 1;
                *sum = sum.wrapping_add(label.digest());
            }
            self.walk = next;
            return Ok(false);
        }
        for _ in 0..RANGES_AT_ONCE {
            let Some(range) = self.dirty.pop_first() else { break };
            let first = range * RANGE_OIDS;
            let (labels, _) = site::labels(site, Oid(first), RANGE_OIDS as usize)?;
            let within = labels.iter().filter(|label| label.oid.0 / RANGE_OIDS == range);
            let sum = within
                .fold((0, 0_u128), |(objects, sum), label| (objects + 1, sum.wrapping_add(label.digest())));
            match sum.0 {
                0 => self.ranges.remove(&range),
                _ => self.ranges.insert(range, sum),
            };
        }
        Ok(self.dirty.is_empty())
    }

    /// Number of objects, and the sum of the digests of their labels.
    pub fn total(&self) -> (u64, u128) {
        self.ranges
            .values()
            .fold((0, 0), |(objects, sum), (more, digest)| (objects + more, sum.wrapping_add(*digest)))
    }
}
