//! Locks: parking_lot's, in whose stead a task waits for its turn.
//!
//! Invariant: a task never blocks in the real lock: it tries, and waits for the holder's release. Every lock is a
//! place where the seed may let another task go first.

use crate::core::{self, Key};
use crate::{Instant, threads};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

fn key_of<T: ?Sized>(it: &T) -> Key {
    std::ptr::from_ref(it).cast::<()>() as Key
}

/// Tries until it succeeds; waits for `key` in between.
fn acquire<G>(key: Key, mut attempt: impl FnMut() -> Option<G>) -> G {
    core::maybe_preempt();
    loop {
        if let Some(guard) = attempt() {
            return guard;
        }
        core::block(Some(key), None);
    }
}

/// A guard is empty only while its lock is waited for again, or being dropped.
const HELD: &str = "held until it is dropped";

/// See [`parking_lot::Mutex`].
#[derive(Default)]
pub struct Mutex<T: ?Sized>(parking_lot::Mutex<T>);

/// See [`parking_lot::MutexGuard`].
pub struct MutexGuard<'a, T: ?Sized> {
    lock: &'a Mutex<T>,
    inner: Option<parking_lot::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// An open lock.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(parking_lot::Mutex::new(value))
    }

    /// What it held.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { lock: self, inner: Some(self.wait_for_lock()) }
    }

    fn wait_for_lock(&self) -> parking_lot::MutexGuard<'_, T> {
        match core::is_simulated() {
            true => acquire(key_of(self), || self.0.try_lock()),
            false => self.0.lock(),
        }
    }

    /// The lock, if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        Some(MutexGuard { lock: self, inner: Some(self.0.try_lock()?) })
    }

    /// What it holds, which nobody else can see.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized> MutexGuard<'_, T> {
    fn open(&mut self) {
        self.inner = None;
        core::wake(key_of(self.lock));
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect(HELD)
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.open();
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// See [`parking_lot::RwLock`].
#[derive(Default)]
pub struct RwLock<T: ?Sized>(parking_lot::RwLock<T>);

/// See [`parking_lot::RwLockReadGuard`].
pub struct RwLockReadGuard<'a, T: ?Sized> {
    key: Key,
    inner: Option<parking_lot::RwLockReadGuard<'a, T>>,
}

/// See [`parking_lot::RwLockWriteGuard`].
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    key: Key,
    inner: Option<parking_lot::RwLockWriteGuard<'a, T>>,
}

impl<T> RwLock<T> {
    /// An open lock.
    pub const fn new(value: T) -> RwLock<T> {
        RwLock(parking_lot::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits until nobody writes.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let key = key_of(self);
        let inner = match core::is_simulated() {
            true => acquire(key, || self.0.try_read()),
            false => self.0.read(),
        };
        RwLockReadGuard { key, inner: Some(inner) }
    }

    /// Waits until nobody reads or writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let key = key_of(self);
        let inner = match core::is_simulated() {
            true => acquire(key, || self.0.try_write()),
            false => self.0.write(),
        };
        RwLockWriteGuard { key, inner: Some(inner) }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        self.inner = None;
        core::wake(self.key);
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect(HELD)
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.inner = None;
        core::wake(self.key);
    }
}

/// See [`parking_lot::Condvar`].
#[derive(Default, Debug)]
pub struct Condvar(parking_lot::Condvar);

/// Whether a wait came to its time limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// See the type.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Condvar {
        Condvar(parking_lot::Condvar::new())
    }

    /// Opens the lock, waits to be notified, and takes the lock again.
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        match core::is_simulated() {
            true => drop(self.wait_in_task(guard, None)),
            false => self.0.wait(guard.inner.as_mut().expect(HELD)),
        }
    }

    /// The same, no longer than `wait`.
    pub fn wait_for<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, wait: Duration) -> WaitTimeoutResult {
        match core::is_simulated() {
            true => self.wait_in_task(guard, Some(threads::deadline_ns(wait))),
            false => WaitTimeoutResult(self.0.wait_for(guard.inner.as_mut().expect(HELD), wait).timed_out()),
        }
    }

    /// The same, no longer than until `deadline`.
    pub fn wait_until<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        match core::is_simulated() {
            true => self.wait_in_task(guard, Some(deadline.virtual_ns())),
            false => {
                let inner = guard.inner.as_mut().expect(HELD);
                WaitTimeoutResult(self.0.wait_until(inner, deadline.real()).timed_out())
            }
        }
    }

    fn wait_in_task<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        until_ns: Option<u64>,
    ) -> WaitTimeoutResult {
        if core::is_dying() {
            return WaitTimeoutResult(true);
        }
        // Nobody runs between these two: a notification cannot be missed.
        guard.open();
        let notified = core::block(Some(key_of(self)), until_ns);
        guard.inner = Some(guard.lock.wait_for_lock());
        WaitTimeoutResult(!notified)
    }

    /// Wakes one who waits; tasks are all woken, and look.
    pub fn notify_one(&self) {
        self.0.notify_one();
        core::wake(key_of(self));
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
        core::wake(key_of(self));
    }
}
