//! Where the remainder of a tree is stored: `.twinfiler/remainder`, made when it is first needed.
//!
//! A record is written beside its place, flushed and renamed over the one before; so it is whole or the former one. What
//! can go wrong: a record whose checksum is wrong. A volume is not opened over it: it would show what is not true.

use ids::Oid;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::inode::{self, os};
use super::root::RootMark;
use super::{Base, HIDDEN_NAME, OpenError, TreeError};
use crate::executor::base_tree::BaseTree;
use crate::name::Name;
use crate::remainder::holders::Holder;
use crate::remainder::refused::Refused;
use crate::remainder::tolerant::Tolerant;
use crate::remainder::{Held, Remainder};
use crate::resync::install::NoPayload;
use crate::tree::oid_of_name;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// With less than this free a filesystem is full. Clients must be stopped well before: a base that is as full as they may
/// make it must still tell what it refuses from what it has no room for.
pub const FULL_BYTES: u64 = 2 << 20;
/// Likewise of the room for metadata, where that has room of its own: btrfs sets much aside for each call.
pub const FULL_METADATA_BYTES: u64 = 4 << 20;
/// A record on its way.
const NEW: &str = "new";

/// `.twinfiler/remainder/names` or `…/objects`; `ENOENT` while there is none.
fn open(root: BorrowedFd<'_>, within: &str) -> Result<OwnedFd, Errno> {
    let path = format!("{HIDDEN_NAME}/remainder/{within}");
    // The hidden directory is ours and closed; no link is followed all the same.
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), beneath | ResolveFlags::NO_XDEV)
}

/// The same, made if need be.
fn make(root: BorrowedFd<'_>, within: &str) -> Result<OwnedFd, Errno> {
    let mut path = format!("{HIDDEN_NAME}/remainder");
    for part in [""].into_iter().chain(within.split('/')) {
        if !part.is_empty() {
            path = format!("{path}/{part}");
        }
        match rustix::fs::mkdirat(root, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    open(root, within)
}

fn names_path(holder: Holder) -> String {
    format!("names/{holder}")
}

/// The names in a directory that may not be there.
fn names_in(directory: Result<OwnedFd, Errno>) -> Result<Vec<Name>, Errno> {
    let names = match directory {
        Ok(fd) => inode::list_names(fd.as_fd())?,
        Err(Errno::NOENT) => Vec::new(),
        Err(errno) => return Err(errno),
    };
    Ok(names.iter().filter_map(|name| Name::new(name).ok()).collect())
}

/// Takes a holder away, if it is empty.
fn take_away(root: BorrowedFd<'_>, holder: Holder) -> Result<(), Errno> {
    let path = format!("{HIDDEN_NAME}/remainder/{}", names_path(holder));
    match rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
        other => other,
    }
}

/// What is stored below this root.
pub(super) fn load(root: BorrowedFd<'_>) -> Result<Remainder, OpenError> {
    let failed = |errno| OpenError::Tree(TreeError::at("read", ".twinfiler/remainder")(errno));
    let mut names: BTreeMap<Oid, BTreeMap<Name, u32>> = BTreeMap::new();
    for holder in names_in(open(root, "names")).map_err(failed)?.iter().filter_map(Holder::of_name) {
        let there = names_in(open(root, &names_path(holder))).map_err(failed)?;
        if there.is_empty() {
            // A crash left it. It may stay.
            let _gone = take_away(root, holder);
        } else {
            let of_directory = names.entry(holder.directory).or_default();
            of_directory.extend(there.into_iter().map(|name| (name, holder.number)));
        }
    }
    let mut objects = BTreeMap::new();
    for oid in names_in(open(root, "objects")).map_err(failed)?.iter().filter_map(oid_of_name) {
        let directory = open(root, "objects").map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&directory, oid.0.to_string(), flags, Mode::empty()).map_err(failed)?;
        let mut bytes = Vec::new();
        let read = std::io::Read::read_to_end(&mut File::from(fd), &mut bytes);
        read.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        let refused = Refused::decode(&bytes).map_err(|why| OpenError::Remainder { oid, why })?;
        objects.insert(oid, refused);
    }
    Ok(Remainder::stored(names, objects))
}

impl Base {
    /// What the filesystem has refused, at most `max` of it, and how much there is.
    pub fn held(&self, max: usize) -> (Vec<Held>, usize) {
        let (mut held, count) = self.remainder().held(max);
        #[cfg(any(test, feature = "simulation"))]
        if self.simulation().is_some() {
            return (held, count);
        }
        for one in &mut held {
            let path = self
                .inode(one.oid)
                .ok()
                .and_then(|inode| rustix::fs::readlink(inode::proc_path(inode.fd()), Vec::new()).ok());
            one.path = path.map(|path| os(path.to_bytes()).display().to_string());
        }
        (held, count)
    }

    pub(crate) fn remainder(&self) -> &Remainder {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(disk) = self.simulation() {
            return disk.remainder();
        }
        &self.local().remainder
    }

    /// A directory of refused names.
    pub(crate) fn holder_fd(&self, holder: Holder) -> Result<OwnedFd, Errno> {
        open(self.root_fd(), &names_path(holder))
    }

    /// The one where a name is, if it is refused.
    pub(crate) fn refused_fd(&self, directory: Oid, name: &Name) -> Result<OwnedFd, Errno> {
        self.holder_fd(self.remainder().holder_of(directory, name))
    }

    /// All of a directory, each opened when its turn comes: there may be more than descriptors.
    pub(crate) fn refused_fds(&self, directory: Oid) -> impl Iterator<Item = Result<OwnedFd, Errno>> {
        self.remainder().holders(directory).filter_map(|holder| match self.holder_fd(holder) {
            Err(Errno::NOENT) => None,
            other => Some(other),
        })
    }

    /// Whether a directory may have too many names with the hash of this one.
    pub(crate) fn may_lack_room_for(&self, directory: BorrowedFd<'_>, name: &Name) -> bool {
        self.local().is_btrfs && super::btrfs::has_many_like(directory, name.as_bytes())
    }

    /// A directory of refused names, made if need be.
    pub(crate) fn make_holder_fd(&self, holder: Holder) -> Result<OwnedFd, Errno> {
        let further = holder.number > 0;
        self.mark_at_least(if further { RootMark::FurtherHolders } else { RootMark::Remainder })?;
        self.making_inode(|| make(self.root_fd(), &names_path(holder)))
    }

    /// The directory whose refused names an unlabelled directory holds, which its own name tells.
    pub(crate) fn refused_by(&self, directory: BorrowedFd<'_>) -> Result<Option<Oid>, Errno> {
        let number = rustix::fs::fstat(directory)?.st_ino;
        let Some((_, name)) = inode::locate_directory(directory, number)? else { return Ok(None) };
        let holder = Name::new(&name).ok().and_then(|name| Holder::of_name(&name));
        let Some(holder) = holder.filter(|holder| self.remainder().has_names(holder.directory)) else {
            return Ok(None);
        };
        // Others may have such a name, too.
        match self.holder_fd(holder) {
            Ok(fd) => Ok((rustix::fs::fstat(&fd)?.st_ino == number).then_some(holder.directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn prune_refused(&self) -> Result<(), Errno> {
        for directory in self.remainder().directories() {
            let (mut there, mut empty) = (BTreeMap::new(), Vec::new());
            for holder in self.remainder().holders(directory) {
                let names = names_in(self.holder_fd(holder))?;
                if names.is_empty() {
                    empty.push(holder);
                }
                there.extend(names.into_iter().map(|name| (name, holder.number)));
            }
            self.remainder().names_are(directory, there);
            empty.into_iter().try_for_each(|holder| take_away(self.root_fd(), holder))?;
        }
        Ok(())
    }

    /// What held the refused names of one directory holds those of another one. An attempt that was cut off may have moved some
    /// of them; so what is known follows each of them, and the last one goes first, which leaves none behind a gap. No name is in
    /// both directories: the other one had none of its own when the first attempt began.
    pub(crate) fn move_refused(&self, from: Oid, to: Oid) -> Result<(), Errno> {
        if !self.remainder().has_names(from) {
            return Ok(());
        }
        self.remainder().holders(from).rev().try_for_each(|holder| self.move_holder(holder, to))
    }

    fn move_holder(&self, old: Holder, to: Oid) -> Result<(), Errno> {
        let path = |holder| format!("{HIDDEN_NAME}/remainder/{}", names_path(holder));
        let mut new = Holder { directory: to, ..old };
        loop {
            match rustix::fs::renameat(self.root_fd(), path(old), self.root_fd(), path(new)) {
                Ok(()) | Err(Errno::NOENT) => break,
                // Other names have this number.
                Err(Errno::EXIST | Errno::NOTEMPTY) => {
                    self.mark_at_least(RootMark::FurtherHolders)?;
                    new.number = self.remainder().last_holder(to).number.max(new.number) + 1;
                }
                Err(errno) => return Err(errno),
            }
        }
        self.remainder().move_holder(old, new);
        Ok(())
    }

    /// The label file says what a program must know to read the remainder, before there is such a one and after it.
    fn mark(&self, decide: impl FnOnce(RootMark) -> RootMark) -> Result<(), Errno> {
        let mut marked = self.local().marked.lock();
        let mark = decide(*marked);
        if *marked != mark {
            super::root::mark(&self.local().label_file, mark)?;
            *marked = mark;
        }
        Ok(())
    }

    fn mark_at_least(&self, least: RootMark) -> Result<(), Errno> {
        self.mark(|marked| marked.max(least))
    }

    /// Writes the records that have changed. What the tree has taken instead has been flushed.
    pub(super) fn store_remainder(&self) -> Result<(), TreeError> {
        let failed = || TreeError::at("store what was refused of objects of", self.path().display());
        let unstored = self.remainder().unstored();
        if !unstored.is_empty() {
            self.store_records(unstored).map_err(failed())?;
        }
        let needs = match self.remainder().is_empty() {
            true => RootMark::None,
            false if self.remainder().has_further_holders() => RootMark::FurtherHolders,
            false => RootMark::Remainder,
        };
        // More is said before there is more.
        self.mark(|marked| marked.min(needs)).map_err(failed())
    }

    fn store_records(&self, unstored: Vec<(Oid, Option<Arc<Refused>>)>) -> Result<(), Errno> {
        self.mark_at_least(RootMark::Remainder)?;
        let store = || -> Result<(), Errno> {
            let directory = self.making_inode(|| make(self.root_fd(), "objects"))?;
            for (oid, refused) in &unstored {
                let name = oid.0.to_string();
                match refused {
                    Some(refused) => {
                        let file = self.making_inode(|| new_record(directory.as_fd()))?;
                        write(directory.as_fd(), file, &name, &refused.encode())?;
                    }
                    None => match rustix::fs::unlinkat(&directory, &name, AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(errno) => return Err(errno),
                    },
                }
            }
            // The directories above it may be new.
            rustix::fs::syncfs(&directory)
        };
        store()?;
        self.remainder().stored_now(unstored.into_iter().map(|(oid, _)| oid));
        Ok(())
    }

    /// Tries everything once more that was refused: perhaps the filesystem has become another one.
    pub(super) fn try_remainder_again(&self) {
        if self.remainder().is_empty() {
            return;
        }
        // What fails here fails in the next consistency point, and is told there.
        if let Err(error) =
            Tolerant(&BaseTree::new(self, &NoPayload)).try_all_again(|| self.store_remainder())
        {
            tracing::warn!(path = %self.path().display(), %error, "what was refused cannot be tried again");
        }
    }

    /// Where refused names are, for a walk over all objects.
    pub(super) fn refused_roots(&self) -> impl Iterator<Item = Result<OwnedFd, TreeError>> {
        self.remainder().directories().into_iter().flat_map(|directory| {
            self.refused_fds(directory)
                .map(move |fd| fd.map_err(TreeError::at("open the refused names of", directory)))
        })
    }
}

fn new_record(directory: BorrowedFd<'_>) -> Result<File, Errno> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, NEW, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// Gives a new record its content and its place.
fn write(directory: BorrowedFd<'_>, mut file: File, name: &str, bytes: &[u8]) -> Result<(), Errno> {
    let written = std::io::Write::write_all(&mut file, bytes).and_then(|()| file.sync_all());
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::fs::renameat(directory, NEW, directory, os(name.as_bytes()))
}

/// Whether there is room beside `needs_bytes`, so that ENOSPC is about one object and not about the disk. Inodes do not
/// count: values take none, and whether a name is refused is tried (`Tolerant`).
pub(crate) fn has_room(base: &Base, needs_bytes: u64) -> bool {
    let Ok(space) = base.filesystem_space() else { return false };
    let metadata = space.metadata.is_none_or(|metadata| metadata.total_bytes() >= FULL_METADATA_BYTES);
    metadata && space.free_bytes >= FULL_BYTES.saturating_add(needs_bytes)
}
