//! At most one node acknowledges in an epoch, and a deposed one acknowledges nothing new.

use super::Oracle;
use crate::disk::Record;
use ids::Epoch;

pub fn acknowledges(oracle: &mut Oracle, node: usize, epoch: Epoch, first: usize, records: &[Record]) {
    let owner = *oracle.acknowledgers.entry(epoch).or_insert(node);
    assert_eq!(owner, node, "two nodes acknowledge in epoch {epoch}");
    let deposed = oracle.acknowledgers.last_key_value().is_some_and(|(last, _)| *last > epoch);
    // What landed at the partner before it revoked was acknowledged by both, by one of them late.
    let known = oracle.acknowledged.get(first..first + records.len()) == Some(records);
    assert!(!deposed || known || oracle.forced, "a deposed primary acknowledges in epoch {epoch}");
}
