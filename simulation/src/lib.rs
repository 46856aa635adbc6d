//! A whole pair in one deterministic simulation: the shipped code of both nodes, a witness, clients, and a network,
//! memory, disks and clocks that fail in every way that the design speaks of.
//!
//! A seed decides everything: the pair, the load, the faults, and who goes first whenever two can. The same seed gives
//! the same run, so whatever is found can be looked at again and again.
//!
//! Invariants: nothing here repeats what the node does. What can go wrong: the node uses something that the simulation
//! does not own; the test of repetition finds that.

pub mod entropy;
pub mod finding;
mod invariants;
mod minimise;
pub mod network;
pub mod plan;
pub mod schedule;
pub mod seeds;
pub mod witness;
pub mod world;
