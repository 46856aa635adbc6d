//! Threads: tasks inside of a run, the operating system's outside.

use crate::core::{self, Key, Killed, PARK, TaskId};
use crate::nodes::NodeId;
use crate::run;
use parking_lot::Mutex;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// A thread's result, as [`std::thread::JoinHandle::join`] gives it.
type Result<T> = std::thread::Result<T>;

/// Waits for a thread's end.
pub struct JoinHandle<T>(Joins<T>);

enum Joins<T> {
    Real(std::thread::JoinHandle<T>),
    Task(Arc<Slot<T>>),
}

struct Slot<T>(Mutex<Option<Result<T>>>);

impl<T> Slot<T> {
    fn key(self: &Arc<Self>) -> Key {
        Arc::as_ptr(self).cast::<()>() as Key
    }
}

/// Tells the joiner, also when the task never ran.
struct Finish<T>(Arc<Slot<T>>);

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        self.0.0.lock().get_or_insert_with(|| Err(Box::new(Killed)));
        core::wake(self.0.key());
    }
}

impl<T> JoinHandle<T> {
    /// Waits for the end.
    ///
    /// # Errors
    /// The thread panicked, or its node died.
    pub fn join(self) -> Result<T> {
        match self.0 {
            Joins::Real(thread) => thread.join(),
            Joins::Task(slot) => loop {
                if let Some(result) = slot.0.lock().take() {
                    return result;
                }
                if core::is_dying() {
                    return Err(Box::new(Killed));
                }
                core::block(Some(slot.key()), None);
            },
        }
    }

    /// Has it ended?
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            Joins::Real(thread) => thread.is_finished(),
            Joins::Task(slot) => slot.0.lock().is_some(),
        }
    }
}

/// Starts a thread on the caller's node.
///
/// # Errors
/// The limit of threads is reached, or the node is dying.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let Some(id) = core::running() else {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        return Ok(JoinHandle(Joins::Real(thread)));
    };
    let node = core::with(|state| state.tasks[id].node);
    if core::with(|state| state.nodes[node].dead) {
        return Err(io::Error::other("the node is dying"));
    }
    Ok(spawn_on(NodeId(node), name, body))
}

/// Starts a task on a node.
pub fn spawn_on<T: 'static>(node: NodeId, name: &str, body: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    let slot = Arc::new(Slot(Mutex::new(None)));
    let finish = Finish(slot.clone());
    // A new stack is handed no more than a page.
    let body = Box::new(body);
    core::add_task(node.0, name, move || {
        let finish = finish;
        match std::panic::catch_unwind(AssertUnwindSafe(body)) {
            Ok(value) => *finish.0.0.lock() = Some(Ok(value)),
            Err(payload) if payload.is::<Killed>() => {}
            Err(payload) => {
                run::panicked(core::panic_text(payload.as_ref()));
                *finish.0.0.lock() = Some(Err(payload));
            }
        }
    });
    JoinHandle(Joins::Task(slot))
}

/// A thread that can be woken.
#[derive(Clone, Debug)]
pub struct Thread(Handle);

#[derive(Clone, Debug)]
enum Handle {
    Real(std::thread::Thread),
    Task(TaskId),
}

/// Names a thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ThreadId {
    /// One of the operating system's.
    Real(std::thread::ThreadId),
    /// A task.
    Task(usize),
}

/// The calling thread.
pub fn current() -> Thread {
    Thread(match core::running() {
        Some(id) => Handle::Task(id),
        None => Handle::Real(std::thread::current()),
    })
}

impl Thread {
    /// Its name among all.
    pub fn id(&self) -> ThreadId {
        match &self.0 {
            Handle::Real(thread) => ThreadId::Real(thread.id()),
            Handle::Task(id) => ThreadId::Task(*id),
        }
    }

    /// Lets it go on from [`park`], now or the next time.
    pub fn unpark(&self) {
        match &self.0 {
            Handle::Real(thread) => thread.unpark(),
            Handle::Task(id) => {
                let _after_the_run = core::try_with(|state| {
                    state.tasks[*id].parked_token = true;
                    state.wake(PARK | *id as u64);
                });
            }
        }
    }
}

/// Waits until somebody calls [`Thread::unpark`].
pub fn park() {
    let Some(id) = core::running() else { return std::thread::park() };
    let token = || core::with(|state| std::mem::take(&mut state.tasks[id].parked_token));
    while !token() && !core::is_dying() {
        core::block(Some(PARK | id as u64), None);
    }
}

/// Lets others go first.
pub fn yield_now() {
    match core::is_simulated() {
        true => {
            let after_ns = core::with(|state| state.now_ns + 1_000 + state.random.below(4_000));
            core::block(None, Some(after_ns));
        }
        false => std::thread::yield_now(),
    }
}

/// Longest virtual time that can be waited for.
pub(crate) fn deadline_ns(wait: Duration) -> u64 {
    (crate::Instant::now() + wait).virtual_ns()
}
