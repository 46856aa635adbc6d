//! Scenarios by name.
