//! A tree that can be compared and installed into: the primitives of a consistency point, and a few more.

use ids::Oid;

use super::{ObjectLabel, ResyncError};
use crate::base::TreeError;
use crate::pool;
use crate::tree::Tree;
use crate::view::BaseReader;

/// See the module.
pub(crate) trait Site: Tree {
    /// The tree as readers see it.
    fn reader(&self) -> &dyn BaseReader;
    /// OIDs that the index knows, ascending from `from` on, at most `max`. Some may not be there any more.
    fn known(&self, from: Oid, max: usize) -> Result<Vec<Oid>, ResyncError>;
    /// The refused names of one directory are from now on those of another one. There may be none.
    fn move_refused(&self, from: Oid, to: Oid) -> Result<(), TreeError>;
    /// How many names a directory holds, refused ones counted beside.
    fn count_names(&self, directory: Oid) -> Result<usize, TreeError> {
        let count = std::cell::Cell::new(0);
        let look = |_: &[u8]| {
            count.set(count.get() + 1);
            false
        };
        self.seen_some_names(directory, &look)?;
        Ok(count.get())
    }
    /// The object gets another OID.
    fn renumber(&self, from: Oid, to: Oid) -> Result<(), TreeError>;
}

/// See [`super::labels`].
pub(super) fn labels(
    site: &impl Site,
    from: Oid,
    max: usize,
) -> Result<(Vec<ObjectLabel>, Option<Oid>), ResyncError> {
    let known = site.known(from, max)?;
    let next = known.last().filter(|_| known.len() == max).map(|last| Oid(last.0.saturating_add(1)));
    let found = pool::map(&known, |oid| site.find(*oid))?;
    let label = |(oid, occupant): (Oid, Option<crate::tree::Occupant>)| {
        let label = occupant?.label?;
        Some(ObjectLabel { oid, generation: label.generation, last_lsn: label.last_lsn })
    };
    Ok((known.into_iter().zip(found).filter_map(label).collect(), next))
}
