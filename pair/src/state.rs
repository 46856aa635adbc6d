//! The finer states of the machine. The diagram is in [`crate::machine`].

use crate::witness::Register;
use crate::{FailedPart, Hello, Lease, LinkId, MonoMs, Refusal, ResyncReason, Split, Vitals};
use ids::{AckRule, Epoch, LogPoint, Lsn};

/// What a node is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Role {
    Waiting(Waiting),
    Partner(Partner),
    Claiming(Claiming),
    Opening(Opening),
    Primary(Primary),
    Failed(FailedPart, String),
    Stopped,
}

/// Why a node that neither serves nor follows came to that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Why {
    Starting,
    Outdated,
    Deposed,
    /// Lost its primary and may not claim (no witness).
    Frozen,
    /// Handed over to the partner.
    HandedOver,
}

/// Looks for a primary to follow, or for the right to claim.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Waiting {
    pub why: Why,
    /// When a lost or slow primary is given up.
    pub patience: MonoMs,
    /// The next attempt to join comes no earlier.
    pub join_not_before: MonoMs,
    /// Repeated until the partner shows that it took over.
    pub handed: Option<Handed>,
}

/// What a switchover gave to the partner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Handed {
    pub from: Epoch,
    pub epoch: Epoch,
    pub end: LogPoint,
}

/// Follows a primary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Partner {
    pub epoch: Epoch,
    pub link: LinkId,
    pub stage: PartnerStage,
    /// When the primary's last heartbeat came.
    pub heard: MonoMs,
    /// When the link broke, if it did: the primary's process may have ended, or makes another link soon.
    pub broken: Option<MonoMs>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum PartnerStage {
    /// The log is being cut where it parts from the primary's.
    Truncating,
    /// `Join` was sent, last at.
    Joining { sent: MonoMs, at: LogPoint },
    /// The primary mirrors to here.
    Following { mirrored: bool },
}

/// Has revoked, or is revoking, the primary's right to write, and wants the next epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Claiming {
    pub stage: ClaimStage,
    pub forced: bool,
    /// Both nodes agreed that this one begins: the register may be created.
    pub formed: bool,
    /// This node had given the volume away, and takes it back.
    pub given_away: bool,
    pub clock: TakeoverClock,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ClaimStage {
    /// Waits for `Revoked`; then either the lease or, in a switchover, the epoch that was handed over.
    Revoking { handed: Option<Handed> },
    /// Waits for the end of the lease that this node granted.
    LeaseWait,
    /// Asks the witness, again and again.
    Asking,
}

/// The moments that a takeover is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct TakeoverClock {
    pub silent_since: MonoMs,
    pub detected: MonoMs,
    pub fenced: MonoMs,
    pub lease_over: MonoMs,
    pub granted: MonoMs,
}

/// The epoch is this node's; its first record is being written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Opening {
    pub epoch: Epoch,
    /// Serve alone, or frozen until the partner has joined?
    pub solo: bool,
    /// `Some` when it came from a takeover.
    pub clock: Option<TakeoverClock>,
}

/// Serves its epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Primary {
    pub epoch: Epoch,
    pub mode: PrimaryMode,
    /// A partner that is catching up (solo and frozen only).
    pub catch: Option<Catching>,
    /// When the partner last promised to respect the lease.
    pub answered: MonoMs,
    /// The lease those promises make.
    pub lease_until: MonoMs,
    /// How long each of them is: the shorter of what both nodes are configured with, as far as it was told.
    pub lease_ms: u64,
    /// No switchover for a local fault before.
    pub fault_retry: MonoMs,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum PrimaryMode {
    /// Acknowledges alone.
    Solo,
    /// Acknowledgements wait for both; not yet mirrored. `alone_ok`: it came from solo and no swap to mirrored
    /// was asked yet, so it may fall back to solo.
    /// `from`: what the partner had acknowledged when it began.
    Barrier { link: LinkId, stage: BarrierStage, since: MonoMs, from: Lsn, alone_ok: bool },
    /// Both logs hold everything acknowledged.
    Mirrored { link: LinkId },
    /// Acknowledges nothing. Asks the witness from `claim_at` on.
    Frozen { claim_at: MonoMs, since: MonoMs },
    /// A switchover, or the end of the process, is under way.
    HandingOver { link: LinkId, stage: HandOverStage, asked: AskedBy },
    /// Solo, and stopping: waits for what is in flight.
    DrainingToStop,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum BarrierStage {
    AwaitRule,
    AwaitPeer { lsn: Lsn },
    AwaitMark,
    Swapping,
}

/// Whose order a hand-over is, and so who may withdraw it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum AskedBy {
    /// An operator of this node, a fault of it, or its end.
    This,
    /// An operator of the partner.
    Partner,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum HandOverStage {
    Draining {
        since: MonoMs,
    },
    /// The witness is asked. `withdrawn`: no more than it takes to know that this was not granted.
    Swapping {
        end: LogPoint,
        withdrawn: bool,
    },
}

/// A partner on its way to the barrier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Catching {
    pub link: LinkId,
    pub at: LogPoint,
    /// The point was checked and the log flows.
    pub mirroring: bool,
    /// No barrier before.
    pub barrier_not_before: MonoMs,
    pub since: MonoMs,
}

/// The link and what the partner said over it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct LinkState {
    pub id: LinkId,
    /// The newest `Hello`, checked.
    pub hello: Option<Hello>,
}

/// What the commands given so far have brought about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Effects {
    pub rule: AckRule,
    pub lease: Lease,
    pub granted: Option<LinkId>,
    pub serving: bool,
    pub mirroring: Option<LinkId>,
    pub hold: bool,
    /// `SetAckRule` not answered yet: an answer counts only when it is the last.
    pub rules_pending: u32,
    pub revokes_pending: u32,
    pub draining: bool,
}

/// What an operator should know.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Reports {
    pub refusal: Option<Refusal>,
    /// When it was told.
    pub refused: MonoMs,
    pub needs_resync: Option<ResyncReason>,
    pub split: Option<Split>,
    pub peer_vitals: Option<Vitals>,
    pub peer_heard: Option<MonoMs>,
}

/// What is known of the register.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Known {
    Nothing,
    Absent,
    /// Older than what this node knows to have been granted, so the witness has forgotten that: it decides as little as
    /// one that is absent. Only [`Pair::known`](crate::Pair::known) says so, never the desk.
    Stale(Register),
    Is(Register),
}

/// A partner that stalled is followed by its log for a while before clients wait for it again, longer each time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Distrust {
    /// Until when.
    pub until: MonoMs,
    /// How often it stalled, one soon after the other.
    pub stalls: u32,
    /// It stalled while it caught up with a primary that serves alone: for a while it may not even join, for the log keeps
    /// what it misses, and stops clients when that fills it.
    pub shut: bool,
}
