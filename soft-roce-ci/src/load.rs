//! Load on a volume inside a guest, and the knowledge on the host of what it was promised.
//!
//! A run of the load has several writers, each with a directory of its own and a fixed sequence of operations. The
//! load reports on its standard output what was answered; the [`oracle`] on the host takes that in. After a fault
//! [`check`] reads the directories in the guest that survived, and each must show exactly the first N operations of
//! its writer, N being nothing less than what was reported as answered and nothing more than what was begun.
//!
//! - [`content`]: bytes that prove file, place and operation
//! - [`sequence`], [`model`]: the operations of a writer and what they lead to
//! - [`directory`]: the system calls
//! - [`generate`], [`check`]: the two commands that run in guests
//! - [`report`], [`oracle`], [`verdict`]: what the host knows, and the judgement
//!
//! What can go wrong: reports lost with the power of a guest make a check weaker, never wrong, because the
//! operations are known without them.

pub mod check;
pub mod content;
pub mod directory;
pub mod generate;
pub mod model;
pub mod oracle;
pub mod report;
pub mod sequence;
pub mod verdict;

#[cfg(test)]
mod tests;
