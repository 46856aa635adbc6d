//! What the scheduler promises: repetition, races, virtual time, clocks that drift, and deaths that leave nothing.

#![allow(clippy::unwrap_used)]

use scheduler::channel::{RecvTimeoutError, bounded, unbounded};
use scheduler::{Condvar, Config, Failure, Instant, Mutex, Outcome, RwLock};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn run(seed: u64, root: impl FnOnce() + 'static) -> Outcome {
    scheduler::run(&Config::new(seed), root)
}

fn well(seed: u64, root: impl FnOnce() + 'static) -> Outcome {
    let outcome = run(seed, root);
    assert_eq!(outcome.result, Ok(()));
    outcome
}

/// Tasks that race for a lock, talk over a channel and sleep.
fn busy() {
    let total = Arc::new(Mutex::new(0));
    let (sender, receiver) = bounded(2);
    let threads: Vec<_> = (0..5)
        .map(|number| {
            let (total, sender) = (total.clone(), sender.clone());
            let body = move || {
                for round in 0..20 {
                    *total.lock() += 1;
                    sender.send(number * 100 + round).unwrap();
                    scheduler::sleep(MS * number);
                }
            };
            scheduler::spawn("busy", body).unwrap()
        })
        .collect();
    drop(sender);
    let order: Vec<u32> = receiver.iter().collect();
    scheduler::trace(|| format!("{order:?}"));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((*total.lock(), order.len()), (100, 100));
}

#[test]
fn the_same_seed_gives_the_same_run_and_others_give_others() {
    let hashes: BTreeSet<u64> = (0..20).map(|seed| well(seed, busy).trace_hash).collect();
    assert_eq!(hashes.len(), 20);
    for seed in 0..20 {
        assert_eq!(well(seed, busy), well(seed, busy));
    }
}

#[test]
fn time_jumps_and_a_clock_that_drifts_jumps_with_it() {
    let begun = std::time::Instant::now();
    let outcome = well(1, || {
        let node = scheduler::add_node("fast");
        scheduler::set_clock(node, 100_000, Duration::ZERO);
        let asleep = scheduler::spawn_on(node, "asleep", || {
            let begun = Instant::now();
            scheduler::sleep(Duration::from_secs(110));
            begun.elapsed()
        });
        let slept = asleep.join().unwrap();
        assert!(slept >= Duration::from_secs(110) && slept < Duration::from_secs(111), "{slept:?}");
    });
    let passed = outcome.virtual_time.as_secs_f64();
    assert!((99.9..100.1).contains(&passed), "a tenth fast: {passed}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_race_is_found_by_some_seed_and_not_by_all() {
    let lost = |seed| {
        let seen = Arc::new(AtomicU64::new(0));
        let counter = Arc::new(Mutex::new(0_u64));
        let result = seen.clone();
        well(seed, move || {
            let add = |counter: Arc<Mutex<u64>>| {
                move || {
                    let before = *counter.lock();
                    *counter.lock() = before + 1;
                }
            };
            let one = scheduler::spawn("one", add(counter.clone())).unwrap();
            let two = scheduler::spawn("two", add(counter.clone())).unwrap();
            one.join().unwrap();
            two.join().unwrap();
            result.store(*counter.lock(), Ordering::Relaxed);
        });
        seen.load(Ordering::Relaxed) == 1
    };
    let losses = (0..500).filter(|seed| lost(*seed)).count();
    assert!((1..400).contains(&losses), "{losses}");
}

struct Noted(Arc<AtomicU64>);

impl Drop for Noted {
    fn drop(&mut self) {
        assert!(scheduler::is_dying());
        scheduler::sleep(Duration::from_secs(1000));
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_node_that_dies_leaves_nothing_behind_and_takes_no_time() {
    for seed in 0..50 {
        let dropped = Arc::new(AtomicU64::new(0));
        let went_on = Arc::new(AtomicBool::new(false));
        let (dropped_of, went_on_of) = (dropped.clone(), went_on.clone());
        let outcome = well(seed, move || {
            let node = scheduler::add_node("doomed");
            let lock = Arc::new(Mutex::new(()));
            let (sender, receiver) = unbounded::<()>();
            for number in 0..4 {
                let (noted, went_on) = (Noted(dropped_of.clone()), went_on_of.clone());
                let (lock, receiver) = (lock.clone(), receiver.clone());
                scheduler::spawn_on(node, "doomed", move || {
                    let _noted = noted;
                    match number {
                        0 => scheduler::sleep(Duration::from_secs(100)),
                        1 => drop(receiver.recv()),
                        2 => {
                            let _held = lock.lock();
                            scheduler::park();
                        }
                        _ => {
                            let _held = lock.lock();
                            scheduler::sleep(Duration::from_secs(100));
                        }
                    }
                    went_on.store(true, Ordering::Relaxed);
                });
            }
            scheduler::sleep(MS);
            scheduler::kill(node);
            assert_eq!(dropped_of.load(Ordering::Relaxed), 4);
            drop(sender);
            assert!(lock.try_lock().is_some());
        });
        assert!(!went_on.load(Ordering::Relaxed));
        assert!(outcome.virtual_time < Duration::from_secs(1));
    }
}

#[test]
fn a_task_can_end_its_own_node() {
    well(3, || {
        let node = scheduler::add_node("doomed");
        let other = scheduler::spawn_on(node, "other", || scheduler::sleep(Duration::from_secs(100)));
        let own = scheduler::spawn_on(node, "own", move || {
            scheduler::sleep(MS);
            scheduler::kill(node);
        });
        assert!(own.join().is_err() && other.join().is_err());
        assert!(scheduler::virtual_now() < MS * 5);
    });
}

#[test]
fn failures_are_told() {
    let panicked = run(1, || {
        scheduler::spawn("bad", || panic!("so bad")).unwrap();
        scheduler::sleep(MS);
    });
    let told = matches!(&panicked.result, Err(Failure::Panicked { task, message })
        if task == "world/bad" && message.starts_with("so bad, "));
    assert!(told, "{panicked:?}");
    let stuck = run(1, scheduler::park);
    assert_eq!(stuck.result, Err(Failure::Deadlock { tasks: vec!["world/root".to_owned()] }));
    let config = Config { max_virtual: MS * 10, ..Config::new(1) };
    let slow = scheduler::run(&config, || scheduler::sleep(MS * 20));
    assert!(matches!(slow.result, Err(Failure::TooLong { .. })), "{slow:?}");
    let config = Config { max_switches: 100, ..Config::new(1) };
    let restless = scheduler::run(&config, || {
        loop {
            scheduler::yield_now();
        }
    });
    assert!(matches!(restless.result, Err(Failure::TooManySwitches { .. })), "{restless:?}");
}

#[test]
fn a_stalled_node_stands_still_while_time_passes_on_its_clock() {
    well(5, || {
        let node = scheduler::add_node("stalled");
        let looks = Arc::new(AtomicU64::new(0));
        let counted = looks.clone();
        scheduler::spawn_on(node, "looks", move || {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                scheduler::sleep(MS);
            }
        });
        scheduler::sleep(MS * 10);
        let before = looks.load(Ordering::Relaxed);
        scheduler::stall(node, MS * 50);
        scheduler::sleep(MS * 49);
        assert_eq!(looks.load(Ordering::Relaxed), before);
        scheduler::sleep(MS * 11);
        assert!(looks.load(Ordering::Relaxed) > before + 5);
    });
}

#[test]
fn callbacks_come_at_their_time_and_wake_who_waits() {
    well(6, || {
        let pair = Arc::new((Mutex::new(0), Condvar::new()));
        for after in [30, 10, 20] {
            let pair = pair.clone();
            scheduler::at(MS * after, move || {
                *pair.0.try_lock().unwrap() += after;
                pair.1.notify_all();
            });
        }
        let mut sum = pair.0.lock();
        while *sum < 60 {
            assert!(!pair.1.wait_for(&mut sum, MS * 15).timed_out());
        }
        assert!(scheduler::virtual_now() >= MS * 30);
        assert!(pair.1.wait_until(&mut sum, Instant::now() + MS).timed_out());
    });
}

/// The same types in threads of the operating system.
#[test]
fn outside_of_a_run_everything_is_real() {
    let (sender, receiver) = unbounded();
    let lock = Arc::new((Mutex::new(false), Condvar::new(), RwLock::new(1)));
    let shared = lock.clone();
    let begun = Instant::now();
    let thread = scheduler::spawn("real", move || {
        scheduler::sleep(MS * 5);
        *shared.0.lock() = true;
        shared.1.notify_all();
        *shared.2.write() += 1;
        sender.send(7).unwrap();
        7
    })
    .unwrap();
    let mut done = lock.0.lock();
    while !*done {
        lock.1.wait(&mut done);
    }
    drop(done);
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(7));
    assert_eq!(*lock.2.read(), 2);
    assert!(begun.elapsed() >= MS * 5 && !scheduler::is_simulated() && !scheduler::is_dying());
    let (_open, silent) = bounded::<()>(1);
    assert_eq!(silent.recv_timeout(MS), Err(RecvTimeoutError::Timeout));
    assert_eq!(receiver.recv(), Err(scheduler::channel::RecvError));
    // Not from the other thread: a channel that waits parks too, and would take a wake-up that comes meanwhile.
    scheduler::current().unpark();
    scheduler::park();
    assert_eq!(thread.join().unwrap(), 7);
}
