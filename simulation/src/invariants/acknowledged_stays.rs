//! What was acknowledged, and what was read, is there in every later answer, whichever node gives it.

use crate::world::files::{Change, Seen, Tree, difference};
use volume::Errno;

/// Errors of a change that was drawn so that it must succeed: the node or its disk, never the change.
const ALLOWED: [Errno; 4] = [Errno::EIO, Errno::ENOSPC, Errno::ESHUTDOWN, Errno::EROFS];

/// A change was refused.
pub fn refused(client: &str, change: &Change, error: Errno) {
    assert!(ALLOWED.contains(&error), "{client}: {error} for {change}, which must be possible");
}

/// A client has seen this, and knows what it must be; `cut_off`: or that with this change.
pub fn shown(client: &str, seen: &Tree, expected: &Tree, cut_off: Option<&Change>) {
    if let Some(found) = difference(seen, expected) {
        let before = cut_off.map_or("nothing".to_owned(), Change::to_string);
        panic!("{client} sees something else than was acknowledged: {found}; cut off before: {before}");
    }
}

/// A client has looked at one path.
pub fn glimpsed(client: &str, path: &str, seen: Option<&Seen>, expected: Option<&Seen>) {
    let same = match (seen, expected) {
        (Some(seen), Some(expected)) => seen.is_like(expected),
        (None, None) => true,
        _ => false,
    };
    assert!(same, "{client} sees something else at {path} than was acknowledged");
}
