//! Digests of consistency points: kept, exchanged, compared, and what follows when two differ.
//!
//! The partner sends the digest of each point, the primary compares it with its own of the same records. When they
//! differ both say so at once (a fault in status, a metric, the log), the partner takes over by itself no more, and then
//! the objects are named: the partner tells its digests one by one, and a walk finds the paths. Nothing is repaired by
//! itself: which side is right is not known from here, so the operator says it.
//!
//! What can go wrong: one side has applied in other steps (after it was alone, or a word was late): that point is not
//! compared.

use super::super::shared::Shared;
use super::tell;
use super::wire::{MAX_OBJECTS, Word};
use admin_api::status::{FaultKind, Role, VerifyFinding};
use apply_engine::verify::{Applied, differing, paths};
use ids::{Lsn, Oid};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Points that are remembered, so that the slower side can be compared.
const MAX_POINTS: usize = 8;
/// Objects that a fault names.
const MAX_NAMED: usize = 16;
/// Faults about it begin so.
pub(super) const DIFFER: &str = "the base trees of the two nodes differ";
/// Faults about what a walk found begin so.
const FOUND: &str = "verify found objects that differ";
/// Longest text about it that a node takes from its partner.
const MAX_TEXT_BYTES: usize = 4096;
/// Longest name of one object in it.
const MAX_NAME_BYTES: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Points {
    ours: VecDeque<Applied>,
    theirs: VecDeque<(Lsn, Lsn, u64)>,
    /// The point whose objects are being named, and what the partner has told of it.
    naming: Option<(Lsn, Vec<(Oid, u64)>)>,
    /// What is known to differ, with paths where they were found.
    known: BTreeMap<Oid, Option<String>>,
}

impl Points {
    pub fn keep(&mut self, applied: Applied) {
        if self.ours.len() == MAX_POINTS {
            self.ours.pop_front();
        }
        self.ours.push_back(applied);
    }

    fn of(&self, end: Lsn) -> Option<&Applied> {
        self.ours.iter().find(|point| point.end == end)
    }

    /// `None`: there is nothing to compare yet, or nothing that can be.
    fn agree(&mut self, end: Lsn) -> Option<bool> {
        let theirs = self.theirs.iter().position(|(_, theirs, _)| *theirs == end)?;
        let (first, digest) = self.of(end).map(|ours| (ours.first, ours.digest))?;
        let (their_first, _, their_digest) = self.theirs.remove(theirs)?;
        (their_first == first).then_some(their_digest == digest)
    }
}

fn is_primary(shared: &Shared) -> bool {
    shared.pair.lock().as_ref().is_some_and(|pair| pair.role == pair::RoleName::Primary)
}

/// A point was digested here.
pub(super) fn digested(shared: &Shared, end: Lsn) {
    if is_primary(shared) {
        return compare(shared, end);
    }
    let point = shared.verify.points.lock().of(end).map(|point| (point.first, point.digest));
    if let Some((first, digest)) = point {
        shared.verify.say(&Word::Applied { first, end, digest });
    }
}

/// The partner's digest came.
pub(super) fn heard(shared: &Shared, first: Lsn, end: Lsn, digest: u64) {
    {
        let mut points = shared.verify.points.lock();
        if points.theirs.len() == MAX_POINTS {
            points.theirs.pop_front();
        }
        points.theirs.push_back((first, end, digest));
    }
    compare(shared, end);
}

fn compare(shared: &Shared, end: Lsn) {
    let agree = shared.verify.points.lock().agree(end);
    match agree {
        None => {}
        Some(true) => shared.metrics.digests_compared.add(1),
        Some(false) => {
            shared.metrics.digests_compared.add(1);
            shared.metrics.digests_differ.add(1);
            let what = format!("{DIFFER} after the consistency point at LSN {end}");
            differ(shared, &what);
            shared.verify.say(&Word::Differs { what });
            shared.verify.points.lock().naming = Some((end, Vec::new()));
            shared.verify.say(&Word::Name { end, from: Oid(0) });
        }
    }
}

/// The primary wants this node's digests of a point, object by object.
pub(super) fn name(shared: &Shared, end: Lsn, from: Oid) {
    let mut objects: Vec<(Oid, u64)> = shared.verify.points.lock().of(end).map_or_else(Vec::new, |point| {
        point.objects.iter().filter(|(oid, _)| *oid >= from).take(MAX_OBJECTS + 1).copied().collect()
    });
    let next = objects.get(MAX_OBJECTS).map(|(oid, _)| *oid);
    objects.truncate(MAX_OBJECTS);
    shared.verify.say(&Word::Named { end, objects, next });
}

/// It told some of them.
pub(super) fn named(shared: &Shared, end: Lsn, objects: Vec<(Oid, u64)>, next: Option<Oid>) {
    let found = {
        let mut points = shared.verify.points.lock();
        let ours = points.of(end).map_or(0, |point| point.objects.len());
        let Some((_, theirs)) = points.naming.as_mut().filter(|(wanted, _)| *wanted == end) else { return };
        let last = theirs.last().map_or(Oid(0), |(oid, _)| *oid);
        theirs.extend(objects);
        // One that told more than this node touched would be heard for ever.
        let enough = theirs.len() > ours + MAX_OBJECTS;
        if let Some(next) = next.filter(|next| *next > last && !enough) {
            drop(points);
            shared.verify.say(&Word::Name { end, from: next });
            return;
        }
        let theirs = std::mem::take(theirs);
        points.naming = None;
        points.of(end).map(|ours| differing(&ours.objects, &theirs)).unwrap_or_default()
    };
    learn(shared, &found.into_iter().take(MAX_NAMED).collect());
}

/// These are known to differ: both nodes say so by name.
pub(super) fn learn(shared: &Shared, oids: &BTreeSet<Oid>) {
    let found = paths(&shared.base, oids).unwrap_or_else(|error| {
        tracing::warn!(volume = shared.name(), %error, "objects that differ cannot be named");
        BTreeMap::new()
    });
    let what = {
        let mut points = shared.verify.points.lock();
        for oid in oids {
            let path = found.get(oid).map(|path| String::from_utf8_lossy(path).into_owned());
            points.known.insert(*oid, path);
        }
        while points.known.len() > MAX_NAMED {
            points.known.pop_first();
        }
        listed(points.known.iter().map(|(oid, path)| named_as(*oid, path.as_deref())))
    };
    differ(shared, &what);
    shared.verify.say(&Word::Differs { what });
}

/// As many of them as one word to the partner, and one fault, may tell.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut what = format!("{DIFFER}:");
    for name in names {
        // A path may be longer than all that is told: then the object is found by its number.
        let name = if name.len() < MAX_NAME_BYTES { name } else { cut(&name) };
        let separator = if what.ends_with(':') { " " } else { ", " };
        if what.len() + separator.len() + name.len() > MAX_TEXT_BYTES {
            break;
        }
        what.push_str(separator);
        what.push_str(&name);
    }
    what
}

/// The end of a long name, which tells more than its beginning.
fn cut(name: &str) -> String {
    let from = (name.len() - MAX_NAME_BYTES..name.len()).find(|at| name.is_char_boundary(*at));
    format!("...{}", &name[from.unwrap_or(name.len())..])
}

/// An object as people know it.
pub(super) fn named_as(oid: Oid, path: Option<&str>) -> String {
    match path {
        Some(path) => format!("{path} (object {})", oid.0),
        None => format!("object {}", oid.0),
    }
}

/// The trees differ: this node says so, and after a digest that differed takes over by itself no more.
pub(super) fn differ(shared: &Shared, what: &str) {
    // The partner's word may be anything.
    if ![DIFFER, FOUND].iter().any(|begins| what.starts_with(begins)) || what.len() > MAX_TEXT_BYTES {
        return;
    }
    shared.faults.raise(FaultKind::TreesDiffer, what, &remedy(shared));
    // However it came to be known: a node that takes over by itself would serve what the primary never did.
    tell(shared, true);
}

/// What was found before this process began, and stands.
pub(crate) fn differ_since_long(shared: &Shared) {
    let what = format!("{DIFFER}, as was found before this node was started");
    shared.faults.raise(FaultKind::TreesDiffer, &what, &remedy(shared));
}

/// Which side is right, no node can know: each has applied the same records. What is known is whose clients read, and
/// where both contents can be seen.
fn remedy(shared: &Shared) -> String {
    let (me, peer, volume) = (&shared.me, &shared.config.peer.name, shared.name());
    let serves = shared.pair.lock().as_ref().is_some_and(|pair| pair.role == Role::Primary);
    let (primary, partner) = if serves { (me, peer) } else { (peer, me) };
    format!(
        "clients read what {primary} holds, the primary; which side is right, nobody but you can tell. `twinfiler verify \
         {volume}` on {primary} lists what differs; after `twinfiler consistency-point {volume}` look at both in the base \
         directories ({me}: {}), and change nothing there. If {primary} is right: `twinfiler verify {volume} --repair` \
         there gives {partner} its objects. If {partner} is: `twinfiler switchover {volume}` first. Until then {partner} \
         does not take over by itself",
        shared.config.base.display()
    )
}

/// A walk found these.
pub(super) fn found(shared: &Shared, found: &BTreeMap<Oid, VerifyFinding>) {
    let mut what = format!("{FOUND}: {} in all", found.len());
    for (oid, finding) in found.iter().take(MAX_NAMED) {
        let name = named_as(*oid, finding.path.as_deref());
        let name = if name.len() < MAX_NAME_BYTES { name } else { cut(&name) };
        let more = format!(", {name}: {}", finding.what);
        if what.len() + more.len() > MAX_TEXT_BYTES {
            break;
        }
        what.push_str(&more);
    }
    differ(shared, &what);
    shared.verify.say(&Word::Differs { what });
}

/// They are known to be the same again.
pub(super) fn same(shared: &Shared) {
    shared.verify.points.lock().known.clear();
    shared.faults.clear(FaultKind::TreesDiffer);
    tell(shared, false);
}

/// A walk of a primary found nothing that differs, or a resync of its partner has left nothing.
pub(crate) fn all_is_the_same(shared: &Shared) {
    same(shared);
    shared.verify.say(&Word::Same);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_fit_into_one_word() {
        let long = |letter: &str| named_as(Oid(7), Some(&format!("/{}", letter.repeat(100_000))));
        for names in [vec![long("x"); MAX_NAMED], vec![long("ä"); MAX_NAMED], vec!["/short".to_owned(); 3]] {
            let what = listed(names.into_iter());
            assert!(what.len() <= MAX_TEXT_BYTES, "{} bytes", what.len());
            assert!(what.ends_with("(object 7)") || what == format!("{DIFFER}: /short, /short, /short"));
            assert!(Word::decode(&Word::Differs { what }.encode()).is_ok());
        }
    }
}
