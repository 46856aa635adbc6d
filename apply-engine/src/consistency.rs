//! A consistency point: applying a sealed Delta to the base tree.
//!
//! [`apply`] looks at what is there (`survey`), decides (`plan`, pure), and acts
//! (`executor`). It sets final values, so running it again after a crash, over this Delta or
//! over one that continues it, gives the same tree; there is no other recovery. Then the caller calls
//! [`Base::sync`] and may advance the log's tail to the Delta's end.
//!
//! What can go wrong: a full disk and I/O errors ([`ApplyError::NoSpace`], [`ApplyError::Io`]: keep the log, try
//! again), and a tree that is not the one the records were made for ([`ApplyError::is_other_tree`]: nothing is destroyed,
//! the node must not go on).

use std::time::{Duration, Instant};

use ids::Oid;
use nvlog::Log;
use rustix::io::Errno;

use crate::base::{Base, TreeError};
use crate::delta::Delta;
use crate::executor;
use crate::executor::base_tree::BaseTree;
use crate::plan::Plan;
use crate::survey::Survey;

/// A consistency point that did not come to its end. The Delta can be applied again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// The local filesystem or a quota is full.
    #[error("{0}: free space in the base filesystem; applying is tried again")]
    NoSpace(TreeError),
    /// The disk, or the filesystem that went read-only.
    #[error("{0}: check the disk and the kernel log; applying is tried again")]
    Io(TreeError),
    /// Another system call failed.
    #[error("{0}")]
    Tree(TreeError),
    /// An object that the records change is not in the tree.
    #[error(
        "{0} is in the log but not in the base tree: the tree was changed behind Twinfiler's back, resync this node"
    )]
    Missing(Oid),
    /// Going on would destroy an object that is not dead.
    #[error(
        "{oid} at {at} would be lost, though no record removed it: the tree was changed behind Twinfiler's back, resync this node"
    )]
    WouldLose {
        /// The object.
        oid: Oid,
        /// Where it is.
        at: String,
    },
    /// A directory would become its own ancestor.
    #[error(
        "{0}: a directory would stand below itself, though no record moved it there: the tree was changed behind Twinfiler's back, resync this node"
    )]
    Cycle(TreeError),
}

impl ApplyError {
    /// Whether the tree is not the one that the Delta was made for.
    pub fn is_other_tree(&self) -> bool {
        matches!(self, ApplyError::Missing(_) | ApplyError::WouldLose { .. } | ApplyError::Cycle(_))
    }
}

impl From<TreeError> for ApplyError {
    fn from(error: TreeError) -> ApplyError {
        match error.errno {
            _ if error.is_no_space() => ApplyError::NoSpace(error),
            Errno::IO | Errno::ROFS | Errno::NODEV | Errno::NXIO => ApplyError::Io(error),
            _ => ApplyError::Tree(error),
        }
    }
}

/// What a consistency point did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ApplyReport {
    /// Objects whose contents, attributes or labels were set.
    pub objects: u64,
    /// Objects made.
    pub created: u64,
    /// Names moved, made or taken away.
    pub names: u64,
    /// File content written.
    pub written_bytes: u64,
    /// How long it took, without [`Base::sync`].
    pub took: Duration,
}

/// Applies a Delta whose records are all committed and still in the log. Idempotent. Nobody else may change
/// the base meanwhile; reading is fine.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply(base: &Base, log: &Log, delta: &Delta) -> Result<ApplyReport, ApplyError> {
    let born = delta.objects().filter(|(_, object)| object.born.is_some()).map(|(oid, _)| oid).max();
    if let Some(Oid(last)) = born {
        base.raise_next_oid(Oid(last.saturating_add(1)));
    }
    #[cfg(any(test, feature = "simulation"))]
    if let Some(disk) = base.simulation() {
        return apply_to(&disk.tree(log), delta);
    }
    apply_to(&BaseTree::new(base, log), delta)
}

/// [`apply`] to any tree.
pub(crate) fn apply_to(tree: &impl crate::tree::Tree, delta: &Delta) -> Result<ApplyReport, ApplyError> {
    let started = Instant::now();
    let survey = Survey::take(tree, delta)?;
    let plan = Plan::make(&survey, delta)?;
    let report = executor::run(tree, delta, &plan)?;
    Ok(ApplyReport { took: started.elapsed(), ..report })
}

#[cfg(test)]
mod crash_tests;
