//! A run: from its root task's first turn to the end of the last task.

use crate::core::{self, Callback, State, Timer};
use crate::nodes::{Node, NodeId};
use crate::random::Random;
use crate::threads::spawn_on;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Once;
use std::time::Duration;

/// Stacks that stay stuck at the end of a run are given up after so many rounds.
const MAX_LAST_ROUNDS: usize = 100_000;

/// What decides a run, and what bounds it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Decides everything.
    pub seed: u64,
    /// A run that takes longer has failed.
    pub max_virtual: Duration,
    /// A run with more turns has failed.
    pub max_switches: u64,
    /// How often, of a thousand times, a lock lets others go first.
    pub preempt_permille: u64,
    /// Print what [`crate::trace`] is told.
    pub prints: bool,
}

impl Config {
    /// Ten minutes and a hundred million turns.
    pub fn new(seed: u64) -> Config {
        let max_virtual = Duration::from_secs(600);
        Config { seed, max_virtual, max_switches: 100_000_000, preempt_permille: 20, prints: false }
    }
}

/// Why a run failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A task panicked.
    Panicked {
        /// Node and task.
        task: String,
        /// What it said, and where.
        message: String,
    },
    /// Everybody waits, and for no time.
    Deadlock {
        /// Node and name of each.
        tasks: Vec<String>,
    },
    /// The virtual time is over.
    TooLong {
        /// Node and name of each that still lives.
        tasks: Vec<String>,
    },
    /// Too many turns.
    TooManySwitches {
        /// Node and name of each that still lives.
        tasks: Vec<String>,
    },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Panicked { task, message } => write!(f, "{task} panicked: {message}"),
            Failure::Deadlock { tasks } => write!(f, "everybody waits for somebody: {}", tasks.join(", ")),
            Failure::TooLong { tasks } => write!(f, "it took too long; alive are {}", tasks.join(", ")),
            Failure::TooManySwitches { tasks } => {
                write!(f, "it took too many turns; alive are {}", tasks.join(", "))
            }
        }
    }
}

impl std::error::Error for Failure {}

/// How a run went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Whether the root task came to its end.
    pub result: Result<(), Failure>,
    /// Of every turn, its time, and everything that was traced.
    pub trace_hash: u64,
    /// How long it took.
    pub virtual_time: Duration,
    /// Turns.
    pub switches: u64,
}

thread_local! {
    static FAILURE: RefCell<Option<Failure>> = const { RefCell::new(None) };
    static IN_RUN: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `root` and everything it starts; returns when `root` has, or something failed, and nothing is left.
///
/// # Panics
/// Inside of another run.
pub fn run(config: &Config, root: impl FnOnce() + 'static) -> Outcome {
    keep_panics_quiet();
    let state = State {
        now_ns: 0,
        random: Random::new(config.seed),
        tasks: Vec::new(),
        nodes: vec![Node::new("world", 0, 0)],
        ready: Vec::new(),
        doomed: VecDeque::new(),
        timers: BinaryHeap::new(),
        timed: BTreeMap::new(),
        callbacks: BTreeMap::new(),
        sequence: 0,
        waiting: HashMap::new(),
        stacks: Vec::new(),
        preempt_permille: config.preempt_permille,
        switches: 0,
        hash: config.seed,
        prints: config.prints,
    };
    assert!(!IN_RUN.replace(true), "a run inside of a run");
    assert!(core::replace(Some(state)).is_none(), "a run inside of a run");
    FAILURE.set(None);
    let root = spawn_on(NodeId::WORLD, "root", root);
    let result = drive(config, || root.is_finished());
    let (trace_hash, now_ns, switches) = core::with(|state| (state.hash, state.now_ns, state.switches));
    end_all();
    let state = core::replace(None);
    IN_RUN.set(false);
    // Whatever its destructors wake is nobody any more.
    if let Some(mut state) = state {
        // A stack that could not unwind: its memory is given up rather than freed under it.
        state.tasks.iter_mut().filter_map(|task| task.coroutine.take()).for_each(std::mem::forget);
    }
    Outcome { result, trace_hash, virtual_time: Duration::from_nanos(now_ns), switches }
}

/// Turn after turn.
fn drive(config: &Config, ended: impl Fn() -> bool) -> Result<(), Failure> {
    let max_ns = config.max_virtual.as_nanos() as u64;
    loop {
        if let Some(failure) = FAILURE.take() {
            return Err(failure);
        }
        if ended() {
            return Ok(());
        }
        let (due, chosen) = core::with(|state| {
            let due = state.fire_timers();
            // What was called may matter for who goes next.
            let chosen = if due.is_empty() { state.choose() } else { None };
            if let Some(id) = chosen {
                state.pass_a_turn(id);
            }
            (due, chosen)
        });
        if !due.is_empty() {
            due.into_iter().for_each(|callback| callback());
            continue;
        }
        match chosen {
            Some(id) => core::resume(id),
            None => jump()?,
        }
        let (now_ns, switches) = core::with(|state| (state.now_ns, state.switches));
        if now_ns > max_ns {
            return Err(Failure::TooLong { tasks: alive() });
        }
        if switches > config.max_switches {
            return Err(Failure::TooManySwitches { tasks: alive() });
        }
    }
}

/// To the next moment that somebody waits for.
fn jump() -> Result<(), Failure> {
    let next = core::with(|state| {
        let next = state.timers.peek().map(|next| next.0.0);
        state.now_ns = state.now_ns.max(next.unwrap_or(0));
        next
    });
    next.map(drop).ok_or_else(|| Failure::Deadlock { tasks: alive() })
}

/// Unwinds everything.
fn end_all() {
    core::with(|state| (0..state.tasks.len()).for_each(|id| state.doom(id)));
    for _ in 0..MAX_LAST_ROUNDS {
        let next = core::with(|state| {
            state.fire_timers();
            state.doomed.pop_front()
        });
        match next {
            Some(id) => core::resume(id),
            None => break,
        }
    }
}

fn alive() -> Vec<String> {
    core::with(|state| {
        let name = |task: &core::Task| format!("{}/{}", state.nodes[task.node].name, task.name);
        state.tasks.iter().filter(|task| !task.ended).map(name).collect()
    })
}

/// The running task panicked: the run has failed.
pub(crate) fn panicked(text: String) {
    let Some((at, node, task)) = core::whereabouts() else { return };
    let message = LAST_PANIC.take().unwrap_or(text);
    let message = format!("{message} (at {:.6} s)", at.as_secs_f64());
    FAILURE.with(|failure| {
        failure.borrow_mut().get_or_insert(Failure::Panicked { task: format!("{node}/{task}"), message });
    });
}

/// A panic in a run is a finding, which [`Outcome`] tells; printing it too would only repeat it.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !core::is_simulated() {
                return others(panic);
            }
            let place = panic.location().map_or_else(String::new, |at| format!(", {at}"));
            LAST_PANIC.set(Some(format!("{}{place}", core::panic_text(panic.payload()))));
        }));
    });
}

/// Calls `act` after so much virtual time, on no task's stack: it must not block.
pub fn at(after: Duration, act: impl FnOnce() + 'static) {
    let act: Callback = Box::new(act);
    core::with(|state| {
        let at_ns = state.now_ns.saturating_add(after.as_nanos() as u64);
        let sequence = state.set_timer(at_ns, Timer::Callback);
        state.callbacks.insert(sequence, act);
    });
}
