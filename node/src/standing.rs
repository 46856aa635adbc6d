//! States of the volume in which somebody must act, as faults: told once, with what to do, and taken back when over.
//!
//! They are read from what the node knows anyway, at each heartbeat; nothing reports them by itself. A state that passes
//! (a takeover freezes for a moment, a volume is nearly full until a consistency point shows what it really took) has to
//! last for its [`Standing::patience`] first.
//!
//! Invariant: a fault of each kind stands while its state does, and no longer. What can go wrong: nothing of its own.

use super::shared::{SCARCE, Shared};
use super::verify;
use admin_api::status::{FaultKind, Mode, Role};
use commit::{Journal, Needs, SpaceBudget};
use pair::{FailedPart, PairStatus};
use runtime::Instant;
use std::time::Duration;

/// A moment of a takeover, or of a partner that starts again, is no fault.
const PASSING: Duration = Duration::from_secs(3);
/// For how long a node may look for its partner when both start.
const STARTING: Duration = Duration::from_secs(10);
/// For how long a partner or a witness may be away: long enough for a restart.
const RESTARTING: Duration = Duration::from_secs(60);

/// Whose disk is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    Ours,
    Partner,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Standing {
    Split,
    Frozen {
        has_witness: bool,
    },
    Waiting {
        detail: String,
    },
    /// Clients wait for what becomes of a hand-over.
    HandingOver {
        detail: String,
    },
    ResyncFails {
        why: String,
    },
    Failed {
        part: FailedPart,
        detail: String,
    },
    Refused {
        why: String,
    },
    Alone,
    NoWitness,
    Full(Whose),
    Hook {
        hook: String,
        outcome: String,
    },
    Address {
        address: String,
        error: String,
    },
}

impl Standing {
    fn kind(&self) -> FaultKind {
        match self {
            Standing::Split => FaultKind::Split,
            Standing::Frozen { .. } | Standing::HandingOver { .. } => FaultKind::Frozen,
            Standing::ResyncFails { .. } => FaultKind::ResyncFails,
            Standing::Waiting { .. } => FaultKind::NotServed,
            Standing::Failed { part: FailedPart::Log, .. } => FaultKind::LogFailed,
            Standing::Failed { .. } => FaultKind::NodeFailed,
            Standing::Refused { .. } => FaultKind::PartnerRefused,
            Standing::Alone => FaultKind::Alone,
            Standing::NoWitness => FaultKind::NoWitness,
            Standing::Full(_) => FaultKind::VolumeFull,
            Standing::Hook { .. } => FaultKind::Hook,
            Standing::Address { .. } => FaultKind::FloatingAddress,
        }
    }

    /// How long it has to last.
    fn patience(&self) -> Duration {
        match self {
            Standing::Split
            | Standing::Failed { .. }
            | Standing::Refused { .. }
            | Standing::ResyncFails { .. }
            | Standing::Hook { .. }
            | Standing::Address { .. } => Duration::ZERO,
            Standing::Frozen { .. } | Standing::Full(_) => PASSING,
            Standing::Waiting { .. } | Standing::HandingOver { .. } => STARTING,
            Standing::Alone | Standing::NoWitness => RESTARTING,
        }
    }

    fn what(&self) -> String {
        match self {
            Standing::Split => {
                "the volume is split: each node acknowledged what the other one lacks".to_owned()
            }
            Standing::Frozen { .. } => {
                "the volume is frozen: the partner is lost, and nobody grants the right to go on alone"
                    .to_owned()
            }
            Standing::HandingOver { detail } => format!("a hand-over does not come to its end: {detail}"),
            Standing::ResyncFails { why } => {
                format!("this node does not get the primary's tree: {why}; it is tried again")
            }
            Standing::Waiting { detail } if detail.is_empty() => "the volume is not served".to_owned(),
            Standing::Waiting { detail } => {
                format!("the volume is not served, as far as this node knows: {detail}")
            }
            Standing::Failed { part: FailedPart::Log, detail } => format!("the log failed: {detail}"),
            Standing::Failed { detail, .. } => format!("this node failed: {detail}"),
            Standing::Refused { why } => format!("the partner is refused: {why}"),
            Standing::Alone => {
                "the partner is away, or has not caught up: what is answered is on this node only".to_owned()
            }
            Standing::NoWitness => {
                "the witness does not answer: the next loss of a node stops the volume".to_owned()
            }
            Standing::Full(Whose::Ours) => {
                "the base filesystem of this node is full: clients get ENOSPC".to_owned()
            }
            Standing::Full(Whose::Partner) => {
                "the base filesystem of the partner is full: clients get ENOSPC".to_owned()
            }
            Standing::Hook { hook, outcome } => format!("the hook {hook} failed: {outcome}"),
            Standing::Address { address, error } => {
                format!("the floating address {address}: {error}")
            }
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Standing::Split => {
                "look at both sides with `twinfiler split show VOLUME`, then give one up with `twinfiler split discard NODE`"
            }
            Standing::Frozen { has_witness: true } => {
                "bring the partner or the witness back; if the partner is certainly dead, `twinfiler takeover VOLUME --force`"
            }
            Standing::Frozen { has_witness: false } => {
                "bring the partner back; if it is certainly dead, `twinfiler takeover VOLUME --force`. A witness decides this by itself"
            }
            Standing::Waiting { .. } => {
                "bring the other node, its link and the witness back; see `twinfiler status` there too, and both daemons' logs for why \
                 there is no link"
            }
            Standing::Failed { part: FailedPart::Log, .. } => {
                "end this node, repair the log's device, make the log anew if it is lost, start it: it catches up"
            }
            Standing::Failed { part: FailedPart::Fence, .. } => {
                "end the other node for certain (its power), then restart this one. Keep the log: what was answered is in it"
            }
            Standing::Failed { part: FailedPart::Process, .. } => {
                "restart this node; its log of events says more. Keep the log: what was answered is in it"
            }
            Standing::HandingOver { .. } => "bring the witness back: its answer decides who serves",
            Standing::ResyncFails { .. } => {
                "mend what it says here or on the primary; until then this node cannot take over"
            }
            Standing::Refused { .. } => "make both nodes agree, then restart the one that was changed",
            Standing::Alone => {
                "bring the partner and the link to it back; it catches up by itself. `twinfiler status` there says what hinders \
                 one that is linked"
            }
            Standing::NoWitness => "bring the witness back; see why it is not reached in this node's log",
            Standing::Full(Whose::Ours) => {
                "remove files from the volume and salvages that nobody needs (`.twinfiler/salvage`), take other people's files off the \
                 filesystem, or enlarge it"
            }
            Standing::Full(Whose::Partner) => {
                "remove files from the volume, take other people's files off the partner's filesystem, or enlarge it"
            }
            Standing::Hook { .. } => {
                "mend the command and run it by hand as this role wants it; it runs by itself at the next change of roles only"
            }
            Standing::Address { .. } => {
                "check the interface, `ip address`, and who else changes it (a network manager); it is looked at, and tried again, every \
                 five seconds"
            }
        }
    }
}

/// What stands now, in this order.
fn now(shared: &Shared, pair: &PairStatus) -> Vec<Standing> {
    let mut standing = Vec::new();
    if pair.split.is_some() {
        standing.push(Standing::Split);
    }
    match pair.mode {
        Mode::Failed => {
            let part = pair.failed.unwrap_or(FailedPart::Log);
            standing.push(Standing::Failed { part, detail: pair.detail.clone() });
        }
        Mode::Frozen => {
            standing.push(Standing::Frozen { has_witness: pair.witness_reachable.is_some() });
        }
        Mode::NeedsResync if let Some(why) = shared.resync.failure() => {
            standing.push(Standing::ResyncFails { why });
        }
        Mode::Starting
        | Mode::Outdated
        | Mode::Deposed
        | Mode::NeedsResync
        | Mode::TakingOver
        | Mode::HandingOver
            if pair.role == Role::None && !shared.resync.is_under_way() =>
        {
            standing.push(Standing::Waiting { detail: pair.detail.clone() });
        }
        Mode::HandingOver if pair.role == Role::Primary => {
            standing.push(Standing::HandingOver { detail: pair.detail.clone() });
        }
        Mode::Solo | Mode::CatchingUp if pair.role == Role::Primary && !shared.resync.is_under_way() => {
            standing.push(Standing::Alone);
        }
        _ => {}
    }
    if let Some(refusal) = &pair.refusal {
        standing.push(Standing::Refused { why: refusal.to_string() });
    }
    let serves = pair.role == Role::Primary;
    if pair.witness_reachable == Some(false) {
        standing.push(Standing::NoWitness);
    }
    // One that does not tell its size could not be asked, which is another fault.
    let lacks_room = |space: SpaceBudget| space.total_bytes > 0 && !space.holds(Needs::of(&SCARCE));
    if lacks_room(shared.known_space().after(shared.unapplied_needs()).without_margin()) {
        standing.push(Standing::Full(Whose::Ours));
    } else if serves && lacks_room(shared.path.space()) {
        standing.push(Standing::Full(Whose::Partner));
    }
    // A hook of the role that this node no longer has is history.
    let failed = shared.hooks.failure(serves);
    standing.extend(failed.map(|run| Standing::Hook { hook: run.hook, outcome: run.outcome }));
    let address = shared.hooks.address_status();
    let failed = address.and_then(|address| Some((address.address, address.error?)));
    standing.extend(failed.map(|(address, error)| Standing::Address { address, error }));
    standing
}

/// What is waited for or was told of it.
#[derive(Debug)]
struct Watched {
    standing: Standing,
    since: Instant,
    told: bool,
}

/// The faults of one volume that come from its state.
#[derive(Debug, Default)]
pub(super) struct StandingFaults {
    watched: Vec<Watched>,
    /// The trees were known to differ when this last looked.
    differed: bool,
}

impl StandingFaults {
    /// Looks at the state of the volume; at every heartbeat.
    pub fn look(&mut self, shared: &Shared, pair: &PairStatus) {
        self.look_at_trees(shared, pair);
        let mut standing = now(shared, pair);
        self.watched.retain_mut(|watched| {
            let kind = watched.standing.kind();
            let Some(at) = standing.iter().position(|standing| standing.kind() == kind) else {
                if watched.told {
                    shared.faults.clear(kind);
                }
                return false;
            };
            let standing = standing.swap_remove(at);
            if standing != watched.standing {
                // The same state with another detail is as old as before.
                watched.told = false;
                watched.standing = standing;
            }
            true
        });
        let since = Instant::now();
        self.watched.extend(standing.into_iter().map(|standing| Watched { standing, since, told: false }));
        for Watched { standing, since, told } in self.watched.iter_mut().filter(|watched| !watched.told) {
            let lasted = since.elapsed();
            if lasted >= standing.patience() {
                *told = true;
                shared.faults.raise_after(standing.kind(), lasted, &standing.what(), standing.remedy());
            }
        }
    }

    /// Who found that the trees differ says so himself, with more; but only the pair remembers it beyond a restart, and
    /// knows when a resync has ended it.
    fn look_at_trees(&mut self, shared: &Shared, pair: &PairStatus) {
        let differed = std::mem::replace(&mut self.differed, pair.tree_differs);
        match (differed, pair.tree_differs) {
            (_, true) if !shared.faults.has(FaultKind::TreesDiffer) => verify::differ_since_long(shared),
            (true, false) => shared.faults.clear(FaultKind::TreesDiffer),
            _ => {}
        }
    }
}
