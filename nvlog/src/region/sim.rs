//! Simulated region (being filled in).
use crate::region::*;
/// Memory that loses and tears unflushed cache lines at a crash.
pub struct SimRegion {}
impl SimRegion {
    /// New, zeroed.
    pub fn new(_len_bytes: u64) -> SimRegion { todo!() }
    /// A handle that shares the memory, so that a test can crash what a log owns.
    pub fn handle(&self) -> SimRegion { todo!() }
    /// What is left after a power cut now.
    pub fn crash(&self, _seed: u64) -> SimRegion { todo!() }
    /// `persist` fails from the `after`-th call on.
    pub fn fail_persist_after(&self, _after: Option<u64>) { todo!() }
}
impl Region for SimRegion {
    fn base(&self) -> *mut u8 { todo!() }
    fn len_bytes(&self) -> u64 { todo!() }
    fn persist(&self, _o: u64, _l: u64) -> io::Result<()> { todo!() }
    fn store(&self, _o: u64, _p: &[&[u8]]) -> Stored { todo!() }
    fn kind(&self) -> RegionKind { todo!() }
    fn durability(&self) -> Durability { todo!() }
    fn shared_fd(&self) -> Option<RawFd> { todo!() }
}
