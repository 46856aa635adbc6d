//! The pair as an operator sees it.

use crate::state::{HandOverStage, Known, PartnerStage, PrimaryMode, Role, Why};
use crate::{FailedPart, MonoMs, Pair, PairMode, PairStatus, RoleName};

impl Pair {
    /// The pair as this node sees it at `now`.
    pub fn status(&self, now: MonoMs) -> PairStatus {
        let role = match &self.role {
            Role::Primary(_) => RoleName::Primary,
            Role::Partner(_) => RoleName::Partner,
            _ => RoleName::None,
        };
        let epoch = match &self.role {
            Role::Primary(primary) => primary.epoch,
            Role::Partner(partner) => partner.epoch,
            Role::Opening(opening) => opening.epoch,
            _ => self.epoch_seen(),
        };
        PairStatus {
            role,
            mode: self.mode(),
            detail: self.detail(),
            failed: match &self.role {
                Role::Failed(part, _) => Some(*part),
                _ => None,
            },
            epoch,
            linked: self.peer_hello().is_some(),
            witness_reachable: self.desk.reachable.filter(|_| self.config.witness),
            register: self.newest_register().cloned(),
            register_stale: match self.known() {
                Known::Stale(register) if self.config.witness => Some(register),
                _ => None,
            },
            eligible: self.durable.in_sync
                && !self.unproven
                && !self.newest_register().is_some_and(|register| register.is_alone_beside(&self.config.me))
                && self.is_let_by_the_witness()
                && self.reports.needs_resync.is_none()
                && self.reports.split.is_none()
                && (!self.durable.tree_differs || matches!(self.role, Role::Primary(_)))
                && !matches!(self.role, Role::Failed(..) | Role::Stopped),
            serving: self.effects.serving,
            peer_vitals: self.reports.peer_vitals,
            peer_silent_ms: self.reports.peer_heard.map(|heard| now.since(heard)),
            refusal: self.reports.refusal.clone(),
            needs_resync: self.reports.needs_resync,
            split: self.reports.split.clone(),
            local_fault: self.fault,
            tree_differs: self.durable.tree_differs,
            takeover: self.takeover,
        }
    }

    /// Only the witness lets a node take over by itself; and one that neither serves nor follows may have been left behind
    /// while it was away, as only the witness knows.
    fn is_let_by_the_witness(&self) -> bool {
        let reachable = self.desk.reachable.filter(|_| self.config.witness);
        match self.role {
            Role::Waiting(_) | Role::Claiming(_) => {
                reachable == Some(true) && matches!(self.known(), Known::Is(_))
            }
            // It asks every second; what it has not asked yet it knows from its primary.
            Role::Partner(_) => self.config.witness && reachable != Some(false),
            _ => true,
        }
    }

    fn mode(&self) -> PairMode {
        match &self.role {
            Role::Waiting(_) if self.reports.split.is_some() => PairMode::Split,
            Role::Waiting(_) if self.reports.needs_resync.is_some() => PairMode::NeedsResync,
            Role::Waiting(waiting) => match waiting.why {
                Why::Starting => PairMode::Starting,
                Why::Outdated => PairMode::Outdated,
                Why::Deposed => PairMode::Deposed,
                Why::Frozen => PairMode::Frozen,
                Why::HandedOver => PairMode::HandingOver,
            },
            Role::Partner(partner) => match partner.stage {
                PartnerStage::Following { mirrored: true } => PairMode::Mirrored,
                _ => PairMode::CatchingUp,
            },
            Role::Claiming(_) | Role::Opening(_) => PairMode::TakingOver,
            Role::Primary(primary) => match primary.mode {
                PrimaryMode::Solo | PrimaryMode::DrainingToStop if primary.catch.is_none() => PairMode::Solo,
                PrimaryMode::Solo | PrimaryMode::DrainingToStop => PairMode::CatchingUp,
                PrimaryMode::Barrier { .. } => PairMode::CatchingUp,
                PrimaryMode::Mirrored { .. } => PairMode::Mirrored,
                PrimaryMode::Frozen { .. } => PairMode::Frozen,
                PrimaryMode::HandingOver { .. } => PairMode::HandingOver,
            },
            Role::Failed(..) => PairMode::Failed,
            Role::Stopped => PairMode::Stopped,
        }
    }

    fn detail(&self) -> String {
        if let Role::Failed(part, error) = &self.role {
            return match part {
                FailedPart::Log => format!("the log fails: {error}; repair it and restart this node"),
                FailedPart::Fence => format!(
                    "the other node may still write into this log: {error}; end that node for certain, then restart \
                     this one; the log is whole"
                ),
                FailedPart::Process => {
                    format!("this node cannot go on: {error}; restart it; the log is whole")
                }
            };
        }
        if self.reports.split.is_some() {
            return format!(
                "both nodes acknowledged what the other lacks; 'twinfiler split show VOLUME' lists it; choose a side: \
                 'twinfiler split discard {}' gives up this one; or 'twinfiler takeover VOLUME --force' here, and discard \
                 the other",
                self.config.me
            );
        }
        if let Some(reason) = self.reports.needs_resync {
            return match self.salvages() {
                true => format!(
                    "{reason}; this node needs a resync, which begins when a primary is there: what only this node \
                     holds is then copied to its salvage directory first"
                ),
                false => format!(
                    "{reason}; this node needs a resync, which begins when a primary is there; it may not take over \
                     before the end of that"
                ),
            };
        }
        match (self.waits_for(), &self.reports.refusal) {
            // A node that stands still says first what would let it go on.
            (text, Some(refusal)) if matches!(self.role, Role::Primary(_)) && !text.is_empty() => {
                format!("{text}; of the partner: {refusal}")
            }
            (_, Some(refusal)) => refusal.to_string(),
            (text, None) => text.to_owned(),
        }
    }

    /// What this node waits for, if it does.
    fn waits_for(&self) -> &'static str {
        let witness = self.config.witness;
        let unreachable = witness && self.desk.reachable == Some(false);
        let stale = witness && matches!(self.known(), Known::Stale(_));
        match &self.role {
            Role::Waiting(_) | Role::Claiming(_) if stale => {
                "the witness's register is older than what this node knows (it was restored or rolled back), and does \
                 not decide: waits for the other node; if that is gone for good: 'twinfiler takeover VOLUME --force'"
            }
            Role::Waiting(_) if self.durable.tree_differs => {
                "this tree is known to differ from the primary's: waits for the primary, or for 'twinfiler takeover \
                 VOLUME --force', which serves it as it is"
            }
            Role::Waiting(_) if self.unproven && self.durable.in_sync && self.peer_hello().is_none() => {
                "it answered out of memory and was not ended cleanly, so the other node may hold more: waits for that; if \
                 it is gone for good: 'twinfiler takeover VOLUME --force' here, which keeps everything that an fsync waited for"
            }
            Role::Waiting(waiting) => match waiting.why {
                Why::Frozen => {
                    "no witness: waits for the partner, or for 'twinfiler takeover VOLUME --force'"
                }
                Why::HandedOver => {
                    "waits for the partner to serve; if that is gone for good: 'twinfiler takeover VOLUME --force'"
                }
                Why::Outdated | Why::Deposed => {
                    "waits for the primary, to join it; if that node is gone for good: 'twinfiler takeover VOLUME --force' \
                     here, which gives up what it acknowledged alone"
                }
                Why::Starting if unreachable => {
                    "the witness does not answer; tries again; if it stays away: 'twinfiler takeover VOLUME --force', once the \
                     other node is certainly down"
                }
                Why::Starting => "looks for the witness's register and the partner",
            },
            Role::Claiming(_) if unreachable => {
                "primary lost and the witness does not answer; tries again; if it stays away: 'twinfiler takeover \
                 VOLUME --force', once the other node is certainly down"
            }
            Role::Primary(primary) => match primary.mode {
                PrimaryMode::Solo if self.shuts_partner_out() => {
                    "the partner answered and took nothing in: it is let in again after 10 s; look at its log device, \
                     threads and network"
                }
                PrimaryMode::Frozen { .. } if !witness => {
                    "no witness: waits for the partner, or for 'twinfiler takeover VOLUME --force'"
                }
                PrimaryMode::Frozen { .. } if stale => {
                    "partner lost, and the witness's register is older than what this node knows (it was restored or \
                     rolled back): waits for the partner; if that is gone for good: 'twinfiler takeover VOLUME --force'"
                }
                PrimaryMode::Frozen { .. } if unreachable => {
                    "partner lost and the witness does not answer; tries again; if it stays away: 'twinfiler takeover \
                     VOLUME --force', once the other node is certainly down"
                }
                PrimaryMode::HandingOver { stage: HandOverStage::Draining { .. }, .. } => {
                    "waits for operations in flight"
                }
                PrimaryMode::HandingOver { .. } => {
                    "waits for the witness to say whether the partner has the volume; clients wait meanwhile"
                }
                _ => "",
            },
            _ => "",
        }
    }
}
