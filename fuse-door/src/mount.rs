//! Mounting, and above all unmounting: the life of one FUSE session.
//!
//! Invariants: a mount point never outlives its [`MountHandle`]; leaving never hangs, whatever clients do.
//! The mount is made here and not by the fuser crate, because that one unmounts by path when dropped, without
//! a way to abort, and could hit a filesystem mounted there later.
//!
//! What can go wrong: clients that keep files open, or that wait for an answer of a frozen volume. So leaving
//! is first polite for a bounded time, then the connection is aborted (`MNT_FORCE`, which makes every waiting
//! and later request fail) and the mount detached (`MNT_DETACH`).

use super::connection::abort_connection;
use super::convert::ino;
use super::filesystem::FuseFilesystem;
use super::kernel_cache::KernelCache;
use super::mount_table::{mounted_device, topmost_mount};
use super::options::{MountError, MountOptions};
use super::watch::{self, MountState, Signal};
use runtime::JoinHandle;
use rustix::mount::{MountFlags, UnmountFlags};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use volume::Volume;

const FUSE_DEVICE: &str = "/dev/fuse";
/// How far the kernel reads ahead.
const READ_AHEAD_KIB: u32 = 1024;
/// How often a busy mount is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Dead mounts stacked on one mount point that are taken away at once.
const MAX_DEAD_MOUNTS: usize = 8;
/// How long the session's threads may take to notice that the connection is gone.
const THREADS_END_WITHIN: Duration = Duration::from_secs(5);

/// How a mount was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// No client used it any more.
    Clean,
    /// Clients still used it; their requests fail from now on.
    Forced,
    /// Somebody else had unmounted it before.
    AlreadyGone,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Left::Clean => "clean",
            Left::Forced => "forced",
            Left::AlreadyGone => "already gone",
        })
    }
}

/// A mounted volume. Dropping it aborts the mount.
pub struct MountHandle {
    mountpoint: PathBuf,
    device: u64,
    read_only: bool,
    session: Option<fuser::BackgroundSession>,
    cache: Arc<KernelCache>,
    watcher: Option<JoinHandle<()>>,
    signal: Arc<Signal>,
}

/// Mounts `volume` at `mountpoint`, over whatever the directory holds, as mount(8) does.
///
/// # Errors
/// See [`MountError`]; nothing is mounted then.
pub fn mount(
    volume: Arc<Volume>,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<MountHandle, MountError> {
    options.check()?;
    take_dead_mounts_away(mountpoint);
    let mountpoint = check_mountpoint(mountpoint)?;
    let root_mode = std::fs::metadata(&mountpoint).map_err(refused(&mountpoint))?.permissions().mode();
    let fuse = open_device()?;
    attach(&mountpoint, &fuse, root_mode, options)?;
    let attached = DetachOnDrop(Some(&mountpoint));

    let mut config = fuser::Config::default();
    config.acl = fuser::SessionACL::All;
    config.n_threads = Some(options.threads);
    config.clone_fd = true;
    let watched = volume.clone();
    let signal = Signal::new().map_err(|source| MountError::Session { source })?;
    let filesystem = FuseFilesystem::new(volume, options, signal.clone());
    let in_flight = filesystem.in_flight.clone();
    let started = fuser::Session::from_fd(filesystem, fuse, fuser::SessionACL::All, config)
        .and_then(fuser::Session::spawn)
        .map_err(|source| MountError::Session { source })?;
    let notifier = started.notifier();
    let (cache, watcher) = KernelCache::watch(watched.clone(), started.notifier(), in_flight)
        .map_err(|source| MountError::Session { source })?;
    attached.keep();
    watched.watch_attributes(move |oid| {
        // Attributes only: that waits for nothing, so it may be done in the middle of a request.
        if let Err(error) = notifier.inval_inode(ino(oid), -1, 0) {
            tracing::warn!(%oid, %error, "the kernel could not be told of changed attributes");
        }
    });
    // Nothing is asked of the mount from inside this process: a thread that waits for its own process's answer
    // cannot be killed, and would keep the log and the mount of a killed daemon for ever.
    let device = mounted_device(&mountpoint).unwrap_or(0);
    raise_readahead(device);
    Ok(MountHandle {
        mountpoint,
        device,
        read_only: options.read_only,
        session: Some(started),
        cache,
        watcher: Some(watcher),
        signal,
    })
}

/// Lets the kernel read ahead as much as one request can carry: its default of 128 KiB costs half the speed of
/// sequential reads. Only possible once mounted, and only a matter of speed.
fn raise_readahead(device: u64) {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%setting, %error, "read-ahead stays as it is");
    }
}

impl std::fmt::Debug for MountHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountHandle").field("mountpoint", &self.mountpoint).finish_non_exhaustive()
    }
}

impl MountHandle {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Has the session ended without us (an administrator's `umount`)?
    pub fn has_ended(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// What tells this mount from those before and after it.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Calls `changed` each time when the mount's state is another than before, until it is gone or left through this
    /// handle. Before the first call it is as it was made.
    ///
    /// # Errors
    /// No thread, or no table of mounts.
    pub fn watch(&self, changed: impl FnMut(MountState) + Send + 'static) -> io::Result<()> {
        watch::watch(self.signal.clone(), self.mountpoint.clone(), self.device, self.read_only, changed)
    }

    /// What the kernel keeps of it.
    pub fn cache(&self) -> Arc<KernelCache> {
        Arc::clone(&self.cache)
    }

    /// Leaves politely: waits up to `grace` for clients to close their files, then aborts.
    pub fn unmount(mut self, grace: Duration) -> Left {
        self.signal.left();
        let deadline = Instant::now() + grace;
        while !self.has_ended() {
            match self.detach_if_ours(UnmountFlags::NOFOLLOW) {
                Ok(()) => {
                    self.wait_for_threads();
                    return Left::Clean;
                }
                Err(error) if error == rustix::io::Errno::BUSY && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_INTERVAL);
                }
                Err(_) => return self.leave_by_force(),
            }
        }
        self.wait_for_threads();
        Left::AlreadyGone
    }

    /// Leaves at once: every request that waits, and every later one, fails.
    pub fn abort(mut self) -> Left {
        self.leave_by_force()
    }

    fn leave_by_force(&mut self) -> Left {
        self.signal.left();
        let ended = self.has_ended();
        if !ended {
            // Files that stay open are read from the kernel's pages also after the connection has gone.
            self.cache.forget();
        }
        let detached = self.detach_if_ours(UnmountFlags::FORCE | UnmountFlags::DETACH);
        if ended {
            self.wait_for_threads();
            return Left::AlreadyGone;
        }
        if let Err(error) = detached {
            // Somebody has detached it, and clients that had files open have them still.
            tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "the mount could not be detached");
            if let Err(error) = abort_connection(self.device) {
                tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "its connection could not be aborted");
            }
        }
        self.wait_for_threads();
        Left::Forced
    }

    /// Somebody may have mounted something else there meanwhile: that is not ours to remove.
    fn detach_if_ours(&self, flags: UnmountFlags) -> rustix::io::Result<()> {
        if mounted_device(&self.mountpoint) != Some(self.device) {
            return Err(rustix::io::Errno::INVAL);
        }
        rustix::mount::unmount(&self.mountpoint, flags)
    }

    fn wait_for_threads(&mut self) {
        let Some(session) = self.session.take() else { return };
        let deadline = Instant::now() + THREADS_END_WITHIN;
        while !session.guard.is_finished() {
            if Instant::now() > deadline {
                tracing::warn!(mountpoint = %self.mountpoint.display(), "FUSE threads did not end in time");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = session.join() {
            tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "the FUSE session ended badly");
        }
    }
}

impl Drop for MountHandle {
    fn drop(&mut self) {
        if self.session.is_some() {
            self.leave_by_force();
        }
        // Now nothing holds a page any more, and nothing can bring one.
        self.cache.forget();
        self.cache.end();
        if let Some(watcher) = self.watcher.take()
            && watcher.join().is_err()
        {
            tracing::error!("the thread that watches over the kernel's pages panicked");
        }
    }
}

struct DetachOnDrop<'a>(Option<&'a Path>);

impl DetachOnDrop<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for DetachOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(mountpoint) = self.0 {
            // The session failed to start; its error is the one to report.
            let _ = rustix::mount::unmount(mountpoint, UnmountFlags::FORCE | UnmountFlags::DETACH);
        }
    }
}

fn refused(mountpoint: &Path) -> impl FnOnce(io::Error) -> MountError + '_ {
    |source| MountError::Refused { mountpoint: mountpoint.to_owned(), source }
}

/// A daemon that was killed leaves its mount behind. Takes away what is ours, and nothing else. The caller has
/// the volume's log to itself, so no living daemon serves it; nothing is asked of the mount, for it may never
/// answer.
fn take_dead_mounts_away(mountpoint: &Path) {
    for _ in 0..MAX_DEAD_MOUNTS {
        if !is_our_mount(mountpoint) {
            return;
        }
        if let Err(error) = rustix::mount::unmount(mountpoint, UnmountFlags::FORCE | UnmountFlags::DETACH) {
            tracing::warn!(mountpoint = %mountpoint.display(), %error, "a dead mount could not be taken away");
            return;
        }
        tracing::info!(mountpoint = %mountpoint.display(), "took a dead mount away");
    }
}

/// Is the topmost mount there one of this program?
pub fn is_our_mount(mountpoint: &Path) -> bool {
    // The kernel's table has no symlinks; resolving the last component could ask the mount itself.
    let parent = mountpoint.parent().and_then(|parent| parent.canonicalize().ok());
    let place = parent.zip(mountpoint.file_name()).map(|(parent, name)| parent.join(name));
    let kind = place.and_then(|place| topmost_mount(&place)).map(|(_, kind)| kind);
    kind.as_deref() == Some("fuse.twinfiler")
}

fn check_mountpoint(mountpoint: &Path) -> Result<PathBuf, MountError> {
    let shown = || mountpoint.to_owned();
    let mountpoint = mountpoint.canonicalize().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MountError::MountpointMissing { mountpoint: shown() },
        _ => MountError::Refused { mountpoint: shown(), source },
    })?;
    match std::fs::read_dir(&mountpoint) {
        Ok(mut entries) => {
            // Refusing it would leave clients without a volume for the sake of a stray file, at a takeover of all times.
            if let Some(Ok(first)) = entries.next() {
                tracing::warn!(
                    mountpoint = %mountpoint.display(),
                    example = ?first.file_name(),
                    "the mount hides what lies in the directory below it; move that away"
                );
            }
            Ok(mountpoint)
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(MountError::NotADirectory { mountpoint })
        }
        // A dead FUSE mount of an earlier life answers ENOTCONN.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            Err(MountError::DeadMount { mountpoint })
        }
        Err(source) => Err(MountError::Refused { mountpoint, source }),
    }
}

fn open_device() -> Result<OwnedFd, MountError> {
    let unusable = |source| MountError::NoFuseDevice { source };
    let device = File::options().read(true).write(true).open(FUSE_DEVICE).map_err(unusable)?;
    if !device.metadata().map_err(unusable)?.file_type().is_char_device() {
        return Err(unusable(io::Error::other("not a character device")));
    }
    Ok(device.into())
}

fn attach(
    mountpoint: &Path,
    fuse: &OwnedFd,
    root_mode: u32,
    options: &MountOptions,
) -> Result<(), MountError> {
    let data = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={},default_permissions{}",
        fuse.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        if options.allow_other { ",allow_other" } else { "" },
    );
    let data = std::ffi::CString::new(data).map_err(|error| refused(mountpoint)(error.into()))?;
    let mut flags = MountFlags::NOATIME;
    flags.set(MountFlags::NODEV, !options.allow_devices);
    flags.set(MountFlags::NOSUID, !options.allow_suid);
    flags.set(MountFlags::RDONLY, options.read_only);
    rustix::mount::mount(
        options.source_name.as_str(),
        mountpoint,
        "fuse.twinfiler",
        flags,
        Some(data.as_c_str()),
    )
    .map_err(|error| match error {
        rustix::io::Errno::PERM => MountError::NotPermitted { mountpoint: mountpoint.to_owned() },
        error => refused(mountpoint)(error.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_mount_point_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(check_mountpoint(&missing), Err(MountError::MountpointMissing { .. })));
        assert_eq!(check_mountpoint(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        assert!(matches!(check_mountpoint(&file), Err(MountError::NotADirectory { .. })));
        assert!(check_mountpoint(dir.path()).is_ok(), "what lies there is hidden, as mount(8) does");
    }
}
