//! The read lease as the volume and the kernel's caches count it.
//!
//! Invariant: the kernel's part is a share of the lease that is in force, which is the shorter one of both nodes: a share
//! of this node's own could be more than all of it, and no read would ever be answered.

use super::Executor;
use admin_api::status::FaultKind;
use config::cache_guard;
use pair::Lease;
use std::time::Duration;

impl Executor {
    pub(super) fn set_lease(&mut self, lease: Lease) {
        let until_ms = match lease {
            Lease::None => 0,
            // The rest of it is for what the kernel keeps of answers: to be forgotten.
            Lease::Until { end, lease_ms } => {
                self.compare_lease(lease_ms);
                end.0.saturating_sub(cache_guard(Duration::from_millis(lease_ms)).as_millis() as u64)
            }
            Lease::Forever => u64::MAX,
        };
        self.shared.path.set_lease(until_ms);
    }

    /// The lease in force is shorter than this node's own where the partner promises less.
    fn compare_lease(&mut self, lease_ms: u64) {
        if std::mem::replace(&mut self.lease_ms, lease_ms) == lease_ms {
            return;
        }
        let own_ms = self.shared.config.timers.lease.as_millis() as u64;
        if lease_ms < own_ms {
            let what = format!(
                "the nodes disagree on `lease`: {own_ms} ms here, {lease_ms} ms at the partner; the shorter one counts"
            );
            let remedy = "write the same [volume.timers] on both nodes, and restart the one that was changed";
            self.shared.faults.raise(FaultKind::TimersDiffer, &what, remedy);
        } else {
            self.shared.faults.clear(FaultKind::TimersDiffer);
        }
    }
}
