//! Between two consistency points, also after a crash and its recovery, a base tree is what the log's records lead to.

use crate::world::chain::{Chain, Following};
use apply_engine::oracle::difference;
use apply_engine::simulation::SimDisk;
use apply_engine::{Delta, Layers, Vanished};
use node::simulation::Glance;
use std::sync::Arc;

/// The tree of a node that stands at its log's tail.
pub fn check(host: usize, chain: &Chain, followed: &mut Following, glance: &Glance, disk: &SimDisk) {
    let at = glance.tail.lsn;
    if followed.at() == at && followed.is_checked() || !chain.follow(followed, at) {
        return;
    }
    followed.set_checked();
    let nothing = Delta::new(at, Vanished::Forget);
    let layers = Layers::new(nothing, Vec::new(), Arc::new(disk.clone()), glance.log.clone());
    if let Some(found) = difference(&layers, &followed.model) {
        panic!("host {host}, at {at}: the base tree is not what the log says: {found}");
    }
    assert!(disk.staging_is_empty(), "host {host}, at {at}: something stayed in staging");
}
