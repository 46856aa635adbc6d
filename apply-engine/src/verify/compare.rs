//! Two parts against each other: pure.

use ids::Oid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::part::{Key, Part, UNREADABLE};

/// How an object differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Finding {
    /// Its digests are not the same.
    Differs,
    /// The other node does not have it.
    OnlyHere,
    /// This node does not have it.
    OnlyThere,
    /// This node cannot read it.
    UnreadableHere,
    /// The other node cannot read it.
    UnreadableThere,
}

/// What a comparison found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// Objects that differ.
    pub found: BTreeMap<Oid, Finding>,
    /// Objects that either node has.
    pub objects: u64,
    /// Where to go on; `None` at the end of both trees.
    pub next: Option<Key>,
}

/// Compares what both parts cover. Both began at the same place.
#[must_use]
pub fn compare(ours: &Part, theirs: &Part) -> Compared {
    let next = match (ours.next, theirs.next) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let covered = |key: &Key| next.is_none_or(|next| *key < next);
    let mut both: BTreeMap<Key, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for (key, digest) in ours.seen.iter().filter(|(key, _)| covered(key)) {
        both.entry(*key).or_default().0 = Some(*digest);
    }
    for (key, digest) in theirs.seen.iter().filter(|(key, _)| covered(key)) {
        both.entry(*key).or_default().1 = Some(*digest);
    }
    let mut compared = Compared { next, ..Compared::default() };
    for (Key { oid, piece }, digests) in both {
        compared.objects += u64::from(piece == 0);
        let finding = match digests {
            (Some(UNREADABLE), _) => Finding::UnreadableHere,
            (_, Some(UNREADABLE)) => Finding::UnreadableThere,
            (Some(one), Some(other)) if one == other => continue,
            (Some(_), None) if piece == 0 => Finding::OnlyHere,
            (None, Some(_)) if piece == 0 => Finding::OnlyThere,
            _ => Finding::Differs,
        };
        compared.found.entry(oid).or_insert(finding);
    }
    compared
}
