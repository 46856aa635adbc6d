//! Killing a node and measuring, from outside, how long clients were without service.
//!
//! A probe thread tries one real operation on the other node's mount again and again; the first that succeeds
//! ends the outage. The node's own account of the steps is put beside it.

use crate::cluster::control::Takeover;
use crate::cluster::{Cluster, Side, wait};
use crate::interrupt;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two attempts of the probe.
const PROBE_PAUSE: Duration = Duration::from_millis(1);

/// Magic number of a FUSE file system, as statfs tells it.
const FUSE_MAGIC: i64 = 0x6573_5546;

/// The probe's file, in the root of the volume.
const PROBE_FILE: &str = "probe";

/// A takeover as seen from both sides.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// From the kill to the first operation that succeeded on the other node.
    pub outage: Duration,
    /// What the node itself measured.
    pub steps: Takeover,
}

/// Kills the primary and waits until the other node serves.
pub fn kill_and_watch(cluster: &mut Cluster, primary: Side) -> Result<Watched> {
    let other = primary.other();
    let probe = Probe::start(&cluster.mount_path(other))?;
    let killed = Instant::now();
    cluster.kill(primary);
    cluster.wait_serving(other, wait::LIMIT)?;
    let served = interrupt::poll(wait::LIMIT, PROBE_PAUSE, || probe.first_success())?;
    let served = served.context("node b says that it serves, but no operation succeeds on its mount")?;
    // The node notes the first served operation when it has answered it.
    let steps = interrupt::poll(wait::LIMIT, PROBE_PAUSE, || {
        cluster.status(other).ok().and_then(|view| view.last_takeover())
    })?;
    let steps = steps.context("node b does not tell how the takeover went")?;
    Ok(Watched { outage: served.saturating_duration_since(killed), steps })
}

struct Probe {
    stop: Arc<AtomicBool>,
    success: Arc<Mutex<Option<Instant>>>,
}

impl Probe {
    fn start(mount: &Path) -> Result<Probe> {
        let probe = Probe { stop: Arc::default(), success: Arc::default() };
        let (stop, success, mount) =
            (Arc::clone(&probe.stop), Arc::clone(&probe.success), mount.to_path_buf());
        std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if attempt(&mount).is_ok() {
                    *success.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                    return;
                }
                std::thread::sleep(PROBE_PAUSE);
            }
        })?;
        Ok(probe)
    }

    fn first_success(&self) -> Option<Instant> {
        *self.success.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One write that must be acknowledged by both logs' rules. Never touches the directory below the mount point:
/// everything happens relative to a descriptor that was seen to be the volume's root.
fn attempt(mount: &Path) -> std::io::Result<()> {
    let root = fs::File::open(mount)?;
    if rustix::fs::fstatfs(&root)?.f_type != FUSE_MAGIC {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    let path: PathBuf =
        [format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&root)).as_str(), PROBE_FILE]
            .iter()
            .collect();
    fs::write(path, b"served")
}
