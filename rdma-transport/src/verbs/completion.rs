//! Completion queues: what the adapter has done, polled or waited for.
//!
//! Invariant: notifications are acknowledged as soon as they are read, because destroying the queue waits for
//! that. The descriptor never blocks.

use super::device::Device;
use crate::LinkError;
use rdma_sys::{
    ibv_ack_cq_events, ibv_comp_channel, ibv_cq, ibv_create_comp_channel, ibv_create_cq,
    ibv_destroy_comp_channel, ibv_destroy_cq, ibv_get_cq_event, ibv_poll_cq, ibv_req_notify_cq, ibv_wc,
    ibv_wc_opcode, ibv_wc_status,
};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// Completions taken at once.
pub(super) const POLL_BATCH: usize = 16;
/// Notifications read at once; armed once, there is at most one.
const MAX_EVENTS: u32 = 16;

/// What one work request came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Completion {
    /// The id that the request was given.
    pub id: u64,
    pub result: Result<Done, Failure>,
}

/// A request that succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Done {
    /// Something of this node: a write, a message, a read, a window.
    Sent,
    /// A message of the peer.
    Message { len_bytes: u32 },
    /// A write of the peer, of so many bytes, which carried a number.
    Landed { len_bytes: u32, immediate: u32 },
}

/// Why a request failed. Its queue pair does nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The peer's adapter refused the access (as the one who asked), or this one's did (as the one who was asked).
    Access,
    /// The peer's adapter does not answer.
    NoAnswer,
    /// The queue pair had failed before; another completion or an event tells why.
    Flushed,
    /// A message was longer than the place for it.
    TooLong,
    /// Anything else: `enum ibv_wc_status`.
    Other(u32),
}

impl Failure {
    fn of_status(status: ibv_wc_status::Type) -> Failure {
        match status {
            ibv_wc_status::IBV_WC_REM_ACCESS_ERR | ibv_wc_status::IBV_WC_LOC_ACCESS_ERR => Failure::Access,
            ibv_wc_status::IBV_WC_RETRY_EXC_ERR | ibv_wc_status::IBV_WC_RESP_TIMEOUT_ERR => Failure::NoAnswer,
            ibv_wc_status::IBV_WC_WR_FLUSH_ERR => Failure::Flushed,
            ibv_wc_status::IBV_WC_LOC_LEN_ERR => Failure::TooLong,
            other => Failure::Other(other),
        }
    }
}

/// What one poll found.
#[derive(Default)]
pub(super) struct Batch {
    items: [Option<Completion>; POLL_BATCH],
    len: usize,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there may be more.
    pub(super) fn is_full(&self) -> bool {
        self.len == POLL_BATCH
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Completion> + '_ {
        self.items[..self.len].iter().copied().flatten()
    }
}

fn convert(completion: &ibv_wc) -> Completion {
    let result = match (completion.status, completion.opcode) {
        (ibv_wc_status::IBV_WC_SUCCESS, ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM) => {
            // SAFETY: both variants are plain integers.
            let immediate = u32::from_be(unsafe { completion.imm_data_invalidated_rkey_union.imm_data });
            Ok(Done::Landed { len_bytes: completion.byte_len, immediate })
        }
        (ibv_wc_status::IBV_WC_SUCCESS, ibv_wc_opcode::IBV_WC_RECV) => {
            Ok(Done::Message { len_bytes: completion.byte_len })
        }
        (ibv_wc_status::IBV_WC_SUCCESS, _) => Ok(Done::Sent),
        (status, _) => Err(Failure::of_status(status)),
    };
    Completion { id: completion.wr_id, result }
}

struct Channel(NonNull<ibv_comp_channel>);

/// A completion queue, with a descriptor to sleep on where asked for.
pub(super) struct CompletionQueue {
    cq: NonNull<ibv_cq>,
    channel: Option<Channel>,
    _device: Arc<Device>,
}

// SAFETY: libibverbs objects may be used from any thread.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue for `entries` completions that have not been polled.
    pub(super) fn new(
        device: &Arc<Device>,
        entries: u32,
        sleeps: bool,
    ) -> Result<CompletionQueue, LinkError> {
        let failed =
            || LinkError::Io { what: "making an RDMA completion queue", source: io::Error::last_os_error() };
        let channel = if sleeps { Some(Channel::new(device)?) } else { None };
        let notify = channel.as_ref().map_or(std::ptr::null_mut(), |channel| channel.0.as_ptr());
        let entries = i32::try_from(entries).unwrap_or(i32::MAX);
        // SAFETY: context and channel are alive; the queue is destroyed before either.
        let cq = unsafe { ibv_create_cq(device.context(), entries, std::ptr::null_mut(), notify, 0) };
        match NonNull::new(cq) {
            Some(cq) => Ok(CompletionQueue { cq, channel, _device: Arc::clone(device) }),
            None => Err(failed()),
        }
    }

    pub(super) fn pointer(&self) -> *mut ibv_cq {
        self.cq.as_ptr()
    }

    /// Takes up to [`POLL_BATCH`] completions.
    pub(super) fn poll(&self) -> Result<Batch, Errno> {
        let mut completions = [const { MaybeUninit::<ibv_wc>::uninit() }; POLL_BATCH];
        // SAFETY: the array has as many places as is said.
        let found =
            unsafe { ibv_poll_cq(self.pointer(), POLL_BATCH as i32, completions.as_mut_ptr().cast()) };
        let found = usize::try_from(found).map_err(|_| Errno::IO)?.min(POLL_BATCH);
        let mut batch = Batch::default();
        for completion in &completions[..found] {
            // SAFETY: so many were filled.
            batch.items[batch.len] = Some(convert(unsafe { completion.assume_init_ref() }));
            batch.len += 1;
        }
        Ok(batch)
    }

    /// Asks for one notification of the next completion. What came before it must be polled for once more.
    pub(super) fn arm(&self) -> Result<(), Errno> {
        // SAFETY: the queue is alive.
        match unsafe { ibv_req_notify_cq(self.pointer(), 0) } {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }

    /// Readable after a notification.
    pub(super) fn notification_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the channel is open as long as the queue.
        self.channel.as_ref().map(|channel| unsafe { BorrowedFd::borrow_raw(channel.0.as_ref().fd) })
    }

    /// Reads the notifications that have come.
    pub(super) fn take_notifications(&self) {
        let Some(channel) = &self.channel else { return };
        let mut taken = 0;
        for _ in 0..MAX_EVENTS {
            let (mut cq, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the channel is open and does not block; both places are valid.
            if unsafe { ibv_get_cq_event(channel.0.as_ptr(), &mut cq, &mut context) } != 0 {
                break;
            }
            taken += 1;
        }
        if taken > 0 {
            // SAFETY: only this queue uses the channel, and so many of its events were read.
            unsafe { ibv_ack_cq_events(self.pointer(), taken) }
        }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold an `Arc` of their queues, so none is left; its notifications were acknowledged.
        if unsafe { ibv_destroy_cq(self.pointer()) } != 0 {
            tracing::error!("an RDMA completion queue could not be given back");
        }
    }
}

impl Channel {
    fn new(device: &Device) -> Result<Channel, LinkError> {
        // SAFETY: the context is open.
        let channel = NonNull::new(unsafe { ibv_create_comp_channel(device.context()) });
        let what = "making an RDMA completion channel";
        let channel =
            Channel(channel.ok_or_else(|| LinkError::Io { what, source: io::Error::last_os_error() })?);
        // SAFETY: the descriptor is open as long as the channel.
        let fd = unsafe { BorrowedFd::borrow_raw(channel.0.as_ref().fd) };
        rustix::fs::fcntl_getfl(fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK))
            .map_err(LinkError::os(what))?;
        Ok(channel)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: a field of the queue that uses it, dropped after the queue was destroyed.
        if unsafe { ibv_destroy_comp_channel(self.0.as_ptr()) } != 0 {
            tracing::error!("an RDMA completion channel could not be given back");
        }
    }
}
