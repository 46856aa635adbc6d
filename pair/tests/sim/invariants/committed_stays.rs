//! Only acknowledged records are applied, and nothing applied is ever cut off: base trees never diverge.

use super::Oracle;
use crate::disk::Record;
use crate::node::Node;
use ids::NodeName;

pub fn applied(oracle: &Oracle, node: &NodeName, first: usize, records: &[Record]) {
    let told = oracle.acknowledged.get(first..first + records.len());
    assert!(oracle.forced || told == Some(records), "{node} applies what was not acknowledged");
}

pub fn truncated(node: &Node, len: usize) {
    assert!(len >= node.committed, "{} cuts at {len} what is committed to {}", node.name, node.committed);
}
