//! What is wrong with a volume, as a kind for machines and in words for people.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)*) => {
        /// What sort of thing is wrong: a label of the metric `fault`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        pub enum FaultKind {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $kind,)*
            /// Told by a program of another version.
            #[default]
            #[serde(other, rename = "other")]
            Other,
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &[FaultKind] = &[$(FaultKind::$kind,)* FaultKind::Other];

            /// As metrics name it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(FaultKind::$kind => $name,)*
                    FaultKind::Other => "other",
                }
            }
        }
    };
}

kinds! {
    /// Both nodes acknowledged what the other one lacks.
    Split = "split",
    /// Nothing is acknowledged, because nobody grants the right to go on alone.
    Frozen = "frozen",
    /// Nobody is known to serve the volume.
    NotServed = "not-served",
    /// The log's memory or device failed.
    LogFailed = "log-failed",
    /// A write to the log's device has not come back.
    LogHangs = "log-hangs",
    /// A node cannot go on for another reason; its log is whole.
    NodeFailed = "node-failed",
    /// The nodes do not go together.
    PartnerRefused = "partner-refused",
    /// The partner has been away for a while.
    Alone = "alone",
    /// The witness has been away for a while.
    NoWitness = "no-witness",
    /// Clients get ENOSPC.
    VolumeFull = "volume-full",
    /// A hook of the present role failed.
    Hook = "hook",
    /// The floating address could not be taken, given up, or announced.
    FloatingAddress = "floating-address",
    /// One of the two copies of the log's superblock was damaged.
    LogCopyDamaged = "log-copy-damaged",
    /// The log and the tree of a node do not go together.
    LogAndTreeDiffer = "log-and-tree-differ",
    /// What is in the log cannot be followed.
    LogUnreadable = "log-unreadable",
    /// What the primary wrote does not continue the log.
    WrongBytes = "wrong-bytes",
    /// Applying to the base filesystem fails.
    BaseFailed = "base-failed",
    /// Applying to the base filesystem hangs or is much slower than at the partner.
    BaseSlow = "base-slow",
    /// Reading the base filesystem fails or hangs.
    BaseUnreadable = "base-unreadable",
    /// The base filesystem does not hold everything; the rest is kept beside it.
    BaseRefuses = "base-refuses",
    /// The base filesystem holds less than it did when clients were promised what it holds.
    BaseHoldsLess = "base-holds-less",
    /// The index of the base tree was damaged or cannot be rebuilt.
    BaseIndex = "base-index",
    /// The base filesystem does not tell how much room it has.
    SpaceUnknown = "space-unknown",
    /// The trees of both nodes are known to differ.
    TreesDiffer = "trees-differ",
    /// A node does not get the primary's tree.
    ResyncFails = "resync-fails",
    /// `answer` is not configured alike on both nodes: the stronger counts.
    AnswerDiffers = "answer-differs",
    /// Nor are the timers: the shorter lease counts.
    TimersDiffer = "timers-differ",
    /// The volume cannot be mounted, or its mount went away.
    Mount = "mount",
    /// The RDMA device fails.
    RdmaDevice = "rdma-device",
    /// A thread could not be started.
    NoThread = "no-thread",
    /// The witness tells a register that is older than what was granted.
    WitnessRolledBack = "witness-rolled-back",
}

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// What sort of thing.
    #[serde(default)]
    pub kind: FaultKind,
    /// Since when.
    pub since_unix_ms: u64,
    /// What.
    pub what: String,
    /// What to do.
    pub remedy: String,
}
