//! The FUSE front door: the volume as a mounted filesystem.
//!
//! The kernel checks permissions (`default_permissions`, ACLs included) and caches; `filesystem` translates
//! requests one to one into calls of [`volume::Volume`]; `mount` owns the life of a session.
//!
//! Invariants: an answer leaves only after the volume gave it, so after its commit; what the kernel may answer
//! from its own cache ends with the read lease (`kernel_cache`). flush answers ENOSYS once, and so does fsync where every
//! answered write is durable: the kernel then takes them as done after it has written its own dirty pages, which is true.
//! Where answers come out of memory, fsync waits ([`volume::Volume::sync`]).
//!
//! What can go wrong: see [`MountError`] and [`mount()`].

mod connection;
mod convert;
mod credentials;
mod filesystem;
mod handles;
mod in_flight;
mod kernel_cache;
mod mount;
mod mount_table;
mod options;
mod reply;
mod requests;
mod watch;

pub use connection::abort_connection;
pub use kernel_cache::KernelCache;
pub use mount::{Left, MountHandle, is_our_mount, mount};
pub use options::{MountError, MountOptions, THREADS};
pub use watch::MountState;
