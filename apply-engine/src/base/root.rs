//! Making and opening a volume root.
//!
//! The label file is written last and atomically: a root without it holds no volume, whatever else is there.
//! Nothing is written into a directory that is not known to be ours or empty.

use ids::{BaseLimits, ChainCrc, LogPoint, Lsn, Oid, VolumeId};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::adopt::{self, AdoptReport};
use super::cache::DescriptorCache;
use super::hidden::{Hidden, ORPHANS, STAGING};
use super::index::Index;
use super::inode_reserve::InodeReserve;
use super::{
    APPLIED_XATTR, Base, INDEX_NAME, INDEX_XATTR, Local, NEXT_OID_XATTR, OpenError, Store, TreeError, inode,
    is_reserved_in_root, limits, private_mount,
};
use crate::attributes::Timestamp;

/// Share of the process's descriptors that one base may keep open: one in this many.
const DESCRIPTOR_SHARE: u64 = 8;
/// Bounds of the descriptor cache, in inodes.
const CACHE_INODES: std::ops::RangeInclusive<u64> = 64..=8192;
/// The label file, in the hidden directory.
const LABEL_NAME: &str = "label";
/// First line of a label file.
const LABEL_HEAD: &str = "twinfiler base, version 1";
/// Where in it the version is.
const DIGIT_AT: usize = LABEL_HEAD.len() - 1;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What a program must know to read the tree as it is, told as the version in the label file: one that does not know it
/// refuses the volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum RootMark {
    /// Version 1.
    None,
    /// Version 2: there is a remainder.
    Remainder,
    /// Version 3: names that were refused have further holders.
    FurtherHolders,
}

impl RootMark {
    const ALL: [RootMark; 3] = [RootMark::None, RootMark::Remainder, RootMark::FurtherHolders];

    fn digit(self) -> u8 {
        b'1' + self as u8
    }

    /// What the first line of a label file says.
    fn of_head(head: &[u8]) -> Option<RootMark> {
        let (name, digit) = head.split_at_checked(DIGIT_AT)?;
        let known = |mark: &RootMark| name == &LABEL_HEAD.as_bytes()[..DIGIT_AT] && digit == [mark.digit()];
        RootMark::ALL.into_iter().find(known)
    }
}

/// How far a root has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Adopting,
    Complete,
}

impl Base {
    /// Makes a new, empty volume in an existing, empty directory.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is changed when the directory holds anything.
    pub fn create(path: &Path, volume: VolumeId) -> Result<Base, OpenError> {
        let root = open_root(path)?;
        if let Some((found, _)) = read_label_file(Hidden::find(root.as_fd(), path)?.as_ref())? {
            return Err(OpenError::Exists { path: path.into(), found });
        }
        let found = inode::list_names(root.as_fd()).map_err(root_error(path))?;
        if let Some(name) = found.iter().find(|name| !is_reserved_in_root(name)) {
            return Err(OpenError::NotEmpty {
                path: path.into(),
                found: inode::os(name).display().to_string(),
            });
        }
        Base::make(path, root, volume, false).map(|(base, _)| base)
    }

    /// Takes over an existing tree: every object gets an OID and a label, nothing else changes. Goes on where
    /// an interrupted adoption stopped. The same tree on two nodes gets the same OIDs.
    ///
    /// # Errors
    /// See [`OpenError`]: a volume is there, a mount point is inside, an object carries a foreign label.
    pub fn adopt(path: &Path, volume: VolumeId) -> Result<(Base, AdoptReport), OpenError> {
        let root = open_root(path)?;
        match read_label_file(Hidden::find(root.as_fd(), path)?.as_ref())? {
            Some((found, _)) if found != volume => {
                Err(OpenError::Foreign { path: path.into(), found, expected: volume })
            }
            Some((found, Stage::Complete)) => Err(OpenError::Exists { path: path.into(), found }),
            Some((_, Stage::Adopting)) => Base::make(path, root, volume, true),
            None => Base::make(path, root, volume, false),
        }
    }

    /// Forgets where in the log the tree of this directory stands: the log was made anew.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn forget_applied(path: &Path) -> Result<(), OpenError> {
        let root = open_root(path)?;
        let hidden = Hidden::find(root.as_fd(), path)?.ok_or(OpenError::NotAVolume { path: path.into() })?;
        let label_file = lock_label_file(&hidden, path)?;
        match rustix::fs::fremovexattr(&label_file, APPLIED_XATTR) {
            Err(Errno::NODATA) => Ok(()),
            other => other.map_err(root_error(path)),
        }
    }

    /// Opens a volume, and rebuilds its index when that is missing or corrupt.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, volume: VolumeId) -> Result<Base, OpenError> {
        let (root, hidden) = find(path, volume)?;
        let label_file = lock_label_file(&hidden, path)?;
        let limits = limits::measure_or_recall(path, root.as_fd(), hidden.fd(), label_file.as_fd())?;
        let expected = commits_of(&label_file);
        let opened = match hidden.file(INDEX_NAME)? {
            None => Err("it was removed".to_owned()),
            Some(file) => Index::open(file).map_err(|why| why.to_string()),
        };
        let (index, trouble) = match opened {
            Ok(index) if index.commits() >= expected => (index, None),
            Ok(index) => {
                let why = format!("it is older than the tree ({} of {expected} commits)", index.commits());
                drop(index);
                (fresh_index(&hidden, expected)?, Some(why))
            }
            Err(why) => (fresh_index(&hidden, expected)?, Some(why)),
        };
        let mut next = [0; 8];
        let next_oid = match rustix::fs::fgetxattr(&label_file, NEXT_OID_XATTR, &mut next[..]) {
            Ok(8) => u64::from_le_bytes(next),
            _ => {
                return Err(OpenError::BadLabel {
                    path: hidden.path_of(LABEL_NAME),
                    why: format!("its {NEXT_OID_XATTR} xattr is missing"),
                });
            }
        };
        let base = assemble(path, volume, (root, hidden), label_file, index, next_oid, limits)?;
        if let Some(why) = trouble {
            tracing::warn!(path = %path.display(), why, "rebuilding the index by a walk");
            adopt::rebuild_index(&base)?;
            base.index_trouble(&format!("it was missing or could not be used, and was rebuilt: {why}"));
        }
        base.try_remainder_again();
        Ok(base)
    }

    /// Looks whether [`Base::open`] would find this volume, on a filesystem that can hold it, without keeping others out: not
    /// whether somebody has it open, nor at its index.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn look(path: &Path, volume: VolumeId) -> Result<(), OpenError> {
        let (root, hidden) = find(path, volume)?;
        let label_file = hidden.file(LABEL_NAME)?.ok_or(OpenError::NotAVolume { path: path.into() })?;
        limits::look(path, root.as_fd(), hidden.fd(), label_file.as_fd())
    }

    fn make(
        path: &Path,
        root: OwnedFd,
        volume: VolumeId,
        resumed: bool,
    ) -> Result<(Base, AdoptReport), OpenError> {
        check_suitable(path, &root)?;
        let next_oid = adopt::check(root.as_fd(), resumed)?;
        let before = rustix::fs::fstat(&root).map_err(root_error(path))?;
        let hidden = Hidden::make(root.as_fd(), path)?;
        let measured = limits::measure(root.as_fd(), hidden.fd());
        let limits = measured.map_err(|why| why.at(path)).inspect_err(|_| hidden.unmake(root.as_fd()))?;
        write_label_file(&hidden, &root, volume, Stage::Adopting)?;
        let label_file = lock_label_file(&hidden, path)?;
        let index = fresh_index(&hidden, 0)?;
        let base = assemble(path, volume, (root, hidden), label_file, index, next_oid.0, limits)?;
        let report = adopt::adopt(&base, &before)?;
        base.sync()?;
        // The name is replaced, so the lock moves to the new file.
        let hidden = &base.local().hidden;
        write_label_file(hidden, &base.local().root, volume, Stage::Complete)?;
        let relocked = lock_label_file(hidden, path)?;
        limits::keep(path, relocked.as_fd(), limits);
        let mut base = base;
        base.relock(relocked);
        base.sync()?;
        let time = |secs: i64, nanos: u64| Timestamp { secs, nanos: u32::try_from(nanos).unwrap_or(0) };
        base.inode(Oid::ROOT)?
            .set_times(
                Some(time(before.st_atime, before.st_atime_nsec)),
                Some(time(before.st_mtime, before.st_mtime_nsec)),
            )
            .map_err(TreeError::at("restore the times of", path.display()))?;
        Ok((base, report))
    }
}

fn root_error(path: &Path) -> impl Fn(Errno) -> OpenError {
    let path = path.to_owned();
    move |errno| OpenError::Root { path: path.clone(), errno }
}

fn open_root(path: &Path) -> Result<OwnedFd, OpenError> {
    if !rustix::process::geteuid().is_root() {
        return Err(OpenError::NotRoot);
    }
    rustix::fs::open(path, DIRECTORY | OFlags::NOATIME, Mode::empty()).map_err(root_error(path))
}

/// A directory that holds a whole base of this volume.
fn find(path: &Path, volume: VolumeId) -> Result<(OwnedFd, Hidden), OpenError> {
    let root = open_root(path)?;
    let hidden = Hidden::find(root.as_fd(), path)?.ok_or(OpenError::NotAVolume { path: path.into() })?;
    match read_label_file(Some(&hidden))? {
        None => Err(OpenError::NotAVolume { path: path.into() }),
        Some((found, _)) if found != volume => {
            Err(OpenError::Foreign { path: path.into(), found, expected: volume })
        }
        Some((_, Stage::Adopting)) => Err(OpenError::HalfAdopted { path: path.into() }),
        Some((_, Stage::Complete)) => Ok((root, hidden)),
    }
}

fn assemble(
    path: &Path,
    volume: VolumeId,
    (root, hidden): (OwnedFd, Hidden),
    label_file: OwnedFd,
    index: Index,
    next_oid: u64,
    limits: BaseLimits,
) -> Result<Base, OpenError> {
    let root = private_mount::clone_without_atime(root.as_fd()).map_err(root_error(path))?;
    // Renames work within one mount: these come from the private one, as the whole tree does.
    let private = Hidden::find(root.as_fd(), path)?.ok_or(OpenError::NotAVolume { path: path.into() })?;
    let (staging, orphans) = (private.directory(STAGING)?, private.directory(ORPHANS)?);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let inodes = (limit / DESCRIPTOR_SHARE).clamp(*CACHE_INODES.start(), *CACHE_INODES.end());
    let cache = DescriptorCache::new(inodes as usize);
    let index_inode = hidden.inode_of(INDEX_NAME);
    let index_trouble = Mutex::new(None);
    let index_failed = AtomicBool::new(false);
    let remainder = super::remainder::load(root.as_fd())?;
    let marked = Mutex::new(mark_of(&label_file));
    let space = rustix::fs::fstatvfs(&root).map_err(root_error(path))?;
    let total_bytes = space.f_blocks.saturating_mul(space.f_frsize);
    let inode_reserve = InodeReserve::open(root.as_fd(), &hidden, total_bytes)?;
    let kind = rustix::fs::fstatfs(&root).map_err(root_error(path))?;
    let is_btrfs = kind.f_type as u64 == super::btrfs::MAGIC;
    let local = Local {
        staging,
        orphans,
        root,
        hidden,
        label_file,
        index,
        index_failed,
        index_inode,
        index_trouble,
        remainder,
        marked,
        cache,
        is_btrfs,
        limits,
        inode_reserve,
    };
    let (next_oid, applied) = (AtomicU64::new(next_oid), Mutex::new(applied_of(&local.label_file)));
    let base = Base { path: path.into(), volume, next_oid, applied, store: Store::Local(Box::new(local)) };
    base.fill_inode_reserve();
    Ok(base)
}

/// Where in the log the tree stands; `None` before anything was applied.
fn applied_of(label_file: &OwnedFd) -> Option<LogPoint> {
    let mut bytes = [0; 12];
    match rustix::fs::fgetxattr(label_file, APPLIED_XATTR, &mut bytes[..]) {
        Ok(12) => {
            let (lsn, crc) = bytes.split_first_chunk()?;
            let crc = crc.try_into().ok()?;
            Some(LogPoint { lsn: Lsn(u64::from_le_bytes(*lsn)), crc: ChainCrc(u32::from_le_bytes(crc)) })
        }
        _ => None,
    }
}

/// The number of the index's last commit, as the label file has it; 0 before there was one.
fn commits_of(label_file: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    match rustix::fs::fgetxattr(label_file, INDEX_XATTR, &mut bytes[..]) {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => 0,
    }
}

fn fresh_index(hidden: &Hidden, commits: u64) -> Result<Index, OpenError> {
    Ok(Index::create(hidden.new_file(INDEX_NAME)?, commits)?)
}

fn lock_label_file(hidden: &Hidden, path: &Path) -> Result<OwnedFd, OpenError> {
    let file = hidden.path_of(LABEL_NAME);
    let fd = hidden.file(LABEL_NAME)?.ok_or_else(|| root_error(&file)(Errno::NOENT))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(OpenError::Locked { path: path.into() }),
        other => other.map(|()| fd.into()).map_err(root_error(&file)),
    }
}

fn read_label_file(hidden: Option<&Hidden>) -> Result<Option<(VolumeId, Stage)>, OpenError> {
    let Some(hidden) = hidden else { return Ok(None) };
    let bad = |why: String| OpenError::BadLabel { path: hidden.path_of(LABEL_NAME), why };
    let Some(bytes) = hidden.read(LABEL_NAME)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|error| bad(error.to_string()))?;
    let mut lines = text.lines();
    match lines.next() {
        Some(head) if RootMark::of_head(head.as_bytes()).is_some() => {}
        other => return Err(bad(format!("its first line is {other:?}, this program knows {LABEL_HEAD:?}"))),
    }
    let volume = lines.next().and_then(|line| line.strip_prefix("volume ")).unwrap_or_default();
    let volume = volume.parse().map_err(|why| bad(format!("its second line: {why}")))?;
    match lines.next() {
        Some("complete") => Ok(Some((volume, Stage::Complete))),
        Some("adopting") => Ok(Some((volume, Stage::Adopting))),
        other => Err(bad(format!("its third line is {other:?}"))),
    }
}

/// Says it in the label file: one digit is rewritten, so that it is whole in every crash, and durable when this returns.
pub(super) fn mark(label_file: &OwnedFd, mark: RootMark) -> Result<(), Errno> {
    rustix::io::pwrite(label_file, &[mark.digit()], DIGIT_AT as u64)?;
    rustix::fs::fsync(label_file)
}

/// What it says.
fn mark_of(label_file: &OwnedFd) -> RootMark {
    let mut head = [0; LABEL_HEAD.len()];
    match rustix::io::pread(label_file, &mut head[..], 0) {
        Ok(len) => RootMark::of_head(&head[..len]).unwrap_or(RootMark::None),
        Err(_) => RootMark::None,
    }
}

fn write_label_file(
    hidden: &Hidden,
    root: &OwnedFd,
    volume: VolumeId,
    stage: Stage,
) -> Result<(), OpenError> {
    let stage = match stage {
        Stage::Adopting => "adopting",
        Stage::Complete => "complete",
    };
    hidden.replace(LABEL_NAME, &format!("{LABEL_HEAD}\nvolume {volume}\n{stage}\n"))?;
    // The name of the hidden directory itself.
    rustix::fs::fsync(root).map_err(root_error(&hidden.path_of(LABEL_NAME)))
}

/// Labels and handles must work before anything is written. The root's own ctime is all that this changes.
fn check_suitable(path: &Path, root: &OwnedFd) -> Result<(), OpenError> {
    let lacking = |missing| OpenError::Unsuitable { path: PathBuf::from(path), missing };
    super::handles::FileHandle::of(root.as_fd()).map_err(|_| lacking("file handles"))?;
    match inode::read_label(root.as_fd()) {
        Err(Errno::NOTSUP) => return Err(lacking("trusted xattrs")),
        Err(errno) => return Err(root_error(path)(errno)),
        Ok(Ok(_)) => {}
        Ok(Err(why)) => return Err(OpenError::Label { path: path.display().to_string(), why }),
    }
    let probe = "trusted.twinfiler.probe";
    rustix::fs::fsetxattr(root, probe, &[0; super::LABEL_BYTES], rustix::fs::XattrFlags::empty())
        .map_err(|_| lacking("trusted xattrs"))?;
    rustix::fs::fremovexattr(root, probe).map_err(root_error(path))
}
