//! No two nodes ever acknowledge in the same epoch, whatever the witness has forgotten.

use ids::{AckRule, Epoch};
use node::simulation::Glance;
use std::collections::BTreeMap;

/// A node is seen; `owners`: who acknowledged in which epoch so far.
pub fn check(owners: &mut BTreeMap<Epoch, usize>, host: usize, glance: &Glance) {
    let Some(epoch) = glance.epoch.filter(|_| glance.rule != AckRule::Nobody) else { return };
    let owner = *owners.entry(epoch).or_insert(host);
    assert_eq!(owner, host, "both nodes acknowledge in epoch {epoch}");
}
