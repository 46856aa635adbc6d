//! The remainder: what a base filesystem refuses for good, kept by the engine itself.
//!
//! However many limits are known, a base will refuse something: a name that its hash cannot place, an xattr without room,
//! an offset beyond its format. One such object must not stop a consistency point, which would stop the volume. So
//! every effect goes through `tolerant::Tolerant`: what the tree refuses is kept here, and every reader sees the tree with it.
//!
//! - A refused *name* is an ordinary name elsewhere: `.twinfiler/remainder/names/<OID of the directory>/<name>`. The
//!   object is a real, labelled inode, so its contents, its children and its other names know nothing of this. What refuses
//!   it there, too (btrfs has room for so many names with one hash in *any* directory), is followed by others
//!   (`holders::Holder`), as many as it takes. Which of them has a name is known in memory, and found by listing them.
//! - Refused *values* (attributes, xattrs, ranges of content, a length, what changes in a label) are a record for each object
//!   (`refused::Refused`), in memory and as `.twinfiler/remainder/objects/<OID>`, checksummed.
//!
//! Invariants:
//! - a slot of a directory holds one object, here or in the tree;
//! - a record wins over what the tree says of the same thing, and is dropped only when the tree has taken it *and that
//!   was flushed*: records are written after the filesystem, before the log's tail moves;
//! - what a Delta says again is decided anew, so a consistency point stays idempotent whatever part of this survived.
//!
//! It is tried again when the object or the directory changes, and when the volume is opened. It may be empty on one
//! node and not on the other: whatever compares trees reads through it.
//!
//! What can go wrong: the same is refused here, too. Then the error is the consistency point's, as for a disk that fails,
//! and nothing is lost. Whatever was answered is kept, however much it is; but near some bounds (`Bounds`) the base says
//! that it has no more space (`Remainder::is_nearly_full`), so that clients are told, and no more comes than the log holds.

pub(crate) mod holders;
pub(crate) mod refused;
pub(crate) mod tolerant;

use ids::Oid;
use parking_lot::RwLock;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use crate::base::TreeError;
use crate::name::Name;
use holders::{KeptName, KeptNames};
use refused::{Identity, Refused};

/// How much may be refused before clients are told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    /// Names that are kept.
    pub names: usize,
    /// Objects of which something was refused.
    pub objects: usize,
    /// What all their values take, in bytes, of memory too.
    pub bytes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { names: 8192, objects: 8192, bytes: 64 << 20 }
    }
}

/// Clients get no more space when less than one part in so many of a bound is left.
const RESERVE_SHARE: u64 = 4;
/// Names of one directory that are tried again in one consistency point: each costs a few system calls.
const NAMES_AT_ONCE: usize = 256;

/// One thing that the base filesystem does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The object, or the directory of a name.
    pub oid: Oid,
    /// The name, if one was refused.
    pub name: Option<Name>,
    /// Where the object, or the directory, lies below the root, where that is known.
    pub path: Option<String>,
    /// What was tried, as words that fit after "cannot"; empty when it is not known any more.
    pub doing: String,
    /// Why not.
    pub errno: Option<Errno>,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let oid = self.oid;
        match (&self.name, &self.path) {
            (None, None) => write!(f, "{oid}")?,
            (None, Some(path)) => write!(f, "{path} ({oid})")?,
            (Some(name), None) => write!(f, "the name {name:?} in {oid}")?,
            (Some(name), Some(path)) => write!(f, "the name {name:?} in {path} ({oid})")?,
        }
        if !self.doing.is_empty() {
            write!(f, ", refused to {} it", self.doing)?;
        }
        match self.errno {
            Some(errno) => write!(f, ": {errno}"),
            None => Ok(()),
        }
    }
}

/// Why something was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Why {
    doing: &'static str,
    errno: Errno,
}

#[derive(Default)]
struct Kept {
    names: BTreeMap<Oid, KeptNames>,
    objects: BTreeMap<Oid, Arc<Refused>>,
    bytes: u64,
    /// Objects whose records differ from what is stored.
    dirty: BTreeSet<Oid>,
    /// The name of each directory that was tried again last.
    tried: BTreeMap<Oid, Name>,
    bounds: Bounds,
}

impl Kept {
    fn name_count(&self) -> usize {
        self.names.values().map(|kept| kept.names.len()).sum()
    }
}

/// See the module: what one volume's tree has refused.
#[derive(Default)]
pub(crate) struct Remainder(RwLock<Kept>);

impl Remainder {
    /// As it was stored.
    pub fn stored(names: BTreeMap<Oid, BTreeMap<Name, u32>>, objects: BTreeMap<Oid, Refused>) -> Remainder {
        let remainder = Remainder::default();
        remainder.load(names, objects);
        remainder
    }

    /// Begins anew as it was stored.
    pub fn load(&self, names: BTreeMap<Oid, BTreeMap<Name, u32>>, objects: BTreeMap<Oid, Refused>) {
        let names = names
            .into_iter()
            .map(|(oid, there)| (oid, KeptNames::there(there, &KeptNames::default())))
            .collect();
        let bytes = objects.values().map(Refused::cost_bytes).sum();
        let objects = objects.into_iter().map(|(oid, refused)| (oid, Arc::new(refused))).collect();
        let kept = &mut *self.0.write();
        *kept = Kept { names, objects, bytes, bounds: kept.bounds, ..Kept::default() };
    }

    /// Whether the tree holds everything.
    pub fn is_empty(&self) -> bool {
        let kept = self.0.read();
        kept.names.is_empty() && kept.objects.is_empty()
    }

    #[cfg(test)]
    pub fn set_bounds(&self, bounds: Bounds) {
        self.0.write().bounds = bounds;
    }

    /// Whether no more should be asked of the tree than must be.
    pub fn is_nearly_full(&self) -> bool {
        let kept = self.0.read();
        let full = |has: u64, bound: u64| has > bound - bound / RESERVE_SHARE;
        full(kept.name_count() as u64, kept.bounds.names as u64)
            || full(kept.objects.len() as u64, kept.bounds.objects as u64)
            || full(kept.bytes, kept.bounds.bytes)
    }

    /// What was refused of an object.
    pub fn object(&self, oid: Oid) -> Option<Arc<Refused>> {
        self.0.read().objects.get(&oid).cloned()
    }

    /// Every object with a record.
    pub fn objects(&self) -> Vec<Oid> {
        self.0.read().objects.keys().copied().collect()
    }

    /// Keeps what is refused of an object now.
    pub fn keep(&self, oid: Oid, refused: Refused) {
        let kept = &mut *self.0.write();
        kept.dirty.insert(oid);
        if let Some(before) = kept.objects.remove(&oid) {
            kept.bytes -= before.cost_bytes();
        }
        if !refused.is_empty() {
            kept.bytes += refused.cost_bytes();
            kept.objects.insert(oid, Arc::new(refused));
        }
    }

    /// Nothing of an object is kept any more.
    pub fn forget(&self, oid: Oid) {
        if self.0.read().objects.contains_key(&oid) {
            let kept = &mut *self.0.write();
            if let Some(refused) = kept.objects.remove(&oid) {
                kept.bytes -= refused.cost_bytes();
            }
            kept.dirty.insert(oid);
        }
    }

    /// After it was loaded: drops the records of objects whose OIDs have gone to others. `who` says who has an OID now;
    /// a record of one that nobody has may still be needed, by a consistency point that is applied again.
    pub fn drop_strangers<E>(&self, who: impl Fn(Oid) -> Result<Option<Identity>, E>) -> Result<(), E> {
        for oid in self.objects() {
            let of = self.object(oid).and_then(|refused| refused.of);
            if let (Some(of), Some(now)) = (of, who(oid)?)
                && of != now
            {
                self.forget(oid);
            }
        }
        Ok(())
    }

    /// Whether names were refused in a directory.
    pub fn has_names(&self, directory: Oid) -> bool {
        self.0.read().names.contains_key(&directory)
    }

    /// Some of the names that were refused in a directory, others the next time.
    pub fn some_names(&self, directory: Oid) -> Vec<Name> {
        let kept = &mut *self.0.write();
        let Some(KeptNames { names, .. }) = kept.names.get(&directory) else { return Vec::new() };
        let later = |last: &Name| names.range((Bound::Excluded(last.clone()), Bound::Unbounded));
        let mut some: Vec<Name> = match kept.tried.get(&directory) {
            Some(last) => later(last).map(|(name, _)| name.clone()).take(NAMES_AT_ONCE).collect(),
            None => Vec::new(),
        };
        let left = NAMES_AT_ONCE.min(names.len()) - some.len();
        some.extend(names.keys().take(left).cloned());
        if let Some(last) = some.last() {
            kept.tried.insert(directory, last.clone());
        }
        some
    }

    /// The directories in which names were refused.
    pub fn directories(&self) -> Vec<Oid> {
        self.0.read().names.keys().copied().collect()
    }

    /// A name is about to be kept.
    pub fn keep_name(&self, directory: Oid, name: &Name, error: &TreeError) {
        let why = Why { doing: error.doing, errno: error.errno };
        self.0.write().names.entry(directory).or_default().names.entry(name.clone()).or_default().why =
            Some(why);
    }

    /// Whether a name of a directory is kept.
    pub fn knows_name(&self, directory: Oid, name: &Name) -> bool {
        self.0.read().names.get(&directory).is_some_and(|kept| kept.names.contains_key(name))
    }

    /// A name could not be kept. Its directory stays known: what would have held the name may have been made.
    pub fn forget_name(&self, directory: Oid, name: &Name) {
        if let Some(kept) = self.0.write().names.get_mut(&directory) {
            kept.names.remove(name);
        }
    }

    /// These are the names that are kept of a directory, and what holds each.
    pub fn names_are(&self, directory: Oid, there: BTreeMap<Name, u32>) {
        let kept = &mut *self.0.write();
        let known = kept.names.remove(&directory).unwrap_or_default();
        match there.is_empty() {
            true => drop(kept.tried.remove(&directory)),
            false => drop(kept.names.insert(directory, KeptNames::there(there, &known))),
        }
    }

    /// The records that are not stored as they are now; `None` is none. Tell with [`Remainder::stored_now`].
    pub fn unstored(&self) -> Vec<(Oid, Option<Arc<Refused>>)> {
        let kept = self.0.read();
        kept.dirty.iter().map(|oid| (*oid, kept.objects.get(oid).cloned())).collect()
    }

    /// These are stored. Nobody has changed them meanwhile.
    pub fn stored_now(&self, oids: impl IntoIterator<Item = Oid>) {
        let kept = &mut *self.0.write();
        for oid in oids {
            kept.dirty.remove(&oid);
        }
    }

    /// Everything that is kept, at most `max`, and how much there is.
    pub fn held(&self, max: usize) -> (Vec<Held>, usize) {
        let kept = self.0.read();
        let names = kept.names.iter().flat_map(|(oid, names)| {
            names.names.iter().map(|(name, KeptName { why, .. })| Held {
                oid: *oid,
                name: Some(name.clone()),
                path: None,
                doing: why.as_ref().map_or(String::new(), |why| why.doing.to_owned()),
                errno: why.as_ref().map(|why| why.errno),
            })
        });
        let objects = kept.objects.iter().map(|(oid, refused)| Held {
            oid: *oid,
            name: None,
            path: None,
            doing: refused.why.0.clone(),
            errno: Some(Errno::from_raw_os_error(refused.why.1)),
        });
        let count = kept.name_count() + kept.objects.len();
        (names.chain(objects).take(max).collect(), count)
    }
}

/// Whether an error says that a tree will never take this, and not that the disk, the machine or the program has failed.
/// `has_room` is asked whether the filesystem has space left.
pub fn is_refusal(errno: Errno, has_room: impl FnOnce() -> bool) -> bool {
    match errno {
        Errno::NOSPC => has_room(),
        // A quota that statfs does not tell of is over for all objects alike.
        Errno::DQUOT => false,
        // The disk, the filesystem's own damage, a network below it.
        Errno::IO | Errno::ROFS | Errno::NODEV | Errno::NXIO | Errno::UCLEAN | Errno::BADMSG => false,
        Errno::REMOTEIO | Errno::TIMEDOUT | Errno::NOLINK | Errno::SHUTDOWN | Errno::HOSTDOWN => false,
        // The machine: it passes.
        Errno::NOMEM | Errno::NFILE | Errno::MFILE | Errno::INTR | Errno::AGAIN | Errno::NOBUFS => false,
        // The tree is not as it was looked at.
        Errno::NOENT | Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR | Errno::STALE => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Name {
        Name::new(format!("{number:04}").as_bytes()).expect("a name")
    }

    /// Operations that were answered come in one consistency point, and more of them than any bound allows.
    #[test]
    fn every_bound_is_told_before_it_is_reached_and_ends_nothing() {
        let bounds = Bounds { names: 4, objects: 4, bytes: 1000 };
        let error = TreeError { doing: "make", at: String::new(), errno: Errno::NOSPC };
        let of_mode = || Refused { mode: Some(0), ..Refused::default() };
        let (names, objects, bytes) = (Remainder::default(), Remainder::default(), Remainder::default());
        [&names, &objects, &bytes].into_iter().for_each(|remainder| remainder.set_bounds(bounds));
        for number in 0..9 {
            assert_eq!(
                (names.is_nearly_full(), objects.is_nearly_full()),
                (number > 3, number > 3),
                "{number}"
            );
            names.keep_name(Oid(number), &name(1), &error);
            objects.keep(Oid(number), of_mode());
        }
        assert_eq!((names.held(0).1, objects.held(0).1), (9, 9));
        let mut large = Refused::default();
        large.write(0, vec![1; 800], 0, 0);
        bytes.keep(Oid(1), large.clone());
        assert!(bytes.is_nearly_full());
        bytes.keep(Oid(2), large.clone());
        assert_eq!(bytes.object(Oid(2)).as_deref(), Some(&large));
        bytes.keep(Oid(2), Refused::default());
        large.cut(100..800);
        bytes.keep(Oid(1), large);
        assert!(!bytes.is_nearly_full(), "what shrinks makes room");
    }

    #[test]
    fn a_quota_that_is_used_up_is_no_refusal_of_one_object() {
        assert!(is_refusal(Errno::NOSPC, || true) && !is_refusal(Errno::NOSPC, || false));
        assert!(!is_refusal(Errno::DQUOT, || true));
    }

    #[test]
    fn every_name_has_its_turn() {
        let remainder = Remainder::default();
        let all: Vec<Name> = (0..600).map(name).collect();
        let there = |names: &[Name]| names.iter().map(|name| (name.clone(), 0)).collect();
        remainder.names_are(Oid(7), there(&all));
        let mut tried: Vec<Name> = (0..3).flat_map(|_| remainder.some_names(Oid(7))).collect();
        assert_eq!(tried.len(), 3 * NAMES_AT_ONCE);
        tried.sort_unstable();
        tried.dedup();
        assert_eq!(tried, all);
        remainder.names_are(Oid(7), there(&all[..3]));
        assert_eq!(remainder.some_names(Oid(7)).len(), 3);
    }
}
