//! Noticing what somebody else does to a mount: takes it away (`umount` by hand, a stopped systemd mount unit, an abort of
//! its connection), mounts something over it, or makes it read-only.
//!
//! A thread sleeps until the kernel's table of mounts changes (proc(5): a poll for POLLPRI) or the session ends, and looks
//! then. It asks the mount itself nothing, for that may never answer. What can go wrong: the table cannot be watched; then
//! only the end of the session is noticed, and a lazy unmount is not.

use super::mount_table::{MountTable, TABLE};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How clients that come by its path find a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountState {
    /// As it was mounted.
    Good,
    /// Something else is mounted over it, or over a directory above it.
    Hidden {
        /// What, and of what type.
        by: String,
    },
    /// Somebody has made it read-only.
    ReadOnly,
    /// It went away.
    Gone,
}

const LIVES: u8 = 0;
const ENDED: u8 = 1;
const LEFT: u8 = 2;

/// How a session and its watcher hear of each other.
#[derive(Debug)]
pub(super) struct Signal {
    event: OwnedFd,
    state: AtomicU8,
}

impl Signal {
    pub fn new() -> io::Result<Arc<Signal>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Signal { event, state: AtomicU8::new(LIVES) }))
    }

    /// The session has ended.
    pub fn session_ended(&self) {
        self.tell(ENDED);
    }

    /// The mount is left on purpose: nobody needs to be told.
    pub fn left(&self) {
        self.tell(LEFT);
    }

    fn tell(&self, what: u8) {
        self.state.fetch_max(what, Ordering::SeqCst);
        // It is full only when nobody has read it, and then the watcher wakes up anyway.
        let _full = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

/// Calls `changed` when the state of the mount of `device` at `mountpoint` changes, until it is left on purpose.
pub(super) fn watch(
    signal: Arc<Signal>,
    mountpoint: PathBuf,
    device: u64,
    read_only: bool,
    mut changed: impl FnMut(MountState) + Send + 'static,
) -> io::Result<()> {
    let table = File::open(TABLE)?;
    let run = move || {
        let mut known = MountState::Good;
        loop {
            let state = match signal.state.load(Ordering::SeqCst) {
                LEFT => return,
                LIVES => MountTable::read()
                    .map_or(known.clone(), |table| look(&table, &mountpoint, device, read_only)),
                _ => MountState::Gone,
            };
            if state != known {
                known = state.clone();
                changed(state);
            }
            if known == MountState::Gone {
                return;
            }
            let mut events = [PollFd::new(&table, PollFlags::PRI), PollFd::new(&signal.event, PollFlags::IN)];
            if let Err(error) = poll(&mut events, None)
                && error != rustix::io::Errno::INTR
            {
                tracing::warn!(%error, "the mount is not watched any more");
                return;
            }
        }
    };
    std::thread::Builder::new().name("mount-watch".to_owned()).spawn(run).map(drop)
}

fn look(table: &MountTable, mountpoint: &Path, device: u64, read_only: bool) -> MountState {
    let Some(mount) = table.find(mountpoint, device) else { return MountState::Gone };
    if let Some(over) = table.hides(&mount) {
        return MountState::Hidden {
            by: format!("{} ({})", String::from_utf8_lossy(&over.source), over.kind),
        };
    }
    if mount.is_read_only() && !read_only { MountState::ReadOnly } else { MountState::Good }
}
