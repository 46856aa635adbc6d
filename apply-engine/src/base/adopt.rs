//! Walks over a whole tree: giving every object its label, and rebuilding the index.
//!
//! Directories wait as file handles, so neither depth nor path length nor descriptors are a limit, and entries
//! are taken in the order of their names, so that equal trees get equal OIDs. Labels change nothing that a
//! client sees but the inode's own ctime, and the label keeps the one from before.
//!
//! What can go wrong: a mount point (refused, its path named), an object that carries a label already (refused,
//! except what the same interrupted adoption wrote), EIO, ENOSPC for a label. An interrupted walk is repeated.

use ids::{Lsn, Oid};
use rustix::fs::Stat;
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::handles::FileHandle;
use super::inode::{self, Inode, open_child, os};
use super::label::Label;
use super::{Base, OpenError, TreeError, examine, is_reserved_in_root};
use crate::attributes::{ObjectKind, Timestamp};

/// Generation of objects that were there before the volume.
pub const ADOPTED_GENERATION: u64 = 1;
/// Link count that POSIX wants for a directory without subdirectories.
const EMPTY_DIRECTORY_NLINK: u32 = 2;

/// What was taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AdoptReport {
    /// Objects of all kinds, the root included; hard links count once.
    pub objects: u64,
    /// Directories among them, the root included.
    pub directories: u64,
    /// Names beyond the first of objects with hard links.
    pub extra_links: u64,
}

/// Looks whether a tree can be adopted, and writes nothing: mount points, foreign labels and xattrs that cannot be listed
/// are refused.
/// Returns the first OID that no label has. With `resumed`, labels of the interrupted adoption are expected.
pub(super) fn check(root: BorrowedFd<'_>, resumed: bool) -> Result<Oid, OpenError> {
    let mut given: HashMap<Oid, u64> = HashMap::new();
    let mut next = Oid::FIRST_FREE;
    visit(root, root, &mut |found| {
        if !inode::has_room_in_xattr_list(found.fd.as_fd()) {
            return Err(OpenError::XattrList { path: path_of(found.fd.as_fd()) });
        }
        let Some(label) = found.label else { return Ok(()) };
        let twice =
            given.insert(label.oid, found.stat.st_ino).is_some_and(|other| other != found.stat.st_ino);
        if twice || !resumed {
            return Err(OpenError::AlreadyLabelled { path: path_of(found.fd.as_fd()), oid: label.oid });
        }
        next = next.max(Oid(label.oid.0.saturating_add(1)));
        Ok(())
    })?;
    Ok(next)
}

/// Labels everything below the root. `root_before` is the root's `stat` before anything was made in it.
pub(super) fn adopt(base: &Base, root_before: &Stat) -> Result<AdoptReport, OpenError> {
    let root = open_again(base.root_fd())?;
    let (_, label) = examine(root.as_fd(), &base.path().display())?;
    let mut adoption = Adoption { base, linked: HashMap::new(), report: AdoptReport::default() };
    adoption.label(root, root_before, Oid::ROOT, EMPTY_DIRECTORY_NLINK, label)?;
    let mut subdirectories: HashMap<Oid, u32> = HashMap::new();
    visit(base.root_fd(), base.root_fd(), &mut |found| {
        let parent = found.parent;
        if adoption.object(found)?.is_directory() {
            *subdirectories.entry(parent).or_default() += 1;
        }
        Ok(())
    })?;
    for (oid, count) in subdirectories {
        let directory = base.inode(oid)?;
        let label = directory.label().map_err(TreeError::at("read the label of", oid))?;
        let label = Label { nlink: EMPTY_DIRECTORY_NLINK + count, ..label };
        directory.set_label(&label).map_err(TreeError::at("label", oid))?;
    }
    Ok(adoption.report)
}

/// Fills an empty index from the labels, orphans and staged objects included.
pub(super) fn rebuild_index(base: &Base) -> Result<(), OpenError> {
    let mut index = |found: Found| match found.label {
        Some(label) => {
            base.raise_next_oid(Oid(label.oid.0.saturating_add(1)));
            let inode =
                Inode::new(found.fd, &found.stat, label.oid).map_err(TreeError::at("use", label.oid))?;
            Ok(base.remember(&inode)?)
        }
        None => {
            tracing::warn!(path = %path_of(found.fd.as_fd()), "an object without a label");
            Ok(())
        }
    };
    let root = open_again(base.root_fd())?;
    let (stat, label) = examine(root.as_fd(), &base.path().display())?;
    index(Found { fd: root, stat, label, parent: Oid::ROOT })?;
    for start in [base.root_fd(), base.orphans_fd(), base.staging_fd()] {
        visit(base.root_fd(), start, &mut index)?;
    }
    for start in base.refused_roots() {
        visit(base.root_fd(), start?.as_fd(), &mut index)?;
    }
    Ok(base.sync()?)
}

fn open_again(root: BorrowedFd<'_>) -> Result<OwnedFd, TreeError> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::openat(root, c".", flags, rustix::fs::Mode::empty())
        .map_err(TreeError::at("open", "the root"))
}

/// One directory entry of a walk.
struct Found {
    fd: OwnedFd,
    stat: Stat,
    label: Option<Label>,
    /// Of the directory it was found in; the root for what is hidden.
    parent: Oid,
}

/// Calls `act` for every entry below `start`, a directory before its entries. The directory's label is read
/// after `act`, which may have written it.
fn visit(
    root: BorrowedFd<'_>,
    start: BorrowedFd<'_>,
    act: &mut dyn FnMut(Found) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let first = FileHandle::of(start).map_err(TreeError::at("get the handle of", "the root"))?;
    let device = rustix::fs::fstat(start).map_err(TreeError::at("stat", "the root"))?.st_dev;
    let root_number = rustix::fs::fstat(root).map_err(TreeError::at("stat", "the root"))?.st_ino;
    let mut waiting = vec![first];
    while let Some(handle) = waiting.pop() {
        let directory = handle.open(root).map_err(TreeError::at("open", "a directory by handle"))?;
        let (stat, label) = examine(directory.as_fd(), &path_of(directory.as_fd()))?;
        let is_root = stat.st_ino == root_number;
        let parent = label.map_or(Oid::ROOT, |label| label.oid);
        let mut names = inode::list_names(directory.as_fd())
            .map_err(TreeError::at("list", path_of(directory.as_fd())))?;
        names.retain(|name| !(is_root && is_reserved_in_root(name)));
        names.sort_unstable();
        let mut below = Vec::new();
        for name in names {
            let path = || format!("{}/{}", path_of(directory.as_fd()), os(&name).display());
            let fd = match open_child(directory.as_fd(), &name) {
                Err(Errno::XDEV) => return Err(OpenError::MountPoint { path: path() }),
                other => other.map_err(TreeError::at("open", path()))?,
            };
            let (stat, label) = examine(fd.as_fd(), &path())?;
            if stat.st_dev != device {
                return Err(OpenError::MountPoint { path: path() });
            }
            if ObjectKind::from_st_mode(stat.st_mode) == Some(ObjectKind::Directory) {
                below.push(FileHandle::of(fd.as_fd()).map_err(TreeError::at("get the handle of", path()))?);
            }
            act(Found { fd, stat, label, parent })?;
        }
        waiting.extend(below.into_iter().rev());
    }
    Ok(())
}

fn path_of(fd: BorrowedFd<'_>) -> String {
    match rustix::fs::readlink(inode::proc_path(fd), Vec::new()) {
        Ok(path) => os(path.to_bytes()).display().to_string(),
        Err(_) => "(unknown path)".into(),
    }
}

struct Adoption<'a> {
    base: &'a Base,
    /// Inodes with several names that were met: their OID.
    linked: HashMap<u64, Oid>,
    report: AdoptReport,
}

impl Adoption<'_> {
    fn object(&mut self, found: Found) -> Result<ObjectKind, OpenError> {
        let kind = inode::kind_of(&found.stat).map_err(TreeError::at("use", path_of(found.fd.as_fd())))?;
        if let Some(oid) = self.linked.get(&found.stat.st_ino) {
            let inode = self.base.inode(*oid)?;
            let label = inode.label().map_err(TreeError::at("read the label of", oid))?;
            let label = Label { nlink: label.nlink.saturating_add(1), ..label };
            inode.set_label(&label).map_err(TreeError::at("label", oid))?;
            self.report.extra_links += 1;
            return Ok(kind);
        }
        let oid = found.label.map_or_else(|| self.base.next_oid(), |label| label.oid);
        self.base.raise_next_oid(Oid(oid.0.saturating_add(1)));
        if !kind.is_directory() && found.stat.st_nlink > 1 {
            self.linked.insert(found.stat.st_ino, oid);
        }
        let nlink = if kind.is_directory() { EMPTY_DIRECTORY_NLINK } else { 1 };
        self.label(found.fd, &found.stat, oid, nlink, found.label)?;
        Ok(kind)
    }

    /// `earlier` is what an interrupted adoption wrote: it has kept the ctime from before.
    fn label(
        &mut self,
        fd: OwnedFd,
        stat: &Stat,
        oid: Oid,
        nlink: u32,
        earlier: Option<Label>,
    ) -> Result<(), OpenError> {
        let now = Timestamp { secs: stat.st_ctime, nanos: u32::try_from(stat.st_ctime_nsec).unwrap_or(0) };
        let ctime = earlier.map_or(now, |label| label.ctime);
        let mode = stat.st_mode & 0o7777;
        let label = Label { oid, generation: ADOPTED_GENERATION, nlink, mode, ctime, last_lsn: Lsn::ZERO };
        inode::write_label(fd.as_fd(), &label).map_err(TreeError::at("label", path_of(fd.as_fd())))?;
        let inode = self.base.keep(fd, stat, label)?;
        self.base.remember(&inode)?;
        self.report.objects += 1;
        self.report.directories += u64::from(inode.kind().is_directory());
        Ok(())
    }
}
