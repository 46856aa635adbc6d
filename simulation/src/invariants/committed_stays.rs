//! What is committed anywhere is a prefix of what is committed everywhere, now and later.

use crate::world::chain::Chain;
use node::simulation::Glance;
use nvlog::sim::SimRegion;

/// A node has committed so much.
pub fn extended(host: usize, chain: &mut Chain, glance: &Glance, region: &SimRegion) {
    if let Err(why) = chain.extend(&glance.log, region, glance.committed) {
        panic!("host {host} commits what does not continue what was committed before: {why}");
    }
}

/// What a node has committed, it holds as everybody does.
pub fn prefix(host: usize, chain: &Chain, glance: &Glance) {
    if glance.replacing || glance.committed < glance.tail.lsn {
        return;
    }
    let Some(point) = chain.point_at(glance.committed) else {
        panic!("host {host} has committed up to {}, where no committed record ends", glance.committed);
    };
    assert!(glance.log.continues_from(point), "host {host} does not hold {point}, which it has committed");
}
