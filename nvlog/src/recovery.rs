//! Recovery (being filled in).
use ids::LogPoint;
/// Why the walk ended where it did.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CutReason {
    /// The ring is full: the walk came round to the tail.
    RingFull,
    /// No record was ever written here.
    NoRecord,
    /// A record of an earlier lap of the ring.
    EarlierLap,
    /// A record that belongs elsewhere.
    OtherLsn,
    /// The header is torn, damaged, or follows another record.
    ChainBroken,
    /// The payload is torn or damaged.
    PayloadBroken,
    /// The length is impossible.
    ImpossibleLength,
    /// The epoch is lower than that of the record before.
    EpochWentBack,
    /// A record kind or version of a newer program.
    NewerProgram,
}
impl std::fmt::Display for CutReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{self:?}") }
}
/// State of the superblock copies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SuperblockHealth {
    /// Both fine.
    BothValid,
    /// One bad; healed by the next write.
    OneBad { /// Which copy (0 or 1).
        copy: usize, /// What is wrong with it.
        why: String },
}
/// What opening found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveryReport {
    /// Where the walk began.
    pub tail: LogPoint,
    /// End of the recovered prefix.
    pub end: LogPoint,
    /// Records in it.
    pub records: u64,
    /// Why it ends there.
    pub cut: CutReason,
    /// Headers beyond the cut that were invalidated.
    pub scrubbed: u64,
    /// State of the superblock.
    pub superblock: SuperblockHealth,
    /// The memory did not survive: acknowledged records may be missing; never take over by itself.
    pub memory_lost: bool,
}
