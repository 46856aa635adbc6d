//! Pairs of real processes: what they do when something ends, stands still, fills up or is not what it should be.
//! docs/failures.md tells operators the same, row by row, with the name of the test.
#![allow(clippy::unwrap_used, reason = "tests: a failed unwrap is a failed test")]

mod away;
mod bulk;
mod cached;
mod disk;
mod faults;
mod forming;
mod full;
mod harness;
mod hooks;
mod hung;
mod index;
mod leaving;
mod link;
mod machine;
mod memory;
mod mounts;
mod operations;
mod orphans;
mod refusals;
mod refused;
mod replay;
mod resync;
mod split;
mod standing;
mod takeover;
mod trust;
mod verify;
mod witness;
