//! The peer's right to write into the ring, as an object: it exists or it does not.
//!
//! A type-2 memory window over the ring's registration, bound to the queue pair that the peer writes through; where
//! the device has none, a second registration with the right to be written. Either is made anew each time, with a key
//! of its own, and taken by giving the object back to the kernel.
//!
//! Why not by a local invalidate, which is faster: it travels in the send queue, behind acknowledgements that a
//! stopped peer does not take, and then completes only when the queue pair has failed. Giving back is a call that
//! waits for the adapter and for nobody else, which is what a takeover needs.
//!
//! What can go wrong: the kernel refuses to take it back. Then the caller stops the queue pair, which has the same
//! effect.

use super::queue_pair::QueuePair;
use super::registration::{ProtectionDomain, Purpose, Registration};
use super::work::Work;
use ids::LogMemory;
use rdma_sys::{ibv_alloc_mw, ibv_dealloc_mw, ibv_mw, ibv_mw_type};
use rustix::io::Errno;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// A window, bound or about to be.
pub(super) struct Window {
    mw: Option<NonNull<ibv_mw>>,
    key: u32,
    /// A window must be gone before its queue pair and its registration (which the queue pair holds).
    _pair: Arc<QueuePair>,
}

// SAFETY: libibverbs objects may be used from any thread.
unsafe impl Send for Window {}

impl Window {
    fn new(domain: &ProtectionDomain, pair: Arc<QueuePair>) -> io::Result<Window> {
        // SAFETY: the domain is alive.
        let mw = unsafe { ibv_alloc_mw(domain.pointer(), ibv_mw_type::IBV_MW_TYPE_2) };
        let mw = NonNull::new(mw).ok_or_else(io::Error::last_os_error)?;
        // The low byte of a type-2 key is the user's; it must differ from what it was.
        // SAFETY: the window was just made.
        let given = unsafe { mw.as_ref().rkey };
        let key = given & !0xff | given.wrapping_add(1) & 0xff;
        Ok(Window { mw: Some(mw), key, _pair: pair })
    }

    fn withdraw(&mut self) -> Result<(), Errno> {
        let Some(mw) = self.mw else { return Ok(()) };
        // SAFETY: made by `ibv_alloc_mw`, given back once: it is forgotten when that succeeds.
        match unsafe { ibv_dealloc_mw(mw.as_ptr()) } {
            0 => {
                self.mw = None;
                Ok(())
            }
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Err(errno) = self.withdraw() {
            tracing::error!(%errno, "a memory window could not be taken back");
        }
    }
}

/// The right; dropping it takes it away.
pub(super) enum Right {
    Window(Window),
    Registration(Registration),
}

impl Right {
    /// A right through a window. It holds once [`Right::bind`]'s request is done.
    pub(super) fn window(domain: &ProtectionDomain, pair: Arc<QueuePair>) -> io::Result<Right> {
        Ok(Right::Window(Window::new(domain, pair)?))
    }

    /// A right through a registration of its own. It holds at once.
    pub(super) fn registration(
        domain: &Arc<ProtectionDomain>,
        memory: Arc<dyn LogMemory>,
        reads: bool,
    ) -> io::Result<Right> {
        Ok(Right::Registration(Registration::of_log(domain, memory, Purpose::Peer { reads })?))
    }

    /// What is still to be posted to make it hold.
    pub(super) fn bind(&self, reads: bool) -> Option<Work> {
        match self {
            Right::Window(window) => {
                let mw = window.mw.expect("taken away only when it is dropped");
                Some(Work::Bind { window: mw.as_ptr(), key: window.key, reads })
            }
            Right::Registration(_) => None,
        }
    }

    /// The key that the peer needs.
    pub(super) fn key(&self) -> u32 {
        match self {
            Right::Window(window) => window.key,
            Right::Registration(registration) => registration.remote_key(),
        }
    }

    /// Takes the right away; after `Ok` the adapter refuses every access with its key.
    pub(super) fn withdraw(&mut self) -> Result<(), Errno> {
        match self {
            Right::Window(window) => window.withdraw(),
            Right::Registration(registration) => registration.withdraw(),
        }
    }
}
