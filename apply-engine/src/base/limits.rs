//! What the base can hold, measured on it: at `init`, `adopt`, every start and in `config check --here`.
//!
//! A filesystem's kind tells little of what it takes: that hangs on how it was made, on mount options, flags of
//! directories and the kernel. So each limit is tried in a directory of its own in `.twinfiler`, which is cleared
//! before and after. Taken from a table, because trying would take too long: link counts (`links`).
//!
//! Invariants: nothing outside of the probe directory is changed; nothing found there is followed or kept; one process
//! measures at a time. What a file program must rely on (names as they are, nanoseconds, years after 2038, ACLs, xattrs)
//! is no limit but a condition: a base without it is refused ([`Lack`]), for it would lose what was answered.
//!
//! What can go wrong: the filesystem is too full to tell a limit from the lack of room (then what was measured before
//! counts); a limit that nobody thought of here. Not found: how many names one directory takes on ext4, which hangs on
//! their hashes, and what a directory deeper in the tree has been given (a project, a key).

mod attributes;
mod lack;
mod links;
mod probe;
mod sizes;
mod surroundings;
#[cfg(test)]
mod tests;

pub use lack::Lack;

use ids::BaseLimits;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::{LIMITS_XATTR, OpenError, TreeError};
use probe::Probe;

/// Layout of what is kept of a measurement.
const LAYOUT: u8 = 1;
/// Room for it.
const MAX_KEPT_BYTES: usize = 256;

/// Less free room than this, and what is refused may be refused for want of it.
const MIN_FREE_BYTES: u64 = 4 << 20;
/// Likewise of inodes.
const MIN_FREE_INODES: u64 = 64;
/// So much is taken, to see that it is there.
const TAKEN_BYTES: usize = 1 << 20;

/// What could not be measured.
#[derive(Debug)]
pub(super) enum Unmeasured {
    /// The base is no place for a volume.
    Lacks(Lack),
    /// There is no room to measure in.
    Full,
    /// A call failed that must not.
    Failed(TreeError),
}

impl From<Lack> for Unmeasured {
    fn from(lack: Lack) -> Unmeasured {
        Unmeasured::Lacks(lack)
    }
}

impl From<TreeError> for Unmeasured {
    fn from(error: TreeError) -> Unmeasured {
        Unmeasured::Failed(error)
    }
}

impl Unmeasured {
    /// For people, who see to it that there is room.
    pub(super) fn at(self, path: &Path) -> OpenError {
        match self {
            Unmeasured::Lacks(lack) => OpenError::Lacks { path: path.into(), lack },
            Unmeasured::Full => OpenError::Lacks { path: path.into(), lack: Lack::Room },
            Unmeasured::Failed(error) => OpenError::Tree(error),
        }
    }
}

/// Whether a base could be opened, as far as [`measure_or_recall`] decides that. Keeps nothing.
pub(super) fn look(
    path: &Path,
    root: BorrowedFd<'_>,
    hidden: BorrowedFd<'_>,
    label_file: BorrowedFd<'_>,
) -> Result<(), OpenError> {
    match measure(root, hidden) {
        Ok(_) => Ok(()),
        Err(Unmeasured::Full) if recall(label_file).is_some() => Ok(()),
        Err(why) => Err(why.at(path)),
    }
}

/// Measures a base that is being opened, and keeps the outcome on its label file; what was kept counts while there is no
/// room to measure in: a full base must start.
pub(super) fn measure_or_recall(
    path: &Path,
    root: BorrowedFd<'_>,
    hidden: BorrowedFd<'_>,
    label_file: BorrowedFd<'_>,
) -> Result<BaseLimits, OpenError> {
    match measure(root, hidden) {
        Ok(limits) => {
            keep(path, label_file, limits);
            Ok(limits)
        }
        Err(Unmeasured::Full) => {
            let recalled = recall(label_file).ok_or_else(|| Unmeasured::Full.at(path))?;
            tracing::warn!(path = %path.display(), "the base is too full to measure: what was measured before counts");
            Ok(recalled)
        }
        Err(why) => Err(why.at(path)),
    }
}

/// Keeps what was measured on the label file: a base without it starts as well, as long as it is not full.
pub(super) fn keep(path: &Path, label_file: BorrowedFd<'_>, limits: BaseLimits) {
    let kept = postcard::to_stdvec(&(LAYOUT, limits)).map_err(|_| Errno::INVAL).and_then(|bytes| {
        rustix::fs::fsetxattr(label_file, LIMITS_XATTR, &bytes, rustix::fs::XattrFlags::empty())
    });
    if let Err(errno) = kept {
        tracing::warn!(path = %path.display(), %errno, "what the base can hold could not be kept");
    }
}

/// What [`measure_or_recall`] kept; `None` if there is nothing, or it is of another layout.
fn recall(label_file: BorrowedFd<'_>) -> Option<BaseLimits> {
    let mut bytes = [0; MAX_KEPT_BYTES];
    let len = rustix::fs::fgetxattr(label_file, LIMITS_XATTR, &mut bytes[..]).ok()?;
    let (layout, limits) = postcard::from_bytes::<(u8, BaseLimits)>(bytes.get(..len)?).ok()?;
    (layout == LAYOUT).then_some(limits)
}

/// Measures the filesystem of `root` in its hidden directory.
pub(super) fn measure(root: BorrowedFd<'_>, hidden: BorrowedFd<'_>) -> Result<BaseLimits, Unmeasured> {
    surroundings::lift_file_size_limit()?;
    surroundings::check(root, hidden)?;
    let probe = Probe::begin(hidden)?;
    require_room(&probe)?;
    let measured = measure_in(&probe);
    // What was refused may have been refused because somebody filled the filesystem meanwhile.
    require_room(&probe)?;
    measured
}

fn measure_in(probe: &Probe) -> Result<BaseLimits, Unmeasured> {
    let max_name_bytes = attributes::longest_name(probe)?;
    attributes::check_kinds(probe)?;
    let seconds = attributes::check_times(probe)?;
    let sizes = sizes::measure(probe)?;
    let xattrs = attributes::xattrs(probe)?;
    let links = links::measure(probe)?;
    Ok(BaseLimits {
        max_name_bytes,
        max_symlink_bytes: attributes::longest_target(probe)?,
        max_links: links.max_links,
        max_subdirectories: links.max_subdirectories,
        max_file_bytes: sizes.max_file_bytes,
        max_allocate_bytes: sizes.max_allocate_bytes,
        allocates: sizes.allocates,
        punches: sizes.punches,
        max_device: attributes::largest_device(probe)?,
        seconds,
        max_xattr_value_bytes: xattrs.max_value_bytes,
        max_xattr_bytes: xattrs.max_bytes,
        max_acl_entries: xattrs.max_acl_entries,
        xattr_room: xattrs.room,
    })
}

/// What is told to be free is not all to be had (ext4 keeps some for itself), so some of it is taken.
fn require_room(probe: &Probe) -> Result<(), Unmeasured> {
    let found = rustix::fs::fstatfs(probe.fd()).map_err(TreeError::at("ask for the space of", PROBE))?;
    let free_bytes = found.f_bfree.saturating_mul(found.f_bsize.unsigned_abs());
    if free_bytes < MIN_FREE_BYTES || (found.f_files > 0 && found.f_ffree < MIN_FREE_INODES) {
        return Err(Unmeasured::Full);
    }
    let file = match probe.file() {
        Err(Unmeasured::Failed(error)) if error.is_no_space() => return Err(Unmeasured::Full),
        other => other?,
    };
    let taken = rustix::io::pwrite(&file, &vec![7; TAKEN_BYTES], 0);
    rustix::fs::ftruncate(&file, 0).map_err(TreeError::at("shorten a file in", PROBE))?;
    match taken {
        Ok(TAKEN_BYTES) => Ok(()),
        Ok(_) | Err(Errno::NOSPC | Errno::DQUOT) => Err(Unmeasured::Full),
        Err(errno) => Err(TreeError::at("write to a file in", PROBE)(errno).into()),
    }
}

/// The largest of `low..=high` that works; `low` is known to. What works does so for all below it.
fn largest(
    low: u64,
    high: u64,
    mut works: impl FnMut(u64) -> Result<bool, Unmeasured>,
) -> Result<u64, Unmeasured> {
    if works(high)? {
        return Ok(high);
    }
    let (mut good, mut bad) = (low, high);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if works(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good)
}

/// Whether a call found its limit: not one of the errors that say nothing about what was asked for.
fn within<T>(doing: &'static str, outcome: Result<T, Errno>) -> Result<bool, Unmeasured> {
    match outcome {
        Ok(_) => Ok(true),
        Err(
            errno @ (Errno::IO | Errno::ROFS | Errno::DQUOT | Errno::NOMEM | Errno::MFILE | Errno::NFILE),
        ) => Err(TreeError::at(doing, PROBE)(errno).into()),
        Err(_) => Ok(false),
    }
}

/// How the probe directory is called in errors.
const PROBE: &str = ".twinfiler/probe";
