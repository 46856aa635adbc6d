//! What each side of a split volume holds and the other lacks, for the operator who has to choose.

use ids::{Lsn, NodeName};
use serde::{Deserialize, Serialize};

/// Both sides of a split.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SplitReport {
    /// The volume.
    pub volume: String,
    /// Up to here both logs are the same; `None`: they have nothing in common.
    pub common_end: Option<Lsn>,
    /// The node that was asked.
    pub here: SplitSide,
    /// Its partner, if it could be asked.
    pub there: Option<SplitSide>,
    /// Why it could not.
    pub there_error: Option<String>,
}

/// What one side changed since the common point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SplitSide {
    /// The node.
    pub node: NodeName,
    /// It serves clients.
    pub serves: bool,
    /// Objects that it changed or made.
    pub changed_objects: u64,
    /// Length of the files among them.
    pub changed_bytes: u64,
    /// The first of them, by path.
    pub changed: Vec<ChangedObject>,
    /// Names that it removed, as far as its log still tells; at most as many as were asked for.
    pub removed: Vec<String>,
    /// How many those are.
    pub removed_names: u64,
}

/// One object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangedObject {
    /// Where it is, from the volume's root; one of its names.
    pub path: String,
    /// What it is.
    pub kind: String,
    /// Length of a file in bytes.
    pub size_bytes: u64,
}
