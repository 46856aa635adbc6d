//! The lines that travel over the control socket.

use crate::status::{ConsistencyPointStatus, NodeStatus, SplitReport};
use serde::{Deserialize, Serialize};

/// Longest request line.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// Longest answer line.
pub const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// A command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Tell about the node.
    Status,
    /// Hand a volume to the partner.
    Switchover {
        /// The volume's name.
        volume: String,
        /// Longest wait.
        timeout_ms: u64,
    },
    /// Become primary of a volume.
    Takeover {
        /// The volume's name.
        volume: String,
        /// Without the witness's consent.
        force: bool,
    },
    /// Bring the local tree up to date now.
    ConsistencyPoint {
        /// The volume's name.
        volume: String,
    },
    /// Compare this node's whole tree with the primary's, and replace what differs.
    Resync {
        /// The volume's name.
        volume: String,
    },
    /// Tell what each side of a split changed.
    SplitShow {
        /// The volume's name.
        volume: String,
        /// Objects and removed names of each side that are told at most.
        rows: u32,
    },
    /// Give one side of a split up.
    SplitDiscard {
        /// The volume's name.
        volume: String,
        /// This node's side; else the partner's.
        here: bool,
    },
    /// Begin to compare both base trees of a volume.
    Verify {
        /// The volume's name.
        volume: String,
        /// Give the partner what differs.
        repair: bool,
        /// Bytes per second that each side reads at most.
        max_rate_bytes: Option<u64>,
    },
    /// Stop the daemon cleanly, as SIGTERM does.
    Shutdown,
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `Status`.
    Status(Box<NodeStatus>),
    /// To `SplitShow`.
    Split(Box<SplitReport>),
    /// To `ConsistencyPoint`.
    ConsistencyPoint(ConsistencyPointStatus),
    /// To `Verify`: the number of the comparison that began, as its result in the status carries it.
    VerifyBegan(u64),
    /// The command was carried out.
    Done,
    /// It was not.
    Error(ControlError),
}

/// Why a command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// The sort of failure, for exit codes.
    pub kind: ErrorKind,
    /// What happened and what to do, for people.
    pub message: String,
}

/// Sorts of failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request was not understood.
    BadRequest,
    /// The caller is neither root nor the daemon's user.
    NotAllowed,
    /// The node has no such volume.
    UnknownVolume,
    /// The state of the pair does not allow it.
    Refused,
    /// It took too long; nothing changed for clients.
    TimedOut,
    /// It was tried and failed.
    Failed,
    /// Too many connections: try again.
    Busy,
}

impl ControlError {
    /// A failure of sort `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> ControlError {
        ControlError { kind, message: message.into() }
    }

    /// No volume is called `volume`; `known` are those of the node.
    pub fn unknown_volume(volume: &str, known: &[&str]) -> ControlError {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        ControlError::new(
            ErrorKind::UnknownVolume,
            format!("no volume {volume:?} on this node (it has: {known})"),
        )
    }
}
