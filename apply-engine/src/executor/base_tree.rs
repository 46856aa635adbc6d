//! The primitive effects of a consistency point on the real base, as system calls.

use ids::{Lsn, Oid};
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::cell::Cell;
use std::fmt::Display;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::uring::{self, PayloadSource};
use crate::attributes::{ObjectKind, Timestamp};
use crate::base::allocated;
use crate::base::flags;
use crate::base::inode::{self, Inode, open_child};
use crate::base::mounted_over;
use crate::base::remainder::has_room;
use crate::base::{Base, Label, TreeError, examine};
use crate::delta::Birth;
use crate::name::Name;
use crate::plan::birth_place;
use crate::remainder::holders::Holder;
use crate::remainder::{Remainder, is_refusal};
use crate::resync::ResyncError;
use crate::resync::site::Site;
use crate::tree::{FileWrite, Fill, LocalAttributes, Occupant, Parent, Place, Tree};
use crate::view::BaseReader;

/// Mode of what has just been made, until its own is set.
const FRESH_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// What `make` leaves before there is a label: root's, and nothing for anybody else (a default ACL can only take more away).
fn is_fresh(stat: &rustix::fs::Stat) -> bool {
    stat.st_uid == 0 && stat.st_mode & 0o077 == 0
}

/// How a name is taken away.
fn removal(kind: ObjectKind) -> AtFlags {
    if kind.is_directory() { AtFlags::REMOVEDIR } else { AtFlags::empty() }
}

/// Takes away what stands where an object is to be made, of whatever kind that is.
fn clear(staging: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let stat = rustix::fs::statat(staging, name, AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::unlinkat(staging, name, removal(inode::kind_of(&stat)?))
}

/// Zeros that are written at a time.
const ZEROS_BYTES: usize = 1 << 20;

fn write_all(file: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(file, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The base and the log that file contents come from.
pub(crate) struct BaseTree<'a, S> {
    base: &'a Base,
    log: &'a S,
}

impl<'a, S> BaseTree<'a, S> {
    pub(crate) fn new(base: &'a Base, log: &'a S) -> BaseTree<'a, S> {
        BaseTree { base, log }
    }

    fn on<T>(
        &self,
        oid: Oid,
        doing: &'static str,
        act: impl FnOnce(&Inode) -> Result<T, Errno>,
    ) -> Result<T, TreeError> {
        act(&*self.base.inode(oid)?).map_err(TreeError::at(doing, oid))
    }

    /// Reserves blocks where there are none.
    fn allocate_gaps(&self, file: BorrowedFd<'_>, range: Range<u64>) -> Result<(), Errno> {
        let gaps = allocated::gaps(file, range, self.base.limits().allocates)?;
        gaps.into_iter().try_for_each(|gap| {
            rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, gap.start, gap.end - gap.start)
        })
    }

    /// Writes zeros where room is scarce and the range has blocks of its own; whether it did. XFS gives the blocks up to
    /// zero a range, and takes others then, which somebody else may have got by now.
    fn zero_in_place(&self, inode: &Inode, range: Range<u64>) -> Result<bool, Errno> {
        if !self.base.is_scarce(range.end - range.start) {
            return Ok(false);
        }
        let gaps = allocated::gaps(inode.file()?, range.clone(), self.base.limits().allocates)?;
        if gaps.first() == Some(&range) {
            return Ok(false);
        }
        let file = inode.writable()?;
        // Behind the end of the file nothing has been written.
        let size = u64::try_from(inode.stat()?.st_size).unwrap_or(0);
        let (zeros, mut at) = (vec![0; ZEROS_BYTES], range.start);
        while at < range.end.min(size) {
            let len = (range.end.min(size) - at).min(ZEROS_BYTES as u64);
            write_all(file, at, &zeros[..len as usize])?;
            at += len;
        }
        self.allocate_gaps(inode.file()?, range)?;
        Ok(true)
    }

    /// Of refused names, the first one.
    fn directory(&self, parent: &Parent) -> Result<Directory<'_>, TreeError> {
        match parent {
            Parent::Object(oid) => Ok(Directory::Object(self.base.inode(*oid)?)),
            Parent::Staging => Ok(Directory::Hidden(self.base.staging_fd())),
            Parent::Orphans => Ok(Directory::Hidden(self.base.orphans_fd())),
            Parent::Refused(directory) => self.holder(Holder { directory: *directory, number: 0 }),
            Parent::Staged(name) => open_child(self.base.staging_fd(), name.as_bytes())
                .map(Directory::Staged)
                .map_err(TreeError::at("open", format_args!(".twinfiler/staging/{name:?}"))),
        }
    }

    /// Where a name is, if it is.
    fn directory_of(&self, at: &Place) -> Result<Directory<'_>, TreeError> {
        match at.parent {
            Parent::Refused(directory) => self.holder(self.base.remainder().holder_of(directory, &at.name)),
            _ => self.directory(&at.parent),
        }
    }

    fn holder(&self, holder: Holder) -> Result<Directory<'_>, TreeError> {
        let opened = self.base.holder_fd(holder).map(Directory::Staged);
        opened.map_err(TreeError::at("open the refused names of", holder.directory))
    }

    /// Makes a name in its directory: among refused names, in the one that takes it.
    fn place(
        &self,
        to: &Place,
        put: impl Fn(BorrowedFd<'_>) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let Parent::Refused(directory) = to.parent else { return put(self.directory_of(to)?.as_fd()) };
        let may_be_refused = |error: &TreeError| {
            error.errno == Errno::NOSPC || is_refusal(error.errno, || has_room(self.base, 0))
        };
        let is_empty = |holder| match self.base.holder_fd(holder) {
            Ok(fd) => inode::list_names(fd.as_fd()).map(|names| names.is_empty()),
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(errno),
        };
        self.base.remainder().place(
            directory,
            &to.name,
            may_be_refused,
            |holder| is_empty(holder).map_err(TreeError::at("look at the refused names of", directory)),
            |holder| {
                let failed = TreeError::at("make room for the refused names of", directory);
                put(self.base.make_holder_fd(holder).map_err(failed)?.as_fd())
            },
        )
    }

    fn open(&self, at: &Place) -> Result<Option<OwnedFd>, TreeError> {
        let directory = match self.directory_of(at) {
            Err(TreeError { errno: Errno::NOENT, .. }) => return Ok(None),
            other => other?,
        };
        match open_child(directory.as_fd(), at.name.as_bytes()) {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(Some).map_err(TreeError::at("open", at)),
        }
    }

    fn open_existing(&self, at: &Place) -> Result<OwnedFd, TreeError> {
        self.open(at)?.ok_or_else(|| TreeError::at("open", at)(Errno::NOENT))
    }

    /// Takes the flags away that hold a name fast. Whether there were any.
    fn free(&self, at: &Place) -> Result<bool, TreeError> {
        let directory = self.directory_of(at)?;
        let named = flags::take_away(directory.as_fd(), &format_args!("the directory of {at}"))
            .map_err(TreeError::at("make it possible to change", at))?;
        let Some(fd) = self.open(at)? else { return Ok(named) };
        let itself = flags::take_away(fd.as_fd(), at);
        Ok(named | itself.map_err(TreeError::at("make it possible to move", at))?)
    }

    /// Makes a labelled object. One that btrfs may not be able to name there is made in staging first: where a name has no room, older
    /// kernels give the transaction up, and with it the filesystem becomes read-only; a rename looks before.
    fn give_birth(
        &self,
        directory: BorrowedFd<'_>,
        at: &Place,
        birth: &Birth,
        label: &Label,
    ) -> Result<OwnedFd, TreeError> {
        if !self.base.may_lack_room_for(directory, &at.name) {
            return self.make_labelled(directory, at, birth, label);
        }
        let staged = birth_place(label.oid);
        let (staging, name) = (self.base.staging_fd(), staged.name.as_bytes());
        let fd = match self.make_labelled(staging, &staged, birth, label) {
            Err(TreeError { errno: Errno::EXIST, .. }) => {
                clear(staging, name).map_err(TreeError::at("remove", &staged))?;
                self.make_labelled(staging, &staged, birth, label)?
            }
            other => other?,
        };
        let to = at.name.as_bytes();
        let named = rustix::fs::renameat_with(staging, name, directory, to, RenameFlags::NOREPLACE);
        named.map(|()| fd).map_err(|errno| {
            let _gone = rustix::fs::unlinkat(staging, name, removal(birth.kind));
            TreeError::at("rename", format_args!("{staged} to {at}"))(errno)
        })
    }

    fn make_labelled(
        &self,
        directory: BorrowedFd<'_>,
        at: &Place,
        birth: &Birth,
        label: &Label,
    ) -> Result<OwnedFd, TreeError> {
        let made = self.base.making_inode(|| self.make(directory, at, birth));
        let fd = made.map_err(TreeError::at("create", at))?;
        inode::write_first_label(fd.as_fd(), label).map_err(|errno| {
            // Nothing may stand there without a label when this is refused and goes elsewhere.
            let _gone = rustix::fs::unlinkat(directory, at.name.as_bytes(), removal(birth.kind));
            TreeError::at("label", at)(errno)
        })?;
        Ok(fd)
    }

    fn make(&self, directory: BorrowedFd<'_>, at: &Place, birth: &Birth) -> Result<OwnedFd, Errno> {
        let name = at.name.as_bytes();
        let special = |kind| rustix::fs::mknodat(directory, name, kind, FRESH_MODE, birth.rdev);
        match birth.kind {
            ObjectKind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW;
                let flags = flags | OFlags::CLOEXEC | OFlags::NOATIME;
                return rustix::fs::openat(directory, name, flags, FRESH_MODE);
            }
            ObjectKind::Directory => rustix::fs::mkdirat(directory, name, Mode::RWXU)?,
            ObjectKind::Symlink => rustix::fs::symlinkat(&*birth.target, directory, name)?,
            ObjectKind::Fifo => special(FileType::Fifo)?,
            ObjectKind::Socket => special(FileType::Socket)?,
            ObjectKind::CharDevice => special(FileType::CharacterDevice)?,
            ObjectKind::BlockDevice => special(FileType::BlockDevice)?,
        }
        open_child(directory, name)
    }
}

/// Does something that takes a name away. Where flags (which `free` takes away) or a mount hold that fast, it is done again.
fn freeing(
    at: &dyn Display,
    free: impl FnOnce() -> Result<bool, TreeError>,
    act: impl Fn() -> Result<(), TreeError> + Sync,
) -> Result<(), TreeError> {
    // The kernel looks at flags first.
    let acted = match act() {
        Err(TreeError { errno: Errno::PERM, .. }) if free()? => act(),
        other => other,
    };
    match acted {
        Err(error) if error.errno == Errno::BUSY => freeing_a_mount_point(at, &act).unwrap_or(Err(error)),
        other => other,
    }
}

/// Does something that takes away a name over which something is mounted; `None`: that cannot be done.
fn freeing_a_mount_point(
    at: &dyn Display,
    act: &(impl Fn() -> Result<(), TreeError> + Sync),
) -> Option<Result<(), TreeError>> {
    let done = mounted_over::where_nothing_is(act);
    match &done {
        Ok(Ok(())) => tracing::warn!(
            %at,
            "something is mounted over this in the base; a client moved or removed the name, and what was mounted on a \
             name that is gone is mounted no more: unmount what else is mounted below the base"
        ),
        Ok(Err(_)) => {}
        Err(errno) => tracing::warn!(%at, %errno, "no mount namespace to free a mount point in"),
    }
    done.ok()
}

enum Directory<'a> {
    Object(Arc<Inode>),
    Hidden(BorrowedFd<'a>),
    Staged(OwnedFd),
}

impl AsFd for Directory<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Directory::Object(inode) => inode.fd(),
            Directory::Hidden(fd) => *fd,
            Directory::Staged(fd) => fd.as_fd(),
        }
    }
}

impl<S: PayloadSource> Tree for BaseTree<'_, S> {
    fn occupant(&self, at: &Place) -> Result<Option<Occupant>, TreeError> {
        let Some(fd) = self.open(at)? else { return Ok(None) };
        let (stat, label) = examine(fd.as_fd(), at)?;
        let kind = inode::kind_of(&stat).map_err(TreeError::at("use", at))?;
        Ok(Some(Occupant {
            inode: stat.st_ino,
            kind,
            label,
            local_nlink: stat.st_nlink,
            fresh: is_fresh(&stat),
        }))
    }

    fn list_some(&self, parent: &Parent, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Vec<Name>, TreeError> {
        let named = |errno| TreeError { doing: "list", at: format!("{parent:?}"), errno };
        let names = match parent {
            Parent::Refused(directory) => {
                let mut names = Vec::new();
                for holder in self.base.refused_fds(*directory) {
                    let holder = holder.map_err(named)?;
                    names.extend(inode::list_some_names(holder.as_fd(), wanted).map_err(named)?);
                }
                names
            }
            parent => {
                let directory = self.directory(parent)?;
                inode::list_some_names(directory.as_fd(), wanted).map_err(named)?
            }
        };
        names.iter().map(|name| Name::new(name).map_err(|_| named(Errno::INVAL))).collect()
    }

    fn find(&self, oid: Oid) -> Result<Option<Occupant>, TreeError> {
        let inode = match self.base.inode(oid) {
            Err(TreeError { errno: Errno::NOENT, .. }) => return Ok(None),
            other => other?,
        };
        let (stat, label) = examine(inode.fd(), &oid)?;
        if stat.st_nlink == 0 {
            // Removed behind our back: the descriptor lives on, the object does not.
            self.base.evict(oid);
            return Ok(None);
        }
        let (kind, fresh) = (inode.kind(), is_fresh(&stat));
        let label = label.map(|label| self.whole_label(label));
        Ok(Some(Occupant { inode: stat.st_ino, kind, label, local_nlink: stat.st_nlink, fresh }))
    }

    fn bind(&self, oid: Oid, at: &Place) -> Result<(), TreeError> {
        let fd = self.open_existing(at)?;
        let stat = rustix::fs::fstat(&fd).map_err(TreeError::at("stat", at))?;
        self.base.install(Inode::new(fd, &stat, oid).map_err(TreeError::at("use", at))?)
    }

    fn forget(&self, oid: Oid) -> Result<(), TreeError> {
        self.base.forget(oid)
    }

    fn create(&self, at: &Place, birth: &Birth, label: &Label) -> Result<(), TreeError> {
        let made = Cell::new(None);
        self.place(at, |directory| {
            made.set(Some(self.give_birth(directory, at, birth, label)?));
            Ok(())
        })?;
        let fd = made.take().expect("it was placed");
        let stat = rustix::fs::fstat(&fd).map_err(TreeError::at("stat", at))?;
        let inode = match birth.kind {
            ObjectKind::File => Inode::new_open(fd, &stat, label.oid),
            _ => Inode::new(fd, &stat, label.oid),
        };
        self.base.install(inode.map_err(TreeError::at("use", at))?)
    }

    fn adopt(&self, at: &Place, label: &Label) -> Result<(), TreeError> {
        let fd = self.open_existing(at)?;
        inode::write_first_label(fd.as_fd(), label).map_err(TreeError::at("label", at))?;
        self.bind(label.oid, at)
    }

    fn rename(&self, from: &Place, to: &Place) -> Result<(), TreeError> {
        let old = self.directory_of(from)?;
        let (old_name, new_name) = (from.name.as_bytes(), to.name.as_bytes());
        self.place(to, |new| {
            let rename = || {
                rustix::fs::renameat_with(old.as_fd(), old_name, new, new_name, RenameFlags::NOREPLACE)
                    .map_err(TreeError::at("rename", format_args!("{from} to {to}")))
            };
            freeing(from, || self.free(from), rename)
        })
    }

    fn link(&self, oid: Oid, to: &Place) -> Result<(), TreeError> {
        let inode = self.base.inode(oid)?;
        self.place(to, |directory| {
            let link =
                || rustix::fs::linkat(inode.fd(), c"", directory, to.name.as_bytes(), AtFlags::EMPTY_PATH);
            let linked = match link() {
                Err(Errno::PERM) if flags::take_away(inode.fd(), &oid) == Ok(true) => link(),
                other => other,
            };
            linked.map_err(TreeError::at("link", format_args!("{oid} to {to}")))
        })
    }

    fn stage_directory(&self, oid: Oid) -> Result<(), TreeError> {
        let inode = self.base.inode(oid)?;
        let doing = "find the place of";
        let (parent, name) = inode
            .locate_directory()
            .map_err(TreeError::at(doing, oid))?
            .ok_or_else(|| TreeError::at(doing, oid)(Errno::NOENT))?;
        let to = Place::staged(oid);
        let staging = self.base.staging_fd();
        let held = || {
            let above = flags::take_away(parent.as_fd(), &format_args!("the directory of {oid}"))?;
            Ok::<_, Errno>(above | flags::take_away(inode.fd(), &oid)?)
        };
        freeing(
            &oid,
            || Ok(held().unwrap_or(false)),
            || {
                rustix::fs::renameat_with(&parent, &name, staging, to.name.as_bytes(), RenameFlags::NOREPLACE)
                    .map_err(TreeError::at("rename", format_args!("{oid} to {to}")))
            },
        )
    }

    fn remove(&self, at: &Place, kind: ObjectKind) -> Result<(), TreeError> {
        let directory = match self.directory_of(at) {
            Err(TreeError { errno: Errno::NOENT, .. }) => return Ok(()),
            other => other?,
        };
        let flags = removal(kind);
        freeing(
            at,
            || self.free(at),
            || match rustix::fs::unlinkat(directory.as_fd(), at.name.as_bytes(), flags) {
                Err(Errno::NOENT) => Ok(()),
                other => other.map_err(TreeError::at("remove", at)),
            },
        )
    }

    fn barrier(&self) -> Result<(), TreeError> {
        rustix::fs::syncfs(self.base.root_fd()).map_err(TreeError::at("flush", self.base.path().display()))
    }

    fn attributes(&self, oid: Oid) -> Result<LocalAttributes, TreeError> {
        self.on(oid, "stat", |inode| {
            let stat = inode.stat()?;
            let time = |secs, nanos| Timestamp { secs, nanos: u32::try_from(nanos).unwrap_or(0) };
            Ok(LocalAttributes {
                kind: inode.kind(),
                size: u64::try_from(stat.st_size).unwrap_or(0),
                has_blocks: stat.st_blocks > 0,
                uid: stat.st_uid,
                gid: stat.st_gid,
                atime: time(stat.st_atime, stat.st_atime_nsec),
                mtime: time(stat.st_mtime, stat.st_mtime_nsec),
                label: self.whole_label(inode.label()?),
            })
        })
    }

    fn truncate(&self, oid: Oid, size: u64) -> Result<(), TreeError> {
        self.on(oid, "truncate", |inode| rustix::fs::ftruncate(inode.writable()?, size))
    }

    fn fill(&self, oid: Oid, offset: u64, len_bytes: u64, fill: Fill) -> Result<(), TreeError> {
        let allocate =
            |inode: &Inode, flags| rustix::fs::fallocate(inode.writable()?, flags, offset, len_bytes);
        let keep = FallocateFlags::KEEP_SIZE;
        let punch = FallocateFlags::PUNCH_HOLE | keep;
        self.on(oid, "allocate, zero or punch", |inode| match fill {
            Fill::Hole => allocate(inode, punch),
            Fill::Allocate => match allocate(inode, keep) {
                Err(Errno::OPNOTSUPP) => Ok(()),
                // XFS asks for as much room again where the blocks are there already.
                Err(Errno::NOSPC) => self.allocate_gaps(inode.file()?, offset..offset + len_bytes),
                other => other,
            },
            Fill::Zero if self.zero_in_place(inode, offset..offset + len_bytes)? => Ok(()),
            Fill::Zero => match allocate(inode, FallocateFlags::ZERO_RANGE | keep) {
                Err(Errno::OPNOTSUPP) => allocate(inode, punch).and_then(|()| match allocate(inode, keep) {
                    Err(Errno::OPNOTSUPP) => Ok(()),
                    other => other,
                }),
                other => other,
            },
        })
    }

    fn write(&self, oid: Oid, writes: &[FileWrite]) -> Result<(), TreeError> {
        self.on(oid, "write", |inode| uring::write(self.log, inode.writable()?, writes))
    }

    fn xattr_names(&self, oid: Oid) -> Result<Vec<Vec<u8>>, TreeError> {
        self.on(oid, "list the xattrs of", Inode::xattr_names)
    }

    fn xattr(&self, oid: Oid, name: &[u8]) -> Result<Option<Vec<u8>>, TreeError> {
        self.on(oid, "read an xattr of", |inode| inode.xattr(name))
    }

    fn set_xattr(&self, oid: Oid, name: &[u8], value: &[u8]) -> Result<(), TreeError> {
        self.on(oid, "set an xattr of", |inode| inode.set_xattr(name, value))
    }

    fn remove_xattr(&self, oid: Oid, name: &[u8]) -> Result<(), TreeError> {
        self.on(oid, "remove an xattr of", |inode| inode.remove_xattr(name))
    }

    fn set_owner(&self, oid: Oid, uid: u32, gid: u32) -> Result<(), TreeError> {
        self.on(oid, "change the owner of", |inode| inode.set_owner(uid, gid))
    }

    fn set_mode(&self, oid: Oid, mode: u32) -> Result<(), TreeError> {
        self.on(oid, "change the mode of", |inode| inode.set_mode(mode))
    }

    fn set_times(
        &self,
        oid: Oid,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> Result<(), TreeError> {
        self.on(oid, "set the times of", |inode| inode.set_times(atime, mtime))
    }

    fn set_label(&self, oid: Oid, label: &Label) -> Result<(), TreeError> {
        self.on(oid, "label", |inode| inode.set_label(label))
    }

    fn log_bytes(&self, from: Lsn, len_bytes: usize) -> Result<Vec<u8>, TreeError> {
        self.log.copy(from, len_bytes).map_err(TreeError::at("read the log at", from))
    }

    fn remainder(&self) -> &Remainder {
        self.base.remainder()
    }

    fn is_refusal(&self, error: &TreeError, needs_bytes: u64) -> bool {
        is_refusal(error.errno, || has_room(self.base, needs_bytes))
    }

    fn prune_refused(&self) -> Result<(), TreeError> {
        self.base
            .prune_refused()
            .map_err(TreeError::at("look at the refused names of", self.base.path().display()))
    }

    fn write_bytes(&self, oid: Oid, offset: u64, bytes: &[u8]) -> Result<(), TreeError> {
        self.on(oid, "write", |inode| write_all(inode.writable()?, offset, bytes))
    }
}

impl<S: PayloadSource> Site for BaseTree<'_, S> {
    fn reader(&self) -> &dyn BaseReader {
        self.base
    }

    fn known(&self, from: Oid, max: usize) -> Result<Vec<Oid>, ResyncError> {
        Ok(self.base.known(from, max)?)
    }

    fn move_refused(&self, from: Oid, to: Oid) -> Result<(), TreeError> {
        self.base.move_refused(from, to).map_err(TreeError::at("move the refused names of", from))
    }

    fn renumber(&self, from: Oid, to: Oid) -> Result<(), TreeError> {
        self.base.renumber(from, to)
    }
}
