//! An oracle for one subtree of a file system: random operations, a slow and obvious model of what they must
//! lead to, and a comparison of the model with what is really there, by content.
//!
//! Each writer owns its subtree, so its model needs no locks and an operation that returned is acknowledged.
//! The one operation that a crash interrupted is in doubt: the tree may show it or not, and a write that the
//! kernel splits may show a prefix of it. Nothing else is allowed. After a check the model follows what was seen.
//!
//! - [`model`]: names, objects, content
//! - [`operation`]: the operations, how one is chosen, and what it does to the model
//! - [`perform`]: the same operations as system calls
//! - [`verify`]: model against reality
//! - [`writer`]: all of this as a load on a mount

pub mod model;
pub mod operation;
pub mod perform;
pub mod verify;
pub mod writer;

#[cfg(test)]
mod tests;
