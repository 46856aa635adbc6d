//! The state of a run, and the one way in which a task waits.
//!
//! Everything that waits calls [`block`] with a key, a time, or both, and looks again when it returns. Everything
//! that changes what others wait for calls [`wake`] with the key. Keys are addresses or numbers that only have to
//! differ; two waits that share one by accident cost a look in vain.
//!
//! Invariant: the state is never borrowed while a task runs. What can go wrong: a task of a dying node unwinds, and
//! its destructors come here again: they may wait for a lock, and for nothing else.

use crate::nodes::Node;
use crate::random::Random;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, Yielder};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

/// Virtual time that one turn of a task takes, at least and at most, in nanoseconds. More than nothing, so that
/// even a task that only looks sees time pass.
const TURN_NS: (u64, u64) = (200, 1500);

pub(crate) type TaskId = usize;
pub(crate) type Key = u64;

/// Keys that are not addresses.
pub(crate) const PARK: Key = 1 << 63;
pub(crate) const NODE: Key = 1 << 62;

/// The payload that unwinds the tasks of a dying node.
pub(crate) struct Killed;

pub(crate) struct Task {
    pub node: usize,
    pub name: String,
    /// Taken out while it runs, and when it has ended.
    pub coroutine: Option<Coroutine<(), (), ()>>,
    /// Valid from its first turn to its end.
    yielder: *const Yielder<(), ()>,
    pub started: bool,
    pub ended: bool,
    /// Which wait it is in: wake-ups for earlier ones are void.
    pub wait: u64,
    pub blocked: bool,
    pub notified: bool,
    pub parked_token: bool,
    /// It must unwind.
    pub doomed: bool,
    /// It does.
    pub unwinding: bool,
}

pub(crate) type Callback = Box<dyn FnOnce()>;

pub(crate) enum Timer {
    Task { id: TaskId, wait: u64 },
    Callback,
}

pub(crate) struct State {
    pub now_ns: u64,
    pub random: Random,
    pub tasks: Vec<Task>,
    pub nodes: Vec<Node>,
    pub ready: Vec<TaskId>,
    pub doomed: VecDeque<TaskId>,
    /// By time, then in the order in which they were set.
    pub timers: BinaryHeap<Reverse<(u64, u64)>>,
    pub timed: BTreeMap<u64, Timer>,
    pub callbacks: BTreeMap<u64, Callback>,
    pub sequence: u64,
    pub waiting: HashMap<Key, Vec<(TaskId, u64)>>,
    pub stacks: Vec<DefaultStack>,
    pub preempt_permille: u64,
    pub switches: u64,
    pub hash: u64,
    pub prints: bool,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
    static RUNNING: Cell<Option<TaskId>> = const { Cell::new(None) };
}

/// Puts a state in place, or takes it away.
pub(crate) fn replace(state: Option<State>) -> Option<State> {
    STATE.with(|current| std::mem::replace(&mut *current.borrow_mut(), state))
}

/// Works on the state of this thread's run.
pub(crate) fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    try_with(act).expect("only inside of a run")
}

pub(crate) fn try_with<T>(act: impl FnOnce(&mut State) -> T) -> Option<T> {
    STATE.with(|state| state.borrow_mut().as_mut().map(act))
}

/// The task that runs, if one does.
pub(crate) fn running() -> Option<TaskId> {
    RUNNING.get()
}

/// Whether the caller is a task of a run, and not an ordinary thread.
pub fn is_simulated() -> bool {
    running().is_some()
}

/// Whether the caller is being unwound because its node died: what it still does must have no effect.
pub fn is_dying() -> bool {
    running().is_some_and(|id| with(|state| state.tasks[id].unwinding))
}

/// Virtual time, node and task, for messages. `None` outside of a run.
pub fn whereabouts() -> Option<(Duration, String, String)> {
    let id = running();
    STATE.with(|state| {
        let state = state.try_borrow().ok()?;
        let state = state.as_ref()?;
        let at = Duration::from_nanos(state.now_ns);
        Some(match id {
            Some(id) => {
                let task = &state.tasks[id];
                (at, state.nodes[task.node].name.clone(), task.name.clone())
            }
            None => (at, String::from("-"), String::from("-")),
        })
    })
}

/// Notes what happened: it becomes part of the trace's hash, and is printed when that was asked for.
pub fn trace(what: impl FnOnce() -> String) {
    let Some((at, node, task)) = whereabouts() else { return };
    let text = what();
    with(|state| {
        text.bytes().for_each(|byte| state.fold(u64::from(byte)));
        if state.prints {
            println!("{:12.6} {node}/{task}: {text}", at.as_secs_f64());
        }
    });
}

/// Blocks the running task until `key` is woken or the virtual time `until_ns` comes. True when it was woken.
pub(crate) fn block(key: Option<Key>, until_ns: Option<u64>) -> bool {
    let id = running().expect("only a task can wait");
    let yielder = with(|state| {
        let unwinding = state.tasks[id].unwinding;
        if unwinding && until_ns.is_some() {
            return None;
        }
        state.begin_wait(id, key, until_ns);
        Some(state.tasks[id].yielder)
    });
    let Some(yielder) = yielder else { return false };
    // SAFETY: the running task set it in its first turn, and this is its stack: the yielder lives in a frame below.
    unsafe { (*yielder).suspend(()) };
    let (doomed, notified) = with(|state| {
        let task = &mut state.tasks[id];
        let doomed = task.doomed && !task.unwinding;
        task.unwinding |= doomed;
        (doomed, task.notified)
    });
    if doomed {
        std::panic::resume_unwind(Box::new(Killed));
    }
    notified
}

/// Wakes everybody who waits for `key`. Does nothing outside of a run.
pub(crate) fn wake(key: Key) {
    let _outside = try_with(|state| state.wake(key));
}

/// Lets others go first, if the seed says so: called where a real thread could lose its processor.
pub(crate) fn maybe_preempt() {
    let preempted = with(|state| {
        let permille = state.preempt_permille;
        permille > 0 && state.random.below(1000) < permille
    });
    if preempted && !is_dying() {
        crate::yield_now();
    }
}

impl State {
    pub fn fold(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }

    fn begin_wait(&mut self, id: TaskId, key: Option<Key>, until_ns: Option<u64>) {
        let task = &mut self.tasks[id];
        task.wait += 1;
        task.blocked = true;
        task.notified = false;
        let wait = task.wait;
        if let Some(until_ns) = until_ns {
            self.set_timer(until_ns, Timer::Task { id, wait });
        }
        if let Some(key) = key {
            let waiting = self.waiting.entry(key).or_default();
            // Those who timed out leave their entry behind.
            if waiting.len() > 32 {
                let tasks = &self.tasks;
                waiting.retain(|(id, wait)| tasks[*id].blocked && tasks[*id].wait == *wait);
            }
            waiting.push((id, wait));
        }
    }

    pub fn set_timer(&mut self, at_ns: u64, timer: Timer) -> u64 {
        self.sequence += 1;
        self.timers.push(Reverse((at_ns.max(self.now_ns), self.sequence)));
        self.timed.insert(self.sequence, timer);
        self.sequence
    }

    pub fn wake(&mut self, key: Key) {
        let Some(waiting) = self.waiting.remove(&key) else { return };
        for (id, wait) in waiting {
            if self.make_ready(id, wait) {
                self.tasks[id].notified = true;
            }
        }
    }

    /// False when it waits for something else by now.
    pub fn make_ready(&mut self, id: TaskId, wait: u64) -> bool {
        let task = &mut self.tasks[id];
        if !task.blocked || task.wait != wait || task.ended {
            return false;
        }
        task.blocked = false;
        match task.doomed {
            true => self.doomed.push_back(id),
            false => self.ready.push(id),
        }
        true
    }

    /// Lets a task unwind as soon as it runs.
    pub fn doom(&mut self, id: TaskId) {
        let task = &mut self.tasks[id];
        if task.ended || task.doomed {
            return;
        }
        task.doomed = true;
        if Some(id) == running() {
            return;
        }
        task.blocked = false;
        task.wait += 1;
        self.ready.retain(|ready| *ready != id);
        self.doomed.push_back(id);
    }

    /// Who goes next. Doomed ones first: a dying node does nothing in between.
    pub fn choose(&mut self) -> Option<TaskId> {
        if let Some(id) = self.doomed.pop_front() {
            return Some(id);
        }
        while !self.ready.is_empty() {
            let chosen = self.random.below(self.ready.len() as u64) as usize;
            let id = self.ready.swap_remove(chosen);
            let stalled_until_ns = self.nodes[self.tasks[id].node].stalled_until_ns;
            if stalled_until_ns <= self.now_ns {
                return Some(id);
            }
            let task = &mut self.tasks[id];
            task.blocked = true;
            let wait = task.wait;
            self.set_timer(stalled_until_ns, Timer::Task { id, wait });
        }
        None
    }

    /// Makes everybody ready whose time has come, and gives out what is to be called.
    pub fn fire_timers(&mut self) -> Vec<Callback> {
        let mut due = Vec::new();
        while let Some(Reverse((at_ns, sequence))) = self.timers.peek().copied() {
            if at_ns > self.now_ns {
                break;
            }
            self.timers.pop();
            match self.timed.remove(&sequence) {
                Some(Timer::Task { id, wait }) => {
                    self.make_ready(id, wait);
                }
                Some(Timer::Callback) => due.extend(self.callbacks.remove(&sequence)),
                None => {}
            }
        }
        due
    }

    /// A turn takes time.
    pub fn pass_a_turn(&mut self, id: TaskId) {
        self.switches += 1;
        self.now_ns += TURN_NS.0 + self.random.below(TURN_NS.1 - TURN_NS.0);
        let now_ns = self.now_ns;
        self.fold(id as u64);
        self.fold(now_ns);
    }
}

/// Runs a task until it blocks or ends.
pub(crate) fn resume(id: TaskId) {
    let (coroutine, never) = with(|state| {
        let task = &mut state.tasks[id];
        let never = task.doomed && !task.started;
        task.started = true;
        (task.coroutine.take(), never)
    });
    let Some(mut coroutine) = coroutine else { return };
    if never {
        // Its closure is dropped where nothing can block.
        drop(coroutine);
        with(|state| state.ended(id));
        return;
    }
    RUNNING.set(Some(id));
    let done = coroutine.resume(()).as_return().is_some();
    RUNNING.set(None);
    with(|state| match done {
        true => {
            state.stacks.push(coroutine.into_stack());
            state.ended(id);
        }
        false => state.tasks[id].coroutine = Some(coroutine),
    });
}

impl State {
    fn ended(&mut self, id: TaskId) {
        let task = &mut self.tasks[id];
        task.ended = true;
        task.blocked = false;
        let node = task.node;
        self.nodes[node].alive -= 1;
        if self.nodes[node].alive == 0 {
            self.wake(NODE | node as u64);
        }
    }
}

/// Makes a task out of `body`, which must catch its own panics. It is ready at once.
pub(crate) fn add_task(node: usize, name: &str, body: impl FnOnce() + 'static) -> TaskId {
    const STACK_BYTES: usize = 1 << 20;
    let stack = with(|state| state.stacks.pop());
    let stack = stack.unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("memory for a task's stack"));
    let coroutine = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
        let id = running().expect("a task's first turn");
        with(|state| state.tasks[id].yielder = yielder);
        body();
    });
    with(|state| {
        let id = state.tasks.len();
        state.tasks.push(Task {
            node,
            name: name.to_owned(),
            coroutine: Some(coroutine),
            yielder: std::ptr::null(),
            started: false,
            ended: false,
            wait: 0,
            blocked: false,
            notified: false,
            parked_token: false,
            doomed: false,
            unwinding: false,
        });
        state.nodes[node].alive += 1;
        state.ready.push(id);
        id
    })
}

/// What a panic says.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
