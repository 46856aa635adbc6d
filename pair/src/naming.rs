//! The names that a state gives to moments, links and messages: a search of the state space renames them, so
//! that two states that only differ in when they are and how often they were linked are one.
//!
//! Invariant: the machine compares names and measures distances between moments, nothing else; so a renaming
//! that keeps the order of names, and the distances up to the longest timer, changes nothing that it does.
//! What can go wrong: a field that is added and not visited; then the search finds no end.

use crate::state::{
    HandOverStage, PartnerStage, Primary, PrimaryMode, Reports, Role, TakeoverClock, Waiting,
};
use crate::{Lease, LinkId, MonoMs, Pair, Timers, Vitals};

/// Something in a state that is only compared with others of its kind.
#[derive(Debug)]
pub enum Name<'a> {
    /// A moment of this node's clock, and how far back it makes a difference how far back it lies: the timer
    /// that runs from it; 0 for a moment that is only waited for.
    Moment(&'a mut MonoMs, u64),
    /// A link, perhaps one that is gone.
    Link(&'a mut LinkId),
    /// The number of this node's newest `Hello`.
    OwnHello(&'a mut u64),
    /// The number of the partner's newest `Hello`.
    PeerHello(&'a mut u64),
}

impl Pair {
    /// Visits every name, and forgets what only status shows. Requests to the witness are numbered anew: the
    /// one that is under way, if any, is request 1.
    pub fn visit_names(&mut self, visit: &mut dyn FnMut(Name<'_>)) {
        let timers = self.config.timers.clone();
        visit(Name::Moment(&mut self.now, 0));
        visit(Name::Moment(&mut self.last_promise, timers.lease_ms + timers.drift_margin_ms));
        self.last_heartbeat.iter_mut().for_each(|at| visit(Name::Moment(at, timers.heartbeat_ms)));
        // Nothing hangs on when one that never stalled would have been trusted again.
        if self.distrust.stalls > 0 {
            visit(Name::Moment(&mut self.distrust.until, timers.distrust_forgotten_ms()));
        }
        self.stopping.iter_mut().for_each(|at| visit(Name::Moment(at, 0)));
        self.desk.visit_moments(&timers, visit);
        if let Some(link) = &mut self.link {
            visit(Name::Link(&mut link.id));
            if let Some(hello) = &mut link.hello {
                visit(Name::PeerHello(&mut hello.number));
            }
        }
        visit(Name::OwnHello(&mut self.hellos));
        self.effects.granted.iter_mut().chain(&mut self.effects.mirroring).for_each(|l| visit(Name::Link(l)));
        if let Lease::Until { end, .. } = &mut self.effects.lease {
            visit(Name::Moment(end, 0));
        }
        match &mut self.role {
            Role::Waiting(Waiting { patience, join_not_before, .. }) => {
                visit(Name::Moment(patience, 0));
                visit(Name::Moment(join_not_before, 0));
            }
            Role::Partner(partner) => {
                visit(Name::Link(&mut partner.link));
                visit(Name::Moment(&mut partner.heard, timers.failure_timeout_ms));
                let first_turn_ms = timers.link_grace_ms + timers.heartbeat_ms;
                partner.broken.iter_mut().for_each(|at| visit(Name::Moment(at, first_turn_ms)));
                if let PartnerStage::Joining { sent, .. } = &mut partner.stage {
                    visit(Name::Moment(sent, timers.heartbeat_ms * 2));
                }
            }
            Role::Claiming(claiming) => claiming.clock = TakeoverClock::default(),
            Role::Opening(opening) => opening.clock = opening.clock.map(|_| TakeoverClock::default()),
            Role::Primary(primary) => primary.visit_names(&timers, visit),
            Role::Failed(..) | Role::Stopped => {}
        }
        self.takeover = None;
        let Reports { refusal, refused, needs_resync: _, split: _, peer_vitals, peer_heard } =
            &mut self.reports;
        (*refusal, *refused, *peer_heard) = (None, MonoMs(0), None);
        if let Some(vitals) = peer_vitals {
            *vitals = Vitals { healthy: vitals.healthy, ..Vitals::default() };
        }
    }
}

impl Primary {
    fn visit_names(&mut self, timers: &Timers, visit: &mut dyn FnMut(Name<'_>)) {
        visit(Name::Moment(&mut self.answered, timers.failure_timeout_ms));
        visit(Name::Moment(&mut self.lease_until, 0));
        visit(Name::Moment(&mut self.fault_retry, 0));
        if let Some(catch) = &mut self.catch {
            visit(Name::Link(&mut catch.link));
            visit(Name::Moment(&mut catch.barrier_not_before, 0));
            visit(Name::Moment(&mut catch.since, timers.failure_timeout_ms));
        }
        match &mut self.mode {
            PrimaryMode::Solo | PrimaryMode::DrainingToStop => {}
            PrimaryMode::Barrier { link, since, .. } => {
                visit(Name::Link(link));
                visit(Name::Moment(since, timers.barrier_timeout_ms));
            }
            PrimaryMode::Mirrored { link } => visit(Name::Link(link)),
            PrimaryMode::Frozen { claim_at, since } => {
                visit(Name::Moment(claim_at, 0));
                visit(Name::Moment(since, 0));
            }
            PrimaryMode::HandingOver { link, stage, asked: _ } => {
                visit(Name::Link(link));
                if let HandOverStage::Draining { since } = stage {
                    visit(Name::Moment(since, timers.drain_timeout_ms));
                }
            }
        }
    }
}
