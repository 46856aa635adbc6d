//! The rules of one waiting place: measured values in, a time to poll out.
//!
//! - What it learns from every wait, also from one that slept, is the *service time*: how long the answer takes when
//!   nobody sleeps. A sleep tells it too, less one wake-up at either end. So a place that sleeps finds out that polling
//!   would pay without trying.
//! - It polls while the service time is worth it beside a wake-up, for two wake-ups more than that time. So it outlasts
//!   the wake-up of an end that sleeps: of two ends that sleep the first to poll wakes the other to an answer, and finds
//!   it before it gives up. There is no second stable state.
//! - While more threads want to run than there are processors it sleeps, whether polling pays or not: the other side may
//!   be one of them, and a thread of a real-time class is never pushed aside.
//! - A poll that gave up just before the answer came argues for longer polls; several in a row, fewer while a processor
//!   is wanted by others, argue for none: then it stands in the way of what it waits for. It stands back for a while, and
//!   longer each time.
//! - A wait in which nothing came for long says that there was no traffic, and nothing else: what came late is nobody's
//!   answer, and whoever polled for it stood in nobody's way. Where nothing came at all it polls again once something has.

use std::time::{Duration, Instant};

/// Polling pays while the answer takes at most so many wake-ups: beyond, what it saves is not worth a processor.
const PAYS_WAKES: u32 = 8;
/// Weights of a new observation: the pace of a burst is learnt soon, one pause does not end it.
const FASTER_WEIGHT: u32 = 4;
const SLOWER_WEIGHT: u32 = 8;
/// Polls in vain, one after the other, after which it stands back.
const MAX_VAIN: u32 = 4;
/// For so many of them counts one while a processor is wanted by others. One alone may be chance: a thread of another
/// link that is about to sleep.
const VAIN_IN_A_CROWD: u32 = 2;
/// How much longer than computed it polls at most.
const MAX_STRETCH: u32 = 4;
/// Answers found by polling, one after the other, after which what argued against it is forgotten.
const TRUSTED_AFTER: u32 = 16;
/// How long it stands back, at first and at most.
const FIRST_REST: Duration = Duration::from_millis(10);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Who wants the processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Processors {
    /// There is but one: whoever polls keeps it from everybody.
    One,
    /// More threads want to run than there are processors.
    Crowded,
    /// No thread waits for a processor.
    Free,
}

/// What the machine says at the begin of a wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// From the call that wakes a thread until that runs.
    pub wake: Duration,
    pub processors: Processors,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rules {
    most: Duration,
    service: Duration,
    begun: Option<Instant>,
    limit: Duration,
    /// The last wait brought nothing.
    quiet: bool,
    stretch: u32,
    /// It gave up polling in this wait, with the processors in this state.
    given_up: Option<Processors>,
    vain: u32,
    paid: u32,
    rest: Duration,
    rest_until: Option<Instant>,
}

impl Rules {
    pub fn new(most: Duration) -> Rules {
        Rules {
            most,
            service: Duration::ZERO,
            begun: None,
            limit: Duration::ZERO,
            quiet: false,
            stretch: 1,
            given_up: None,
            vain: 0,
            paid: 0,
            rest: FIRST_REST,
            rest_until: None,
        }
    }

    pub fn begin(&mut self, now: Instant, view: View) -> Duration {
        self.begun = Some(now);
        let makes_way = view.processors != Processors::Free;
        let rests = self.rest_until.is_some_and(|until| now < until);
        let pays = self.service <= view.wake * PAYS_WAKES;
        self.limit = match makes_way || rests || self.quiet || !pays {
            true => Duration::ZERO,
            false => {
                let expected = self.service + self.service / 4;
                ((expected + 2 * view.wake) * self.stretch).min(self.most)
            }
        };
        self.limit
    }

    pub fn polled(&mut self, now: Instant) {
        self.quiet = false;
        self.vain = 0;
        let Some(begun) = self.begun.take() else { return };
        self.learn(now.saturating_duration_since(begun));
        self.paid += 1;
        if self.paid >= TRUSTED_AFTER {
            self.paid = 0;
            self.rest = FIRST_REST;
            self.stretch = (self.stretch / 2).max(1);
        }
    }

    pub fn gave_up(&mut self, processors: Processors) {
        self.paid = 0;
        self.given_up = Some(processors);
    }

    pub fn slept(&mut self, now: Instant, wake: Duration) {
        let Some(begun) = self.begun.take() else { return };
        let given_up = self.given_up.take();
        let waited = now.saturating_duration_since(begun);
        if std::mem::take(&mut self.quiet) || waited > 2 * self.most {
            // The first after a pause: it answers nothing.
            return;
        }
        if let Some(processors) = given_up {
            self.was_in_vain(now, processors);
        }
        if !self.limit.is_zero() && waited <= 2 * self.limit + wake {
            self.stretch = (self.stretch * 2).min(MAX_STRETCH);
        }
        self.learn(waited.saturating_sub(2 * wake));
    }

    pub fn nothing(&mut self) {
        self.begun = None;
        self.given_up = None;
        self.quiet = true;
    }

    /// It polled, gave up, and the answer came soon after: perhaps because it gave up.
    fn was_in_vain(&mut self, now: Instant, processors: Processors) {
        self.vain += if processors == Processors::Free { 1 } else { VAIN_IN_A_CROWD };
        if self.vain >= MAX_VAIN {
            // It has to show that it is of use before it is given so many again.
            self.vain = MAX_VAIN - VAIN_IN_A_CROWD;
            self.rest_until = Some(now + self.rest);
            self.rest = (self.rest * 2).min(LONGEST_REST);
        }
    }

    fn learn(&mut self, took: Duration) {
        if took < self.service {
            self.service -= (self.service - took) / FASTER_WEIGHT;
        } else {
            self.service += (took - self.service) / SLOWER_WEIGHT;
        }
    }
}
