//! A link that delays, goes silent and loses acknowledgements on request, around any other.
//!
//! The model is a network, not a wire: what is cut off is held back and delivered in order once healed, as TCP
//! would retransmit it, and nobody is told; only silence shows. Acknowledgements alone can be lost for good, which
//! is what the death of a partner right after it made a record durable looks like. Faults are set by hand, or come
//! from a script or a seed by the number of operations, so a run can be repeated.
//!
//! Invariants: order is kept; the fence is local and works through every fault; closing works at once.
//!
//! What can go wrong: a cut that lasts holds back at most [`MAX_HELD`] messages; one more ends the link, as a full
//! socket and the dead-peer limit would.

mod faults;
mod parts;

pub use faults::{Direction, Fault, Faults, Step};
pub use parts::wrap;

/// Control messages that are held back during a cut.
pub const MAX_HELD: usize = 4096;
