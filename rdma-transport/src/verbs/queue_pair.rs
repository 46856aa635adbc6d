//! Reliable connected queue pairs.
//!
//! A link has two on each side: one that this node writes through (the peer may do nothing with it), and one that
//! the peer writes through. So the peer's right hangs on its own queue pair, and the two directions share nothing.
//!
//! Invariants: a request names registered memory by offset, and the queue pair holds that memory; a queue pair
//! dies before its completion queues. What can go wrong: the queue pair fails; then every request that was posted
//! or will be completes with an error, and its link ends.

use super::completion::CompletionQueue;
use super::exchange::Endpoint;
use super::port::{Choice, path_mtu};
use super::registration::{ProtectionDomain, Registration, peer_access};
use crate::LinkError;
use rdma_sys::{
    ibv_access_flags, ibv_create_qp, ibv_destroy_qp, ibv_modify_qp, ibv_qp, ibv_qp_attr,
    ibv_qp_attr_mask as mask, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type,
};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// Attempts after the first, before the peer counts as gone. Not 7: Soft-RoCE takes that for no end at all.
const RETRIES: u8 = 6;
/// `rnr_retry` without an end: a peer without room for a message is slow, not gone.
const RETRIES_NOT_READY: u8 = 7;
/// `min_rnr_timer`: such a peer is asked again after 0.64 ms.
const NOT_READY_PAUSE: u8 = 12;
/// Hops that a routed packet may take.
const HOP_LIMIT: u8 = 64;
/// `timeout`: 4.096 µs × 2^n. At least 16.8 ms: an emulated machine takes milliseconds to answer.
const LEAST_ACK_TIMEOUT: u8 = 12;
const MOST_ACK_TIMEOUT: u8 = 21;

/// The `timeout` with which a peer that never answers is given up within half of `dead_after`, all attempts together.
/// Short, because a packet that is lost behind all others is sent again only after it; not shorter, because a peer
/// that pauses is not gone.
fn ack_timeout(dead_after: Duration) -> u8 {
    (LEAST_ACK_TIMEOUT..=MOST_ACK_TIMEOUT)
        .rev()
        .find(|n| all_attempts(*n) <= dead_after / 2)
        .unwrap_or(LEAST_ACK_TIMEOUT)
}

fn all_attempts(timeout: u8) -> Duration {
    Duration::from_nanos(4096 << timeout) * (u32::from(RETRIES) + 1)
}

/// When a peer that never answers is given up.
pub(super) fn given_up_after(dead_after: Duration) -> Duration {
    all_attempts(ack_timeout(dead_after))
}

/// What a queue pair is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// This node writes through it.
    Outgoing,
    /// The peer writes through it, and reads where the persistence mode needs it.
    Incoming { reads: bool },
}

/// How many requests may be posted and not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Depths {
    pub send: u32,
    pub receive: u32,
}

/// A queue pair.
pub(super) struct QueuePair {
    qp: NonNull<ibv_qp>,
    role: Role,
    pub(super) inline: bool,
    choice: Choice,
    pub ring: Arc<Registration>,
    pub slots: Registration,
    send_queue: Arc<CompletionQueue>,
    receive_queue: Arc<CompletionQueue>,
    _domain: Arc<ProtectionDomain>,
}

// SAFETY: libibverbs objects may be used from any thread.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

/// What a queue pair is made of.
pub(super) struct Parts<'a> {
    pub domain: &'a Arc<ProtectionDomain>,
    pub choice: &'a Choice,
    pub ring: &'a Arc<Registration>,
    pub slots: Registration,
    pub send_queue: &'a Arc<CompletionQueue>,
    pub receive_queue: &'a Arc<CompletionQueue>,
}

impl QueuePair {
    /// A queue pair that may be given receives, and connected.
    pub(super) fn new(role: Role, depths: Depths, parts: Parts<'_>) -> Result<QueuePair, LinkError> {
        let mut attributes = MaybeUninit::<ibv_qp_init_attr>::zeroed();
        // SAFETY: zeroed bytes are a valid value: null pointers and integers.
        let wanted = unsafe { attributes.assume_init_mut() };
        wanted.send_cq = parts.send_queue.pointer();
        wanted.recv_cq = parts.receive_queue.pointer();
        wanted.qp_type = ibv_qp_type::IBV_QPT_RC;
        wanted.cap.max_send_wr = depths.send;
        wanted.cap.max_recv_wr = depths.receive;
        wanted.cap.max_send_sge = 1;
        wanted.cap.max_recv_sge = 1;
        wanted.cap.max_inline_data = super::registration::SLOT_BYTES as u32;
        // SAFETY: domain and queues are alive and outlive the queue pair, which holds them.
        let qp = unsafe { ibv_create_qp(parts.domain.pointer(), wanted) };
        let what = "making an RDMA queue pair";
        let qp =
            NonNull::new(qp).ok_or_else(|| LinkError::Io { what, source: io::Error::last_os_error() })?;
        let pair = QueuePair {
            qp,
            role,
            inline: wanted.cap.max_inline_data >= super::registration::SLOT_BYTES as u32,
            choice: parts.choice.clone(),
            ring: Arc::clone(parts.ring),
            slots: parts.slots,
            send_queue: Arc::clone(parts.send_queue),
            receive_queue: Arc::clone(parts.receive_queue),
            _domain: Arc::clone(parts.domain),
        };
        pair.initialize().map_err(LinkError::os("preparing an RDMA queue pair"))?;
        Ok(pair)
    }

    pub(super) fn pointer(&self) -> *mut ibv_qp {
        self.qp.as_ptr()
    }

    /// How others address it.
    pub(super) fn number(&self) -> u32 {
        // SAFETY: the queue pair is alive.
        unsafe { (*self.pointer()).qp_num }
    }

    /// The port that it uses.
    pub(super) fn port(&self) -> u8 {
        self.choice.port.number
    }

    /// Where what was posted to send is reported.
    pub(super) fn send_queue(&self) -> &CompletionQueue {
        &self.send_queue
    }

    /// Where what the peer did is reported.
    pub(super) fn receive_queue(&self) -> &CompletionQueue {
        &self.receive_queue
    }

    fn modify(&self, flags: u32, change: impl FnOnce(&mut ibv_qp_attr)) -> Result<(), Errno> {
        let mut attributes = MaybeUninit::<ibv_qp_attr>::zeroed();
        // SAFETY: zeroed bytes are a valid value of this structure of integers.
        let attributes = unsafe { attributes.assume_init_mut() };
        change(attributes);
        // SAFETY: the queue pair is alive.
        match unsafe { ibv_modify_qp(self.pointer(), attributes, flags as i32) } {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }

    fn initialize(&self) -> Result<(), Errno> {
        let access = match self.role {
            Role::Outgoing => ibv_access_flags(0),
            Role::Incoming { reads } => peer_access(reads),
        };
        let flags =
            mask::IBV_QP_STATE | mask::IBV_QP_PKEY_INDEX | mask::IBV_QP_PORT | mask::IBV_QP_ACCESS_FLAGS;
        self.modify(flags.0, |attributes| {
            attributes.qp_state = ibv_qp_state::IBV_QPS_INIT;
            attributes.port_num = self.choice.port.number;
            attributes.qp_access_flags = access.0;
        })
    }

    /// Connects it with the peer's queue pair `number`. `psn`: where this side's packets start; `their_psn`: the
    /// peer's.
    pub(super) fn connect(
        &self,
        peer: &Endpoint,
        number: u32,
        psn: u32,
        their_psn: u32,
        link: &Terms,
    ) -> Result<(), LinkError> {
        let flags = mask::IBV_QP_STATE
            | mask::IBV_QP_AV
            | mask::IBV_QP_PATH_MTU
            | mask::IBV_QP_DEST_QPN
            | mask::IBV_QP_RQ_PSN
            | mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | mask::IBV_QP_MIN_RNR_TIMER;
        self.modify(flags.0, |attributes| {
            attributes.qp_state = ibv_qp_state::IBV_QPS_RTR;
            attributes.path_mtu = path_mtu(self.choice.port.mtu, peer.mtu);
            attributes.dest_qp_num = number;
            attributes.rq_psn = their_psn;
            attributes.max_dest_rd_atomic = link.reads_answered;
            attributes.min_rnr_timer = NOT_READY_PAUSE;
            attributes.ah_attr.dlid = peer.lid;
            attributes.ah_attr.port_num = self.choice.port.number;
            if self.choice.global {
                attributes.ah_attr.is_global = 1;
                attributes.ah_attr.grh.dgid.raw = peer.gid;
                attributes.ah_attr.grh.sgid_index = self.choice.gid.index;
                attributes.ah_attr.grh.hop_limit = HOP_LIMIT;
                attributes.ah_attr.grh.traffic_class = link.traffic_class;
            }
        })
        .map_err(LinkError::os(
            "connecting an RDMA queue pair (does the peer's GID belong to a network that this port reaches?)",
        ))?;
        let flags = mask::IBV_QP_STATE
            | mask::IBV_QP_TIMEOUT
            | mask::IBV_QP_RETRY_CNT
            | mask::IBV_QP_RNR_RETRY
            | mask::IBV_QP_SQ_PSN
            | mask::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(flags.0, |attributes| {
            attributes.qp_state = ibv_qp_state::IBV_QPS_RTS;
            attributes.timeout = ack_timeout(link.dead_after);
            attributes.retry_cnt = RETRIES;
            attributes.rnr_retry = RETRIES_NOT_READY;
            attributes.sq_psn = psn;
            attributes.max_rd_atomic = link.reads_asked;
        })
        .map_err(LinkError::os("starting an RDMA queue pair"))
    }

    /// Makes it do nothing more, in either direction: once this returned `Ok` nothing of the peer lands through it.
    pub(super) fn stop(&self) -> Result<(), Errno> {
        self.modify(mask::IBV_QP_STATE.0, |attributes| attributes.qp_state = ibv_qp_state::IBV_QPS_ERR)
    }
}

/// What holds for both queue pairs of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub reads_asked: u8,
    pub reads_answered: u8,
    pub traffic_class: u8,
    pub dead_after: Duration,
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: windows bound to it hold an `Arc` of it, so none is left; its completion queues and its memory
        // are fields, which are dropped afterwards.
        if unsafe { ibv_destroy_qp(self.pointer()) } != 0 {
            tracing::error!("an RDMA queue pair could not be given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All attempts together stay within the limit, and one is never shorter than a slow machine's answer.
    #[test]
    fn a_silent_peer_is_given_up_within_the_limit() {
        for (dead_after_ms, expected) in
            [(3000, 15), (1600, 14), (1000, 14), (900, 13), (100, 12), (3_600_000, 21)]
        {
            let dead_after = Duration::from_millis(dead_after_ms);
            assert_eq!(ack_timeout(dead_after), expected, "{dead_after_ms} ms");
            // The pair's own detection, by default a quarter of this, comes first.
            assert!(dead_after_ms > 10_000 || given_up_after(dead_after) > dead_after / 4);
        }
    }
}
