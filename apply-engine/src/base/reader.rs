//! The base as merged reads see it: labels, the hidden directory and `lost+found` are not there; ctime, link
//! count and generation are those of the label.
//!
//! An inode without a label was put there behind our back, or by a consistency point that is under way (a Delta
//! then hides it): it is not listed, and a look-up that gets as far as here fails with EIO, so that nothing is
//! ever made in its place. What the filesystem has refused is read with it ([`crate::remainder`]).

use ids::Oid;
use rustix::fs::{Advice, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::collections::HashSet;
use std::io;
use std::num::NonZeroU64;
use std::ops::{ControlFlow, Range};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::inode::{self, Inode, open_child, os};
use super::label::{LABEL_BYTES, LABEL_XATTR, Label};
use super::{Base, MetadataSpace, TreeError, allocated, btrfs, examine, is_reserved_in_root, xfs};
use crate::attributes::{Attributes, ObjectKind, Timestamp};
use crate::delta::Target;
use crate::name::NameRef;
use crate::remainder::refused::Refused;
use crate::view::{BaseEntry, BaseReader};

/// Room is scarce below this share of the filesystem, one in so many, or below so many bytes.
const SCARCE_SHARE: u64 = 32;
const SCARCE_BYTES: u64 = 64 << 20;
/// With less than this share of the filesystem free, or less than so many bytes, what is given up is not had again.
const LITTLE_SHARE: u64 = 64;
const LITTLE_BYTES: u64 = 4 << 20;

/// Room in the filesystem that holds the base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BaseSpace {
    /// Size of the filesystem.
    pub total_bytes: u64,
    /// What is left for objects.
    pub free_bytes: u64,
    /// Inodes it can hold; `None` where they are made on demand (btrfs).
    pub total_inodes: Option<u64>,
    /// Inodes left; `None` likewise.
    pub free_inodes: Option<u64>,
    /// Those of them that can be made whatever happens to the rest of the disk.
    pub certain_inodes: Option<u64>,
    /// Granularity of allocation.
    pub block_bytes: u32,
    /// Room for metadata, where it does not come out of `free_bytes` (btrfs).
    pub metadata: Option<MetadataSpace>,
}

impl Base {
    /// Room for more: none, whatever the filesystem has, when it has refused nearly as much as can be kept.
    ///
    /// # Errors
    /// I/O errors.
    pub fn space(&self) -> Result<BaseSpace, TreeError> {
        let space = self.filesystem_space()?;
        let free_bytes = if self.remainder().is_nearly_full() { 0 } else { space.free_bytes };
        Ok(BaseSpace { free_bytes, ..space })
    }

    /// Whether the disk takes what is written, tried with a file that has no name. A full one does.
    ///
    /// # Errors
    /// It does not: nothing that could not be read says anything of the tree.
    pub fn answers(&self) -> Result<(), TreeError> {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(disk) = self.simulation() {
            return disk.space().map(drop);
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let tried = rustix::fs::openat(self.staging_fd(), c".", flags, Mode::RUSR).and_then(|file| {
            rustix::io::write(&file, b"?")?;
            rustix::fs::fsync(&file)
        });
        match tried {
            Err(Errno::NOSPC | Errno::DQUOT) => Ok(()),
            other => other.map_err(TreeError::at("write to", self.path().display())),
        }
    }

    /// Whether so little is left beside what is needed that somebody else may well take it first.
    pub(crate) fn is_scarce(&self, needs_bytes: u64) -> bool {
        !self.filesystem_space().is_ok_and(|space| {
            let kept_bytes = (space.total_bytes / LITTLE_SHARE).max(LITTLE_BYTES);
            space.free_bytes >= kept_bytes.saturating_add(needs_bytes)
        })
    }

    /// Room in the filesystem.
    pub(super) fn filesystem_space(&self) -> Result<BaseSpace, TreeError> {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(disk) = self.simulation() {
            return disk.space();
        }
        let statvfs = || {
            rustix::fs::fstatvfs(self.root_fd())
                .map_err(TreeError::at("get the free space of", self.path().display()))
        };
        let mut vfs = statvfs()?;
        let kind = rustix::fs::fstatfs(self.root_fd())
            .map_err(TreeError::at("get the kind of filesystem of", self.path().display()))?;
        let scarce = (vfs.f_blocks / SCARCE_SHARE).max(SCARCE_BYTES / vfs.f_frsize.max(1));
        if kind.f_type as u64 == xfs::MAGIC && vfs.f_bavail < scarce {
            xfs::give_back_what_was_not_asked_for(self.root_fd());
            vfs = statvfs()?;
        }
        let metadata = match kind.f_type as u64 {
            btrfs::MAGIC => Some(
                btrfs::metadata_space(self.root_fd())
                    .map_err(TreeError::at("get the free metadata space of", self.path().display()))?,
            ),
            _ => None,
        };
        let told = (vfs.f_files != 0).then_some(vfs.f_favail);
        let (free_inodes, certain_inodes) = match &self.local().inode_reserve {
            None => (told, told),
            Some(reserve) => {
                let (certain, is_whole) = reserve
                    .certain()
                    .map_err(TreeError::at("get the free inodes of", self.path().display()))?;
                let certain = told.map(|told| told.min(certain));
                // What is told of a disk that is scattered nobody will ever be able to make.
                (if is_whole { told } else { certain }, certain)
            }
        };
        Ok(BaseSpace {
            metadata,
            total_bytes: vfs.f_blocks.saturating_mul(vfs.f_frsize),
            free_bytes: vfs.f_bavail.saturating_mul(vfs.f_frsize),
            total_inodes: (vfs.f_files != 0).then_some(vfs.f_files),
            free_inodes,
            certain_inodes,
            block_bytes: u32::try_from(vfs.f_frsize).unwrap_or(u32::MAX),
        })
    }

    fn on<T>(&self, oid: Oid, act: impl FnOnce(&Inode) -> Result<T, Errno>) -> io::Result<T> {
        Ok(act(&*self.inode(oid)?)?)
    }

    /// What the tree has refused of an object's content.
    fn refused_content(&self, oid: Oid) -> Option<Arc<Refused>> {
        self.remainder().object(oid).filter(|refused| refused.has_content())
    }

    /// Content as `read` reads it, and what the tree has refused of it.
    fn read_with(
        &self,
        oid: Oid,
        offset: u64,
        buf: &mut [u8],
        read: impl FnOnce(&Inode, &mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let inode = self.inode(oid)?;
        let Some(refused) = self.refused_content(oid) else { return read(&inode, buf) };
        let size = u64::try_from(inode.stat()?.st_size).unwrap_or(0);
        refused.read(size, offset, buf, |buf| if offset < size { read(&inode, buf) } else { Ok(0) })
    }

    fn tree_size(&self, oid: Oid) -> io::Result<u64> {
        self.on(oid, |inode| Ok(u64::try_from(inode.stat()?.st_size).unwrap_or(0)))
    }

    /// What stands under a name that the tree has refused.
    fn lookup_refused(&self, parent: Oid, name: NameRef<'_>) -> io::Result<Option<Target>> {
        let found = self
            .refused_fd(parent, &name.to_name())
            .and_then(|directory| open_child(directory.as_fd(), name.as_bytes()));
        let fd = match found {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let (stat, label) = examine(fd.as_fd(), &format_args!("{parent}/{name:?}"))?;
        let Some(label) = label else { return Ok(None) };
        let inode = self.keep(fd, &stat, label)?;
        Ok(Some(Target { oid: label.oid, kind: inode.kind() }))
    }

    fn seek(&self, oid: Oid, to: SeekFrom) -> io::Result<Option<u64>> {
        self.on(oid, |inode| match rustix::fs::seek(inode.file()?, to) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno),
        })
    }
}

/// Lets the simulated disk answer, if the tree is one.
macro_rules! if_simulated {
    ($base:ident, $disk:ident => $answer:expr) => {
        #[cfg(any(test, feature = "simulation"))]
        if let Some($disk) = $base.simulation() {
            return $answer;
        }
    };
}

impl BaseReader for Base {
    fn lookup(&self, parent: Oid, name: NameRef<'_>) -> io::Result<Option<Target>> {
        if_simulated!(self, disk => BaseReader::lookup(disk, parent, name));
        if parent == Oid::ROOT && is_reserved_in_root(name.as_bytes()) {
            return Ok(None);
        }
        let directory = match self.inode(parent) {
            Err(TreeError { errno: Errno::NOENT, .. }) => return Ok(None),
            other => other?,
        };
        if self.remainder().has_names(parent)
            && let Some(found) = self.lookup_refused(parent, name)?
        {
            return Ok(Some(found));
        }
        let fd = match open_child(directory.fd(), name.as_bytes()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let (stat, label) = examine(fd.as_fd(), &format_args!("{parent}/{name:?}"))?;
        let Some(label) = label else {
            tracing::warn!(%parent, ?name, "an object without a label is in the way; move it out of the tree");
            // EIO to clients, but no error of the disk.
            return Err(std::io::Error::other("an object without a label is in the way"));
        };
        let inode = self.keep(fd, &stat, label)?;
        Ok(Some(Target { oid: label.oid, kind: inode.kind() }))
    }

    fn attributes(&self, oid: Oid) -> io::Result<Attributes> {
        if_simulated!(self, disk => BaseReader::attributes(disk, oid));
        let inode = self.inode(oid)?;
        let (stat, label) = (inode.stat()?, inode.label()?);
        let time = |secs: i64, nanos| Timestamp { secs, nanos };
        let is_directory = inode.kind().is_directory();
        let mut attributes = Attributes {
            oid,
            kind: inode.kind(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: label.nlink,
            // What a filesystem says of a directory's size differs between two nodes.
            size: if is_directory { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) },
            blocks_bytes: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            atime: time(stat.st_atime, u32::try_from(stat.st_atime_nsec).unwrap_or(0)),
            mtime: time(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            ctime: label.ctime,
            rdev: match inode.kind() {
                ObjectKind::CharDevice | ObjectKind::BlockDevice => stat.st_rdev,
                _ => 0,
            },
            generation: label.generation,
        };
        if let Some(refused) = self.remainder().object(oid) {
            refused.patch(&mut attributes);
        }
        Ok(attributes)
    }

    fn parent(&self, directory: Oid) -> io::Result<Oid> {
        if_simulated!(self, disk => BaseReader::parent(disk, directory));
        if directory == Oid::ROOT {
            return Ok(Oid::ROOT);
        }
        let inode = self.inode(directory)?;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let above = rustix::fs::openat(inode.fd(), c"..", flags, rustix::fs::Mode::empty())?;
        let (_, label) = examine(above.as_fd(), &format_args!("the parent of {directory}"))?;
        match label {
            Some(label) => Ok(label.oid),
            None => self.refused_by(above.as_fd())?.ok_or_else(|| Errno::NOENT.into()),
        }
    }

    fn read_at(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if_simulated!(self, disk => BaseReader::read_at(disk, oid, offset, buf));
        self.read_with(oid, offset, buf, |inode, buf| Ok(inode::read(inode.file()?, offset, buf)?))
    }

    fn read_once(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if_simulated!(self, disk => BaseReader::read_at(disk, oid, offset, buf));
        self.read_with(oid, offset, buf, |inode, buf| {
            let last = offset.saturating_add((buf.len() as u64).saturating_sub(1));
            if inode::is_cached(inode.file()?, last) {
                return Ok(inode::read(inode.file()?, offset, buf)?);
            }
            // A descriptor of its own, so that nothing is read ahead for it that would have to be dropped again later.
            let file = inode.open_once()?;
            let _not_advised = rustix::fs::fadvise(&file, 0, None, Advice::Random);
            let filled = inode::read(file.as_fd(), offset, buf)?;
            if let Some(len) = NonZeroU64::new(filled as u64) {
                // Advice: a filesystem that does not take it keeps what it likes.
                let _kept = rustix::fs::fadvise(&file, offset, Some(len), Advice::DontNeed);
            }
            Ok(filled)
        })
    }

    fn readdir(
        &self,
        directory: Oid,
        visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.readdir_some(directory, &|_| true, visit)
    }

    fn readdir_some(
        &self,
        directory: Oid,
        wanted: &dyn Fn(&[u8]) -> bool,
        visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        if_simulated!(self, disk => BaseReader::readdir_some(disk, directory, wanted, visit));
        let inode = self.inode(directory)?;
        let mut elsewhere = HashSet::new();
        if self.remainder().has_names(directory) {
            let mut keep = |entry: BaseEntry<'_>| {
                elsewhere.insert(entry.name.as_bytes().to_vec());
                visit(entry)
            };
            for refused in self.refused_fds(directory) {
                if read_entries(refused?.as_fd(), &|name| !wanted(name), &mut keep)?.is_break() {
                    return Ok(());
                }
            }
        }
        let hidden = |name: &[u8]| {
            !wanted(name)
                || directory == Oid::ROOT && is_reserved_in_root(name)
                || !elsewhere.is_empty() && elsewhere.contains(name)
        };
        read_entries(inode.fd(), &hidden, visit).map(drop)
    }

    fn readlink(&self, oid: Oid) -> io::Result<Vec<u8>> {
        if_simulated!(self, disk => BaseReader::readlink(disk, oid));
        self.on(oid, |inode| Ok(rustix::fs::readlinkat(inode.fd(), c"", Vec::new())?.into_bytes()))
    }

    fn xattr(&self, oid: Oid, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if_simulated!(self, disk => BaseReader::xattr(disk, oid, name));
        if let Some(value) =
            self.remainder().object(oid).and_then(|refused| refused.xattrs.get(name).cloned())
        {
            return Ok(value);
        }
        self.on(oid, |inode| inode.xattr(name))
    }

    fn xattr_names(&self, oid: Oid) -> io::Result<Vec<Vec<u8>>> {
        if_simulated!(self, disk => BaseReader::xattr_names(disk, oid));
        let mut names = self.on(oid, Inode::xattr_names)?;
        if let Some(refused) = self.remainder().object(oid) {
            refused.patch_names(&mut names);
        }
        Ok(names)
    }

    fn seek_data(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        if_simulated!(self, disk => BaseReader::seek_data(disk, oid, offset));
        let found = self.seek(oid, SeekFrom::Data(offset))?;
        match self.refused_content(oid) {
            None => Ok(found),
            Some(refused) => Ok(refused.seek_data(self.tree_size(oid)?, offset, found)),
        }
    }

    fn seek_hole(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        if_simulated!(self, disk => BaseReader::seek_hole(disk, oid, offset));
        match self.refused_content(oid) {
            None => self.seek(oid, SeekFrom::Hole(offset)),
            Some(refused) => {
                refused.seek_hole(self.tree_size(oid)?, offset, |at| self.seek(oid, SeekFrom::Hole(at)))
            }
        }
    }

    fn is_allocated(&self, oid: Oid, range: Range<u64>) -> io::Result<bool> {
        Ok(self.unallocated(oid, range)?.is_empty())
    }

    fn unallocated(&self, oid: Oid, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        if_simulated!(self, disk => BaseReader::unallocated(disk, oid, range));
        // What the tree does not hold would be tried again there, and takes room then.
        if self.refused_content(oid).is_some() {
            return Ok(vec![range]);
        }
        let allocates = self.limits().allocates;
        self.on(oid, |inode| allocated::gaps(inode.file()?, range, allocates))
    }

    fn orphans(&self) -> io::Result<Vec<Oid>> {
        if_simulated!(self, disk => BaseReader::orphans(disk));
        let names = inode::list_names(self.orphans_fd())?;
        Ok(names.iter().filter_map(|name| std::str::from_utf8(name).ok()?.parse().ok().map(Oid)).collect())
    }
}

/// Shows `visit` the labelled entries of a directory.
fn read_entries(
    directory: BorrowedFd<'_>,
    hidden: &dyn Fn(&[u8]) -> bool,
    visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    let prefix = inode::proc_path(directory);
    for entry in inode::read_directory(directory)? {
        let entry = entry?;
        let Ok(name) = NameRef::new(entry.file_name().to_bytes()) else { continue };
        if hidden(name.as_bytes()) {
            continue;
        }
        // One component below a descriptor, not followed: this cannot leave the directory.
        let path = std::path::Path::new(&prefix).join(os(name.as_bytes()));
        let mut bytes = [0; LABEL_BYTES];
        let label = match rustix::fs::lgetxattr(&path, LABEL_XATTR, &mut bytes[..]) {
            Ok(len) => Label::decode(&bytes[..len]).map_err(io::Error::other)?,
            Err(Errno::NODATA | Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let kind = match ObjectKind::from_st_mode(entry.file_type().as_raw_mode()) {
            Some(kind) => kind,
            None => match rustix::fs::lstat(&path) {
                Ok(stat) => inode::kind_of(&stat)?,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            },
        };
        if visit(BaseEntry { name, oid: label.oid, kind }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}
