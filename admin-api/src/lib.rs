//! What a node tells and what it can be told, as typed data with words for people.
//!
//! [`status`] is the state of a node and its faults with their remedies, [`metrics`] the same in numbers over time, and
//! [`control`] the socket over which a command asks for either or gives an order. Nothing here decides anything.

pub mod control;
pub mod metrics;
pub mod status;
