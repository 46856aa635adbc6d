//! What a node must remember about its role over a restart: [`DurableState`], kept in the log superblock's
//! opaque `role_state`; and [`LogSummary`], what its log is worth.
//!
//! Invariant: the state is stored *before* the act that depends on it (`solo` before the first
//! acknowledgement without the partner; `in_sync` before the witness says mirrored). What can go wrong: a
//! state of a newer version, or bytes that are none; both are refused, nothing is guessed.

use crate::witness::Register;
use ids::{AnswerFrom, BaseLimits, Durability, Epoch, EpochHistory, LogPoint, Lsn, VolumeId};
use serde::{Deserialize, Serialize};

/// Longest encoding of a [`DurableState`].
pub const MAX_STATE_BYTES: usize = 1024;
const STATE_VERSION: u8 = 6;
/// The same without the last field.
const STATE_VERSION_WITHOUT_MEMORY: u8 = 5;
/// The same without the last two.
const STATE_VERSION_WITHOUT_LIMITS: u8 = 4;
/// The same without the last three.
const STATE_VERSION_WITHOUT_DIFFERS: u8 = 3;
/// The same without the last four.
const STATE_VERSION_WITHOUT_COMPARE: u8 = 2;
/// The same without the last five.
const STATE_VERSION_WITHOUT_RESYNC: u8 = 1;

/// What the role machine keeps over a restart.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct DurableState {
    /// The highest epoch this node has heard of; what it opens next lies above.
    pub epoch_seen: Epoch,
    /// The register's value as last known (with no witness: as the two nodes last agreed).
    pub register: Option<Register>,
    /// This log held every acknowledged record when the pair was last mirrored, and has not been lost since.
    /// Necessary to claim an epoch, not sufficient: the register must agree.
    pub in_sync: bool,
    /// While set, records may have been acknowledged that only this log holds (since this epoch).
    pub solo: Option<Epoch>,
    /// The base tree was empty when the log was at LSN 0: a blank partner can be filled from the log alone.
    /// `None` until the first start.
    pub origin_empty: Option<bool>,
    /// The operator gave up this node's side after a split, or its log was lost: it waits for a resync.
    pub discarded: bool,
    /// The base tree is being replaced by the primary's: until it is whole it belongs to no point of any log.
    pub resync: bool,
    /// The operator wants everything in this node's tree compared with the primary's by content, whatever the labels
    /// say; until that is done it follows nobody.
    pub compare_all: bool,
    /// The base tree is known to differ from the partner's: as a partner this node takes over by itself no more.
    pub tree_differs: bool,
    /// What clients of the volume were granted last: what both bases hold, or this one before the partner was known.
    pub granted: Option<BaseLimits>,
    /// This log acknowledges out of memory: after a restart it may lack the last of what it acknowledged. Then `in_sync`
    /// lets it claim only beside a partner that does not hold more.
    pub from_memory: bool,
}

/// Bytes that are no usable [`DurableState`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// Written by a newer program.
    #[error("role state has version {0}, this program knows up to {STATE_VERSION}; run the newer program")]
    Version(u8),
    /// Not decodable.
    #[error("role state in the log superblock is damaged ({0}); inspect the log, then resync this node")]
    Damaged(String),
}

impl DurableState {
    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![STATE_VERSION];
        bytes.extend(postcard::to_stdvec(self).expect("plain data always encodes"));
        assert!(bytes.len() <= MAX_STATE_BYTES, "names are at most 63 bytes, so the state is small");
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote; no bytes at all mean a freshly formatted log.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn decode(bytes: &[u8]) -> Result<DurableState, StateError> {
        match bytes.split_first() {
            None => Ok(DurableState::default()),
            Some((&STATE_VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| StateError::Damaged(error.to_string()))
            }
            Some((
                &version @ (STATE_VERSION_WITHOUT_RESYNC
                | STATE_VERSION_WITHOUT_COMPARE
                | STATE_VERSION_WITHOUT_DIFFERS
                | STATE_VERSION_WITHOUT_LIMITS
                | STATE_VERSION_WITHOUT_MEMORY),
                rest,
            )) => {
                // What an older program did not know was not so: a false, or nothing, for each missing field.
                let mut bytes = rest.to_vec();
                bytes.extend(vec![u8::from(false); usize::from(STATE_VERSION - version)]);
                postcard::from_bytes(&bytes).map_err(|error| StateError::Damaged(error.to_string()))
            }
            Some((&version, _)) => Err(StateError::Version(version)),
        }
    }
}

impl LogSummary {
    /// How far it goes: who goes further holds more.
    pub(crate) fn reach(&self) -> (Option<Epoch>, Lsn) {
        (self.history.last().map(|last| last.epoch), self.end.lsn)
    }
}

/// What a node's log is and holds, at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LogSummary {
    /// The volume it belongs to.
    pub volume: VolumeId,
    /// Length of the ring; both nodes' must be the same.
    pub capacity_bytes: u64,
    /// Where recovery would begin.
    pub tail: LogPoint,
    /// Where the log ends: everything before it continues the chain and is durable.
    pub end: LogPoint,
    /// What is certainly committed. After a restart that is the tail.
    pub committed: Lsn,
    /// Which epoch wrote which part.
    pub history: EpochHistory,
    /// False when the log was lost or may be (volatile memory and another boot id) since it was last open, or when the
    /// base tree is not the one that the log goes with.
    pub survived: bool,
    /// What this log survives.
    pub durability: Durability,
    /// What answers shall wait for, as this node is configured; the stronger of both nodes' counts.
    pub answer_from: AnswerFrom,
    /// Nothing but the root directory is in the base tree and nothing was ever applied to it.
    pub base_empty: bool,
}
