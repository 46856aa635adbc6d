//! Why a receiver's session ended: told in status, and the next one begins after a while.

use super::wire::WireError;
use crate::split::salvage::SalvageError;
use admin_api::status::bytes;
use apply_engine::TreeError;
use apply_engine::resync::ResyncError;
use std::time::Duration;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    /// The link is gone, or this node stops.
    #[error("the link to the primary ended")]
    Ended,
    /// No answer.
    #[error("the primary did not answer within {0:?}")]
    Silent(Duration),
    /// The source cannot go on.
    #[error("{0}")]
    Refused(String),
    /// Damaged, or not what was asked for.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It answers something else.
    #[error("the primary answered something else than was asked; run the same program on both nodes")]
    Answer,
    /// This node's tree.
    #[error(transparent)]
    Tree(#[from] ResyncError),
    /// This node's disk.
    #[error(transparent)]
    Disk(#[from] TreeError),
    /// It has not enough room.
    #[error(
        "the primary's tree needs {} and {new_objects} objects more here than there are, and {} and {free_inodes} \
         inodes are free: make room in the base filesystem, then it goes on by itself",
        bytes(*.needed_bytes), bytes(*.free_bytes)
    )]
    Space {
        /// Content.
        needed_bytes: u64,
        /// Objects that this node does not have.
        new_objects: u64,
        /// Room.
        free_bytes: u64,
        /// Likewise; `u64::MAX` where inodes are made on demand.
        free_inodes: u64,
    },
    /// What only this node holds could not be kept aside.
    #[error(transparent)]
    Salvage(#[from] SalvageError),
    /// The pair's state has changed meanwhile.
    #[error("the tree may not be replaced any more: this node's role has changed")]
    NotNow,
    /// This node's log.
    #[error("this node's log could not begin anew: {0}")]
    Log(String),
    /// After all that.
    #[error(
        "{ours} objects with other labels than the primary's {theirs}: everything is compared by content"
    )]
    Differs {
        /// Here.
        ours: u64,
        /// There.
        theirs: u64,
    },
}
