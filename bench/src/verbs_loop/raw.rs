//! One reliable connected queue pair and its two completion queues, as bare as libibverbs gives them.
//!
//! Invariants: what is registered stays mapped as long as the queue pair; objects are given back in the reverse
//! order of their making. What can go wrong: any request completes with an error; then the whole loop ends.

#![allow(unsafe_code)]

use anyhow::{Context, Result, bail};
use nvlog::Region;
use rdma_sys::{
    ibv_access_flags, ibv_ack_cq_events, ibv_alloc_pd, ibv_close_device, ibv_comp_channel, ibv_context,
    ibv_cq, ibv_create_comp_channel, ibv_create_cq, ibv_create_qp, ibv_dealloc_pd, ibv_dereg_mr,
    ibv_destroy_comp_channel, ibv_destroy_cq, ibv_destroy_qp, ibv_free_device_list, ibv_get_cq_event,
    ibv_get_device_list, ibv_get_device_name, ibv_gid, ibv_modify_qp, ibv_mr, ibv_open_device, ibv_pd,
    ibv_poll_cq, ibv_port_attr, ibv_post_recv, ibv_post_send, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask as mask,
    ibv_qp_init_attr, ibv_qp_state, ibv_qp_type, ibv_query_gid, ibv_query_port, ibv_recv_wr, ibv_reg_mr,
    ibv_req_notify_cq, ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wc, ibv_wc_opcode, ibv_wc_status,
    ibv_wr_opcode,
};
use serde::{Deserialize, Serialize};
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

/// Length of an answer; sent inline.
pub const ANSWER_BYTES: usize = 16;
/// Requests that may be posted and not done, each way.
const DEPTH: u32 = 128;
/// Completions taken at once.
const POLL_BATCH: usize = 16;
/// One request in so many asks for a completion.
const SIGNAL_EVERY: u32 = 16;
/// `timeout`, 4.096 µs × 2^n for each attempt: what a link's three seconds of patience come to.
const ACK_TIMEOUT: u8 = 16;
/// Soft-RoCE takes 7 for no end.
const RETRIES: u8 = 6;
/// `rnr_retry` without an end.
const RETRIES_NOT_READY: u8 = 7;
/// `min_rnr_timer`: 0.64 ms.
const NOT_READY_PAUSE: u8 = 12;
const HOP_LIMIT: u8 = 64;
/// `psn` of both ends; nobody else sends to a fresh queue pair.
const FIRST_PACKET: u32 = 0x00_1234;

/// Which adapter, and how it is addressed.
#[derive(Clone, Debug)]
pub struct Device {
    pub name: String,
    pub port: u8,
    pub gid_index: u8,
}

/// What the other end must know of this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    number: u32,
    gid: [u8; 16],
    lid: u16,
    mtu: u32,
    address: u64,
    key: u32,
    len_bytes: u64,
}

/// What a poll found.
#[derive(Clone, Copy, Default, Debug)]
pub struct Found {
    /// Writes of the other end that announced themselves.
    pub landed: u32,
    /// Messages of the other end.
    pub messages: u32,
}

/// See the module.
pub struct QueuePair {
    context: *mut ibv_context,
    pd: *mut ibv_pd,
    ring: *mut ibv_mr,
    slots: *mut ibv_mr,
    channel: *mut ibv_comp_channel,
    /// Slept on.
    queue: *mut ibv_cq,
    /// Where this end's own requests are reported: at the answering end a queue that nobody sleeps on.
    sent: *mut ibv_cq,
    qp: *mut ibv_qp,
    device: Device,
    memory: Box<dyn Region>,
    /// Places for messages, [`ANSWER_BYTES`] each; only the adapter touches them.
    _messages: Box<[std::cell::UnsafeCell<[u8; ANSWER_BYTES]>]>,
    unsignalled: u32,
}

// SAFETY: libibverbs objects may be used from any thread (ibv_open_device(3)).
unsafe impl Send for QueuePair {}

fn made<T>(pointer: *mut T, what: &'static str) -> Result<*mut T> {
    if pointer.is_null() {
        return Err(io::Error::last_os_error()).context(what);
    }
    Ok(pointer)
}

fn done(errno: i32, what: &'static str) -> Result<()> {
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)).context(what),
    }
}

fn open(name: &str) -> Result<*mut ibv_context> {
    let mut count = 0;
    // SAFETY: `count` takes the length of the list; each entry is a device until the list is freed, once, here.
    unsafe {
        let list = made(ibv_get_device_list(&mut count), "listing RDMA devices")?;
        let devices = std::slice::from_raw_parts(list, usize::try_from(count).unwrap_or(0));
        let found = devices
            .iter()
            .find(|device| CStr::from_ptr(ibv_get_device_name(**device)).to_bytes() == name.as_bytes());
        let context = found.map(|device| ibv_open_device(*device));
        ibv_free_device_list(list);
        made(context.with_context(|| format!("there is no RDMA device {name}"))?, "opening the RDMA device")
    }
}

/// A zeroed structure of libibverbs.
fn zeroed<T>() -> T {
    // SAFETY: used for the library's structures of integers and pointers only, for which zero is a valid value.
    unsafe { MaybeUninit::<T>::zeroed().assume_init() }
}

impl QueuePair {
    /// Opens the device, registers `memory` and makes a queue pair. `asks`: this end writes and awaits answers, on
    /// one queue; otherwise it answers, and its own requests are reported on another.
    pub fn new(device: &Device, memory: Box<dyn Region>, asks: bool) -> Result<QueuePair> {
        let messages: Box<[_]> = (0..DEPTH).map(|_| std::cell::UnsafeCell::new([0; ANSWER_BYTES])).collect();
        let context = open(&device.name)?;
        let local = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE;
        let remote = (local | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE).0 as i32;
        // SAFETY: every object is made of those before it, which are alive; both memories outlive their
        // registrations, because the queue pair keeps them and gives the registrations back when it is dropped.
        // A failure half-way leaves what was made to the end of the process, which follows.
        unsafe {
            let pd = made(ibv_alloc_pd(context), "making a protection domain")?;
            let len = usize::try_from(memory.len_bytes())?;
            let ring = made(ibv_reg_mr(pd, memory.base().cast(), len, remote), "registering the ring")?;
            let places = messages.as_ptr().cast_mut().cast();
            let slots = made(
                ibv_reg_mr(pd, places, messages.len() * ANSWER_BYTES, local.0 as i32),
                "registering slots",
            )?;
            let channel = made(ibv_create_comp_channel(context), "making a completion channel")?;
            let queue_of = |channel| {
                made(
                    ibv_create_cq(context, 2 * DEPTH as i32, std::ptr::null_mut(), channel, 0),
                    "making a queue",
                )
            };
            let queue = queue_of(channel)?;
            let sent = if asks { queue } else { queue_of(std::ptr::null_mut())? };
            let mut wanted: ibv_qp_init_attr = zeroed();
            wanted.send_cq = sent;
            wanted.recv_cq = queue;
            wanted.qp_type = ibv_qp_type::IBV_QPT_RC;
            wanted.cap.max_send_wr = DEPTH;
            wanted.cap.max_recv_wr = DEPTH;
            wanted.cap.max_send_sge = 1;
            wanted.cap.max_recv_sge = 1;
            wanted.cap.max_inline_data = ANSWER_BYTES as u32;
            let qp = made(ibv_create_qp(pd, &mut wanted), "making a queue pair")?;
            let flags = rustix::fs::fcntl_getfl(BorrowedFd::borrow_raw((*channel).fd))?;
            rustix::fs::fcntl_setfl(
                BorrowedFd::borrow_raw((*channel).fd),
                flags | rustix::fs::OFlags::NONBLOCK,
            )?;
            let pair = QueuePair {
                context,
                pd,
                ring,
                slots,
                channel,
                queue,
                sent,
                qp,
                device: device.clone(),
                memory,
                _messages: messages,
                unsignalled: 0,
            };
            let flags =
                mask::IBV_QP_STATE | mask::IBV_QP_PKEY_INDEX | mask::IBV_QP_PORT | mask::IBV_QP_ACCESS_FLAGS;
            pair.modify(flags.0, |attributes| {
                attributes.qp_state = ibv_qp_state::IBV_QPS_INIT;
                attributes.port_num = pair.device.port;
                attributes.qp_access_flags = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
            })?;
            for slot in 0..DEPTH / 2 {
                pair.post_receive(slot.into())?;
            }
            Ok(pair)
        }
    }

    fn modify(&self, flags: u32, change: impl FnOnce(&mut ibv_qp_attr)) -> Result<()> {
        let mut attributes: ibv_qp_attr = zeroed();
        change(&mut attributes);
        // SAFETY: the queue pair is alive.
        done(
            unsafe { ibv_modify_qp(self.qp, &mut attributes, flags as i32) },
            "changing the queue pair's state",
        )
    }

    /// This end, for the other.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let mut port: ibv_port_attr = zeroed();
        let mut gid: ibv_gid = zeroed();
        // SAFETY: the context is open and both places take the answers; the union's variants are plain bytes; queue
        // pair and registration are alive.
        unsafe {
            done(ibv_query_port(self.context, self.device.port, &mut port), "asking for the port's state")?;
            let index = i32::from(self.device.gid_index);
            if ibv_query_gid(self.context, self.device.port, index, &mut gid) != 0 {
                bail!("the port has no GID with index {index}");
            }
            Ok(Endpoint {
                number: (*self.qp).qp_num,
                gid: gid.raw,
                lid: port.lid,
                mtu: port.active_mtu,
                address: self.memory.base() as u64,
                key: (*self.ring).rkey,
                len_bytes: self.memory.len_bytes(),
            })
        }
    }

    /// Connects it with the other end.
    pub fn connect(&self, mine: &Endpoint, peer: &Endpoint) -> Result<()> {
        let flags = mask::IBV_QP_STATE
            | mask::IBV_QP_AV
            | mask::IBV_QP_PATH_MTU
            | mask::IBV_QP_DEST_QPN
            | mask::IBV_QP_RQ_PSN
            | mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | mask::IBV_QP_MIN_RNR_TIMER;
        self.modify(flags.0, |attributes| {
            attributes.qp_state = ibv_qp_state::IBV_QPS_RTR;
            attributes.path_mtu = mine.mtu.min(peer.mtu).clamp(1, 5);
            attributes.dest_qp_num = peer.number;
            attributes.rq_psn = FIRST_PACKET;
            attributes.max_dest_rd_atomic = 1;
            attributes.min_rnr_timer = NOT_READY_PAUSE;
            attributes.ah_attr.dlid = peer.lid;
            attributes.ah_attr.port_num = self.device.port;
            attributes.ah_attr.is_global = 1;
            attributes.ah_attr.grh.dgid.raw = peer.gid;
            attributes.ah_attr.grh.sgid_index = self.device.gid_index;
            attributes.ah_attr.grh.hop_limit = HOP_LIMIT;
        })?;
        let flags = mask::IBV_QP_STATE
            | mask::IBV_QP_TIMEOUT
            | mask::IBV_QP_RETRY_CNT
            | mask::IBV_QP_RNR_RETRY
            | mask::IBV_QP_SQ_PSN
            | mask::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(flags.0, |attributes| {
            attributes.qp_state = ibv_qp_state::IBV_QPS_RTS;
            attributes.timeout = ACK_TIMEOUT;
            attributes.retry_cnt = RETRIES;
            attributes.rnr_retry = RETRIES_NOT_READY;
            attributes.sq_psn = FIRST_PACKET;
            attributes.max_rd_atomic = 1;
        })
    }

    /// Writes `len_bytes` at `offset` to the same offset at the other end, with a number. The range must lie inside
    /// both rings.
    pub fn write(&mut self, offset: u64, len_bytes: u32, peer: &Endpoint) -> Result<()> {
        let end = offset + u64::from(len_bytes);
        assert!(end <= self.memory.len_bytes() && end <= peer.len_bytes, "a write inside the rings");
        let mut work: ibv_send_wr = zeroed();
        work.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
        work.imm_data_invalidated_rkey_union.imm_data = len_bytes.to_be();
        work.wr.rdma = rdma_sys::rdma_t { remote_addr: peer.address + offset, rkey: peer.key };
        // SAFETY: the registration is alive.
        let key = unsafe { (*self.ring).lkey };
        self.post(work, ibv_sge { addr: self.memory.base() as u64 + offset, length: len_bytes, lkey: key })
    }

    /// Sends an answer, inline.
    pub fn answer(&mut self) -> Result<()> {
        let mut work: ibv_send_wr = zeroed();
        work.opcode = ibv_wr_opcode::IBV_WR_SEND;
        work.send_flags = ibv_send_flags::IBV_SEND_INLINE.0;
        let bytes = [0x5A_u8; ANSWER_BYTES];
        // The bytes are copied while they are posted.
        self.post(work, ibv_sge { addr: bytes.as_ptr() as u64, length: ANSWER_BYTES as u32, lkey: 0 })
    }

    fn post(&mut self, mut work: ibv_send_wr, mut place: ibv_sge) -> Result<()> {
        self.unsignalled += 1;
        if self.unsignalled == SIGNAL_EVERY {
            self.unsignalled = 0;
            work.send_flags |= ibv_send_flags::IBV_SEND_SIGNALED.0;
        }
        work.sg_list = &mut place;
        work.num_sge = 1;
        let mut refused = std::ptr::null_mut();
        // SAFETY: the request and its place live until the call returns; what it names is registered, or inline.
        done(unsafe { ibv_post_send(self.qp, &mut work, &mut refused) }, "posting a request")
    }

    fn post_receive(&self, slot: u64) -> Result<()> {
        let mut work: ibv_recv_wr = zeroed();
        // SAFETY: the registration is alive, and `slot` is below the number of slots, for all callers.
        let (start, key) = unsafe { ((*self.slots).addr as u64, (*self.slots).lkey) };
        let addr = start + slot * ANSWER_BYTES as u64;
        let mut place = ibv_sge { addr, length: ANSWER_BYTES as u32, lkey: key };
        work.wr_id = slot;
        work.sg_list = &mut place;
        work.num_sge = 1;
        let mut refused = std::ptr::null_mut();
        // SAFETY: the request lives until the call returns; the slot is registered.
        done(unsafe { ibv_post_recv(self.qp, &mut work, &mut refused) }, "posting a receive")
    }

    /// What has come since the last call.
    pub fn poll(&self) -> Result<Found> {
        let found = self.poll_queue(self.queue)?;
        if self.sent != self.queue && found.landed > 0 {
            // Its own answers are done; nothing waits for that.
            self.poll_queue(self.sent)?;
        }
        Ok(found)
    }

    fn poll_queue(&self, queue: *mut ibv_cq) -> Result<Found> {
        let mut completions: [ibv_wc; POLL_BATCH] = zeroed();
        // SAFETY: the queue is alive and the array has as many places as is said.
        let count = unsafe { ibv_poll_cq(queue, POLL_BATCH as i32, completions.as_mut_ptr()) };
        let count = usize::try_from(count).context("polling a completion queue")?;
        let mut found = Found::default();
        for completion in &completions[..count] {
            if completion.status != ibv_wc_status::IBV_WC_SUCCESS {
                bail!("a request failed with work completion status {}", completion.status);
            }
            match completion.opcode {
                ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM => found.landed += 1,
                ibv_wc_opcode::IBV_WC_RECV => found.messages += 1,
                _ => continue,
            }
            self.post_receive(completion.wr_id)?;
        }
        Ok(found)
    }

    /// Asks for a notification of the next completion; poll once more before sleeping.
    pub fn arm(&self) -> Result<()> {
        // SAFETY: the queue is alive.
        done(unsafe { ibv_req_notify_cq(self.queue, 0) }, "arming a completion queue")
    }

    /// Readable after a notification.
    pub fn notification(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel is open as long as `self`.
        unsafe { BorrowedFd::borrow_raw((*self.channel).fd) }
    }

    /// Reads the notifications that have come.
    pub fn take_notifications(&self) {
        let (mut queue, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the channel is open and does not block; only one queue uses it, and each event is acknowledged.
        unsafe {
            while ibv_get_cq_event(self.channel, &mut queue, &mut context) == 0 {
                ibv_ack_cq_events(self.queue, 1);
            }
        }
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: each was made by `new` and is given back once, users before what they use.
        unsafe {
            ibv_destroy_qp(self.qp);
            if self.sent != self.queue {
                ibv_destroy_cq(self.sent);
            }
            ibv_destroy_cq(self.queue);
            ibv_destroy_comp_channel(self.channel);
            ibv_dereg_mr(self.slots);
            ibv_dereg_mr(self.ring);
            ibv_dealloc_pd(self.pd);
            ibv_close_device(self.context);
        }
    }
}
