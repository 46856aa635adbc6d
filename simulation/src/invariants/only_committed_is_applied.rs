//! Nothing is in a base tree that is not committed.

use crate::world::chain::Chain;
use apply_engine::simulation::SimDisk;
use node::simulation::Glance;

/// A node's tree and log now.
pub fn check(host: usize, chain: &Chain, glance: &Glance, disk: &SimDisk) {
    let committed = chain.end().lsn;
    assert!(
        glance.tail.lsn <= committed,
        "host {host} has applied up to {}, and only {committed} is committed",
        glance.tail
    );
    if let Some(newest) = disk.newest_change() {
        assert!(newest <= committed, "host {host} applies {newest}, and only {committed} is committed");
    }
}
