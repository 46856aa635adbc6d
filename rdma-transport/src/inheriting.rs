//! A lock whose holder runs with the priority of whoever waits for it (a PI futex).
//!
//! Threads that keep a pair alive send over the same channel as threads that go over whole trees. On a busy machine one of the
//! latter may be set aside in the middle of sending, and does not come to run again for half a second: without inheritance
//! a heartbeat waits all that time for the channel.
//!
//! What can go wrong: a kernel without PI futexes. Then it is an ordinary lock.

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;
use rustix::thread::futex::{Flags, lock_pi, unlock_pi};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

/// Who waits here waits in the kernel, which knows the holder by its thread id; the value has a lock of its own that nobody else
/// wants then.
pub(crate) struct Inheriting<T> {
    holder: AtomicU32,
    value: Mutex<T>,
}

impl<T> Inheriting<T> {
    pub(crate) fn new(value: T) -> Inheriting<T> {
        Inheriting { holder: AtomicU32::new(0), value: Mutex::new(value) }
    }

    pub(crate) fn lock(&self) -> Held<'_, T> {
        let turn = Turn::take(&self.holder);
        Held { value: self.value.lock(), _turn: turn }
    }
}

/// The lock, held. The value goes before the turn.
pub(crate) struct Held<'a, T> {
    value: MutexGuard<'a, T>,
    _turn: Option<Turn<'a>>,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

struct Turn<'a>(&'a AtomicU32);

impl Turn<'_> {
    /// `None` where the kernel cannot do it.
    fn take(holder: &AtomicU32) -> Option<Turn<'_>> {
        if holder.compare_exchange(0, own_id(), Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Some(Turn(holder));
        }
        loop {
            match lock_pi(holder, Flags::PRIVATE, None) {
                Ok(()) => return Some(Turn(holder)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.0.compare_exchange(own_id(), 0, Ordering::Release, Ordering::Relaxed).is_err() {
            // The kernel refuses only what nobody waits for there.
            let _ = unlock_pi(self.0, Flags::PRIVATE);
        }
    }
}

fn own_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::{Duration, Instant};

    /// As the kernel schedules it now: real-time ones are negative.
    fn effective_priority(thread: u32) -> i64 {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).expect("it lives");
        let (_, fields) = stat.rsplit_once(')').expect("the name ends");
        fields.split_whitespace().nth(15).expect("a priority").parse().expect("a number")
    }

    fn be_real_time() {
        use thread_priority::{
            RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
            set_thread_priority_and_policy, thread_native_id,
        };
        let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
        let priority = ThreadPriorityValue::try_from(2_u8).map(ThreadPriority::Crossplatform).expect("one");
        set_thread_priority_and_policy(thread_native_id(), priority, policy).expect("tests run as root");
    }

    #[test]
    fn a_holder_gets_the_priority_of_who_waits() {
        let lock = Inheriting::new(0);
        let ((held, is_held), (go_on, may_go_on)) = (channel(), channel::<()>());
        thread::scope(|scope| {
            let lock = &lock;
            scope.spawn(move || {
                let mut value = lock.lock();
                *value += 1;
                held.send(own_id()).expect("the test waits");
                may_go_on.recv().expect("the test says so");
                drop(value);
                // Its own again as soon as nobody waits for it.
                assert!(effective_priority(own_id()) >= 0);
            });
            let holder = is_held.recv().expect("it holds the lock");
            let waiter = scope.spawn(|| {
                be_real_time();
                *lock.lock() += 1;
            });
            let deadline = Instant::now() + Duration::from_secs(30);
            while effective_priority(holder) >= 0 && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            let inherits = effective_priority(holder) < 0;
            go_on.send(()).expect("the holder waits");
            waiter.join().expect("ends");
            assert!(inherits, "the holder stays an ordinary thread while a vital one waits");
        });
        assert_eq!(*lock.lock(), 2);
    }

    #[test]
    fn it_keeps_others_out() {
        const ROUNDS: u64 = 20_000;
        let lock = Inheriting::new(0_u64);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let mut value = lock.lock();
                        let seen = *value;
                        std::hint::black_box(&mut value);
                        *value = seen + 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 4 * ROUNDS);
        assert_eq!(lock.holder.load(Ordering::Relaxed), 0);
    }
}
