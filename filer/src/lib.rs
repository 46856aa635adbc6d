//! The Twinfiler node: where log, transport, apply engine and pair meet.
//!
//! A client's request comes in through a front door ([`fuse`]), gets its meaning from the [`volume`], becomes
//! a record in the [`stack`] of Deltas and in the log, and is answered when the [`commit`] path says so. The
//! [`node`] runs all that; [`witness`] is the third machine's program.

pub mod cli;
pub mod hooks;
mod memory;
pub mod node;
pub mod rights;
