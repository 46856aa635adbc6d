//! What a walk found, in words: what differs of each object, and where it lies.
//!
//! What can go wrong: the partner does not tell; then it is said that an object differs, or which number it has.

use super::answer::describe;
use super::progress::Doing;
use super::session::{MAX_LISTED, Session};
use super::wire::{Described, Word};
use admin_api::status::VerifyFinding;
use apply_engine::verify::{self, Finding};
use ids::{Lsn, Oid};
use std::collections::{BTreeMap, BTreeSet};

/// Names of one directory that a result tells.
const MAX_LISTED_NAMES: usize = 8;

impl Session<'_> {
    /// What differs of them, in words.
    pub(super) fn describe(&mut self, at: Lsn, found: &[(Oid, Finding)]) -> Result<(), String> {
        let oids: Vec<Oid> = found.iter().map(|(oid, _)| *oid).collect();
        self.asked += 1;
        self.say(&Word::Describe { asked: self.asked, at, oids: oids.clone() })?;
        let ours = describe(self.shared, &oids);
        let theirs = self.answer(self.asked, |word| match word {
            Word::Descriptions { described, .. } => Some(described),
            _ => None,
        })?;
        let theirs = theirs.unwrap_or_default();
        let (me, peer) = (self.shared.me.to_string(), self.shared.config.peer.name.to_string());
        for (at, (oid, finding)) in found.iter().enumerate() {
            let what = match finding {
                Finding::OnlyHere => format!("only on {me}"),
                Finding::OnlyThere => format!("only on {peer}"),
                Finding::UnreadableHere => format!("cannot be read on {me}"),
                Finding::UnreadableThere => format!("cannot be read on {peer}"),
                Finding::Differs => match (ours.get(at), theirs.get(at)) {
                    (Some(ours), Some(theirs)) => differences(ours, theirs, &me, &peer),
                    _ => "differs".to_owned(),
                },
            };
            self.found.insert(*oid, VerifyFinding { oid: oid.0, path: None, what });
        }
        Ok(())
    }

    /// Finds the paths of what differs, here or at the partner.
    pub(super) fn locate(&mut self) {
        let mut left: BTreeSet<Oid> = self.found.keys().copied().take(MAX_LISTED).collect();
        if left.is_empty() {
            return;
        }
        self.tell(Doing::Naming);
        let mut found = verify::paths(&self.shared.base, &left).unwrap_or_default();
        left.retain(|oid| !found.contains_key(oid));
        self.asked += 1;
        let oids = left.into_iter().collect::<Vec<_>>();
        if !oids.is_empty() && self.say(&Word::Locate { asked: self.asked, oids }).is_ok() {
            let theirs = self.answer(self.asked, |word| match word {
                Word::Located { paths, .. } => Some(paths),
                _ => None,
            });
            found.extend(theirs.ok().flatten().unwrap_or_default());
        }
        for (oid, path) in found {
            if let Some(finding) = self.found.get_mut(&oid) {
                finding.path = Some(String::from_utf8_lossy(&path).into_owned());
            }
        }
    }
}

fn differences(ours: &Described, theirs: &Described, me: &str, peer: &str) -> String {
    let (Some(one), Some(other)) = (&ours.aspects, &theirs.aspects) else { return "differs".to_owned() };
    let mut what = one.differences(other);
    if what.is_empty() {
        // The digest of the object was the same: a piece of its content was not.
        what.push("contents");
    }
    let mut text = format!("{} differ", what.join(", "));
    if let (true, Some(ours), Some(theirs)) = (what.contains(&"names"), &ours.names, &theirs.names) {
        let (ours, theirs): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (ours.iter().cloned().collect(), theirs.iter().cloned().collect());
        let lone =
            |side: &BTreeMap<Vec<u8>, Option<Oid>>, other: &BTreeMap<Vec<u8>, Option<Oid>>, node: &str| {
                let strange =
                    |target: &Option<Oid>| if target.is_none() { ", no object of the volume" } else { "" };
                side.iter()
                    .filter(|(name, target)| other.get(*name) != Some(*target))
                    .map(|(name, target)| {
                        format!("{:?} on {node}{}", String::from_utf8_lossy(name), strange(target))
                    })
                    .collect::<Vec<_>>()
            };
        let mut names = lone(&ours, &theirs, me);
        names.extend(lone(&theirs, &ours, peer));
        let more = names.len().saturating_sub(MAX_LISTED_NAMES);
        names.truncate(MAX_LISTED_NAMES);
        text.push_str(&format!(": {}", names.join("; ")));
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
    }
    text
}
