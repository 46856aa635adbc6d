//! Work for a queue pair: requests, and room for what the peer sends.
//!
//! Invariants: a request names registered memory by offset, inside of what the queue pair holds; nothing is allocated.

use super::queue_pair::QueuePair;
use super::registration::{SLOT_BYTES, peer_access};
use rdma_sys::{
    ibv_mw, ibv_mw_bind_info, ibv_post_recv, ibv_post_send, ibv_recv_wr, ibv_send_flags, ibv_send_wr,
    ibv_sge, ibv_wr_opcode,
};
use rustix::io::Errno;
use std::mem::MaybeUninit;

/// Requests handed over with one call.
pub(super) const MAX_CHAIN: usize = 8;
/// Receives handed over with one call.
pub(super) const RECEIVE_CHAIN: usize = 16;
/// Bytes that a confirming read fetches.
pub(super) const READ_BYTES: u32 = 8;

/// Bytes of the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RingRange {
    pub offset: u64,
    pub len_bytes: u32,
}

/// Memory of the peer: address and key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Remote {
    pub address: u64,
    pub key: u32,
}

/// What the adapter shall do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// Copies this ring's bytes to the peer; with a number, the peer is told.
    Write { from: RingRange, to: Remote, immediate: Option<u32> },
    /// Copies 8 bytes of the peer's into a slot.
    Read { slot: usize, from: Remote },
    /// Sends a slot as a message.
    Send { slot: usize },
    /// Lays a window over the whole ring.
    Bind { window: *mut ibv_mw, key: u32, reads: bool },
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub id: u64,
    pub signalled: bool,
    pub work: Work,
}

impl QueuePair {
    /// Hands requests to the adapter, in order.
    pub(super) fn post(&self, requests: &[Request]) -> Result<(), Errno> {
        assert!(requests.len() <= MAX_CHAIN, "chains are bounded");
        let mut places = [const { MaybeUninit::<ibv_sge>::zeroed() }; MAX_CHAIN];
        let mut chain = [const { MaybeUninit::<ibv_send_wr>::zeroed() }; MAX_CHAIN];
        let first: *mut ibv_send_wr = chain.as_mut_ptr().cast();
        for (index, request) in requests.iter().enumerate() {
            // SAFETY: zeroed bytes are a valid value: null pointers and integers.
            let place = unsafe { places[index].assume_init_mut() };
            // SAFETY: as above.
            let work = unsafe { chain[index].assume_init_mut() };
            self.describe(request, place, work);
            if index + 1 < requests.len() {
                work.next = first.wrapping_add(index + 1);
            }
        }
        if requests.is_empty() {
            return Ok(());
        }
        let mut refused = std::ptr::null_mut();
        // SAFETY: the chain is well formed and lives until the call returns; the memory that it names is registered
        // and held by this queue pair, and a window lives until its queue pair's sender has given it back.
        match unsafe { ibv_post_send(self.pointer(), first, &mut refused) } {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }

    fn describe(&self, request: &Request, place: &mut ibv_sge, work: &mut ibv_send_wr) {
        let slot_bytes = SLOT_BYTES as u64;
        let signalled = if request.signalled { ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 };
        work.wr_id = request.id;
        work.send_flags = signalled;
        work.sg_list = place;
        work.num_sge = 1;
        match request.work {
            Work::Write { from, to, immediate } => {
                place.addr = self.ring.address(from.offset, from.len_bytes.into());
                place.length = from.len_bytes;
                place.lkey = self.ring.local_key();
                work.num_sge = i32::from(from.len_bytes > 0);
                work.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
                if let Some(number) = immediate {
                    work.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
                    work.imm_data_invalidated_rkey_union.imm_data = number.to_be();
                }
                work.wr.rdma = rdma_sys::rdma_t { remote_addr: to.address, rkey: to.key };
            }
            Work::Read { slot, from } => {
                place.addr = self.slots.address(slot as u64 * slot_bytes, slot_bytes);
                place.length = READ_BYTES;
                place.lkey = self.slots.local_key();
                work.opcode = ibv_wr_opcode::IBV_WR_RDMA_READ;
                work.wr.rdma = rdma_sys::rdma_t { remote_addr: from.address, rkey: from.key };
            }
            Work::Send { slot } => {
                place.addr = self.slots.address(slot as u64 * slot_bytes, slot_bytes);
                place.length = slot_bytes as u32;
                place.lkey = self.slots.local_key();
                work.opcode = ibv_wr_opcode::IBV_WR_SEND;
                if self.inline {
                    work.send_flags |= ibv_send_flags::IBV_SEND_INLINE.0;
                }
            }
            Work::Bind { window, key, reads } => {
                work.num_sge = 0;
                work.opcode = ibv_wr_opcode::IBV_WR_BIND_MW;
                let length = self.ring.len_bytes();
                work.bind_mw_tso_union.bind_mw = rdma_sys::bind_mw_t {
                    mw: window,
                    rkey: key,
                    bind_info: ibv_mw_bind_info {
                        mr: self.ring.pointer(),
                        addr: self.ring.address(0, length),
                        length,
                        mw_access_flags: peer_access(reads).0,
                    },
                };
            }
        }
    }

    /// Makes room for `count` messages of the peer: each into the slot that `slots` gives, or for writes that carry
    /// only a number, which need no slot.
    pub(super) fn post_receives(
        &self,
        count: usize,
        mut slots: impl FnMut(usize) -> Option<usize>,
    ) -> Result<(), Errno> {
        let slot_bytes = SLOT_BYTES as u64;
        let mut posted = 0;
        while posted < count {
            let len = (count - posted).min(RECEIVE_CHAIN);
            let mut places = [const { MaybeUninit::<ibv_sge>::zeroed() }; RECEIVE_CHAIN];
            let mut chain = [const { MaybeUninit::<ibv_recv_wr>::zeroed() }; RECEIVE_CHAIN];
            let first: *mut ibv_recv_wr = chain.as_mut_ptr().cast();
            for index in 0..len {
                // SAFETY: zeroed bytes are a valid value: null pointers and integers.
                let work = unsafe { chain[index].assume_init_mut() };
                if let Some(slot) = slots(posted + index) {
                    // SAFETY: as above.
                    let place = unsafe { places[index].assume_init_mut() };
                    place.addr = self.slots.address(slot as u64 * slot_bytes, slot_bytes);
                    place.length = slot_bytes as u32;
                    place.lkey = self.slots.local_key();
                    work.wr_id = slot as u64;
                    work.sg_list = place;
                    work.num_sge = 1;
                }
                if index + 1 < len {
                    work.next = first.wrapping_add(index + 1);
                }
            }
            let mut refused = std::ptr::null_mut();
            // SAFETY: the chain is well formed and lives until the call returns; the slots are registered and held
            // by this queue pair.
            match unsafe { ibv_post_recv(self.pointer(), first, &mut refused) } {
                0 => posted += len,
                errno => return Err(Errno::from_raw_os_error(errno)),
            }
        }
        Ok(())
    }
}
