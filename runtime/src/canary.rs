//! Bugs that a simulation must find: one of them at a time can be planted where the real code asks for it.
//!
//! Only a build with the feature `simulation` knows them; elsewhere `planted!` is `false` and nothing more. A
//! simulation lives on one thread, so several of them run beside each other.

use std::cell::Cell;

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Canary {
    /// The primary counts what it has sent as durable at the partner.
    AckBeforePeerDurable,
    /// A consistency point does not wait until its records are committed.
    ApplyBeforeCommit,
    /// A takeover leaves the primary's right to write into this log.
    TakeoverWithoutRevoke,
    /// Reads are answered without a lease.
    LeaseIgnored,
    /// A deposed primary keeps the records that nobody else has.
    RejoinWithoutTruncation,
    /// The cursor over a file's contents stops one byte early in a resync.
    ResyncCursorOffByOne,
    /// The log's tail moves before what was applied is flushed.
    TailBeforeFlush,
    /// A register that is older than the node's own epoch decides (planted in `pair`).
    OldRegisterBelieved,
    /// An fsync is answered before either device has what it is about.
    FsyncBeforeDurable,
}

impl Canary {
    /// Every one.
    pub const ALL: [Canary; 9] = [
        Canary::AckBeforePeerDurable,
        Canary::ApplyBeforeCommit,
        Canary::TakeoverWithoutRevoke,
        Canary::LeaseIgnored,
        Canary::RejoinWithoutTruncation,
        Canary::ResyncCursorOffByOne,
        Canary::TailBeforeFlush,
        Canary::OldRegisterBelieved,
        Canary::FsyncBeforeDurable,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Canary>> = const { Cell::new(None) };
}

/// From now on this thread's simulation has this bug and no other.
pub fn plant(canary: Option<Canary>) {
    PLANTED.set(canary);
}

/// Whether this bug is planted.
pub fn is_planted(canary: Canary) -> bool {
    PLANTED.get() == Some(canary)
}
