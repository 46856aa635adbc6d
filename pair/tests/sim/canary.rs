//! Planted bugs: the executor of the simulation or the model carries a command out wrongly. The machine itself
//! is never changed, so no switch for it exists in any build.

/// One bug.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Canary {
    /// `Revoke` is answered, but the other node can write on.
    TakeoverWithoutRevoke,
    /// Reads are answered after the lease has ended.
    LeaseIgnored,
    /// `TruncateLog` is answered, but the records stay.
    RejoinWithoutTruncation,
    /// `AwaitPeer` is answered at once.
    BarrierWaitSkipped,
    /// Under the rule `Both` an acknowledgement waits for this node only.
    AckBeforePeerDurable,
    /// A link that breaks is taken for the end of the other node's process: as if that had said `Goodbye`.
    BrokenLinkIsProof,
}

impl Canary {
    pub const ALL: [Canary; 6] = [
        Canary::TakeoverWithoutRevoke,
        Canary::LeaseIgnored,
        Canary::RejoinWithoutTruncation,
        Canary::BarrierWaitSkipped,
        Canary::AckBeforePeerDurable,
        Canary::BrokenLinkIsProof,
    ];
}
