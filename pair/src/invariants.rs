//! What must hold after every event. A violation is a bug of this crate: the process dies rather than risk an
//! acknowledged record, and the partner takes over.

use crate::state::{BarrierStage, ClaimStage, PrimaryMode, Role};
use crate::{Lease, Pair};
use ids::AckRule;

impl Pair {
    pub(crate) fn check_invariants(&self) {
        let effects = &self.effects;
        let primary = match &self.role {
            Role::Primary(primary) => Some(primary),
            _ => None,
        };
        let going_on = matches!(self.role, Role::Opening(_));
        assert!(!effects.serving || primary.is_some() || going_on, "only a primary serves: {self:?}");
        let alone =
            primary.is_some_and(|p| matches!(p.mode, PrimaryMode::Solo | PrimaryMode::DrainingToStop));
        match effects.rule {
            AckRule::Nobody => assert!(
                !primary.is_some_and(|p| !matches!(p.mode, PrimaryMode::Frozen { .. })),
                "a primary that is not frozen acknowledges: {self:?}"
            ),
            AckRule::Local => {
                assert!(alone || going_on, "alone only in solo: {self:?}");
                assert!(self.durable.solo.is_some(), "alone only when that is stored: {self:?}");
            }
            AckRule::Both => {
                assert!(
                    primary.is_some_and(|p| p.joined_link().is_some()) || going_on,
                    "waiting for both needs a partner that has joined: {self:?}"
                );
            }
            AckRule::Memory => {
                assert!(
                    primary.is_some_and(|p| {
                        matches!(p.mode, PrimaryMode::Mirrored { .. } | PrimaryMode::HandingOver { .. })
                    }) || going_on,
                    "out of memory only beside a partner that may take over: {self:?}"
                );
                assert!(
                    self.durable.from_memory || going_on,
                    "out of memory only when that is stored: {self:?}"
                );
            }
        }
        if effects.lease == Lease::Forever {
            assert!(alone || going_on, "an endless lease only in solo: {self:?}");
        }
        if primary.is_none() && !going_on {
            assert!(effects.lease == Lease::None, "no reads without a primary's role: {self:?}");
            assert!(effects.mirroring.is_none(), "only a primary mirrors: {self:?}");
        }
        if let Some(primary) = primary {
            if !alone && primary.catch.is_none() && primary.joined_link().is_none() {
                assert!(effects.mirroring.is_none(), "nothing is mirrored to nobody: {self:?}");
            }
            if let PrimaryMode::Mirrored { .. }
            | PrimaryMode::HandingOver { .. }
            | PrimaryMode::Barrier { stage: BarrierStage::Swapping, .. } = primary.mode
            {
                assert!(self.durable.solo.is_none(), "mirrored: nothing is held alone: {self:?}");
            }
            assert!(primary.epoch.0 % 2 == self.config.rank_of_me(), "an epoch of our own: {self:?}");
        }
        if self.durable.resync {
            assert!(!self.durable.in_sync, "a tree that is half replaced takes nothing over: {self:?}");
            assert!(
                matches!(self.role, Role::Waiting(_) | Role::Failed(..) | Role::Stopped),
                "nor does anything else with it: {self:?}"
            );
        }
        let follows = matches!(self.role, Role::Partner(_));
        assert!(effects.granted.is_none() || follows, "only a partner lets the other write: {self:?}");
        if let Role::Claiming(claiming) = &self.role
            && claiming.stage == ClaimStage::Asking
        {
            assert!(effects.revokes_pending == 0, "revoked before claiming: {self:?}");
            assert!(self.promise_ends() <= self.now, "the promised lease has ended: {self:?}");
        }
        assert!(!(follows && self.desk.swap_pending()), "no open swap behind a partner's back: {self:?}");
    }
}
