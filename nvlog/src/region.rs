//! Where a log lives: memory that the process can address, and how a range of it is made durable.
//!
//! | kind | memory | persist | survives |
//! | --- | --- | --- | --- |
//! | `devdax` | /dev/daxX.Y | cache line write-back + fence | power |
//! | `fsdax` | file mapped with MAP_SYNC | likewise | power |
//! | `block` | image in a memfd | io_uring write, O_DIRECT + RWF_DSYNC | power |
//! | `emulated` | file in tmpfs or hugetlbfs (or any file) | fence | the process |
//! | `simulated` | heap, with a second image of what is durable | line copy | a simulated power cut |
//!
//! Invariants: a region is opened exclusively (a second daemon gets [`RegionError::Locked`]); `persist` returns
//! only when the range is durable at `durability()`; nothing is ever written by opening an existing region.
//! What can go wrong: see [`RegionError`]; and `persist` of a block region fails like any disk write.

mod block;
mod device;
mod mapped;
pub(crate) mod ring;
mod signatures;
pub mod sim;
pub(crate) mod source;
mod sys;

pub use mapped::MappedRegion;

use crate::superblock::BootId;
use ids::Durability;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The kinds of log memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RegionKind {
    /// A devdax character device.
    DevDax,
    /// A file on a file system mounted with DAX.
    FsDax,
    /// An ordinary file or block device behind a memory image.
    Block,
    /// Memory that outlives the process only.
    Emulated,
    /// A simulation that loses and tears unflushed cache lines; for tests.
    Simulated,
}

impl RegionKind {
    const NAMES: [(RegionKind, &'static str); 5] = [
        (RegionKind::DevDax, "devdax"),
        (RegionKind::FsDax, "fsdax"),
        (RegionKind::Block, "block"),
        (RegionKind::Emulated, "emulated"),
        (RegionKind::Simulated, "simulated"),
    ];
}

impl fmt::Display for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            RegionKind::NAMES.iter().find(|(kind, _)| kind == self).map_or("unknown", |(_, name)| name);
        f.write_str(name)
    }
}

/// A word that names no kind of region.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no kind of log region: use devdax, fsdax, block or emulated")]
pub struct UnknownRegionKind(String);

impl FromStr for RegionKind {
    type Err = UnknownRegionKind;

    fn from_str(text: &str) -> Result<RegionKind, UnknownRegionKind> {
        let found = RegionKind::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(kind, _)| *kind).ok_or_else(|| UnknownRegionKind(text.to_owned()))
    }
}

/// What [`Region::store`] left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// The bytes are in memory; `persist` makes them durable.
    Volatile,
    /// The bytes are durable already.
    Durable,
}

/// Log memory.
///
/// # Safety
/// Implementors keep `base()..base() + len_bytes()` mapped readable and writable while they live, and make no
/// Rust reference into it.
#[allow(unsafe_code)]
pub unsafe trait Region: Send + Sync {
    /// First byte, page aligned.
    fn base(&self) -> *mut u8;
    /// Length.
    fn len_bytes(&self) -> u64;
    /// Returns when the range is durable at [`Region::durability`].
    ///
    /// # Errors
    /// When the medium refuses the write; the range may be durable in part.
    fn persist(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()>;
    /// Copies `parts` one after the other to `offset_bytes`, the quickest way that this medium has for a
    /// payload of this size. `copied` is given every byte in order, in pieces, right after it was copied: it
    /// can checksum them while they are in the cache and the stores are still on their way.
    fn store(&self, offset_bytes: u64, parts: &[&[u8]], copied: &mut dyn FnMut(&[u8])) -> Stored;
    /// Whether `persist` takes microseconds, so that locks may be held meanwhile.
    fn persists_quickly(&self) -> bool {
        true
    }
    /// What kind of memory it is.
    fn kind(&self) -> RegionKind;
    /// What a persisted range survives.
    fn durability(&self) -> Durability;
    /// The boot of the machine that it is in: what does not survive power is gone with the next.
    fn boot_id(&self) -> BootId {
        crate::boot::current()
    }
    /// A descriptor that another process can map to see the same memory from offset 0 on.
    fn shared_fd(&self) -> Option<RawFd>;
}

/// Whether the region must exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Make a file of this length; an empty file may be there already. A device must be as long, and blank at both ends.
    Create {
        /// Length of the region: [`crate::format::RING_OFFSET_BYTES`] + capacity.
        len_bytes: u64,
    },
    /// Open what is there.
    Existing,
}

/// Whether nobody uses what a log lies in. Opens it exclusively for a moment, as who serves it does, and writes nothing.
///
/// # Errors
/// Who uses it, or why it cannot be opened.
pub fn check_free(path: &Path) -> Result<(), RegionError> {
    sys::Place::find(path, OpenMode::Existing)?.open(rustix::fs::OFlags::CLOEXEC).map(drop)
}

/// Why a region cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Another process has it open.
    #[error("{path}: another process uses this log; stop the other twinfiler daemon first")]
    Locked {
        /// The region.
        path: PathBuf,
    },
    /// Nothing there.
    #[error(
        "{path}: no such file or device; is the device attached (`lsblk`), the filesystem mounted, `log.path` right? Make a log \
         with `twinfiler init` only if there was none, or if it is lost for good"
    )]
    Missing {
        /// The region.
        path: PathBuf,
    },
    /// Something is there already.
    #[error(
        "{path}: exists and holds {len_bytes} bytes; nothing was changed. Remove it or choose another path"
    )]
    Exists {
        /// The region.
        path: PathBuf,
        /// Its length.
        len_bytes: u64,
    },
    /// A device that holds something.
    #[error(
        "{path}: holds {what}; nothing was changed. Choose another device; if nothing on this one is needed, make it \
         blank: {blank_with} {path}"
    )]
    Occupied {
        /// The device.
        path: PathBuf,
        /// What is known of it.
        what: String,
        /// The command that makes it blank.
        blank_with: &'static str,
    },
    /// A device that somebody else uses.
    #[error("{path}: the device is in use: {by}; nothing was changed. Choose another one, or free it")]
    InUse {
        /// The device.
        path: PathBuf,
        /// Who uses it.
        by: String,
    },
    /// A file or link that another user has laid out.
    #[error("{path}: no log is made there, {why}; nothing was changed. Remove it, or choose another path")]
    NotOurs {
        /// The region.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A device that cannot be written.
    #[error("{path}: the device cannot be written; is it read-only (`blockdev --setrw {path}`)?")]
    ReadOnly {
        /// The device.
        path: PathBuf,
    },
    /// Smaller than asked for.
    #[error("{path}: {has_bytes} bytes long, {needs_bytes} are needed")]
    TooSmall {
        /// The region.
        path: PathBuf,
        /// What is needed.
        needs_bytes: u64,
        /// What is there.
        has_bytes: u64,
    },
    /// The path is not what the kind needs.
    #[error("{path}: {kind} needs {needs}")]
    WrongKind {
        /// The region.
        path: PathBuf,
        /// The kind that was asked for.
        kind: RegionKind,
        /// What the kind needs.
        needs: &'static str,
    },
    /// The kernel refuses MAP_SYNC here.
    #[error(
        "{path}: the kernel cannot map this with MAP_SYNC: the file system is not DAX (mount ext4 or xfs on a \
         pmem device with -o dax), or the kind should be `block`"
    )]
    NoMapSync {
        /// The region.
        path: PathBuf,
    },
    /// A file system in memory was given as a durable medium.
    #[error(
        "{path}: lies in memory ({file_system}) and would not survive power; use kind `emulated` for that"
    )]
    NotDurable {
        /// The region.
        path: PathBuf,
        /// The file system's name.
        file_system: &'static str,
    },
    /// A system call failed.
    #[error("{path}: {what} failed: {source}")]
    Io {
        /// The region.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Opens the region at `path` and locks it for this process.
///
/// # Errors
/// [`RegionError`]; nothing that was there is changed.
pub fn open(kind: RegionKind, path: &Path, mode: OpenMode) -> Result<Box<dyn Region>, RegionError> {
    open_as(kind, path, mode, false)
}

/// As [`open`], and another process can map its memory, for a partner on this host. An image of a device takes longer to be
/// given back then, and so does the process to die that has it.
///
/// # Errors
/// As [`open`].
pub fn open_shareable(kind: RegionKind, path: &Path, mode: OpenMode) -> Result<Box<dyn Region>, RegionError> {
    open_as(kind, path, mode, true)
}

fn open_as(
    kind: RegionKind,
    path: &Path,
    mode: OpenMode,
    shareable: bool,
) -> Result<Box<dyn Region>, RegionError> {
    Ok(match kind {
        RegionKind::DevDax => Box::new(MappedRegion::open_devdax(path, mode)?),
        RegionKind::FsDax => Box::new(MappedRegion::open_fsdax(path, mode)?),
        RegionKind::Emulated => Box::new(MappedRegion::open_emulated(path, mode)?),
        RegionKind::Block => Box::new(block::BlockRegion::open(path, mode, shareable)?),
        RegionKind::Simulated => {
            let needs = "no path: it exists in tests only (nvlog::sim)";
            return Err(RegionError::WrongKind { path: path.to_owned(), kind, needs });
        }
    })
}

/// Looks whether a new region of this kind can be made at `path`, and tells the length of a device that is there. Changes
/// nothing: [`open`] makes it.
///
/// # Errors
/// What [`open`] would say of a device; of files, that one is there and not empty.
pub fn probe(kind: RegionKind, path: &Path) -> Result<Option<u64>, RegionError> {
    let found = match kind {
        RegionKind::Block => block::BlockRegion::probe(path),
        RegionKind::DevDax => MappedRegion::probe_devdax(path).map(Some),
        RegionKind::FsDax | RegionKind::Emulated => MappedRegion::probe_file(path, kind),
        RegionKind::Simulated => Ok(None),
    };
    let file = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
    match (found, file) {
        (Err(RegionError::Missing { .. }), _)
            if kind != RegionKind::DevDax && !sys::is_among_devices(path) =>
        {
            Ok(None)
        }
        (Ok(None), Some(file)) if file.len() > 0 => {
            Err(RegionError::Exists { path: path.to_owned(), len_bytes: file.len() })
        }
        (found, _) => found,
    }
}

/// An emulated region in anonymous memory: gone with the last descriptor. For tests and benches.
///
/// # Errors
/// When the kernel gives no memory.
pub fn anonymous(len_bytes: u64) -> Result<Box<dyn Region>, RegionError> {
    Ok(Box::new(MappedRegion::anonymous(len_bytes)?))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod device_tests;
