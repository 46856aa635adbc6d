//! Carries out a [`Plan`] on a [`Tree`], then sets contents, attributes and labels of every touched object.
//!
//! What gives room comes before what takes it, over all objects: names that end, lengths down to what is still valid,
//! and holes; then new names; then what is dead; then everything that grows. Order per object: zeros, data, final
//! length, owner (which clears suid bits), xattrs with ACLs (those that end before those that shrink before those that
//! grow), mode, times, label. Directories get their times when everything in
//! them is in place. What the tree refuses is kept (`remainder`). Every value is set again on a repeated run; nothing depends on what an earlier one did.

pub(crate) mod base_tree;
pub(crate) mod uring;

use ids::Oid;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::attributes::ObjectKind;
use crate::base::TreeError;
use crate::consistency::{ApplyError, ApplyReport};
use crate::delta::{Delta, ObjectDelta, ObjectState};
use crate::extents::{Extent, Source};
use crate::plan::{Plan, Step, junk_place};
use crate::pool;
use crate::remainder::tolerant::Tolerant;
use crate::survey::final_label;
use crate::tree::{FileWrite, Fill, LocalAttributes, Parent, Place, Tree};
use rustix::io::Errno;

/// Files with at least this much data are worth a thread each.
const LARGE_BYTES: u64 = 256 << 10;

/// Applies.
pub(crate) fn run(tree: &impl Tree, delta: &Delta, plan: &Plan) -> Result<ApplyReport, ApplyError> {
    let running = Running { tree, tolerant: Tolerant(tree), delta, written_bytes: AtomicU64::new(0) };
    let mut names = plan.stage.len() + plan.vacate.len() + plan.cleanup.len();
    let mut fresh = HashSet::new();
    let making = || plan.directories.iter().chain([&plan.place, &plan.links]);
    for phase in making() {
        names += phase.len();
        fresh.extend(phase.iter().filter_map(|step| match step {
            Step::Create { oid, .. } => Some(*oid),
            _ => None,
        }));
    }
    if !tree.remainder().is_empty() {
        // Those are described here completely.
        let born = delta.objects().filter(|(_, object)| object.born.is_some());
        born.for_each(|(oid, _)| tree.remainder().forget(oid));
    }
    pool::map(&plan.stage, |oid| tree.stage_directory(*oid))?;
    running.steps(&plan.vacate)?;
    running.shrink(&fresh)?;
    for phase in making() {
        running.steps(phase)?;
    }
    if plan.barrier {
        tree.barrier()?;
    }
    for step in &plan.cleanup {
        running.step(step)?;
    }
    let (objects, directories) = running.contents(&fresh)?;
    plan.dead.iter().try_for_each(|oid| tree.forget(*oid))?;
    plan.dead.iter().for_each(|oid| tree.remainder().forget(*oid));
    if !tree.remainder().is_empty() {
        running.try_names_again()?;
        tree.prune_refused()?;
    }
    running.directories(&directories)?;
    Ok(ApplyReport {
        objects,
        created: fresh.len() as u64,
        names: names as u64,
        written_bytes: running.written_bytes.into_inner(),
        ..ApplyReport::default()
    })
}

struct Running<'a, T> {
    tree: &'a T,
    tolerant: Tolerant<'a, T>,
    delta: &'a Delta,
    written_bytes: AtomicU64,
}

impl<T: Tree> Running<'_, T> {
    fn steps(&self, steps: &[Step]) -> Result<(), ApplyError> {
        pool::map(steps, |step| self.step(step)).map(drop)
    }

    fn step(&self, step: &Step) -> Result<(), ApplyError> {
        match step {
            Step::Rename { from, to } => match self.tolerant.rename(from, to) {
                Err(error) if error.errno == Errno::INVAL => Err(ApplyError::Cycle(error)),
                other => Ok(other?),
            },
            Step::Link { oid, to } => Ok(self.tolerant.link(*oid, to)?),
            Step::Remove { at, kind } => Ok(self.tree.remove(at, *kind)?),
            Step::Create { oid, at } => {
                let object = self.delta.object(*oid).ok_or(ApplyError::Missing(*oid))?;
                let birth = object.born.as_ref().ok_or(ApplyError::Missing(*oid))?;
                Ok(self.tolerant.create(at, birth, &final_label(*oid, object, None))?)
            }
            Step::RemoveAll { at } => self.remove_all(at),
        }
    }

    /// Removes a directory and what is below it, which must all be dead or born in this Delta. Nested
    /// directories move up into staging first, so depth is no limit.
    fn remove_all(&self, at: &Place) -> Result<(), ApplyError> {
        let Some(top) = self.tree.occupant(at)? else { return Ok(()) };
        match self.tree.remove(at, top.kind) {
            Err(TreeError { errno: Errno::NOTEMPTY | Errno::EXIST, .. }) => {}
            other => return Ok(other?),
        }
        let staged = junk_place(top.inode);
        if *at != staged {
            self.tree.rename(at, &staged)?;
        }
        let mut waiting = vec![staged];
        while let Some(directory) = waiting.last().cloned() {
            let above = Parent::Staged(directory.name.clone());
            for name in self.tree.list(&above)? {
                let child = Place::new(above.clone(), name);
                let Some(occupant) = self.tree.occupant(&child)? else { continue };
                if let Some(label) = occupant.label {
                    let expendable = self
                        .delta
                        .object(label.oid)
                        .is_some_and(|object| object.state == ObjectState::Dead || object.born.is_some());
                    let is_last_name = occupant.kind.is_directory() || occupant.local_nlink < 2;
                    if !expendable && is_last_name {
                        return Err(ApplyError::WouldLose { oid: label.oid, at: child.to_string() });
                    }
                }
                match occupant.kind {
                    ObjectKind::Directory => {
                        let staged = junk_place(occupant.inode);
                        self.tree.rename(&child, &staged)?;
                        waiting.push(staged);
                    }
                    kind => self.tree.remove(&child, kind)?,
                }
            }
            waiting.retain(|other| *other != directory);
            self.tree.remove(&directory, ObjectKind::Directory)?;
        }
        Ok(())
    }

    /// Names that were refused in directories that have lost others.
    fn try_names_again(&self) -> Result<(), ApplyError> {
        let remainder = self.tree.remainder();
        for directory in remainder.directories() {
            if self.delta.slots_of(directory).any(|(_, slot)| slot.target.is_none()) {
                self.tolerant.try_names_again(directory, remainder.some_names(directory))?;
            }
        }
        Ok(())
    }

    /// Takes away what files no longer hold, of all objects before any of them grows.
    fn shrink(&self, fresh: &HashSet<Oid>) -> Result<(), ApplyError> {
        let hole = |extent: &Extent| extent.source == Source::Hole;
        let shrinks = |object: &ObjectDelta| {
            object.base_valid_below != u64::MAX || object.extents.iter().any(|extent| hole(&extent))
        };
        let alive = self.delta.objects().filter(|(_, object)| object.state != ObjectState::Dead);
        let some: Vec<(Oid, &ObjectDelta)> =
            alive.filter(|(oid, object)| !fresh.contains(oid) && shrinks(object)).collect();
        let work = |(oid, object): &(Oid, &ObjectDelta)| -> Result<(), ApplyError> {
            let local = self.local(*oid)?;
            if local.kind != ObjectKind::File {
                return Ok(());
            }
            if object.base_valid_below != u64::MAX {
                self.end_at(*oid, &local, object.base_valid_below)?;
            }
            for extent in object.extents.iter().filter(hole) {
                self.tolerant.fill(*oid, extent.offset, extent.len_bytes, Fill::Hole)?;
            }
            Ok(())
        };
        pool::map(&some, work).map(drop)
    }

    /// Takes away what a file has at and behind `end`, room that is set aside there, too.
    fn end_at(&self, oid: Oid, local: &LocalAttributes, end: u64) -> Result<(), ApplyError> {
        // What is kept of it may reach beyond, also where an attempt that was cut off has shortened the tree.
        let kept = self.tree.remainder().object(oid).is_some_and(|refused| refused.has_content());
        if local.size > end || local.has_blocks || kept {
            self.tolerant.truncate(oid, end)?;
        }
        if local.size < end && local.has_blocks {
            // That made it longer, and what is behind stayed.
            self.tolerant.truncate(oid, end)?;
        }
        Ok(())
    }

    /// Everything but the times and labels of directories. Returns how many objects there were, and which are
    /// directories.
    fn contents(&self, fresh: &HashSet<Oid>) -> Result<(u64, Vec<Oid>), ApplyError> {
        let alive = self.delta.objects().filter(|(_, object)| object.state != ObjectState::Dead);
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for (oid, object) in alive {
            match object.extents.data_bytes() < LARGE_BYTES {
                true => small.push((oid, object)),
                false => large.push((oid, object)),
            }
        }
        let work = |(oid, object): &(Oid, &ObjectDelta)| self.content(*oid, object, fresh.contains(oid));
        pool::spread(&large, work)?;
        let kinds = pool::map(&small, work)?;
        let is_directory = |(_, kind): &(_, ObjectKind)| kind.is_directory();
        let directories = small.iter().zip(kinds).filter(is_directory).map(|((oid, _), _)| *oid).collect();
        Ok(((small.len() + large.len()) as u64, directories))
    }

    fn content(&self, oid: Oid, object: &ObjectDelta, fresh: bool) -> Result<ObjectKind, ApplyError> {
        let local = self.local(oid)?;
        if local.kind == ObjectKind::File && object.changes_content() {
            self.data(oid, object, local.size)?;
        }
        self.ownership(oid, object, &local, fresh)?;
        if local.kind != ObjectKind::Directory {
            if object.attrs.atime.is_some() || object.attrs.mtime.is_some() {
                self.tolerant.set_times(oid, object.attrs.atime, object.attrs.mtime)?;
            }
            let label = final_label(oid, object, Some(local.label));
            if label != local.label {
                self.tolerant.set_label(oid, &label)?;
            }
        }
        Ok(local.kind)
    }

    fn local(&self, oid: Oid) -> Result<LocalAttributes, ApplyError> {
        match self.tolerant.attributes(oid) {
            Err(TreeError { errno: Errno::NOENT, .. }) => Err(ApplyError::Missing(oid)),
            other => Ok(other?),
        }
    }

    /// What grows; see [`Running::shrink`] for the rest.
    fn data(&self, oid: Oid, object: &ObjectDelta, mut size: u64) -> Result<(), ApplyError> {
        let mut writes = Vec::new();
        for extent in object.extents.iter() {
            match extent.source {
                Source::Log(from) => {
                    size = size.max(extent.end());
                    writes.push(FileWrite { offset: extent.offset, len_bytes: extent.len_bytes, from });
                }
                Source::Hole => {}
                Source::Zero => self.tolerant.fill(oid, extent.offset, extent.len_bytes, Fill::Zero)?,
            }
        }
        for range in object.allocated.iter() {
            self.tolerant.fill(oid, range.start, range.end - range.start, Fill::Allocate)?;
        }
        if !writes.is_empty() {
            self.tolerant.write(oid, &writes)?;
            self.written_bytes.fetch_add(object.extents.data_bytes(), Ordering::Relaxed);
        }
        match object.attrs.size {
            Some(wanted) if wanted != size => Ok(self.tolerant.truncate(oid, wanted)?),
            _ => Ok(()),
        }
    }

    fn ownership(
        &self,
        oid: Oid,
        object: &ObjectDelta,
        local: &LocalAttributes,
        fresh: bool,
    ) -> Result<(), ApplyError> {
        let (uid, gid) = (object.attrs.uid.unwrap_or(local.uid), object.attrs.gid.unwrap_or(local.gid));
        if (uid, gid) != (local.uid, local.gid) {
            self.tolerant.set_owner(oid, uid, gid)?;
        }
        if fresh || object.born.is_some() {
            // Inherited from the directory it was made in, or left by an earlier attempt.
            for name in self.tolerant.xattr_names(oid)? {
                let wanted = object.xattrs.get(name.as_slice()).is_some_and(Option::is_some);
                if !wanted && !name.starts_with(b"security.selinux") {
                    self.tolerant.remove_xattr(oid, &name)?;
                }
            }
        }
        for (name, _) in object.xattrs.iter().filter(|(_, value)| value.is_none()) {
            self.tolerant.remove_xattr(oid, name)?;
        }
        let wanted = object.xattrs.iter().filter_map(|(name, value)| Some((&**name, value.as_deref()?)));
        self.tolerant.set_xattrs(oid, wanted)?;
        self.tolerant.try_again(oid)?;
        // A change of owner, maybe one that an earlier attempt made, has cleared suid bits.
        let owner_is_set = object.attrs.uid.is_some() || object.attrs.gid.is_some();
        match object.attrs.mode.or(owner_is_set.then_some(local.label.mode)) {
            Some(mode) => Ok(self.tolerant.set_mode(oid, mode)?),
            None => Ok(()),
        }
    }

    /// Times and labels of directories, when nothing changes in them any more.
    fn directories(&self, directories: &[Oid]) -> Result<(), ApplyError> {
        let work = |oid: &Oid| -> Result<(), ApplyError> {
            let object = self.delta.object(*oid).ok_or(ApplyError::Missing(*oid))?;
            let local = self.local(*oid)?;
            self.tolerant.set_times(*oid, object.attrs.atime, object.attrs.mtime)?;
            Ok(self.tolerant.set_label(*oid, &final_label(*oid, object, Some(local.label)))?)
        };
        pool::map(directories, work).map(drop)
    }
}
