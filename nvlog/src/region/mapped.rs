//! Being filled in.
use crate::region::*;
/// Being filled in.
pub struct MappedRegion {}
impl MappedRegion {
    pub(crate) fn open(_p: &Path, _m: OpenMode) -> Result<Self, RegionError> { todo!() }
    pub(crate) fn open_devdax(_p: &Path, _m: OpenMode) -> Result<Self, RegionError> { todo!() }
    pub(crate) fn open_fsdax(_p: &Path, _m: OpenMode) -> Result<Self, RegionError> { todo!() }
    pub(crate) fn open_emulated(_p: &Path, _m: OpenMode) -> Result<Self, RegionError> { todo!() }
    pub(crate) fn anonymous(_l: u64) -> Result<Self, RegionError> { todo!() }
}
impl Region for MappedRegion {
    fn base(&self) -> *mut u8 { todo!() }
    fn len_bytes(&self) -> u64 { todo!() }
    fn persist(&self, _o: u64, _l: u64) -> io::Result<()> { todo!() }
    fn store(&self, _o: u64, _p: &[&[u8]]) -> Stored { todo!() }
    fn kind(&self) -> RegionKind { todo!() }
    fn durability(&self) -> Durability { todo!() }
    fn shared_fd(&self) -> Option<RawFd> { todo!() }
}
