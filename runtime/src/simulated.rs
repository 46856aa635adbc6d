//! The same names over the crate `scheduler`, whose types are the real ones in every thread that no run owns.

/// The clock of leases: nothing is suspended here.
pub use scheduler::Instant as Uptime;
pub use scheduler::{
    Condvar, Instant, JoinHandle, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Thread,
    WaitTimeoutResult, channel, current, is_simulated, park, sleep, spawn, unix_time, yield_now,
};
