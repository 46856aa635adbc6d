//! What holds the names that were refused in one directory: a directory of their own, and others behind it.
//!
//! The first holder of a directory refuses by the same rules as the directory itself: a hash that too many names share (btrfs), an index
//! that cannot grow (ext4). The names that it refuses go to a second one, and so on. A holder is only made where the last one holds
//! something, so there are never more of them than names, and what an empty one refuses is refused for another reason.
//!
//! Which holder has a name is kept in memory, because nobody could tell it from the name; a start lists them all. A name is
//! put where it was before, if that takes it: so it is in one holder only, whatever part of the changes survives a crash.

use ids::Oid;
use std::collections::BTreeMap;
use std::fmt;

use super::{Remainder, Why};
use crate::base::TreeError;
use crate::name::Name;

/// One directory of refused names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Holder {
    /// In which they were refused.
    pub directory: Oid,
    /// 0 is the first one.
    pub number: u32,
}

impl Holder {
    /// What it is called.
    pub fn of_name(name: &Name) -> Option<Holder> {
        let name = std::str::from_utf8(name.as_bytes()).ok()?;
        let (directory, number) = match name.split_once('.') {
            Some((directory, number)) => (directory, number.parse().ok().filter(|number| *number > 0)?),
            None => (name, 0),
        };
        let holder = Holder { directory: Oid(directory.parse().ok()?), number };
        (holder.to_string() == name).then_some(holder)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            0 => write!(f, "{}", self.directory.0),
            number => write!(f, "{}.{number}", self.directory.0),
        }
    }
}

#[derive(Default)]
pub(super) struct KeptName {
    pub why: Option<Why>,
    /// Number of its holder.
    holder: u32,
}

/// Names that one directory has refused.
#[derive(Default)]
pub(super) struct KeptNames {
    pub names: BTreeMap<Name, KeptName>,
    /// The highest number of a holder that there may be.
    last: u32,
}

impl KeptNames {
    /// These, and why, as far as that is `known`.
    pub fn there(there: BTreeMap<Name, u32>, known: &KeptNames) -> KeptNames {
        let last = there.values().copied().max().unwrap_or(0);
        let why = |name: &Name| known.names.get(name).and_then(|kept| kept.why.clone());
        let names = there.into_iter().map(|(name, holder)| {
            let why = why(&name);
            (name, KeptName { why, holder })
        });
        KeptNames { names: names.collect(), last }
    }
}

impl Remainder {
    /// What holds a name, or would first be asked to.
    pub fn holder_of(&self, directory: Oid, name: &Name) -> Holder {
        let kept = self.0.read();
        let known = kept.names.get(&directory).and_then(|kept| kept.names.get(name));
        Holder { directory, number: known.map_or(0, |name| name.holder) }
    }

    /// All that there may be; some may be gone.
    pub fn holders(&self, directory: Oid) -> impl DoubleEndedIterator<Item = Holder> + use<> {
        (0..=self.last_holder(directory).number).map(move |number| Holder { directory, number })
    }

    /// Whether anything is held by others than first ones.
    pub fn has_further_holders(&self) -> bool {
        self.0.read().names.values().any(|kept| kept.last > 0)
    }

    /// The one with the highest number.
    pub fn last_holder(&self, directory: Oid) -> Holder {
        Holder { directory, number: self.0.read().names.get(&directory).map_or(0, |kept| kept.last) }
    }

    /// What one holder had is in another one. Those of a directory go in turn, the last one first.
    pub fn move_holder(&self, from: Holder, to: Holder) {
        let kept = &mut *self.0.write();
        let Some(old) = kept.names.get_mut(&from.directory) else { return };
        let (moved, left): (BTreeMap<_, _>, _) =
            std::mem::take(&mut old.names).into_iter().partition(|(_, name)| name.holder == from.number);
        (old.names, old.last) = (left, old.last.min(from.number.saturating_sub(1)));
        if from.number == 0 && old.names.is_empty() {
            kept.names.remove(&from.directory);
            kept.tried.remove(&from.directory);
        }
        let new = kept.names.entry(to.directory).or_default();
        new.last = new.last.max(to.number);
        new.names
            .extend(moved.into_iter().map(|(name, kept)| (name, KeptName { holder: to.number, ..kept })));
    }

    /// A name is about to be put there.
    fn is_held_by(&self, Holder { directory, number }: Holder, name: &Name) {
        let kept = &mut *self.0.write();
        let kept = kept.names.entry(directory).or_default();
        kept.last = kept.last.max(number);
        kept.names.entry(name.clone()).or_default().holder = number;
    }

    /// Puts a name into what takes it: what had it before or the first one, the last one, a new one. `put` does it; whether it
    /// was refused says `is_refusal`.
    pub fn place(
        &self,
        directory: Oid,
        name: &Name,
        is_refusal: impl Fn(&TreeError) -> bool,
        is_empty: impl Fn(Holder) -> Result<bool, TreeError>,
        put: impl Fn(Holder) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let put = |holder| {
            self.is_held_by(holder, name);
            match put(holder) {
                Err(error) if is_refusal(&error) => Ok(Err(error)),
                other => other.map(Ok),
            }
        };
        let mut holder = self.holder_of(directory, name);
        loop {
            let Err(error) = put(holder)? else { return Ok(()) };
            let last = self.last_holder(directory);
            holder = match last.number > holder.number {
                true => last,
                false if is_empty(holder)? => return Err(error),
                false => Holder { number: holder.number + 1, ..holder },
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_known_by_its_name_and_nothing_else_is() {
        let of_name = |name: &str| Holder::of_name(&Name::new(name.as_bytes()).expect("a name"));
        for (directory, number) in [(1, 0), (1, 1), (u64::MAX, u32::MAX)] {
            let holder = Holder { directory: Oid(directory), number };
            assert_eq!(of_name(&holder.to_string()), Some(holder));
        }
        for other in ["new", "1.", ".1", "1.0", "01", "1.01", "+1", "1.+1", "1.1.1", "1.4294967296"] {
            assert_eq!(of_name(other), None, "{other}");
        }
    }
}
