//! Names that something is mounted over.
//!
//! The kernel lets nobody move or remove a name that is a mount point in the mount namespace of whoever asks; one of another
//! namespace goes, and what was mounted there is detached. The tree is ours, so such a name is taken away from a
//! namespace in which nothing is mounted.
//!
//! What can go wrong: no right to make a namespace (a container), or a root that cannot be left (an initial ramdisk). Then
//! the name stays held, as the kernel said.
//!
//! `unsafe` lives here because a thread that leaves what it shares with others must be known to be alone.

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

/// Does something where nothing is mounted. Only descriptors mean anything there, no paths.
pub(crate) fn where_nothing_is<T: Send>(act: impl FnOnce() -> T + Send) -> Result<T, Errno> {
    std::thread::scope(|scope| {
        let alone = std::thread::Builder::new().name("namespace".into()).spawn_scoped(scope, || {
            leave()?;
            Ok(act())
        });
        let alone = alone.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        alone.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Takes this thread into a mount namespace of its own with nothing in it.
fn leave() -> Result<(), Errno> {
    // SAFETY: the descriptors stay shared, and so does everything else but the namespace and the working directory, of
    // which this thread, which has just begun, has used nothing.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Else the others would lose what is unmounted here.
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::mount::mount("none", "/proc", "tmpfs", MountFlags::empty(), c"size=4k")?;
    rustix::process::chdir("/proc")?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
}
