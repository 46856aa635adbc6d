//! What each side of a split volume holds and the other lacks, for the operator who has to choose.

use ids::{Lsn, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// The kind of a directory, in a word.
pub const DIRECTORY: &str = "directory";

/// Both sides of a split.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SplitReport {
    /// The volume.
    pub volume: String,
    /// Up to here both logs are the same; `None`: they have nothing in common.
    pub common_end: Option<Lsn>,
    /// The node that was asked.
    pub here: SplitSide,
    /// Its partner, if it could be asked.
    pub there: Option<SplitSide>,
    /// Why it could not.
    pub there_error: Option<String>,
}

/// What one side changed since the common point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SplitSide {
    /// The node.
    pub node: NodeName,
    /// It serves clients.
    pub serves: bool,
    /// Objects that it changed or made.
    pub changed_objects: u64,
    /// Length of the files among them.
    pub changed_bytes: u64,
    /// The first of them, by path.
    pub changed: Vec<ChangedObject>,
    /// Names that it removed, as far as its log still tells; at most as many as were asked for.
    pub removed: Vec<String>,
    /// How many those are.
    pub removed_names: u64,
    /// Its log still holds everything since the two sides parted. Else what was removed before its beginning is not among
    /// these names: it shows only as something that the other side still has.
    #[serde(default)]
    pub removed_is_all: bool,
}

/// One object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangedObject {
    /// Where it is, from the volume's root; one of its names.
    pub path: String,
    /// What it is.
    pub kind: String,
    /// Length of a file in bytes.
    pub size_bytes: u64,
    /// Its number and generation: the same on both sides for what was there before they parted.
    #[serde(default)]
    pub object: (u64, u64),
    /// The other side has changed it too, or has another object there; as far as both lists go.
    #[serde(default)]
    pub on_both_sides: bool,
}

impl SplitSide {
    /// So many rows of each list; what both sides changed comes first.
    pub fn shorten(&mut self, rows: usize) {
        self.changed.sort_by_key(|object| !object.on_both_sides);
        self.changed.truncate(rows);
        self.removed.truncate(rows);
    }
}

/// Marks what both sides have changed: by object, and by path.
pub fn mark_both(one: &mut SplitSide, other: &mut SplitSide) {
    let seen = |side: &SplitSide| -> (HashSet<(u64, u64)>, HashSet<String>) {
        let paths = side.changed.iter().map(|object| object.path.clone()).chain(side.removed.iter().cloned());
        (side.changed.iter().map(|object| object.object).collect(), paths.collect())
    };
    let (ours, theirs) = (seen(one), seen(other));
    for (side, (objects, paths)) in [(one, theirs), (other, ours)] {
        for object in &mut side.changed {
            // A directory that both have changed inside is no conflict by itself.
            object.on_both_sides = object.kind != DIRECTORY
                && (objects.contains(&object.object) || paths.contains(&object.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(node: &str, changed: &[(&str, &str, (u64, u64))], removed: &[&str]) -> SplitSide {
        let object = |(kind, path, object): &(&str, &str, (u64, u64))| ChangedObject {
            path: (*path).to_owned(),
            kind: (*kind).to_owned(),
            size_bytes: 0,
            object: *object,
            on_both_sides: false,
        };
        SplitSide {
            node: node.parse().unwrap(),
            serves: false,
            changed_objects: changed.len() as u64,
            changed_bytes: 0,
            changed: changed.iter().map(object).collect(),
            removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            removed_names: removed.len() as u64,
            removed_is_all: true,
        }
    }

    #[test]
    fn what_both_sides_changed_is_marked() {
        let mut a = side(
            "a",
            &[
                ("file", "common", (7, 1)),
                ("file", "renamed-on-a", (8, 1)),
                ("file", "made-on-both", (20, 100)),
                ("file", "only-a", (21, 101)),
                ("directory", "", (2, 0)),
                ("file", "gone-on-b", (9, 1)),
            ],
            &[],
        );
        let mut b = side(
            "b",
            &[
                ("file", "common", (7, 1)),
                ("file", "old-name", (8, 1)),
                ("file", "made-on-both", (20, 200)),
                ("file", "only-b", (21, 201)),
                ("directory", "", (2, 0)),
            ],
            &["gone-on-b"],
        );
        mark_both(&mut a, &mut b);
        let marked = |side: &SplitSide| -> Vec<String> {
            side.changed
                .iter()
                .filter(|object| object.on_both_sides)
                .map(|object| object.path.clone())
                .collect()
        };
        assert_eq!(marked(&a), ["common", "renamed-on-a", "made-on-both", "gone-on-b"]);
        assert_eq!(marked(&b), ["common", "old-name", "made-on-both"]);
    }
}
