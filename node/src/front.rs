//! The front door's thread: mounts when the node becomes primary, unmounts when it ceases to be, moves the floating address
//! in that order, because each may take longer than the pair can wait, and has the role hooks run.
//!
//! Invariants: the floating address goes before the mount does, and waits for no hook; orders are carried out one after the other, so a mount never outlives the role it belongs to by
//! more than the order before it takes; that nobody is answered in between is the commit path's business.
//! What can go wrong: the mount point is in use or gone (told as a fault, tried again), clients hold the mount
//! (taken away by force).

use super::shared::Shared;
use admin_api::status::{FaultKind, Role, TakeoverTiming};
use commit::Journal;
use fuse_door::{MountHandle, MountOptions, MountState};
use ids::{AnswerFrom, BaseLimits, Epoch};
use pair::{PairMode, RoleName, StopReason, TakeoverTimes};
use runtime::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use runtime::{Instant, JoinHandle};
use std::sync::Arc;
use std::time::Duration;
use volume::{Errno, Volume};

/// How long clients get to close their files at a clean stop.
const GRACE: Duration = Duration::from_secs(2);
/// How long the answers of operations that were let in may take to reach their clients after a hand-over.
const HANDOVER_GRACE: Duration = Duration::from_millis(500);
/// How often it is looked where the floating address is, and tried again what failed. The kernel would tell of each change,
/// through a protocol that nothing else here needs.
const ADDRESS_LOOK: Duration = Duration::from_secs(5);
/// Pause before an attempt to mount after one that failed, or after the mount went away.
const RETRY: Duration = Duration::from_secs(1);
/// The longest pause before a mount that goes away again and again is made anew.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A mount that was there for so long was a good one.
const LASTING: Duration = Duration::from_secs(10);

/// How long it took, and why.
type Takeover = (TakeoverTimes, &'static str);

enum Order {
    /// Somebody else did something to the mount of this device.
    MountChanged(u64, MountState),
    Serve {
        epoch: Epoch,
        limits: BaseLimits,
        since: Instant,
        takeover: Option<Takeover>,
    },
    Leave {
        reason: StopReason,
    },
    End,
}

/// The handle of the front door's thread.
pub(super) struct Front {
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

struct Door {
    shared: Arc<Shared>,
    epoch: Epoch,
    wanted: Option<(Instant, Option<Takeover>)>,
    mount: Option<MountHandle>,
    mounted_since: Option<Instant>,
    /// It serves already, and has lost its mount.
    remounting: bool,
    attempts: Attempts,
    /// Threads that remove what nobody has a name for: one, unless a disk hangs.
    reaping: Vec<JoinHandle<()>>,
    orders: Sender<Order>,
}

/// When the volume is mounted again.
struct Attempts {
    due: Instant,
    /// Pause after the last loss of a mount.
    pause: Option<Duration>,
}

impl Attempts {
    fn new() -> Attempts {
        Attempts { due: Instant::now(), pause: None }
    }

    /// The mount went away. One that was there for long begins anew.
    fn lost(&mut self, now: Instant, lasted: bool) {
        let pause = match self.pause {
            Some(pause) if !lasted => (2 * pause).min(LONGEST_PAUSE),
            _ => RETRY,
        };
        self.pause = Some(pause);
        self.due = now + pause;
    }

    /// It could not be mounted: whoever mends that waits for no more than this.
    fn failed(&mut self, now: Instant) {
        self.due = now + RETRY;
    }
}

impl Front {
    /// Starts the thread.
    pub fn start(shared: Arc<Shared>) -> std::io::Result<Front> {
        let (orders, inbox) = unbounded();
        let door = Door {
            shared,
            epoch: Epoch(0),
            wanted: None,
            mount: None,
            mounted_since: None,
            remounting: false,
            attempts: Attempts::new(),
            reaping: Vec::new(),
            orders: orders.clone(),
        };
        let thread = runtime::spawn("front", move || door.run(&inbox))?;
        Ok(Front { orders, thread: Some(thread) })
    }

    /// Serve in `epoch`; clients may do what keeps within `limits`.
    pub fn serve(&self, epoch: Epoch, limits: BaseLimits, takeover: Option<Takeover>) {
        self.order(Order::Serve { epoch, limits, since: Instant::now(), takeover });
    }

    /// Serve no more.
    pub fn leave(&self, reason: StopReason) {
        self.order(Order::Leave { reason });
    }

    /// Leaves, and waits for the thread.
    pub fn end(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the front door's thread panicked");
        }
    }

    fn order(&self, order: Order) {
        let _ended = self.orders.send(order);
    }
}

impl Door {
    fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            let mut wait = Duration::from_secs(3600);
            if self.shared.hooks.has_address() {
                wait = ADDRESS_LOOK;
            }
            if self.wanted.is_some() {
                wait = wait.min(self.attempts.due.saturating_duration_since(Instant::now()));
            }
            match inbox.recv_timeout(wait) {
                Ok(Order::Serve { epoch, limits, since, takeover }) => {
                    self.epoch = epoch;
                    if self.shared.volume.lock().is_some() {
                        // Serves already: a new epoch of the same primary changes nothing for clients.
                        continue;
                    }
                    self.wanted = Some((since, takeover));
                    let volume = Arc::new(self.make_volume(limits));
                    *self.shared.volume.lock() = Some(volume);
                    self.open();
                }
                Ok(Order::Leave { reason }) => self.leave(reason),
                Ok(Order::MountChanged(device, state)) => self.mount_changed(device, &state),
                Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => {
                    self.leave(StopReason::Stopping);
                    self.shared.hooks.end();
                    // The tree is theirs until they have ended; none is let in any more.
                    self.reaping.into_iter().for_each(|thread| drop(thread.join()));
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.attempts.due <= Instant::now() {
                        self.open();
                    }
                    self.shared.hooks.look_at_address(self.answers());
                }
            }
        }
    }

    /// Is the node a primary that answers? One that is cut off may have been taken over without knowing it.
    fn answers(&self) -> bool {
        let pair = self.shared.pair.lock();
        pair.as_ref().is_some_and(|pair| pair.role == RoleName::Primary && pair.mode != PairMode::Frozen)
    }

    fn make_volume(&self, limits: BaseLimits) -> Volume {
        let shared = &self.shared;
        let journal: Arc<dyn Journal> = shared.path.clone();
        Volume::new(shared.stack.clone(), journal, limits, shared.next_oid())
    }

    /// Mounts, if that is wanted and not done.
    fn open(&mut self) {
        let Some((since, takeover)) = self.wanted.take() else { return };
        let shared = self.shared.clone();
        let Some(volume) = shared.volume.lock().clone() else { return };
        if let Some(mountpoint) = &shared.config.fuse.mount {
            // It was there at the start. What hinders it now the mount tells; nobody looks into what may lie over it, for
            // the mount of a daemon that stands still never answers.
            let _there = std::fs::create_dir(mountpoint);
            match fuse_door::mount(volume.clone(), mountpoint, &self.options()) {
                Ok(mount) => {
                    *shared.kernel_cache.lock() = Some(mount.cache());
                    let (device, orders) = (mount.device(), self.orders.clone());
                    let changed = move |state| drop(orders.send(Order::MountChanged(device, state)));
                    if let Err(error) = mount.watch(changed) {
                        tracing::warn!(volume = shared.name(), %error, "the mount is not watched");
                    }
                    self.mount = Some(mount);
                    self.mounted_since = Some(Instant::now());
                    *shared.mounted_at.lock() = Some(mountpoint.display().to_string());
                    shared.faults.clear(FaultKind::Mount);
                }
                Err(error) => {
                    let remedy = "mend what it says, and it is mounted within a second; or give the volume to the other node: \
                                  `twinfiler switchover VOLUME`";
                    let what = format!("the volume cannot be mounted: {error}");
                    shared.faults.raise(FaultKind::Mount, &what, remedy);
                    self.wanted = Some((since, takeover));
                    self.attempts.failed(Instant::now());
                    return;
                }
            }
        }
        if std::mem::take(&mut self.remounting) {
            tracing::info!(volume = shared.name(), "mounted again");
            return;
        }
        if let Some(takeover) = takeover {
            *shared.last_takeover.lock() = Some(timing(self.epoch, takeover, since.elapsed()));
        }
        tracing::info!(
            volume = shared.name(),
            epoch = self.epoch.0,
            took_ms = since.elapsed().as_millis(),
            "serving"
        );
        shared.hooks.became_primary(self.epoch);
        self.reap(volume);
    }

    /// Removes what clients of before had open and nobody has a name for. A disk may hang: nobody waits for that.
    fn reap(&mut self, volume: Arc<Volume>) {
        let shared = self.shared.clone();
        self.reaping.retain(|earlier| !earlier.is_finished());
        let reaps = runtime::spawn("orphans", move || {
            if let Err(error) = volume.reap_orphans()
                && error != Errno::ESHUTDOWN
            {
                let what = "open-but-unlinked files of before were not all removed";
                tracing::warn!(volume = shared.name(), ?error, what);
            }
        });
        match reaps {
            Ok(thread) => self.reaping.push(thread),
            Err(error) => tracing::warn!(
                volume = self.shared.name(),
                %error,
                "no thread to remove open-but-unlinked files of before; the next start does"
            ),
        }
    }

    fn options(&self) -> MountOptions {
        let fuse = &self.shared.config.fuse;
        MountOptions {
            source_name: format!("twinfiler:{}", self.shared.name()),
            threads: fuse.threads,
            writeback_cache: fuse.writeback_cache,
            answers_from_memory: self.shared.config.answer == AnswerFrom::Memory,
            allow_other: fuse.allow_other,
            allow_suid: !fuse.nosuid,
            allow_devices: !fuse.nodev,
            read_only: fuse.read_only,
            // Each answer is kept for what the lease has left, and at most for this.
            cache_ttl: self.shared.config.timers.lease / 2,
        }
    }

    /// Somebody else did something to the mount of `device`. What is not ours stays where it is, and whoever uses the
    /// volume already goes on.
    fn mount_changed(&mut self, device: u64, state: &MountState) {
        let Some(mount) = self.mount.as_ref().filter(|mount| mount.device() == device) else { return };
        let mountpoint = mount.mountpoint().display();
        let faults = &self.shared.faults;
        match state {
            MountState::Good => faults.clear(FaultKind::Mount),
            MountState::Gone => self.mount_lost(),
            MountState::Hidden { by } => faults.raise(
                FaultKind::Mount,
                &format!("the mount at {mountpoint} is hidden: somebody has mounted {by} over it"),
                "unmount what lies over it (`findmnt` shows it); paths lead to the volume again then",
            ),
            MountState::ReadOnly => faults.raise(
                FaultKind::Mount,
                &format!("the mount at {mountpoint} was made read-only by somebody"),
                &format!("let writers in again: `mount -o remount,rw {mountpoint}`"),
            ),
        }
    }

    /// Clients need the mount that went away: it is made again, later each time that happens soon after.
    fn mount_lost(&mut self) {
        let Some(mount) = self.mount.take() else { return };
        *self.shared.mounted_at.lock() = None;
        *self.shared.kernel_cache.lock() = None;
        let mountpoint = mount.mountpoint().display().to_string();
        self.shared.faults.raise(
            FaultKind::Mount,
            &format!(
                "the mount went away at {mountpoint}: somebody has unmounted it or aborted its connection"
            ),
            "it is mounted again; to keep it away, stop the daemon or hand the volume over",
        );
        mount.abort();
        let lasted = self.mounted_since.is_some_and(|since| since.elapsed() >= LASTING);
        self.attempts.lost(Instant::now(), lasted);
        self.wanted = Some((Instant::now(), None));
        self.remounting = true;
    }

    fn leave(&mut self, reason: StopReason) {
        let served = self.shared.volume.lock().take().is_some();
        self.wanted = None;
        self.remounting = false;
        self.attempts = Attempts::new();
        if served {
            // First: clients find the new primary by it, and a mount may take long to go away (somebody else has a
            // copy of it in a mount namespace of his own).
            self.shared.hooks.stops_serving();
        }
        if let Some(mount) = self.mount.take() {
            let left = match reason {
                StopReason::Stopping => mount.unmount(GRACE),
                StopReason::HandedOver => mount.unmount(HANDOVER_GRACE),
                StopReason::Deposed | StopReason::Failed => mount.abort(),
            };
            tracing::info!(volume = self.shared.name(), %reason, %left, "unmounted");
        }
        *self.shared.kernel_cache.lock() = None;
        *self.shared.mounted_at.lock() = None;
        self.shared.faults.clear(FaultKind::Mount);
        if served {
            let role = if reason == StopReason::HandedOver { Role::Partner } else { Role::None };
            self.shared.hooks.ceased_to_be_primary(role, self.epoch);
        }
    }
}

fn timing(epoch: Epoch, (times, reason): Takeover, first_served: Duration) -> TakeoverTiming {
    TakeoverTiming {
        at_unix_ms: runtime::unix_ms(),
        reason: reason.to_owned(),
        epoch,
        detection_us: times.detection_ms * 1000,
        fencing_us: (times.fencing_ms + times.lease_ms) * 1000,
        witness_us: times.witness_ms * 1000,
        first_served_us: times.opening_ms * 1000 + first_served.as_micros() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_lost_again_is_made_later_a_failed_one_soon() {
        let (mut attempts, now) = (Attempts::new(), Instant::now());
        let mut lost = |lasted| {
            attempts.lost(now, lasted);
            (attempts.due - now).as_secs()
        };
        assert_eq!(
            [lost(false), lost(false), lost(false), lost(false), lost(false), lost(false)],
            [1, 2, 4, 8, 10, 10]
        );
        assert_eq!([lost(true), lost(false)], [1, 2]);
        lost(false);
        attempts.failed(now);
        assert_eq!(attempts.due - now, RETRY, "as the remedy of the fault says");
        attempts.lost(now, false);
        assert_eq!((attempts.due - now).as_secs(), 8, "what failed in between is no reason to begin anew");
    }
}
