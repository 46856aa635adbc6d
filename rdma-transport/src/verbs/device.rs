//! An open RDMA device, and what it tells by itself (asynchronous events).
//!
//! Invariant: every event is acknowledged as soon as it is read, because destroying the object it is about waits
//! for that. Events are read by whoever sleeps on a link of the device ([`Device::take_events`]); each ends the
//! links that it concerns. What can go wrong: the device goes away; every link of it then ends.

use super::error::VerbsError;
use crate::ending::{End, Ending};
use parking_lot::Mutex;
use rdma_sys::{
    ibv_ack_async_event, ibv_close_device, ibv_context, ibv_device, ibv_device_attr, ibv_device_attr_ex,
    ibv_free_device_list, ibv_get_async_event, ibv_get_device_list, ibv_get_device_name, ibv_open_device,
    ibv_query_device, ibv_query_device_ex, ibv_wc_status_str,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

/// Events read at once.
const MAX_EVENTS: usize = 64;

// Values of `enum ibv_event_type`. The bindings make it a Rust enum, which an event of a newer kernel would break.
const EVENT_QP_FATAL: u32 = 1;
const EVENT_QP_REQ_ERR: u32 = 2;
const EVENT_QP_ACCESS_ERR: u32 = 3;
const EVENT_DEVICE_FATAL: u32 = 8;
const EVENT_PORT_ERR: u32 = 10;

/// Whether the library was found when the process started.
pub(super) fn library_available() -> Result<(), VerbsError> {
    // SAFETY: takes a number. The binding returns null when the library is absent, the library never does.
    let text = unsafe { ibv_wc_status_str(0) };
    if text.is_null() { Err(VerbsError::NoLibrary) } else { Ok(()) }
}

// Vendor ids of adapters that are kernel software: Soft-RoCE and Soft-iWARP.
const SOFTWARE_VENDORS: [u32; 2] = [0xff_ffff, 0x62_6d74];
/// `IB_UVERBS_DEVICE_FLUSH_PERSISTENT`.
const FLUSH_PERSISTENT: u64 = 1 << 39;
/// `MEMBARRIER_CMD_GLOBAL` of membarrier(2).
const MEMBARRIER_GLOBAL: libc::c_int = 1;

/// The kernel's list of RDMA devices.
pub(super) struct DeviceList {
    list: NonNull<*mut ibv_device>,
    len: usize,
}

impl DeviceList {
    pub(super) fn read() -> Result<DeviceList, VerbsError> {
        library_available()?;
        let mut len = 0;
        // SAFETY: `len` is a valid place for the count.
        let list = unsafe { ibv_get_device_list(&mut len) };
        let Some(list) = NonNull::new(list) else {
            return Err(VerbsError::NoDevice(Some(io::Error::last_os_error())));
        };
        let devices = DeviceList { list, len: usize::try_from(len).unwrap_or(0) };
        if devices.len == 0 { Err(VerbsError::NoDevice(None)) } else { Ok(devices) }
    }

    pub(super) fn names(&self) -> Vec<String> {
        (0..self.len).map(|index| self.name(index)).collect()
    }

    fn pointer(&self, index: usize) -> *mut ibv_device {
        assert!(index < self.len, "indices come from `names`");
        // SAFETY: the list has `len` entries and lives as long as `self`.
        unsafe { *self.list.as_ptr().add(index) }
    }

    fn name(&self, index: usize) -> String {
        // SAFETY: the device is of a list that has not been freed; its name is a C string inside it.
        let name = unsafe { CStr::from_ptr(ibv_get_device_name(self.pointer(index))) };
        name.to_string_lossy().into_owned()
    }

    pub(super) fn open(&self, index: usize) -> Result<Device, VerbsError> {
        let name = self.name(index);
        // SAFETY: the device is of a list that has not been freed.
        let context = unsafe { ibv_open_device(self.pointer(index)) };
        let Some(context) = NonNull::new(context) else {
            return Err(VerbsError::Open { name, source: io::Error::last_os_error() });
        };
        let mut device = Device { context, name, limits: Limits::default(), watched: Mutex::default() };
        device.limits = device.query()?;
        rustix::fs::fcntl_getfl(device.events_fd())
            .and_then(|flags| {
                rustix::fs::fcntl_setfl(device.events_fd(), flags | rustix::fs::OFlags::NONBLOCK)
            })
            .map_err(|errno| VerbsError::Os { what: "preparing a device's events", source: errno.into() })?;
        Ok(device)
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        // SAFETY: made by `ibv_get_device_list`, freed once; an opened device does not need it.
        unsafe { ibv_free_device_list(self.list.as_ptr()) }
    }
}

/// What a device can do.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Limits {
    pub work_requests: u32,
    pub completions: u32,
    pub ports: u8,
    /// Reads that may be under way, as the one who asks and as the one who answers.
    pub reads_asked: u8,
    pub reads_answered: u8,
    /// Type-2 memory windows.
    pub windows: bool,
    /// The kernel does the adapter's work.
    pub software: bool,
}

/// A link that wants to know of events.
struct Watched {
    /// The queue pair that the peer writes through, and the one that this node writes through.
    incoming: usize,
    outgoing: usize,
    port: u8,
    ending: Weak<Ending>,
}

/// An open device, closed when dropped.
pub(super) struct Device {
    context: NonNull<ibv_context>,
    pub name: String,
    pub limits: Limits,
    watched: Mutex<Vec<Watched>>,
}

// SAFETY: libibverbs objects may be used from any thread (ibv_open_device(3)).
unsafe impl Send for Device {}
// SAFETY: as above; calls on one context may run at once.
unsafe impl Sync for Device {}

impl Device {
    pub(super) fn context(&self) -> *mut ibv_context {
        self.context.as_ptr()
    }

    fn query(&self) -> Result<Limits, VerbsError> {
        let mut attributes = MaybeUninit::<ibv_device_attr>::zeroed();
        // SAFETY: the context is open, and the structure is a valid place for the answer.
        let errno = unsafe { ibv_query_device(self.context(), attributes.as_mut_ptr()) };
        if errno != 0 {
            let source = io::Error::from_raw_os_error(errno);
            return Err(VerbsError::Os { what: "asking what the device can do", source });
        }
        // SAFETY: zeroed bytes are a valid value of this structure of integers, and the call filled it.
        let attributes = unsafe { attributes.assume_init() };
        let windows = rdma_sys::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2A.0
            | rdma_sys::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B.0;
        Ok(Limits {
            work_requests: u32::try_from(attributes.max_qp_wr).unwrap_or(0),
            completions: u32::try_from(attributes.max_cqe).unwrap_or(0),
            ports: attributes.phys_port_cnt,
            reads_asked: u8::try_from(attributes.max_qp_init_rd_atom.max(0)).unwrap_or(u8::MAX),
            reads_answered: u8::try_from(attributes.max_qp_rd_atom.max(0)).unwrap_or(u8::MAX),
            windows: attributes.device_cap_flags & windows != 0 && attributes.max_mw > 0,
            software: SOFTWARE_VENDORS.contains(&attributes.vendor_id),
        })
    }

    /// Whether it can flush to persistent memory (the FLUSH verb), as far as the library tells.
    pub(super) fn flushes(&self) -> bool {
        let mut attributes = MaybeUninit::<ibv_device_attr_ex>::zeroed();
        // SAFETY: the context is open, no input is needed, and the structure takes the answer.
        let errno = unsafe { ibv_query_device_ex(self.context(), std::ptr::null(), attributes.as_mut_ptr()) };
        // SAFETY: zeroed bytes are a valid value of this structure of integers.
        errno == 0 && unsafe { attributes.assume_init_ref() }.device_cap_flags_ex & FLUSH_PERSISTENT != 0
    }

    /// Waits until accesses that were under way when a key was taken back are over. An adapter does that itself;
    /// Soft-RoCE looks the key up for each packet, and may on another processor be copying one that it looked up
    /// before. It does so with interrupts' bottom halves held off, and this waits until every processor has left such
    /// a section (membarrier(2) waits for an RCU grace period, some 10 ms).
    pub(super) fn settle(&self) -> Result<(), Errno> {
        if !self.limits.software {
            return Ok(());
        }
        // SAFETY: the call takes numbers only and changes no memory.
        match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) } {
            0 => Ok(()),
            _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }

    /// Readable when there is an event.
    pub(super) fn events_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the context, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw((*self.context()).async_fd) }
    }

    /// Ends `ending` when something happens to these queue pairs, the port or the device, until the guard is
    /// dropped.
    pub(super) fn watch(
        self: &Arc<Device>,
        incoming: usize,
        outgoing: usize,
        port: u8,
        ending: &Arc<Ending>,
    ) -> Watch {
        self.watched.lock().push(Watched { incoming, outgoing, port, ending: Arc::downgrade(ending) });
        Watch { device: Arc::clone(self), incoming }
    }

    /// Reads what has happened and ends the links that it concerns.
    pub(super) fn take_events(&self) {
        for _ in 0..MAX_EVENTS {
            let mut event = MaybeUninit::<rdma_sys::ibv_async_event>::zeroed();
            // SAFETY: the context is open; the descriptor is non-blocking; the structure takes the answer.
            if unsafe { ibv_get_async_event(self.context(), event.as_mut_ptr()) } != 0 {
                if io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock {
                    self.tell(|_| Some(End::Rdma(format!("device {} is gone", self.name))));
                }
                return;
            }
            // SAFETY: the call succeeded. Kind and element are read as the integers that they are in C.
            let (kind, element) = unsafe {
                let kind = (&raw const (*event.as_ptr()).event_type).cast::<u32>().read();
                (kind, (&raw const (*event.as_ptr()).element).cast::<usize>().read())
            };
            self.tell(|link| self.meaning(kind, element, link));
            // SAFETY: the event was read above and is acknowledged once.
            unsafe { ibv_ack_async_event(event.as_mut_ptr()) }
        }
    }

    /// What an event is to a link; `None` when it does not concern it. `element` is a pointer or a port.
    fn meaning(&self, kind: u32, element: usize, link: &Watched) -> Option<End> {
        match kind {
            EVENT_QP_ACCESS_ERR if element == link.incoming => Some(End::Revoked),
            EVENT_QP_FATAL | EVENT_QP_REQ_ERR | EVENT_QP_ACCESS_ERR
                if element == link.incoming || element == link.outgoing =>
            {
                Some(End::Rdma(format!("a queue pair of {} failed (event {kind})", self.name)))
            }
            // A port is an `int` in the same place; the upper half of the word is not part of it.
            EVENT_PORT_ERR if element as u32 == u32::from(link.port) => {
                Some(End::Rdma(format!("port {} of {} went down", link.port, self.name)))
            }
            EVENT_DEVICE_FATAL => Some(End::Rdma(format!("device {} failed or was removed", self.name))),
            _ => None,
        }
    }

    fn tell(&self, meaning: impl Fn(&Watched) -> Option<End>) {
        // Ending wakes others, who may come here: not under the lock.
        let ends: Vec<_> = {
            let watched = self.watched.lock();
            watched.iter().filter_map(|link| Some((link.ending.upgrade()?, meaning(link)?))).collect()
        };
        for (ending, end) in ends {
            ending.end(end);
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: everything made of the context holds an `Arc` of this device, so nothing is left of it.
        if unsafe { ibv_close_device(self.context()) } != 0 {
            tracing::error!(device = self.name, "an RDMA device could not be closed");
        }
    }
}

/// See [`Device::watch`].
pub(super) struct Watch {
    device: Arc<Device>,
    incoming: usize,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.device.watched.lock().retain(|link| link.incoming != self.incoming);
    }
}
