//! The hidden directory: what is ours in a volume's root.
//!
//! A tree that is adopted was written by others, and the daemon is root. So everything in here is reached from the
//! descriptor of one real directory that belongs to root and is closed to everybody else, and no link is followed on the
//! way: not the directory's own name, not a file's. What was not made by us is refused and left as it is.
//!
//! What can go wrong: somebody else's `.twinfiler` ([`OpenError::NotOurs`]).

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::inode::{list_names, os};
use super::{HIDDEN_NAME, OpenError};

/// Longest file that is read whole.
const MAX_TEXT_BYTES: u64 = 64 << 10;
/// What only others than the owner may do.
const OTHERS: u32 = 0o077;
/// What a filesystem can hold is tried here; a process may have died in it (`super::limits`).
pub(super) const PROBE: &str = "probe";
/// Directories that a volume begins with, empty.
pub(super) const STAGING: &str = "staging";
pub(super) const ORPHANS: &str = "orphans";

const WITHIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// See the module.
pub(super) struct Hidden {
    directory: OwnedFd,
    path: PathBuf,
}

impl Hidden {
    /// That of a volume's root, if there is one.
    pub(super) fn find(root: BorrowedFd<'_>, root_path: &Path) -> Result<Option<Hidden>, OpenError> {
        let path = root_path.join(HIDDEN_NAME);
        let directory = match open_directory(root, HIDDEN_NAME, &path) {
            Err(OpenError::Root { errno: Errno::NOENT, .. }) => return Ok(None),
            other => other?,
        };
        let hidden = Hidden { directory, path };
        hidden.look_at_all(false)?;
        Ok(Some(hidden))
    }

    /// That of a new volume: made now, or left by an attempt that did not come to its end.
    pub(super) fn make(root: BorrowedFd<'_>, root_path: &Path) -> Result<Hidden, OpenError> {
        let path = root_path.join(HIDDEN_NAME);
        let hidden = Hidden { directory: make_directory(root, HIDDEN_NAME, &path)?, path };
        hidden.look_at_all(true)?;
        for name in [STAGING, ORPHANS] {
            make_directory(hidden.directory.as_fd(), name, &hidden.path.join(name))?;
        }
        Ok(hidden)
    }

    /// Everything in it is a directory or file that root has made and no other user reaches. In a `fresh` one there is
    /// nothing that a new volume does not begin with.
    fn look_at_all(&self, fresh: bool) -> Result<(), OpenError> {
        for name in list_names(self.directory.as_fd()).map_err(at(&self.path))? {
            let path = self.path.join(os(&name));
            let found = rustix::fs::statat(&self.directory, os(&name), AtFlags::SYMLINK_NOFOLLOW);
            let kind = match found {
                // A file on its way to another name.
                Err(Errno::NOENT) => continue,
                found => check_owner(&found.map_err(at(&path))?, &path)?,
            };
            if fresh && kind == FileType::Directory && name != PROBE.as_bytes() {
                let known = [STAGING, ORPHANS].iter().any(|known| known.as_bytes() == name);
                let inside = open_directory(self.directory.as_fd(), os(&name), &path)?;
                if !known || !list_names(inside.as_fd()).map_err(at(&path))?.is_empty() {
                    return Err(not_ours(&path, "a new volume has nothing there"));
                }
            }
        }
        Ok(())
    }

    /// The directory itself.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Takes away what [`Hidden::make`] made, as far as it is empty.
    pub(super) fn unmake(&self, root: BorrowedFd<'_>) {
        let in_hidden = [STAGING, ORPHANS].map(|name| (self.directory.as_fd(), name));
        for (directory, name) in in_hidden.into_iter().chain([(root, HIDDEN_NAME)]) {
            if let Err(errno) = rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                tracing::debug!(%errno, name, "not taken away");
            }
        }
    }

    /// One of its directories.
    pub(super) fn directory(&self, name: &str) -> Result<OwnedFd, OpenError> {
        open_directory(self.directory.as_fd(), name, &self.path.join(name))
    }

    /// One of its files, for reading and writing; `None`: it is not there.
    pub(super) fn file(&self, name: &str) -> Result<Option<File>, OpenError> {
        let path = self.path.join(name);
        // NONBLOCK: a FIFO must not hold us up. It means nothing to a file.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat2(&self.directory, name, flags, Mode::empty(), WITHIN) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(not_ours(&path, "it is a symbolic link")),
            Err(Errno::ISDIR) => return Err(not_ours(&path, "it is a directory")),
            other => other.map_err(at(&path))?,
        };
        let stat = rustix::fs::fstat(&file).map_err(at(&path))?;
        match check_owner(&stat, &path)? {
            FileType::RegularFile => Ok(Some(File::from(file))),
            _ => Err(not_ours(&path, "it is no file")),
        }
    }

    /// A new file in the place of what has that name.
    pub(super) fn new_file(&self, name: &str) -> Result<File, OpenError> {
        let path = self.path.join(name);
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => return Err(not_ours(&path, "it is a directory")),
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(at(&path)(errno)),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let made = rustix::fs::openat2(&self.directory, name, flags, mode, WITHIN);
        made.map(File::from).map_err(at(&path))
    }

    /// The text of one of its files; `None`: it is not there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, OpenError> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_TEXT_BYTES).read_to_end(&mut bytes).map_err(io_at(&self.path.join(name)))?;
        Ok(Some(bytes))
    }

    /// Gives a file this text, all at once and durably.
    pub(super) fn replace(&self, name: &str, text: &str) -> Result<(), OpenError> {
        let new = format!("{name}.new");
        let mut file = self.new_file(&new)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(io_at(&self.path.join(&new)))?;
        rustix::fs::renameat(&self.directory, new.as_str(), &self.directory, name)
            .map_err(at(&self.path.join(name)))?;
        rustix::fs::fsync(&self.directory).map_err(at(&self.path))
    }

    /// The inode number of a name, whatever it leads to; `None`: it is not there.
    pub(super) fn inode_of(&self, name: &str) -> Option<u64> {
        let found = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
        found.ok().map(|stat| stat.st_ino)
    }

    /// Where a name of it is, for people.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn at(path: &Path) -> impl Fn(Errno) -> OpenError {
    let path = path.to_owned();
    move |errno| OpenError::Root { path: path.clone(), errno }
}

fn io_at(path: &Path) -> impl Fn(std::io::Error) -> OpenError {
    let at = at(path);
    move |error| at(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn not_ours(path: &Path, why: impl Into<String>) -> OpenError {
    OpenError::NotOurs { path: path.to_owned(), why: why.into() }
}

fn make_directory(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    path: &Path,
) -> Result<OwnedFd, OpenError> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_directory(parent, name, path),
        Err(errno) => Err(at(path)(errno)),
    }
}

/// A real directory of root's, closed to everybody else.
fn open_directory(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    path: &Path,
) -> Result<OwnedFd, OpenError> {
    let directory = match rustix::fs::openat2(parent, name, DIRECTORY, Mode::empty(), WITHIN) {
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(not_ours(path, "it is no directory")),
        Err(Errno::XDEV) => return Err(not_ours(path, "another filesystem is mounted there")),
        other => other.map_err(at(path))?,
    };
    let stat = rustix::fs::fstat(&directory).map_err(at(path))?;
    check_owner(&stat, path)?;
    Ok(directory)
}

/// The kind of something in here, which only root can have put there and only root can change.
fn check_owner(stat: &Stat, path: &Path) -> Result<FileType, OpenError> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let open = stat.st_mode & OTHERS;
    let why = match kind {
        _ if stat.st_uid != 0 => format!("it belongs to user {}", stat.st_uid),
        FileType::Directory if open != 0 => {
            format!("others than root may use it, its mode is {:o}", stat.st_mode & 0o7777)
        }
        FileType::RegularFile if stat.st_nlink > 1 => "it has another name elsewhere".to_owned(),
        FileType::Directory | FileType::RegularFile => return Ok(kind),
        FileType::Symlink => "it is a symbolic link".to_owned(),
        _ => "it is neither a file nor a directory".to_owned(),
    };
    Err(not_ours(path, why))
}
