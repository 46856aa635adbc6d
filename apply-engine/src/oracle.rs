//! Test support: a plain in-memory filesystem ([`Model`]), random valid operations ([`Generator`]), a log in
//! memory ([`MemoryLog`]), and a comparison of merged reads with the model ([`difference`]).
//!
//! Slow and obvious on purpose: what it says is right. Compiled for tests and under the feature `oracle` only.

mod compare;
mod generator;
mod intent;
mod log;
mod model;

pub use compare::{difference, exact_difference};
pub use generator::{Generator, Step};
pub use log::MemoryLog;
pub use model::{Model, Node};
