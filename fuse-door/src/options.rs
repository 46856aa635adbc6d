//! What can be chosen for a mount, and why a mount can fail.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Fewest and most threads that serve one mount.
pub const THREADS: std::ops::RangeInclusive<usize> = 1..=64;

/// How a volume is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    /// Shown as the source in `/proc/mounts`; the volume's name.
    pub source_name: String,
    /// Threads that serve requests. One that waits for the commit path holds none; one that waits for a disk does.
    pub threads: usize,
    /// How long the kernel may answer lookups and attributes from its cache; never longer than the read lease has
    /// left.
    pub cache_ttl: Duration,
    /// Let the kernel gather writes in its page cache: an answered `write` is then durable only after fsync.
    pub writeback_cache: bool,
    /// An answer may be told before an fsync could be: have fsync asked for.
    pub answers_from_memory: bool,
    /// Let others in than the user that the daemon runs as.
    pub allow_other: bool,
    /// Honour device nodes.
    pub allow_devices: bool,
    /// Honour set-user-id bits.
    pub allow_suid: bool,
    /// Refuse changes.
    pub read_only: bool,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            source_name: "twinfiler".to_owned(),
            threads: 16,
            cache_ttl: Duration::from_secs(1),
            writeback_cache: false,
            answers_from_memory: false,
            allow_other: true,
            allow_devices: true,
            allow_suid: true,
            read_only: false,
        }
    }
}

impl MountOptions {
    pub(super) fn check(&self) -> Result<(), MountError> {
        if !THREADS.contains(&self.threads) {
            return Err(MountError::Threads { threads: self.threads });
        }
        Ok(())
    }
}

/// Why a volume could not be mounted, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// FUSE is not there.
    #[error(
        "/dev/fuse cannot be opened ({source}): load the kernel's `fuse` module, or give the container the device"
    )]
    NoFuseDevice {
        /// What opening it said.
        source: io::Error,
    },
    /// No such directory.
    #[error("mount point {} does not exist: create the directory", mountpoint.display())]
    MountpointMissing {
        /// The mount point.
        mountpoint: PathBuf,
    },
    /// Something else than a directory.
    #[error("mount point {} is not a directory", mountpoint.display())]
    NotADirectory {
        /// The mount point.
        mountpoint: PathBuf,
    },
    /// A FUSE mount whose daemon died.
    #[error("a dead mount is left at {0}: run `umount -l {0}`", mountpoint.display())]
    DeadMount {
        /// The mount point.
        mountpoint: PathBuf,
    },
    /// mount(2) needs CAP_SYS_ADMIN.
    #[error("not permitted to mount at {}: run as root", mountpoint.display())]
    NotPermitted {
        /// The mount point.
        mountpoint: PathBuf,
    },
    /// Out of range.
    #[error("{threads} FUSE threads: choose {} to {}", THREADS.start(), THREADS.end())]
    Threads {
        /// The number asked for.
        threads: usize,
    },
    /// Any other refusal.
    #[error("mounting at {} failed: {source}", mountpoint.display())]
    Refused {
        /// The mount point.
        mountpoint: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel and the daemon did not come together.
    #[error("the FUSE session could not be started: {source}")]
    Session {
        /// What went wrong.
        source: io::Error,
    },
}
