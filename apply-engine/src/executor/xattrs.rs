//! Setting xattrs where room for them is tight: ext4 has one block for all of an object's, whatever the disk has left.
//!
//! What ends has been removed before. Values that shrink are set before values that grow, so that no moment needs more
//! room than the beginning or the end does. How the values lie still depends on the order in which they were set: where
//! there is no room after all, those that change are taken away and set from the largest to the smallest. A sealed Delta
//! hides what is between, and sets them again after a crash.

use ids::Oid;

use crate::base::TreeError;
use crate::tree::Tree;

/// See the module.
pub(crate) fn set<'v>(
    tree: &impl Tree,
    oid: Oid,
    wanted: impl Iterator<Item = (&'v [u8], &'v [u8])>,
) -> Result<(), TreeError> {
    let mut wanted: Vec<(&[u8], &[u8])> = wanted.collect();
    if let [(name, value)] = wanted[..] {
        return tree.set_xattr(oid, name, value);
    }
    let mut grows_bytes = std::collections::HashMap::new();
    for (name, value) in &wanted {
        let now = tree.xattr(oid, name)?.map_or(0, |now| now.len());
        grows_bytes.insert(*name, value.len() as i64 - now as i64);
    }
    wanted.sort_by_key(|(name, _)| grows_bytes.get(name).copied());
    let set =
        |some: &[(&[u8], &[u8])]| some.iter().try_for_each(|(name, value)| tree.set_xattr(oid, name, value));
    match set(&wanted) {
        Err(error) if error.is_no_space() => {}
        other => return other,
    }
    wanted.iter().try_for_each(|(name, _)| tree.remove_xattr(oid, name))?;
    wanted.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
    set(&wanted)
}
