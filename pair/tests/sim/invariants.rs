//! What must hold, one file each, over an oracle of every acknowledged record.

pub mod acknowledged_is_served;
pub mod claimant_is_complete;
pub mod committed_stays;
pub mod heals;
pub mod nothing_is_lost;
pub mod one_acknowledges;

use crate::disk::Record;
use crate::world::World;
use ids::{Epoch, NodeName};
use std::collections::BTreeMap;

/// What clients were told is safe.
#[derive(Default)]
pub struct Oracle {
    /// In order. Numbers of records are never used twice, so the last one names them all.
    pub acknowledged: Vec<Record>,
    /// The other side's, after an operator has split the volume.
    pub set_aside: Vec<Record>,
    /// An operator decided against what the protocol knows; or the witness lost its state beside other faults.
    pub forced: bool,
    pub acknowledgers: BTreeMap<Epoch, usize>,
}

impl Oracle {
    /// A node acknowledges records from position `first` on.
    pub fn acknowledged_by(&mut self, node: usize, epoch: Epoch, first: usize, records: &[Record]) {
        one_acknowledges::acknowledges(self, node, epoch, first, records);
        for (index, record) in (first..).zip(records) {
            match self.acknowledged.get(index) {
                Some(known) if known == record => {}
                Some(_) if self.forced => {
                    let other = std::mem::replace(&mut self.acknowledged[index], *record);
                    self.set_aside.push(other);
                }
                Some(_) => panic!("an acknowledged record is missing at {index}"),
                None => self.acknowledged.push(*record),
            }
        }
    }

    /// A partner applies records from position `first` on.
    pub fn applied_by(&self, node: &NodeName, first: usize, records: &[Record]) {
        committed_stays::applied(self, node, first, records);
    }

    /// Does this log hold everything acknowledged?
    pub fn is_in(&self, log: &[Record]) -> bool {
        self.acknowledged.last().is_none_or(|last| log.get(self.acknowledged.len() - 1) == Some(last))
    }
}

/// After everything that happens.
pub fn check(world: &World) {
    acknowledged_is_served::check(world);
    claimant_is_complete::check(world);
}
