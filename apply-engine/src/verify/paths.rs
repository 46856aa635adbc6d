//! Where objects lie: a walk over all directories, done only when there is something to name.
//!
//! What can go wrong: a directory cannot be read; what lies below it is then told by its OID alone.

use ids::Oid;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::resync::ResyncError;
use crate::view::BaseReader;

/// Objects that are looked for in one walk, at most.
pub const MAX_SOUGHT: usize = 4096;

/// See [`super::paths`].
pub(super) fn paths(
    reader: &dyn BaseReader,
    sought: &BTreeSet<Oid>,
) -> Result<BTreeMap<Oid, Vec<u8>>, ResyncError> {
    let mut left: BTreeSet<Oid> = sought.iter().take(MAX_SOUGHT).copied().collect();
    let mut found = BTreeMap::new();
    if left.remove(&Oid::ROOT) {
        found.insert(Oid::ROOT, b"/".to_vec());
    }
    let mut waiting = vec![(Oid::ROOT, Vec::new())];
    while let Some((directory, path)) = waiting.pop() {
        if left.is_empty() {
            break;
        }
        let look = &mut |entry: crate::view::BaseEntry<'_>| {
            let mut below: Vec<u8> = path.clone();
            below.push(b'/');
            below.extend_from_slice(entry.name.as_bytes());
            if left.remove(&entry.oid) {
                found.insert(entry.oid, below.clone());
            }
            if entry.kind.is_directory() {
                waiting.push((entry.oid, below));
            }
            ControlFlow::Continue(())
        };
        match reader.readdir(directory, look) {
            Err(error) if directory == Oid::ROOT => return Err(ResyncError::Read(directory, error)),
            Err(error) => tracing::warn!(%directory, %error, "a directory cannot be read to name objects"),
            Ok(()) => {}
        }
    }
    Ok(found)
}
