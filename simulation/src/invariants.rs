//! What must hold, one file each. Whatever does not, ends the run with a panic that says so.

pub mod acknowledged_stays;
pub mod committed_stays;
pub mod heals;
pub mod one_acknowledges_alone;
pub mod one_acknowledges_in_an_epoch;
pub mod only_committed_is_applied;
pub mod tree_follows_log;
pub mod trees_are_equal;
