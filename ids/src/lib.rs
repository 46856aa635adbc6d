//! The vocabulary that every Twinfiler crate shares: identifiers, log positions, and the cursors of one
//! volume with the order that must hold between them.
//!
//! Nothing here does I/O. A number that means something has its own type, so that an epoch cannot be passed
//! where a log position is wanted.

mod cursors;
mod limits;
mod memory;
mod names;
mod position;

pub use cursors::{AckRule, AnswerFrom, CursorError, Cursors};
pub use limits::{BaseLimits, XattrRoom};
pub use memory::LogMemory;
pub use names::{NameError, NodeName, VolumeId};
pub use position::{
    ChainCrc, Epoch, EpochHistory, EpochStart, HistoryError, LogPoint, Lsn, RECORD_ALIGN_BYTES,
};

use serde::{Deserialize, Serialize};
use std::fmt;

/// The identity of an object (file, directory, symlink, device, FIFO, socket) of one volume.
///
/// Given by the primary when the creating record is written, the same on both nodes, never used twice.
/// Inode numbers that clients see are OIDs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Oid(pub u64);

impl Oid {
    /// The root directory of every volume.
    pub const ROOT: Oid = Oid(1);
    /// The first OID that a new volume gives to an object.
    pub const FIRST_FREE: Oid = Oid(16);
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oid:{}", self.0)
    }
}

/// What an acknowledgement survives on one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The loss of other nodes: memory of a process, on its way to a log.
    Memory,
    /// The death of the process, not of the machine: memory that outlives the process (tmpfs, memfd).
    Process,
    /// The loss of power.
    Power,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Memory => "memory",
            Durability::Process => "process",
            Durability::Power => "power",
        })
    }
}
