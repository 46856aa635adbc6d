//! Semantics over a real base.
