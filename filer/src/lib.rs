//! The program `twinfiler`: what can be typed, what a start looks at first, and what rights it keeps.
//!
//! A client's request comes in through a front door (`fuse-door`), gets its meaning from the `volume`, becomes a record in
//! the Deltas and in the log by `commit`, and is answered when both nodes have it. The `node` runs all that.

// They panic when nobody reads: `commands::say` and `commands::remark` do not.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod cli;
pub mod rights;
