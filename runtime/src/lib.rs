//! What the node takes from the machine beside memory, disk and network: clocks, threads, locks, channels.
//!
//! The crates `node`, `commit` and `volume` ask for these here and nowhere else, so that a simulation of a whole pair can own them: then
//! the same code runs under a virtual clock and a scheduler that a seed decides (cargo feature `simulation`). In every
//! other build these are the standard library's, parking_lot's and crossbeam's own, renamed and nothing more.
//!
//! Invariant: `cargo xtask tidy` finds which of them goes around this crate. What can go wrong: nothing of its own.

#[cfg(feature = "simulation")]
pub mod canary;
#[cfg(feature = "simulation")]
pub mod marks;
pub mod memory;
mod priority;
#[cfg(not(feature = "simulation"))]
mod real;
pub mod shutdown;
#[cfg(feature = "simulation")]
mod simulated;

#[cfg(not(feature = "simulation"))]
pub use real::*;
#[cfg(feature = "simulation")]
pub use simulated::*;

pub use priority::{be_bulk, be_urgent, be_vital, stay_in_memory};

/// Whether a bug is planted here that a simulation must find. Never, in what is shipped.
#[cfg(feature = "simulation")]
#[macro_export]
macro_rules! planted {
    ($canary:ident) => {
        $crate::canary::is_planted($crate::canary::Canary::$canary)
    };
}

/// Whether a bug is planted here that a simulation must find. Never, in what is shipped.
#[cfg(not(feature = "simulation"))]
#[macro_export]
macro_rules! planted {
    ($canary:ident) => {
        false
    };
}

/// Counts, in a simulation, that something has happened.
#[cfg(feature = "simulation")]
#[macro_export]
macro_rules! mark {
    ($what:literal) => {
        $crate::marks::note($what)
    };
}

/// Counts, in a simulation, that something has happened.
#[cfg(not(feature = "simulation"))]
#[macro_export]
macro_rules! mark {
    ($what:literal) => {{}};
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    unix_time().as_millis() as u64
}
