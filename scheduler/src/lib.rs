//! Deterministic threads: many coroutines on one thread of the operating system, under virtual time, in an order
//! that a seed decides.
//!
//! [`run`] runs a program of *tasks*. A task has a stack of its own and runs until it blocks: on a lock, a channel,
//! a sleep. Who goes next is drawn from the seed; when nobody can go, time jumps to the next moment that somebody
//! waits for. Tasks belong to *nodes*, machines with a clock of their own that drifts, and that die: [`kill`] ends
//! all tasks of a node where they stand.
//!
//! The types ([`Mutex`], [`Condvar`], [`RwLock`], [`channel`], [`Instant`], [`spawn`]) have the interfaces of
//! parking_lot's, crossbeam's and the standard library's. In a thread that no [`run`] owns they *are* those, so that
//! one build serves simulations and ordinary tests.
//!
//! Invariants: the same seed and the same program give the same [`Outcome::trace_hash`]; no task ever blocks the
//! thread itself; every wait looks again at what it waits for, so that a wake-up too many is harmless. What can go
//! wrong: a task that loops without blocking hangs the thread (every loop of the product has a wait in it);
//! a task that blocks in something else than this crate's types does too; iteration over hash maps with random keys
//! and the real clock break the repetition.

pub mod channel;
mod clock;
mod core;
mod locks;
mod nodes;
mod random;
mod run;
mod threads;

pub use clock::{Instant, sleep, unix_time, virtual_now};
pub use core::{is_dying, is_simulated, trace, whereabouts};
pub use locks::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult};
pub use nodes::{NodeId, add_node, kill, set_clock, stall};
pub use random::{Random, chance, random};
pub use run::{Config, Failure, Outcome, at, run};
pub use threads::{JoinHandle, Thread, ThreadId, current, park, spawn, spawn_on, yield_now};
