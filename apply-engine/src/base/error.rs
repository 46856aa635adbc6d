//! What can go wrong with a volume's root directory, and with one system call in it.

use ids::VolumeId;
use rustix::io::Errno;
use std::path::PathBuf;

use super::label::LabelError;

/// One system call below the volume root failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot {doing} {at}: {errno}")]
pub struct TreeError {
    /// What was tried, as words that fit after "cannot".
    pub doing: &'static str,
    /// The object or the slot.
    pub at: String,
    /// Why not.
    pub errno: Errno,
}

impl TreeError {
    /// Names what was tried and where.
    pub(crate) fn at(doing: &'static str, at: impl ToString) -> impl FnOnce(Errno) -> TreeError {
        move |errno| TreeError { doing, at: at.to_string(), errno }
    }

    /// The filesystem (or a quota) is full.
    pub fn is_no_space(&self) -> bool {
        self.errno == Errno::NOSPC || self.errno == Errno::DQUOT
    }
}

impl From<TreeError> for std::io::Error {
    fn from(error: TreeError) -> std::io::Error {
        error.errno.into()
    }
}

/// A volume root that cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not root.
    #[error("twinfiler keeps other people's ownership and opens files by handle: run it as root")]
    NotRoot,
    /// No such directory, or not readable.
    #[error("cannot open the volume root {}: {errno}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// There is no volume here.
    #[error(
        "{} holds no Twinfiler volume: is its filesystem mounted? If there never was one, make it with `twinfiler init`, or \
         with `--adopt` if it has files",
        path.display()
    )]
    NotAVolume {
        /// The directory.
        path: PathBuf,
    },
    /// Something is there already.
    #[error("{} is not empty (found {found:?}): use an empty directory, or take the files over with `--adopt`", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One entry.
        found: String,
    },
    /// A volume is there already.
    #[error("{} already holds volume {found}: nothing was changed", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
        /// Which volume.
        found: VolumeId,
    },
    /// Another volume's tree.
    #[error("{} belongs to volume {found}, not to {expected}: check the configured path and volume id", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: VolumeId,
        /// Whose it should be.
        expected: VolumeId,
    },
    /// An adoption did not end.
    #[error("adopting {} was interrupted: run `twinfiler init --adopt` again, it goes on where it stopped", path.display())]
    HalfAdopted {
        /// The directory.
        path: PathBuf,
    },
    /// The label file makes no sense.
    #[error(
        "{}: {why}; if a newer program has written it, use that one; else keep .twinfiler as it is, which may hold what is \
         nowhere else, and replace this node as by an empty machine (docs/operations.md)",
        path.display()
    )]
    BadLabel {
        /// The label file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Something in the hidden directory that we have not made so.
    #[error(
        "{} is not what Twinfiler keeps there: {why}. Nothing in it was used or changed; move it away, or if it is yours, \
         make it root's alone (`chown root:root`, directories `chmod 700`)", path.display()
    )]
    NotOurs {
        /// What it is about.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Others than root can walk into the tree.
    #[error(transparent)]
    NotEnclosed(#[from] super::enclosure::EnclosureError),
    /// Another process has it.
    #[error("{} is in use by another twinfiler process", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The filesystem cannot hold a volume.
    #[error("the filesystem of {} cannot hold a volume, it has no {missing}: use ext4, xfs or btrfs", path.display())]
    Unsuitable {
        /// The directory.
        path: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// The filesystem cannot hold what a volume's clients rely on.
    #[error("the filesystem of {} cannot hold a volume: {lack}; {}", path.display(), lack.remedy())]
    Lacks {
        /// The directory.
        path: PathBuf,
        /// What it lacks, and the remedy.
        lack: super::limits::Lack,
    },
    /// A mount point inside the tree.
    #[error("{path} is another filesystem: unmount it, or keep it outside of the volume")]
    MountPoint {
        /// The directory.
        path: String,
    },
    /// An object that carries the label of some other volume, or twice the same.
    #[error(
        "{path} already carries the label {oid} of a volume: clear it (`setfattr -x trusted.twinfiler`) if that volume is gone"
    )]
    AlreadyLabelled {
        /// The object.
        path: String,
        /// What its label says.
        oid: ids::Oid,
    },
    /// An object whose xattrs nobody can list, so that they can be neither compared nor copied.
    #[error(
        "{path} has more xattrs than can be listed: their names are longer than 64 KiB together; remove some (`setfattr -x`)"
    )]
    XattrList {
        /// The object.
        path: String,
    },
    /// A label that cannot be read.
    #[error("{path}: {why}")]
    Label {
        /// The object.
        path: String,
        /// What is wrong.
        why: LabelError,
    },
    /// What the filesystem refused of an object, and was kept beside it, cannot be read.
    #[error(
        ".twinfiler/remainder/objects/{}: {why}; parts of that object are nowhere else on this node: restore the file, or remove it and resync this node",
        oid.0
    )]
    Remainder {
        /// The object.
        oid: ids::Oid,
        /// What is wrong.
        why: &'static str,
    },
    /// An object without a label.
    #[error(
        "{path} has no label: it was put there behind Twinfiler's back; move it away and copy it in through a mount"
    )]
    Unlabelled {
        /// The object.
        path: String,
    },
    /// A system call failed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The index cannot even be made anew.
    #[error(transparent)]
    Index(#[from] super::index::IndexError),
}
