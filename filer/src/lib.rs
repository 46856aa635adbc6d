//! The Twinfiler node.

pub mod commit;
pub mod fuse;
pub mod volume;
/// The volume's Deltas and the order in which records enter: use `DeltaStack::writer()` for validate + reserve + absorb, `snapshot()` for reads.
pub mod stack;
pub mod config;
pub mod control;
pub mod hooks;
pub mod metrics;
pub mod shutdown;
pub mod status;
