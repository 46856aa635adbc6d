//! The base tree is nobody's business but root's: a directory above it keeps the others out.
//!
//! The tree's own modes are those that clients gave, for clients. Who could walk into it on the node's side would be let
//! in by them, past the volume: they could hold a file that is being made open before it gets its mode, fill the disk, or
//! put something where an object is about to be. So some directory above the root belongs to root and can be searched by
//! nobody else. The root's own mode does not count: it is the volume's, and clients change it.
//!
//! What can go wrong: the same filesystem is mounted somewhere else too; this is not seen.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::LOST_AND_FOUND_NAME;

/// Search permission of others than the owner. With an ACL the bits of the group are its mask.
const SEARCH_BY_OTHERS: u32 = 0o011;

/// Why a tree is not closed to others.
#[derive(Debug, thiserror::Error)]
pub enum EnclosureError {
    /// Nothing keeps the others out.
    #[error(
        "other users of this machine can walk into the base tree {}: no directory above it is closed to them. Remedy: {}",
        path.display(), how_to_close(path, parent)
    )]
    Open {
        /// The tree's root.
        path: PathBuf,
        /// The directory above it.
        parent: PathBuf,
    },
    /// It could not be found out.
    #[error("cannot look at the directories above {}: {errno}", path.display())]
    Unreadable {
        /// The tree's root.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
}

/// Components of a path like /srv, which is everybody's.
const TOP_DIRECTORY_COMPONENTS: usize = 2;

/// Whether the directory above a tree was made for it: root's, not at the top of the machine, and with nothing else in it.
pub fn is_for_tree_alone(parent: &Path, tree: &Path) -> bool {
    let is_roots = std::fs::symlink_metadata(parent).is_ok_and(|found| found.is_dir() && found.uid() == 0);
    is_roots && holds_nothing_else(parent, tree)
}

fn holds_nothing_else(parent: &Path, tree: &Path) -> bool {
    let is_deep = parent.components().count() > TOP_DIRECTORY_COMPONENTS;
    let own = |name: &OsStr| Some(name) == tree.file_name() || name == LOST_AND_FOUND_NAME;
    let nothing_else = std::fs::read_dir(parent)
        .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| own(&entry.file_name()))));
    is_deep && nothing_else
}

/// What an administrator does about a tree that is open to others. A directory that holds other things too is not closed
/// for it: that would lock others out of those.
pub fn how_to_close(tree: &Path, parent: &Path) -> String {
    let (shown, name) = (parent.display(), tree.file_name().unwrap_or_default().display());
    if holds_nothing_else(parent, tree) {
        return format!("close the directory above it: `chown root:root {shown}` and `chmod 700 {shown}`");
    }
    let closed = parent.join("twinfiler");
    let closed = closed.display();
    format!(
        "keep the tree in a closed directory of its own, as in `install -d -m 700 {closed}` and `{closed}/{name}` as the \
         base. Others need {shown}: leave that open"
    )
}

/// Looks whether a directory above `path` is closed to everybody but root. `path` itself need not exist, the directory
/// above it must.
///
/// # Errors
/// It is not, or that cannot be seen.
pub fn check_enclosed(path: &Path) -> Result<(), EnclosureError> {
    let unreadable = |errno| EnclosureError::Unreadable { path: path.to_owned(), errno };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // By descriptors: where links lead is where the tree is.
    let mut directory = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(root) => rustix::fs::openat(&root, c"..", flags, Mode::empty()),
        Err(Errno::NOENT) => {
            let parent = path.parent().ok_or_else(|| unreadable(Errno::NOENT))?;
            rustix::fs::open(parent, flags, Mode::empty())
        }
        Err(errno) => Err(errno),
    }
    .map_err(unreadable)?;
    loop {
        let here = rustix::fs::fstat(&directory).map_err(unreadable)?;
        if here.st_uid == 0 && here.st_mode & SEARCH_BY_OTHERS == 0 {
            return Ok(());
        }
        let above = rustix::fs::openat(&directory, c"..", flags, Mode::empty()).map_err(unreadable)?;
        let next = rustix::fs::fstat(&above).map_err(unreadable)?;
        if (here.st_dev, here.st_ino) == (next.st_dev, next.st_ino) {
            let parent = path.parent().unwrap_or(path).to_owned();
            return Err(EnclosureError::Open { path: path.to_owned(), parent });
        }
        directory = above;
    }
}
