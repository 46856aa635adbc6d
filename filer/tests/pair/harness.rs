//! Runs real nodes and a real witness of the built program, on loopback, with their mounts.
//!
//! Invariants: whatever a test does, panics included, its processes end, its mounts go and its files with them;
//! every wait has a limit, and what does not come within it fails the test with what both nodes say. Limits are
//! generous bounds for a condition, never measurements. What can go wrong: a test process that is killed itself;
//! its nodes are told by the kernel (`setpriv --pdeathsig`), its directories stay in /var/tmp.

mod cluster;
mod config;
mod device;
mod disk;
mod interface;
mod load;
mod process;
mod tree;
mod wire;

pub use cluster::{Cluster, Side};
pub use config::{Spec, VolumeSpec};
pub use device::Device;
pub use disk::{Disk, Frozen, Memory};
pub use interface::Interface;
pub use load::{Load, Outcome, check_all};
pub use process::{Process, run, twinfiler};
pub use tree::{differences, snapshot};
pub use wire::Wire;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Longest wait for something on a mount that should answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(45);

/// These tests mount filesystems: they cannot pass without the rights to.
pub fn require_root_and_fuse() {
    assert!(rustix::process::geteuid().is_root(), "these tests run nodes that mount: run them as root");
    let fuse = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    assert!(
        fuse.is_ok(),
        "these tests need /dev/fuse: {fuse:?} (`modprobe fuse`; in a container, pass it in)"
    );
}

/// Does something that may block on a mount, on a thread of its own, and waits for it for at most `limit`.
pub fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    action: impl FnOnce() -> T + Send + 'static,
) -> T {
    match try_within(limit, action) {
        Some(value) => value,
        None => panic!("{what}: no answer within {limit:?}"),
    }
}

/// Like [`within`], for what may rightly not answer.
pub fn try_within<T: Send + 'static>(
    limit: Duration,
    action: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = channel();
    std::thread::spawn(move || {
        let _nobody_waits_any_more = answer.send(action());
    });
    match answered.recv_timeout(limit) {
        Ok(value) => Some(value),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => panic!("the action panicked"),
    }
}
