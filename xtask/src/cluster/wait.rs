//! Waiting for states of the pair. What does not come within its time is an error with the whole diagnosis.

use super::{Cluster, Side};
use crate::interrupt;
use anyhow::{Result, bail};
use std::time::Duration;

/// The longest time for any state of the pair that needs no copying.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How often status is asked.
const PAUSE: Duration = Duration::from_millis(10);

impl Cluster {
    /// Waits until one node serves and the other mirrors. Gives the primary.
    pub fn wait_mirrored(&mut self, limit: Duration) -> Result<Side> {
        self.wait_for("a mirrored pair", limit, |cluster| {
            let views = Side::BOTH.map(|side| cluster.status(side).ok());
            Side::BOTH.into_iter().find(|side| {
                let (own, other) = (&views[side.index()], &views[side.other().index()]);
                let primary = own.as_ref().is_some_and(|view| view.serves() && view.mode() == "mirrored");
                let partner = other.as_ref().is_some_and(|view| view.role() == "partner");
                primary && partner && cluster.is_mounted(*side)
            })
        })
    }

    /// Waits until a node serves its mount.
    pub fn wait_serving(&mut self, side: Side, limit: Duration) -> Result<()> {
        self.wait_for(&format!("node {} to serve", side.name()), limit, |cluster| {
            let serves = cluster.status(side).is_ok_and(|view| view.serves());
            (serves && cluster.is_mounted(side)).then_some(())
        })
    }

    /// Waits until a node tells that its local filesystem has refused something, or that it holds everything.
    pub fn wait_refused(&mut self, side: Side, refused: bool, limit: Duration) -> Result<()> {
        let what = if refused { "to tell what was refused" } else { "to hold everything" };
        self.wait_for(&format!("node {} {what}", side.name()), limit, |cluster| {
            cluster.status(side).is_ok_and(|view| view.has_refused() == refused).then_some(())
        })
    }

    /// Waits until both nodes can apply to their disks, as each says of the other or of itself.
    pub fn wait_healthy(&mut self, limit: Duration) -> Result<()> {
        self.wait_for("disks without a fault", limit, |cluster| {
            let healthy = |side| cluster.status(side).is_ok_and(|view| view.can_apply());
            Side::BOTH.into_iter().all(healthy).then_some(())
        })
    }

    /// True when a volume, and not the directory below it, is at the node's mount point. Looks at the mount table
    /// and asks nobody: a daemon that hangs would make us hang.
    pub fn is_mounted(&self, side: Side) -> bool {
        let (path, mounts) = (self.mount_path(side), std::fs::read_to_string("/proc/self/mounts"));
        mounts.is_ok_and(|mounts| {
            mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).any(|fields| {
                fields.get(1).is_some_and(|at| path.as_os_str() == *at)
                    && fields.get(2).is_some_and(|kind| kind.starts_with("fuse"))
            })
        })
    }

    /// An error with the whole diagnosis when a process ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        for side in Side::BOTH {
            if self.is_started(side) && !self.is_running(side) {
                bail!("node {} ended by itself\n{}", side.name(), self.diagnosis());
            }
        }
        Ok(())
    }

    fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut(&mut Cluster) -> Option<T>,
    ) -> Result<T> {
        let wanted: Vec<Side> = Side::BOTH.into_iter().filter(|side| self.is_running(*side)).collect();
        let mut died = None;
        let found = interrupt::poll(limit, PAUSE, || {
            died = wanted.iter().copied().find(|side| !self.is_running(*side));
            match died {
                Some(_) => Some(None),
                None => ready(self).map(Some),
            }
        })?;
        match (found.flatten(), died) {
            (Some(value), _) => Ok(value),
            (None, Some(side)) => bail!("node {} ended by itself\n{}", side.name(), self.diagnosis()),
            (None, None) => bail!("waited {limit:?} for {what}\n{}", self.diagnosis()),
        }
    }
}
