//! Merged names, attributes and xattrs.
//!
//! The sealed Deltas are walked newest first after the active one; the walk stops where a layer answers, or
//! where the object was born: nothing below knows it.

use super::{Layers, ViewError};
use crate::attributes::{AttrPatch, Attributes, ObjectKind};
use crate::delta::{Birth, Delta, ObjectDelta, ObjectState, Target};
use crate::name::NameRef;
use ids::Oid;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;

/// Granularity in which filesystems hand out space, for estimates.
const BLOCK_BYTES: u64 = 4096;

impl Layers {
    /// Shows `visit` every Delta, newest first, until it breaks.
    pub(super) fn walk<T>(&self, mut visit: impl FnMut(&Delta) -> ControlFlow<T>) -> Option<T> {
        if let ControlFlow::Break(answer) = visit(&self.active.read()) {
            return Some(answer);
        }
        self.sealed.iter().rev().find_map(|delta| visit(delta).break_value())
    }

    /// Shows `visit` what each Delta knows of `oid`, newest first, down to its birth. `Break` ends the walk;
    /// `None` means that the base has to be asked, too.
    fn walk_object<T>(
        &self,
        oid: Oid,
        mut visit: impl FnMut(&ObjectDelta) -> ControlFlow<T>,
    ) -> Result<Reached<T>, ViewError> {
        let reached = self.walk(|delta| {
            let Some(object) = delta.object(oid) else { return ControlFlow::Continue(()) };
            if object.state == ObjectState::Dead {
                return ControlFlow::Break(Err(ViewError::NoObject(oid)));
            }
            match visit(object) {
                ControlFlow::Break(answer) => ControlFlow::Break(Ok(Reached::Answer(answer))),
                ControlFlow::Continue(()) => match &object.born {
                    Some(birth) => ControlFlow::Break(Ok(Reached::Birth(birth.clone()))),
                    None => ControlFlow::Continue(()),
                },
            }
        });
        reached.unwrap_or(Ok(Reached::Base))
    }

    /// Turns a base error about `oid` into ours.
    pub(super) fn base_error(oid: Oid) -> impl Fn(io::Error) -> ViewError {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => ViewError::NoObject(oid),
            _ => ViewError::Base { oid, source },
        }
    }

    /// The object in a slot; `None` when it is empty.
    ///
    /// # Errors
    /// When the base cannot be read. A directory that does not exist has only empty slots.
    pub fn lookup(&self, parent: Oid, name: NameRef<'_>) -> Result<Option<Target>, ViewError> {
        let reached = self.walk(|delta| match delta.slot(parent, name) {
            Some(target) => ControlFlow::Break(target),
            None => match delta.object(parent) {
                Some(object) if object.born.is_some() || object.state == ObjectState::Dead => {
                    ControlFlow::Break(None)
                }
                _ => ControlFlow::Continue(()),
            },
        });
        match reached {
            Some(answer) => Ok(answer),
            None => self.base.lookup(parent, name).map_err(Layers::base_error(parent)),
        }
    }

    /// Whether any Delta says anything about the object. If none does, the base may be read directly.
    pub fn is_touched(&self, oid: Oid) -> bool {
        self.walk(|delta| delta.object(oid).map_or(ControlFlow::Continue(()), |_| ControlFlow::Break(())))
            .is_some()
    }

    /// All attributes of an object.
    ///
    /// # Errors
    /// When it does not exist, or the base cannot be read.
    pub fn attributes(&self, oid: Oid) -> Result<Attributes, ViewError> {
        let mut patch = AttrPatch::default();
        let mut masked_from = u64::MAX;
        let mut data_bytes = 0;
        let reached = self.walk_object(oid, |object| {
            patch = object.attrs.then(&patch);
            masked_from = masked_from.min(object.base_valid_below);
            data_bytes += object.extents.data_bytes() + object.allocated.total_bytes();
            ControlFlow::<()>::Continue(())
        })?;
        let mut attributes = match reached {
            Reached::Answer(()) => return Err(ViewError::NoObject(oid)),
            Reached::Birth(birth) => newborn(oid, &birth),
            Reached::Base => self.base.attributes(oid).map_err(Layers::base_error(oid))?,
        };
        // Also of what is set aside behind its end.
        let kept_bytes = masked_from.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX);
        let base_bytes = attributes.blocks_bytes.min(kept_bytes);
        attributes.apply(&patch);
        if masked_from != u64::MAX || data_bytes != 0 {
            let full_bytes = attributes.size.next_multiple_of(BLOCK_BYTES).max(base_bytes);
            attributes.blocks_bytes = (base_bytes + data_bytes.next_multiple_of(BLOCK_BYTES)).min(full_bytes);
        }
        Ok(attributes)
    }

    /// The directory that holds this directory; the root holds itself.
    ///
    /// # Errors
    /// When it does not exist, or the base cannot be read.
    pub fn parent(&self, directory: Oid) -> Result<Oid, ViewError> {
        let found = self.walk_object(directory, |object| match object.parent {
            Some(parent) => ControlFlow::Break(parent),
            None => ControlFlow::Continue(()),
        })?;
        match found {
            Reached::Answer(parent) => Ok(parent),
            Reached::Birth(_) => Err(ViewError::NoObject(directory)),
            Reached::Base => self.base.parent(directory).map_err(Layers::base_error(directory)),
        }
    }

    /// Target of a symbolic link; empty for what is none.
    ///
    /// # Errors
    /// When it does not exist, or the base cannot be read.
    pub fn readlink(&self, oid: Oid) -> Result<Vec<u8>, ViewError> {
        match self.walk_object(oid, |_| ControlFlow::<()>::Continue(()))? {
            Reached::Birth(birth) => Ok(birth.target.into_vec()),
            _ => self.base.readlink(oid).map_err(Layers::base_error(oid)),
        }
    }

    /// Value of an xattr by its full name; `None` when the object has no such.
    ///
    /// # Errors
    /// When the object does not exist, or the base cannot be read.
    pub fn xattr(&self, oid: Oid, name: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        let found = self.walk_object(oid, |object| match object.xattrs.get(name) {
            Some(value) => ControlFlow::Break(value.as_deref().map(<[u8]>::to_vec)),
            None => ControlFlow::Continue(()),
        })?;
        match found {
            Reached::Answer(value) => Ok(value),
            Reached::Birth(_) => Ok(None),
            Reached::Base => self.base.xattr(oid, name).map_err(Layers::base_error(oid)),
        }
    }

    /// Full names of all xattrs, sorted.
    ///
    /// # Errors
    /// When the object does not exist, or the base cannot be read.
    pub fn xattr_names(&self, oid: Oid) -> Result<Vec<Vec<u8>>, ViewError> {
        let mut present: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        let reached = self.walk_object(oid, |object| {
            for (name, value) in &object.xattrs {
                present.entry(name.to_vec()).or_insert(value.is_some());
            }
            ControlFlow::<()>::Continue(())
        })?;
        if let Reached::Base = reached {
            for name in self.base.xattr_names(oid).map_err(Layers::base_error(oid))? {
                present.entry(name).or_insert(true);
            }
        }
        Ok(present.into_iter().filter_map(|(name, there)| there.then_some(name)).collect())
    }

    /// Objects without a name that live because somebody has, or had, them open, in order. After a takeover
    /// nobody has: the new primary logs a reap for each.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn orphans(&self) -> Result<Vec<Oid>, ViewError> {
        let mut decided: BTreeMap<Oid, bool> = BTreeMap::new();
        self.walk(|delta| {
            for (oid, object) in delta.objects() {
                // A later record can only end an orphan, or touch it while it stays one.
                let orphan = match object.state {
                    ObjectState::Orphan => Some(true),
                    ObjectState::Dead => Some(false),
                    ObjectState::Linked => None,
                };
                if let Some(orphan) = orphan {
                    decided.entry(oid).or_insert(orphan);
                }
            }
            ControlFlow::<()>::Continue(())
        });
        let below: BTreeSet<Oid> =
            self.base.orphans().map_err(Layers::base_error(Oid::ROOT))?.into_iter().collect();
        let orphans = decided.iter().filter_map(|(&oid, &is)| is.then_some(oid));
        let mut all: Vec<Oid> =
            orphans.chain(below.into_iter().filter(|oid| !decided.contains_key(oid))).collect();
        all.sort_unstable();
        Ok(all)
    }
}

/// How far a walk over the layers of an object came.
enum Reached<T> {
    /// A layer answered.
    Answer(T),
    /// To the Delta in which it was born.
    Birth(Birth),
    /// To the base.
    Base,
}

/// What an object has that no patch sets. Its Delta sets all the rest.
fn newborn(oid: Oid, birth: &Birth) -> Attributes {
    let Birth { kind, generation, rdev, .. } = *birth;
    let blocks_bytes = if kind == ObjectKind::Directory { BLOCK_BYTES } else { 0 };
    let zero = crate::Timestamp::default();
    Attributes {
        oid,
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: 0,
        size: 0,
        blocks_bytes,
        atime: zero,
        mtime: zero,
        ctime: zero,
        rdev,
        generation,
    }
}
