//! The Twinfiler node.

pub mod commit;
pub mod fuse;
pub mod volume;
