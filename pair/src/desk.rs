//! Requests to the witness: one at a time, with backoff, and the memory of swaps whose fate is not known.
//!
//! Invariant: while a swap may still happen (`uncertain`), this node neither follows a primary nor resumes as
//! one: the swap could succeed behind its back. It is dead for certain once the register is seen with a value that
//! comes after the one the swap expected: each swap raises the generation, and no epoch is given twice, also by a
//! witness that has lost its register and began anew.
//!
//! What can go wrong: a witness that was rolled back (its state came from a backup). Then a register that another node
//! has replaced long ago is shown as if it were the newest. Who holds the newer epoch sees that with its next request
//! and writes the register anew; so a node trusts a value only after it has stood for longer than the others need for
//! that ([`Desk::is_steady`]).

use crate::state::Known;
use crate::witness::{Register, Request, WitnessOutcome};
use crate::{MonoMs, Name, RequestId, Timers};
use ids::VolumeId;

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Purpose {
    /// Only to know.
    Look,
    /// The next epoch, for this node alone.
    Claim,
    /// This epoch, mirrored.
    Mirror,
    /// The next epoch, for the partner.
    HandOver,
    /// This epoch, which an operator forced or which the witness forgot.
    Assert,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Asked {
    pub request: RequestId,
    pub purpose: Purpose,
    pub since: MonoMs,
    /// The register's generation as it was known when this was asked.
    known: Option<u64>,
    /// This node has heard of no later epoch since.
    current: bool,
    /// `None`: a read. Else what was expected, and the new value.
    pub swap: Option<(Option<Register>, Register)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Desk {
    next_request: u64,
    pub asked: Option<Asked>,
    not_before: MonoMs,
    pause_ms: u64,
    pub reachable: Option<bool>,
    uncertain: Option<Option<Register>>,
    pub known: Known,
    /// The witness itself has answered since the claim or hand-over that is under way began.
    pub fresh: bool,
    pub looked: MonoMs,
    /// When the witness last answered.
    pub answered_at: Option<MonoMs>,
    /// That answer was asked for after this node had heard of the newest epoch that it knows.
    pub told: bool,
    /// Since when its answers have told the value that is known, with no long silence between them.
    steady_since: MonoMs,
}

impl Desk {
    pub fn new(now: MonoMs) -> Desk {
        Desk {
            next_request: 1,
            asked: None,
            not_before: now,
            pause_ms: 0,
            reachable: None,
            uncertain: None,
            known: Known::Nothing,
            fresh: false,
            looked: now,
            answered_at: None,
            told: false,
            steady_since: now,
        }
    }

    /// May a request be sent now?
    pub fn ready(&self, now: MonoMs) -> bool {
        self.asked.is_none() && now >= self.not_before
    }

    /// Has the witness told this value for so long that whoever was granted something newer would have said so?
    pub fn is_steady(&self, now: MonoMs, timers: &Timers) -> bool {
        self.answered_at.is_some() && now.since(self.steady_since) >= timers.steady_ms()
    }

    /// When a value that is known now counts as steady.
    pub fn steady_at(&self, timers: &Timers) -> Option<MonoMs> {
        self.answered_at.map(|_| self.steady_since.plus(timers.steady_ms()))
    }

    /// This node has heard of a later epoch: what the witness says of an earlier one is old news, until it is asked again.
    pub fn epoch_rose(&mut self) {
        self.told = false;
        self.asked.iter_mut().for_each(|asked| asked.current = false);
    }

    /// The witness itself said something: does it go on with what it said before?
    fn note_answer(&mut self, now: MonoMs, timers: &Timers, told: &Known) {
        let gap = self.answered_at.is_none_or(|last| now.since(last) > timers.steady_ms());
        if gap || self.known != *told {
            self.steady_since = now;
        }
        self.answered_at = Some(now);
    }

    /// When the next attempt may be made, or the request counts as lost.
    pub fn deadline(&self, timers: &Timers) -> MonoMs {
        self.asked.as_ref().map_or(self.not_before, |asked| asked.since.plus(timers.witness_timeout_ms))
    }

    /// Can a swap of this node still happen without it knowing?
    pub fn swap_pending(&self) -> bool {
        self.uncertain.is_some() || self.asked.as_ref().is_some_and(|asked| asked.swap.is_some())
    }

    /// The register, if known and there.
    pub fn register(&self) -> Option<&Register> {
        match &self.known {
            Known::Is(register) => Some(register),
            Known::Nothing | Known::Absent | Known::Stale(_) => None,
        }
    }

    /// Makes a request of it; `ready` must hold.
    pub fn ask(
        &mut self,
        now: MonoMs,
        volume: VolumeId,
        purpose: Purpose,
        swap: Option<(Option<Register>, Register)>,
    ) -> (RequestId, Request) {
        assert!(self.ready(now), "one request at a time");
        let request = RequestId(self.next_request);
        self.next_request += 1;
        let ask = match &swap {
            None => Request::Read { volume },
            Some((expected, new)) => Request::CompareAndSwap { expected: expected.clone(), new: new.clone() },
        };
        let known = self.register().map(|register| register.generation);
        self.asked = Some(Asked { request, purpose, since: now, known, current: true, swap });
        self.looked = now;
        (request, ask)
    }

    /// Takes an answer. Returns the request it belongs to when that was still waited for.
    pub fn answered(
        &mut self,
        now: MonoMs,
        timers: &Timers,
        request: RequestId,
        outcome: &WitnessOutcome,
    ) -> Option<Asked> {
        let current = self.asked.as_ref().is_some_and(|asked| asked.request == request);
        match outcome {
            WitnessOutcome::Is(told) | WitnessOutcome::Conflict(told) if current => {
                let told = told.clone().map_or(Known::Absent, Known::Is);
                self.note_answer(now, timers, &told);
            }
            WitnessOutcome::Swapped(new) if current => {
                // Written anew where it was lost: whoever was granted something meanwhile has yet to say so.
                let grants = self.asked.as_ref().is_some_and(|asked| asked.purpose == Purpose::Claim);
                if !grants && self.register().is_none_or(|known| known.epoch != new.epoch) {
                    self.steady_since = now;
                }
                self.answered_at = Some(now);
            }
            _ => {}
        }
        match outcome {
            WitnessOutcome::Is(Some(register))
            | WitnessOutcome::Swapped(register)
            | WitnessOutcome::Conflict(Some(register)) => {
                if self.began_anew(request, register) {
                    self.known = Known::Nothing;
                    self.uncertain = None;
                }
                self.observe(register);
            }
            WitnessOutcome::Is(None) | WitnessOutcome::Conflict(None) => self.observe_absent(request),
            WitnessOutcome::Unreachable { .. } => {}
        }
        let asked = self.asked.take_if(|asked| asked.request == request)?;
        if let WitnessOutcome::Unreachable { maybe_applied } = outcome {
            self.reachable = Some(false);
            self.pause_ms = (self.pause_ms * 2).clamp(timers.witness_retry_ms, timers.witness_retry_max_ms);
            self.not_before = now.plus(self.pause_ms);
            if let Some((expected, _)) = &asked.swap
                && *maybe_applied
            {
                self.uncertain = Some(expected.clone());
            }
        } else {
            self.reachable = Some(true);
            self.told = asked.current;
            self.fresh = true;
            self.pause_ms = 0;
            self.not_before = now;
        }
        Some(asked)
    }

    /// The request that has waited too long counts as lost; a later answer only informs.
    pub fn overdue(&mut self, now: MonoMs, timers: &Timers) -> Option<Asked> {
        let request =
            self.asked.as_ref().filter(|a| now.since(a.since) >= timers.witness_timeout_ms)?.request;
        self.answered(now, timers, request, &WitnessOutcome::Unreachable { maybe_applied: true })
    }

    /// The witness has lost the register since, and someone made it anew: the answer to a question is younger than
    /// what was known when it was asked, so only that can have lowered the generation. Without this the node
    /// would believe its old value and ask for ever what cannot be granted.
    fn began_anew(&self, request: RequestId, register: &Register) -> bool {
        let known = self.register().map(|register| register.generation);
        self.asked.as_ref().is_some_and(|asked| asked.request == request && asked.known == known)
            && known.is_some_and(|known| known > register.generation)
    }

    /// Is this value older than the known one by its generation, and not by its epoch? Then the witness may
    /// have begun anew; only it can tell.
    pub fn in_doubt(&self, register: &Register) -> bool {
        self.register()
            .is_some_and(|known| known.generation > register.generation && known.epoch <= register.epoch)
    }

    /// The register was seen with this value (perhaps some time ago).
    pub fn observe(&mut self, register: &Register) {
        if self.uncertain.as_ref().is_some_and(|expected| {
            expected.as_ref().is_none_or(|expected| {
                expected.generation < register.generation || expected.epoch < register.epoch
            })
        }) {
            self.uncertain = None;
        }
        if self.register().is_none_or(|known| known.generation <= register.generation) {
            self.known = Known::Is(register.clone());
        }
    }

    /// For [`crate::naming`]: every moment; requests are numbered anew.
    pub fn visit_moments(&mut self, timers: &Timers, visit: &mut dyn FnMut(Name<'_>)) {
        visit(Name::Moment(&mut self.not_before, 0));
        visit(Name::Moment(&mut self.looked, timers.witness_check_ms));
        let horizon = timers.failure_timeout_ms.max(timers.steady_ms() + 1);
        self.answered_at.iter_mut().for_each(|at| visit(Name::Moment(at, horizon)));
        visit(Name::Moment(&mut self.steady_since, timers.steady_ms()));
        self.next_request = 1;
        if let Some(asked) = &mut self.asked {
            visit(Name::Moment(&mut asked.since, timers.witness_timeout_ms));
            asked.request = RequestId(1);
            self.next_request = 2;
        }
    }

    fn observe_absent(&mut self, request: RequestId) {
        if self.asked.as_ref().is_some_and(|asked| asked.request == request) {
            self.known = Known::Absent;
            if self.uncertain.as_ref().is_some_and(Option::is_some) {
                self.uncertain = None;
            }
        }
    }
}
