//! One search: its bounds, its properties, its result.

use crate::actions::Action;
use crate::canary::Canary;
use crate::executor::Executor;
use crate::faults::Faults;
use crate::state::{Breach, State, name};
use ids::AckRule;
use pair::witness::Mode;
use pair::{PairMode, RoleName};
use stateright::{Checker, DiscoveryClassification, HasDiscoveries, Model, Property};
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longest run without faults until the pair is mirrored. A tick has about ten events.
const MAX_STEPS_TO_HEAL: usize = 600;
/// Of a run that does not heal, so many last steps are shown.
const SHOWN_STEPS: usize = 20;

/// A fast hash (FxHash's step): a search hashes gigabytes. A collision could only hide a state that does not heal
/// behind another that does.
#[derive(Default)]
pub struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

pub struct Scope {
    pub faults: Faults,
    /// Writes of clients.
    pub writes: u8,
    pub witness: bool,
    /// Begin with a pair that is mirrored; else with two formatted logs.
    pub mirrored: bool,
    pub canary: Option<Canary>,
    /// States from which the pair is known to heal.
    pub healing: Mutex<Known>,
    /// States from which the node that is left is known to serve.
    pub serving: Mutex<Known>,
}

/// Hashes of states.
type Known = HashSet<u64, BuildHasherDefault<Quick>>;

impl Default for Scope {
    fn default() -> Scope {
        Scope {
            faults: Faults::default(),
            writes: 1,
            witness: true,
            mirrored: true,
            canary: None,
            healing: Mutex::default(),
            serving: Mutex::default(),
        }
    }
}

impl Scope {
    fn step(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        let mut executor = Executor { state: &mut next, canary: self.canary, witness: self.witness };
        executor.act(action);
        if !executor.state.forced && not_equal(executor.state) {
            executor.breach(Breach::NotEqual);
        }
        next
    }

    fn first(&self) -> State {
        let mut state = State::new(self.faults, self.writes);
        if self.mirrored {
            for _ in 0..MAX_STEPS_TO_HEAL {
                if is_mirrored(self, &state) {
                    return state;
                }
                state = self.step(&state, state.next_without_fault(None).expect("time passes"));
                if let Some(register) = state.register.clone()
                    && !state.backups.contains(&register)
                {
                    state.backups.push(register);
                }
            }
            panic!("two formatted logs do not become a pair");
        }
        state
    }

    /// Without further faults, is the pair mirrored within the bound?
    pub fn heals(&self, state: &State) -> bool {
        self.comes_to(state, None, &self.healing, |state| is_settled(self, state))
    }

    /// While one node stays away, does the other serve within the bound, when the register and its log allow that?
    pub fn survivor_serves(&self, state: &State) -> bool {
        [0, 1].into_iter().all(|away| {
            !may_serve_without(self, state, away)
                || self.comes_to(state, Some(away), &self.serving, |state| {
                    let survivor = &state.nodes[1 - away];
                    survivor.serving && survivor.rule == AckRule::Local || survivor.stopped
                })
        })
    }

    fn comes_to(
        &self,
        state: &State,
        away: Option<usize>,
        known: &Mutex<Known>,
        reached: impl Fn(&State) -> bool,
    ) -> bool {
        if state.breach.is_some() {
            return true;
        }
        let mut known = known.lock().unwrap();
        let mut seen = Vec::new();
        let mut state = state.clone();
        for _ in 0..MAX_STEPS_TO_HEAL {
            let mut hasher = Quick::default();
            state.hash(&mut hasher);
            if known.contains(&hasher.finish()) || reached(&state) || state.breach.is_some() {
                known.extend(seen);
                return true;
            }
            seen.push(hasher.finish());
            let Some(action) = state.next_without_fault(away) else { return false };
            state = self.step(&state, action);
        }
        false
    }

    /// Where the run without faults ends, and what its last steps were.
    fn stuck(&self, state: &State) -> (State, Vec<Action>) {
        let (mut state, mut steps) = (state.clone(), Vec::new());
        for _ in 0..MAX_STEPS_TO_HEAL {
            let Some(action) = state.next_without_fault(None).filter(|_| state.breach.is_none()) else {
                break;
            };
            state = self.step(&state, action);
            steps.push(action);
        }
        (state, steps.split_off(steps.len().saturating_sub(SHOWN_STEPS)))
    }

    pub fn search(self) -> Outcome {
        let begun = Instant::now();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let checker = self.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        std::panic::set_hook(hook);
        let found = checker.discoveries();
        let failed = found
            .into_iter()
            .filter(|(name, _)| {
                matches!(checker.discovery_classification(name), DiscoveryClassification::Counterexample)
            })
            .map(|(name, path)| {
                let last = path.last_state().clone();
                let actions = path.into_actions();
                let (end, stuck) = checker.model().stuck(&last);
                let breach = last.breach.or(end.breach);
                let end = Box::new(if last.breach.is_some() { last } else { end });
                Failure { property: name, breach, actions, stuck, end }
            })
            .min_by_key(|failure| failure.actions.len());
        Outcome {
            states: checker.unique_state_count(),
            transitions: checker.state_count(),
            depth: checker.max_depth(),
            took: begun.elapsed(),
            failed,
        }
    }
}

fn status(state: &State) -> [Option<pair::PairStatus>; 2] {
    [0, 1].map(|node: usize| state.nodes[node].pair.as_ref().map(|pair| pair.status(state.now)))
}

/// One node is away, and neither register nor log keep the other from serving.
fn may_serve_without(scope: &Scope, state: &State, away: usize) -> bool {
    let survivor = &state.nodes[1 - away];
    let granted = state
        .register
        .as_ref()
        .is_some_and(|register| register.mode == Mode::Mirrored || register.primary == name(1 - away));
    scope.witness
        && granted
        && state.nodes[away].pair.is_none()
        && survivor.pair.is_some()
        && !survivor.stopped
        && !state.forced
        && !state.rolled_back
        && state.late.is_empty()
        && survivor.disk.log.starts_with(&state.acknowledged)
}

fn is_mirrored(scope: &Scope, state: &State) -> bool {
    let agreed = state.register.as_ref().is_none_or(|register| register.mode == Mode::Mirrored);
    if scope.witness && (!agreed || !state.late.is_empty()) {
        return false;
    }
    let quiet = state.wire == [None, None] && state.nodes[0].disk.log == state.nodes[1].disk.log;
    if !quiet || state.nodes.iter().all(|node| node.rule != AckRule::Both) {
        return false;
    }
    let modes = status(state).map(|status| status.map(|status| (status.role, status.mode)));
    let primary = Some((RoleName::Primary, PairMode::Mirrored));
    let partner = Some((RoleName::Partner, PairMode::Mirrored));
    modes == [primary, partner] || modes == [partner, primary]
}

/// Mirrored; or, where an operator made it so, a split that both show and that waits for an operator.
fn is_settled(scope: &Scope, state: &State) -> bool {
    is_mirrored(scope, state)
        || state.forced && {
            let status = status(state);
            status.iter().flatten().any(|status| status.mode == PairMode::Split)
                && status.iter().flatten().all(|status| status.split.is_some())
        }
}

/// A mirrored primary, and a partner that is mirrored to in the same epoch and has other records.
fn not_equal(state: &State) -> bool {
    let logs = [0, 1].map(|node: usize| &state.nodes[node].disk.log);
    if logs[0] == logs[1] {
        return false;
    }
    let [Some(a), Some(b)] = status(state) else { return false };
    let mirrored = a.mode == PairMode::Mirrored && b.mode == PairMode::Mirrored && a.epoch == b.epoch;
    let (primary, partner) = match (a.role, b.role) {
        (RoleName::Primary, RoleName::Partner) => (logs[0], logs[1]),
        (RoleName::Partner, RoleName::Primary) => (logs[1], logs[0]),
        _ => return false,
    };
    mirrored && !primary.starts_with(partner)
}

fn never(breach: Breach) -> fn(&Scope, &State) -> bool {
    match breach {
        Breach::TwoAcknowledge => |_, state| state.breach != Some(Breach::TwoAcknowledge),
        Breach::DeposedAcknowledges => |_, state| state.breach != Some(Breach::DeposedAcknowledges),
        Breach::AcknowledgedMissing => |_, state| state.breach != Some(Breach::AcknowledgedMissing),
        Breach::ClaimantLacks => |_, state| state.breach != Some(Breach::ClaimantLacks),
        Breach::Lost => |_, state| state.breach != Some(Breach::Lost),
        Breach::CommittedUndone => |_, state| state.breach != Some(Breach::CommittedUndone),
        Breach::NotEqual => |_, state| state.breach != Some(Breach::NotEqual),
        Breach::Machine => |_, state| state.breach != Some(Breach::Machine),
    }
}

impl Model for Scope {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.step(state, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one node acknowledges in an epoch", never(Breach::TwoAcknowledge)),
            Property::always(
                "a deposed primary acknowledges nothing new",
                never(Breach::DeposedAcknowledges),
            ),
            Property::always("who serves holds all acknowledged", never(Breach::AcknowledgedMissing)),
            Property::always("who may claim holds all acknowledged", never(Breach::ClaimantLacks)),
            Property::always("nothing acknowledged is lost", never(Breach::Lost)),
            Property::always("nothing committed is undone", never(Breach::CommittedUndone)),
            Property::always("a mirrored partner's log is a prefix", never(Breach::NotEqual)),
            Property::always("the machine's own invariants hold", never(Breach::Machine)),
            Property::always("without faults the pair is mirrored again", Scope::heals),
            Property::always("who is left alone and may serve does", Scope::survivor_serves),
        ]
    }
}

pub struct Failure {
    pub property: &'static str,
    pub breach: Option<Breach>,
    pub actions: Vec<Action>,
    /// The last steps of the run without faults behind them.
    pub stuck: Vec<Action>,
    pub end: Box<State>,
}

pub struct Outcome {
    pub states: usize,
    pub transitions: usize,
    pub depth: usize,
    pub took: Duration,
    pub failed: Option<Failure>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states, {} transitions, depth {}, {:.1} s: ",
            self.states,
            self.transitions,
            self.depth,
            self.took.as_secs_f64()
        )?;
        match &self.failed {
            None => write!(f, "every property holds"),
            Some(failure) => {
                writeln!(f, "NOT \"{}\" ({:?}) after", failure.property, failure.breach)?;
                for action in &failure.actions {
                    writeln!(f, "    {action:?}")?;
                }
                if !failure.stuck.is_empty() {
                    writeln!(f, "    without faults, at the end: {:?}", failure.stuck)?;
                }
                for status in status(&failure.end).into_iter().flatten() {
                    writeln!(
                        f,
                        "  {:?} {:?} {:?} register {:?} {}",
                        status.role, status.mode, status.epoch, status.register, status.detail
                    )?;
                }
                for node in &failure.end.nodes {
                    writeln!(f, "  log {:?}", node.disk.log)?;
                }
                writeln!(
                    f,
                    "  acknowledged {:?}, register {:?}",
                    failure.end.acknowledged, failure.end.register
                )
            }
        }
    }
}
