//! Who goes first on a machine that has more to do than it can.
//!
//! - *Vital* threads keep the pair alive: heartbeats, the lease, the partner's bytes, the witness. They get a real-time
//!   class, as corosync and sbd give themselves one: on a busy machine heartbeats that come late look like a dead node.
//!   They wait nearly all the time, and none of them asks the base filesystem anything.
//! - *Ordinary* threads serve clients and take consistency points.
//! - *Bulk* threads go over whole trees (verify, resync, the lists of a split). They are nice and batched, and their disk
//!   requests go behind by the same number. Not chosen: the idle class. A walk keeps consistency points waiting while it
//!   looks at one part, so it must come to an end of that on a busy machine too.
//!
//! A thread hands its class on to those that it starts; [`ordinary_again`] is for the few that are no vital thread's
//! kind. What can go wrong: the machine forbids it (no CAP_SYS_NICE; a control group without real-time budget). Then the
//! next best is taken, and said once.

use std::cell::Cell;
use std::sync::Once;
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Real-time priority of vital threads: above everything ordinary, below whatever else is real-time on the machine.
const VITAL_PRIORITY: u8 = 2;
/// Their niceness where that is refused, and that of threads that others wait for.
const URGENT_NICE: i32 = -10;
/// Niceness of bulk threads, unless the whole daemon is nicer.
const BULK_NICE: i32 = 10;
/// Niceness 0 on the scale from 0 to 99 that the library has for all systems.
const NICE_0: u8 = 48;

thread_local! {
    /// The niceness that this thread had before it got another class.
    static ORDINARY_NICE: Cell<Option<i32>> = const { Cell::new(None) };
}

/// The calling thread keeps the pair alive.
pub fn be_vital() {
    if super::is_simulated() {
        return;
    }
    remember();
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let priority = ThreadPriorityValue::try_from(VITAL_PRIORITY).map(ThreadPriority::Crossplatform);
    let Ok(priority) = priority else { return };
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), priority, policy) {
        let nice = set_nice(URGENT_NICE);
        let (error, nice) = (format!("{error:?}"), nice.err().map(|errno| errno.to_string()));
        say_once(&error, nice.as_deref());
    }
}

/// Others wait for the calling thread, which may have much to do itself.
pub fn be_urgent() {
    if super::is_simulated() {
        return;
    }
    remember();
    if let Err(error) = set_nice(URGENT_NICE) {
        tracing::debug!(%error, "a thread's priority could not be raised");
    }
}

/// The calling thread goes over whole trees.
pub fn be_bulk() {
    if super::is_simulated() {
        return;
    }
    let nice = remember().max(BULK_NICE);
    let batched = be_normal(NormalThreadSchedulePolicy::Batch);
    if let Err(error) = batched.and(set_nice(nice).map_err(|errno| errno.to_string())) {
        tracing::debug!(error, "a thread's priority could not be lowered");
    }
}

/// The niceness that a thread which the calling one starts has to get, if it is not to have this one's class.
#[cfg_attr(feature = "simulation", allow(dead_code))]
pub(super) fn ordinary_nice() -> Option<i32> {
    ORDINARY_NICE.get()
}

/// The calling thread was started by one of another class, see [`ordinary_nice`].
#[cfg_attr(feature = "simulation", allow(dead_code))]
pub(super) fn ordinary_again(nice: i32) {
    let ordinary = be_normal(NormalThreadSchedulePolicy::Other);
    if let Err(error) = ordinary.and(set_nice(nice).map_err(|errno| errno.to_string())) {
        tracing::debug!(error, "a thread keeps the priority of the one that started it");
    }
}

/// The library sets a niceness too; ours comes after it.
fn be_normal(policy: NormalThreadSchedulePolicy) -> Result<(), String> {
    let priority = ThreadPriorityValue::try_from(NICE_0).map(ThreadPriority::Crossplatform)?;
    let policy = ThreadSchedulePolicy::Normal(policy);
    set_thread_priority_and_policy(thread_native_id(), priority, policy).map_err(|error| format!("{error:?}"))
}

/// The niceness that the calling thread has as an ordinary one.
fn remember() -> i32 {
    ORDINARY_NICE.get().unwrap_or_else(|| {
        let nice = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap_or(0);
        ORDINARY_NICE.set(Some(nice));
        nice
    })
}

/// Of the calling thread: on Linux niceness is a thread's.
fn set_nice(nice: i32) -> Result<(), rustix::io::Errno> {
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice)
}

fn say_once(error: &str, nice: Option<&str>) {
    static SAID: Once = Once::new();
    SAID.call_once(|| match nice {
        None => tracing::warn!(
            error,
            "the threads that keep the pair alive are not real-time, only nicer: on a very busy machine a live node may \
             look dead; allow real-time scheduling (CAP_SYS_NICE, and a real-time budget for the control group)"
        ),
        Some(nice) => tracing::warn!(
            error,
            nice,
            "the threads that keep the pair alive go no sooner than any other: on a busy machine a live node looks dead; \
             let the service have CAP_SYS_NICE, or rlimits for nice and rtprio"
        ),
    });
}

/// Keeps what the process touches in memory: a page of code or of the log that has to come back from a busy disk makes a
/// heartbeat late. As they are touched, so that room which nobody uses is not taken.
pub fn stay_in_memory() {
    use rustix::mm::MlockAllFlags;
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = rustix::mm::mlockall(all) {
        tracing::warn!(
            %error,
            "the daemon can be swapped out, and heartbeats come late then: let the service have CAP_IPC_LOCK, or no limit \
             of locked memory"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn;
    use thread_priority::thread_schedule_policy;

    const ORDINARY: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);

    fn class() -> (ThreadSchedulePolicy, i32) {
        let nice = rustix::process::getpriority_process(Some(rustix::thread::gettid()));
        (thread_schedule_policy().expect("it has one"), nice.expect("it has one"))
    }

    #[test]
    fn what_a_vital_or_bulk_thread_starts_is_ordinary() {
        let before = class();
        assert_eq!(before.0, ORDINARY);
        for (be, policy, nice) in [
            (
                be_vital as fn(),
                ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin),
                before.1,
            ),
            (be_urgent, ORDINARY, URGENT_NICE),
            (
                be_bulk,
                ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch),
                before.1.max(BULK_NICE),
            ),
        ] {
            let (own, child) = std::thread::spawn(move || {
                be();
                (class(), spawn("child", class).expect("starts").join().expect("ends"))
            })
            .join()
            .expect("ends");
            assert_eq!(own, (policy, nice), "tests run as root");
            assert_eq!(child, before);
        }
    }
}
