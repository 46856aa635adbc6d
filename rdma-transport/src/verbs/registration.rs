//! Protection domain, and memory that the adapter may touch.
//!
//! Invariants: what is registered stays mapped as long as the registration, and everything that names it to the
//! adapter holds it; dropping it takes every right that was given with it. The log's ring is registered once, for
//! reading by this node's own writes and for windows to be laid over it, without any right for the peer.

use super::device::Device;
use super::error::VerbsError;
use ids::LogMemory;
use rdma_sys::{ibv_access_flags, ibv_alloc_pd, ibv_dealloc_pd, ibv_dereg_mr, ibv_mr, ibv_pd, ibv_reg_mr};
use rustix::io::Errno;
use std::cell::UnsafeCell;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of one message slot.
pub(super) const SLOT_BYTES: usize = 16;

/// A protection domain: what is made in one can be used together.
pub(super) struct ProtectionDomain {
    pd: NonNull<ibv_pd>,
    pub device: Arc<Device>,
}

// SAFETY: libibverbs objects may be used from any thread.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    pub(super) fn new(device: Arc<Device>) -> Result<ProtectionDomain, VerbsError> {
        // SAFETY: the context is open.
        let pd = unsafe { ibv_alloc_pd(device.context()) };
        let what = "making a protection domain";
        let pd =
            NonNull::new(pd).ok_or_else(|| VerbsError::Os { what, source: io::Error::last_os_error() })?;
        Ok(ProtectionDomain { pd, device })
    }

    pub(super) fn pointer(&self) -> *mut ibv_pd {
        self.pd.as_ptr()
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: everything made in the domain holds an `Arc` of it, so nothing is left in it.
        if unsafe { ibv_dealloc_pd(self.pointer()) } != 0 {
            tracing::error!("an RDMA protection domain could not be given back");
        }
    }
}

/// What a registration is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// This node's use, and windows over it.
    Local { windows: bool },
    /// The peer writes, and reads where the persistence mode needs it.
    Peer { reads: bool },
}

impl Purpose {
    fn flags(self) -> i32 {
        let local = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE;
        let flags = match self {
            Purpose::Local { windows: false } => local,
            Purpose::Local { windows: true } => local | ibv_access_flags::IBV_ACCESS_MW_BIND,
            Purpose::Peer { reads } => peer_access(reads) | local,
        };
        flags.0 as i32
    }
}

/// What the peer may do with the ring.
pub(super) fn peer_access(reads: bool) -> ibv_access_flags {
    let write = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE;
    if reads { write | ibv_access_flags::IBV_ACCESS_REMOTE_READ } else { write }
}

/// Memory that lives as long as its registration.
enum Backing {
    Log(Arc<dyn LogMemory>),
    Slots(Box<[UnsafeCell<[u64; SLOT_BYTES / 8]>]>),
}

impl Backing {
    fn range(&self) -> (*mut u8, usize) {
        match self {
            Backing::Log(memory) => {
                (memory.base(), usize::try_from(memory.capacity_bytes()).unwrap_or(usize::MAX))
            }
            Backing::Slots(slots) => (slots.as_ptr().cast_mut().cast(), slots.len() * SLOT_BYTES),
        }
    }
}

/// Registered memory.
pub(super) struct Registration {
    mr: Option<NonNull<ibv_mr>>,
    backing: Backing,
    domain: Arc<ProtectionDomain>,
}

// SAFETY: libibverbs objects may be used from any thread; the backing is only touched through raw pointers.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers a log's ring.
    pub(super) fn of_log(
        domain: &Arc<ProtectionDomain>,
        memory: Arc<dyn LogMemory>,
        purpose: Purpose,
    ) -> io::Result<Registration> {
        Registration::new(domain, Backing::Log(memory), purpose)
    }

    /// Registers `count` slots for messages.
    pub(super) fn of_slots(domain: &Arc<ProtectionDomain>, count: u32) -> io::Result<Registration> {
        let slots = (0..count).map(|_| UnsafeCell::new([0; SLOT_BYTES / 8])).collect();
        Registration::new(domain, Backing::Slots(slots), Purpose::Local { windows: false })
    }

    fn new(domain: &Arc<ProtectionDomain>, backing: Backing, purpose: Purpose) -> io::Result<Registration> {
        let (base, len) = backing.range();
        // SAFETY: the range is mapped as long as `backing`, which the registration keeps; it may be written by the
        // adapter because nobody makes a reference into it.
        let mr = unsafe { ibv_reg_mr(domain.pointer(), base.cast(), len, purpose.flags()) };
        let mr = Some(NonNull::new(mr).ok_or_else(io::Error::last_os_error)?);
        Ok(Registration { mr, backing, domain: Arc::clone(domain) })
    }

    pub(super) fn pointer(&self) -> *mut ibv_mr {
        self.mr.expect("present until it is withdrawn, which consumes its use").as_ptr()
    }

    pub(super) fn local_key(&self) -> u32 {
        // SAFETY: the registration is alive.
        unsafe { (*self.pointer()).lkey }
    }

    pub(super) fn remote_key(&self) -> u32 {
        // SAFETY: the registration is alive.
        unsafe { (*self.pointer()).rkey }
    }

    /// Address of `len` bytes at `offset`.
    pub(super) fn address(&self, offset: u64, len: u64) -> u64 {
        let (base, whole) = self.backing.range();
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= whole as u64),
            "inside of what is registered"
        );
        base as u64 + offset
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.backing.range().1 as u64
    }

    /// Gives the registration back: after `Ok` the adapter touches the memory no more.
    pub(super) fn withdraw(&mut self) -> Result<(), Errno> {
        let Some(mr) = self.mr else { return Ok(()) };
        // SAFETY: made by `ibv_reg_mr`, given back once: it is forgotten when that succeeds.
        match unsafe { ibv_dereg_mr(mr.as_ptr()) } {
            0 => {
                self.mr = None;
                Ok(())
            }
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }

    fn slot(&self, index: usize) -> *mut [u8; SLOT_BYTES] {
        match &self.backing {
            Backing::Slots(slots) => slots[index].get().cast(),
            Backing::Log(_) => unreachable!("a log has no slots"),
        }
    }

    /// What lies in a slot. Call it only for a slot that the adapter has filled.
    pub(super) fn read_slot(&self, index: usize) -> [u8; SLOT_BYTES] {
        // SAFETY: the slot lives as long as `self`; bytes have no invalid value, and volatile because the adapter
        // writes them.
        unsafe { self.slot(index).read_volatile() }
    }

    /// Fills a slot that no request under way uses.
    pub(super) fn write_slot(&self, index: usize, bytes: [u8; SLOT_BYTES]) {
        // SAFETY: as above.
        unsafe { self.slot(index).write_volatile(bytes) }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Err(errno) = self.withdraw() {
            // The adapter may still write there: the memory must outlive it, and so is never given back.
            tracing::error!(%errno, device = self.domain.device.name, "registered memory could not be taken back");
            match &mut self.backing {
                Backing::Log(memory) => std::mem::forget(Arc::clone(memory)),
                Backing::Slots(slots) => std::mem::forget(std::mem::take(slots)),
            }
        }
    }
}
