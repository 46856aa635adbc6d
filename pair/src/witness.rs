//! The witness's register and the two questions that can be asked about it.
//!
//! The register is one value per volume. It changes only by compare-and-swap on the whole value, and each swap
//! raises `generation`, so a swap that was delayed in the network cannot succeed once anything has changed.
//! Whoever keeps it must make a swap durable before answering; nothing else is asked of it (etcd will do).

use ids::{Epoch, NodeName, VolumeId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Does the primary acknowledge alone?
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Both logs hold every acknowledged record: either node may claim the next epoch.
    Mirrored,
    /// Only the primary's log does: only the primary may.
    Solo,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Mirrored => "mirrored",
            Mode::Solo => "solo",
        })
    }
}

/// The value of one volume's register.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Register {
    /// The volume.
    pub volume: VolumeId,
    /// The newest epoch that was given to a node.
    pub epoch: Epoch,
    /// That node.
    pub primary: NodeName,
    /// Whether the other node's log is as good.
    pub mode: Mode,
    /// Number of swaps so far, this one included; the first has 1. Set by the asker as expected + 1.
    pub generation: u64,
}

impl Register {
    /// Same meaning, whatever the generation?
    pub fn says_the_same_as(&self, other: &Register) -> bool {
        (self.volume, self.epoch, &self.primary, self.mode)
            == (other.volume, other.epoch, &other.primary, other.mode)
    }

    /// May another node than this one acknowledge alone?
    pub fn is_alone_beside(&self, node: &NodeName) -> bool {
        self.mode == Mode::Solo && self.primary != *node
    }
}

/// A question for the witness.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// What does the register say?
    Read {
        /// Whose register.
        volume: VolumeId,
    },
    /// Change the register if it still has the expected value.
    CompareAndSwap {
        /// The whole expected value; `None`: no register exists yet.
        expected: Option<Register>,
        /// The new value.
        new: Register,
    },
}

impl Request {
    /// The volume it is about.
    pub fn volume(&self) -> VolumeId {
        match self {
            Request::Read { volume } => *volume,
            Request::CompareAndSwap { new, .. } => new.volume,
        }
    }
}

/// The witness's answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The register's value, durable.
    Is {
        /// `None`: no register exists yet.
        register: Option<Register>,
    },
    /// The swap happened and is durable.
    Swapped {
        /// The new value.
        register: Register,
    },
    /// The swap did not happen: the register has another value.
    Conflict {
        /// The value it has.
        register: Option<Register>,
    },
    /// The request breaks a rule (volumes differ, generation is not expected + 1, epoch goes back).
    Refused {
        /// Which.
        reason: String,
    },
}

/// What became of one request, as the runtime tells the pair.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum WitnessOutcome {
    /// Answer to `Read`.
    Is(Option<Register>),
    /// The swap happened.
    Swapped(Register),
    /// The swap did not happen; the value there is.
    Conflict(Option<Register>),
    /// No answer (also: an answer that makes no sense, or `Refused`).
    Unreachable {
        /// False only when it is certain that the request never left this node (connection refused, no
        /// route). When in doubt: true.
        maybe_applied: bool,
    },
}

/// What the register becomes, if the request is granted; the rule every keeper of the register follows.
///
/// # Errors
/// The answer to give instead of a change.
pub fn swap(
    current: Option<&Register>,
    expected: Option<&Register>,
    new: &Register,
) -> Result<Register, Answer> {
    let refused = |reason: &str| Err(Answer::Refused { reason: reason.to_owned() });
    if current != expected {
        return Err(Answer::Conflict { register: current.cloned() });
    }
    if expected.is_some_and(|register| register.volume != new.volume) {
        return refused("expected and new value name different volumes");
    }
    if new.generation != expected.map_or(1, |register| register.generation.saturating_add(1)) {
        return refused("the new generation must be the expected one + 1");
    }
    if expected.is_some_and(|register| new.epoch < register.epoch) {
        return refused("the epoch must not go back");
    }
    Ok(new.clone())
}
