//! The seam between the log and whatever moves its bytes: the ring as plain memory.

use std::os::fd::RawFd;

/// The ring of a log, as memory that a transport may read from, write into, or register with a NIC.
///
/// # Safety
///
/// An implementor promises that `base()..base() + capacity_bytes()` is mapped readable and writable for as
/// long as the value lives, and that no Rust reference into it is ever made: everybody copies through raw
/// pointers, because the partner and the NIC write here too.
pub unsafe trait LogMemory: Send + Sync {
    /// First byte of the ring (LSN 0 and every multiple of the capacity).
    fn base(&self) -> *mut u8;
    /// Length of the ring.
    fn capacity_bytes(&self) -> u64;
    /// A descriptor that another process can map, and the ring's offset in it; `None` where there is none.
    fn shared_fd(&self) -> Option<(RawFd, u64)>;
}
