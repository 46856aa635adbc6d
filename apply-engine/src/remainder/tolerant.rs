//! The effects of a consistency point on a tree that may refuse some of them: what it refuses is kept.
//!
//! Everything here has the effect that it says on the tree as readers see it. Errors are those of the disk, of a tree that
//! is not as it was looked at, and refusals of what is kept beside it, too.

use ids::Oid;
use rustix::io::Errno;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::refused::{Identity, KeptLabel, Piece, Refused};
use crate::attributes::Timestamp;
use crate::base::{Label, TreeError};
use crate::delta::Birth;
use crate::name::Name;
use crate::tree::{FileWrite, Fill, LocalAttributes, Parent, Place, Tree};

/// A change of contents or owner takes it away.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

type Done<T = ()> = Result<T, TreeError>;

/// What became of a range of content, and how it is had again when it was refused.
struct Written<F> {
    range: Range<u64>,
    outcome: Done,
    bytes: F,
}

/// See the module.
pub(crate) struct Tolerant<'a, T>(pub &'a T);

impl<T: Tree> Tolerant<'_, T> {
    /// Attributes as readers see them.
    pub fn attributes(&self, oid: Oid) -> Done<LocalAttributes> {
        let mut local = self.0.attributes(oid)?;
        if let Some(refused) = self.0.remainder().object(oid) {
            local.size = refused.size.unwrap_or(local.size);
            (local.uid, local.gid) = refused.owner.unwrap_or((local.uid, local.gid));
            local.atime = refused.atime.unwrap_or(local.atime);
            local.mtime = refused.mtime.unwrap_or(local.mtime);
        }
        Ok(local)
    }

    /// Likewise names of xattrs.
    pub fn xattr_names(&self, oid: Oid) -> Done<Vec<Vec<u8>>> {
        let mut names = self.0.xattr_names(oid)?;
        if let Some(refused) = self.0.remainder().object(oid) {
            refused.patch_names(&mut names);
        }
        Ok(names)
    }

    /// Acts on a slot, or else on the one that stands for it here. `never` is no refusal. A directory that cannot grow says
    /// what a full disk does: where the same can be done here, the disk was not full, whatever it tells of its space.
    fn placed(&self, at: &Place, never: Option<Errno>, act: impl Fn(&Place) -> Done) -> Done {
        let may_be_refused = |error: &TreeError| error.errno == Errno::NOSPC || self.0.is_refusal(error, 0);
        let error = match act(at) {
            Err(error) if Some(error.errno) != never && may_be_refused(&error) => error,
            other => return other,
        };
        let (Some(kept), Parent::Object(directory)) = (at.refused(), &at.parent) else { return Err(error) };
        let remainder = self.0.remainder();
        let is_new = !remainder.knows_name(*directory, &at.name);
        remainder.keep_name(*directory, &at.name, &error);
        let acted = act(&kept);
        if acted.is_err() && is_new {
            remainder.forget_name(*directory, &at.name);
        }
        match acted {
            Err(again) if self.0.is_refusal(&again, 0) => Err(error),
            other => other,
        }
    }

    pub fn create(&self, at: &Place, birth: &Birth, label: &Label) -> Done {
        self.placed(at, None, |at| self.0.create(at, birth, label))
    }

    pub fn link(&self, oid: Oid, to: &Place) -> Done {
        self.placed(to, None, |to| self.0.link(oid, to))
    }

    /// `EINVAL` is a directory that would stand below itself, and no refusal.
    pub fn rename(&self, from: &Place, to: &Place) -> Done {
        self.placed(to, Some(Errno::INVAL), |to| match from == to {
            true => Ok(()),
            false => self.0.rename(from, to),
        })
    }

    /// Changes the record of an object, because of an error or because the tree has taken something.
    fn change(&self, oid: Oid, error: Option<TreeError>, change: impl FnOnce(&mut Refused)) -> Done {
        let known = self.0.remainder().object(oid);
        if known.is_none() && error.is_none() {
            return Ok(());
        }
        let before = known.as_deref().cloned().unwrap_or_default();
        let mut refused = before.clone();
        if refused.of.is_none() {
            let LocalAttributes { kind, label, .. } = self.0.attributes(oid)?;
            refused.of = Some(Identity::new(kind, &label));
        }
        change(&mut refused);
        if let Some(error) = &error {
            refused.why = (error.doing.to_owned(), error.errno.raw_os_error());
        }
        if refused != before {
            self.0.remainder().keep(oid, refused);
        }
        Ok(())
    }

    /// What became of an effect: taken, refused and kept, or failed.
    fn settle(
        &self,
        oid: Oid,
        outcome: Done,
        needs_bytes: u64,
        taken: impl FnOnce(&mut Refused),
        keep: impl FnOnce(&mut Refused),
    ) -> Done {
        match outcome {
            Ok(()) => self.change(oid, None, taken),
            Err(error) if self.0.is_refusal(&error, needs_bytes) => self.change(oid, Some(error), keep),
            Err(error) => Err(error),
        }
    }

    fn tree_size(&self, oid: Oid) -> Done<u64> {
        Ok(self.0.attributes(oid)?.size)
    }

    pub fn truncate(&self, oid: Oid, size: u64) -> Done {
        let outcome = self.0.truncate(oid, size);
        let tree_size = match outcome.is_err() {
            true => self.tree_size(oid).unwrap_or(0),
            false => size,
        };
        let taken = |refused: &mut Refused| {
            refused.cut(size..u64::MAX);
            refused.set_size(size, size);
        };
        self.settle(oid, outcome, 0, taken, |refused| refused.truncate(size, tree_size))
    }

    pub fn fill(&self, oid: Oid, offset: u64, len_bytes: u64, fill: Fill) -> Done {
        let range = offset..offset.saturating_add(len_bytes);
        match (self.0.fill(oid, offset, len_bytes, fill), fill) {
            (Ok(()), Fill::Allocate) => Ok(()),
            // A promise about room is all that is lost.
            (Err(error), Fill::Allocate) if self.0.is_refusal(&error, len_bytes) => Ok(()),
            (outcome @ Err(_), Fill::Allocate) => outcome,
            (outcome, Fill::Hole | Fill::Zero) => {
                let tree_size = if outcome.is_err() { self.tree_size(oid).unwrap_or(0) } else { 0 };
                let (taken, kept) = (range.clone(), range);
                self.settle(
                    oid,
                    outcome,
                    0,
                    |refused| refused.cut(taken),
                    |refused| refused.zero(kept, tree_size),
                )
            }
        }
    }

    /// Writes ranges that are in order and do not overlap.
    pub fn write(&self, oid: Oid, writes: &[FileWrite]) -> Done {
        let known = self.0.remainder().object(oid).is_some_and(|refused| refused.has_content());
        if !known {
            match self.0.write(oid, writes) {
                Err(error) if self.0.is_refusal(&error, writes.iter().map(|write| write.len_bytes).sum()) => {
                }
                other => return other,
            }
        }
        // Each for itself, so that one that is refused takes no other with it.
        let each = writes.iter().map(|write| Written {
            range: write.offset..write.offset + write.len_bytes,
            outcome: self.0.write(oid, std::slice::from_ref(write)),
            bytes: || self.0.log_bytes(write.from, write.len_bytes as usize).map(Arc::from),
        });
        self.wrote(oid, self.attributes(oid)?.size, each)
    }

    /// Writes bytes of our own.
    pub fn write_bytes(&self, oid: Oid, offset: u64, bytes: &[u8]) -> Done {
        let size = self.attributes(oid)?.size;
        let one = Written {
            range: offset..offset + bytes.len() as u64,
            outcome: self.0.write_bytes(oid, offset, bytes),
            bytes: || Ok(bytes.into()),
        };
        self.wrote(oid, size, std::iter::once(one))
    }

    /// One change of the record for all, which may be many. `size` is how long the object was before.
    fn wrote(
        &self,
        oid: Oid,
        mut size: u64,
        each: impl Iterator<Item = Written<impl FnOnce() -> Done<Arc<[u8]>>>>,
    ) -> Done {
        let (mut ranges, mut last, mut failed) = (Vec::new(), None, Ok(()));
        for Written { range, outcome, bytes } in each {
            let len_bytes = range.end - range.start;
            let kept = match outcome {
                Ok(()) => Ok(None),
                Err(error) if self.0.is_refusal(&error, len_bytes) => {
                    last = Some(error);
                    bytes().map(Some)
                }
                Err(error) => Err(error),
            };
            match kept {
                Ok(kept) => ranges.push((range, kept)),
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        if ranges.is_empty() || last.is_none() && self.0.remainder().object(oid).is_none() {
            return failed;
        }
        let tree_size = self.tree_size(oid)?;
        self.change(oid, last, |refused| {
            for (range, kept) in ranges {
                let before = size;
                size = size.max(range.end);
                match kept {
                    Some(bytes) => refused.write(range.start, bytes, before, tree_size),
                    None => {
                        refused.cut(range);
                        refused.set_size(size, tree_size);
                    }
                }
            }
        })?;
        failed
    }

    fn set_xattr(&self, oid: Oid, name: &[u8], value: &[u8]) -> Done {
        let outcome = self.0.set_xattr(oid, name, value);
        let taken = |refused: &mut Refused| drop(refused.xattrs.remove(name));
        self.settle(oid, outcome, 0, taken, |refused| {
            refused.xattrs.insert(name.to_vec(), Some(value.to_vec()));
        })
    }

    pub fn remove_xattr(&self, oid: Oid, name: &[u8]) -> Done {
        let outcome = self.0.remove_xattr(oid, name);
        let taken = |refused: &mut Refused| drop(refused.xattrs.remove(name));
        self.settle(oid, outcome, 0, taken, |refused| {
            refused.xattrs.insert(name.to_vec(), None);
        })
    }

    /// Sets xattrs where room for them is tight: ext4 has one block for all of an object's, whatever the disk has left.
    ///
    /// Values that shrink are set before values that grow, so that no moment needs more room than the beginning or the
    /// end does. How the values lie still depends on the order in which they were set: where there is no room after all,
    /// those that change are taken away and set from the largest to the smallest. A sealed Delta hides what is between,
    /// and sets them again after a crash.
    pub fn set_xattrs<'v>(&self, oid: Oid, wanted: impl Iterator<Item = (&'v [u8], &'v [u8])>) -> Done {
        let mut wanted: Vec<(&[u8], &[u8])> = wanted.collect();
        if let [(name, value)] = wanted[..] {
            return self.set_xattr(oid, name, value);
        }
        let mut grows_bytes = HashMap::new();
        for (name, value) in &wanted {
            let now = self.0.xattr(oid, name)?.map_or(0, |now| now.len());
            grows_bytes.insert(*name, value.len() as i64 - now as i64);
        }
        wanted.sort_by_key(|(name, _)| grows_bytes.get(name).copied());
        let set = |(name, value): &(&[u8], &[u8])| match self.0.set_xattr(oid, name, value) {
            Ok(()) => self.change(oid, None, |refused| drop(refused.xattrs.remove(*name))),
            Err(error) if error.is_no_space() => Err(error),
            // Whatever else it is will be the same in another order.
            Err(_) => self.set_xattr(oid, name, value),
        };
        match wanted.iter().try_for_each(set) {
            Err(error) if error.is_no_space() => {}
            other => return other,
        }
        wanted.iter().try_for_each(|(name, _)| self.remove_xattr(oid, name))?;
        wanted.sort_by_key(|(_, value)| Reverse(value.len()));
        wanted.iter().try_for_each(|(name, value)| self.set_xattr(oid, name, value))
    }

    /// It clears set-id bits: the caller sets the mode after it, and a record that holds an owner holds the mode, too, so
    /// that neither is lost when a crash comes while the owner is tried again.
    pub fn set_owner(&self, oid: Oid, uid: u32, gid: u32) -> Done {
        let outcome = self.0.set_owner(oid, uid, gid);
        self.settle(
            oid,
            outcome,
            0,
            |refused| refused.owner = None,
            |refused| refused.owner = Some((uid, gid)),
        )
    }

    pub fn set_mode(&self, oid: Oid, mode: u32) -> Done {
        let outcome = self.0.set_mode(oid, mode);
        let taken = |refused: &mut Refused| refused.mode = refused.owner.map(|_| mode);
        self.settle(oid, outcome, 0, taken, |refused| refused.mode = Some(mode))
    }

    /// A write changes them: a record that holds content holds them, too, as it does the mode for an owner.
    pub fn set_times(&self, oid: Oid, atime: Option<Timestamp>, mtime: Option<Timestamp>) -> Done {
        let outcome = self.0.set_times(oid, atime, mtime);
        let taken = |refused: &mut Refused| match refused.has_content() {
            true => (refused.atime, refused.mtime) = (atime.or(refused.atime), mtime.or(refused.mtime)),
            false => {
                refused.atime = refused.atime.filter(|_| atime.is_none());
                refused.mtime = refused.mtime.filter(|_| mtime.is_none());
            }
        };
        let keep = |refused: &mut Refused| {
            (refused.atime, refused.mtime) = (atime.or(refused.atime), mtime.or(refused.mtime));
        };
        self.settle(oid, outcome, 0, taken, keep)
    }

    /// What the object is called and where it stands is in its label already; this says the rest of it.
    pub fn set_label(&self, oid: Oid, label: &Label) -> Done {
        let outcome = self.0.set_label(oid, label);
        let keep = |refused: &mut Refused| refused.label = Some(KeptLabel::new(label));
        self.settle(oid, outcome, 0, |refused| refused.label = None, keep)
    }

    /// Tries once more what was refused of an object, and leaves everything else of it as it is.
    pub fn try_again(&self, oid: Oid) -> Done {
        let Some(refused) = self.0.remainder().object(oid) else { return Ok(()) };
        let before = match self.attributes(oid) {
            Err(TreeError { errno: Errno::NOENT, .. }) => return Ok(()),
            other => other?,
        };
        // That takes them away, and a crash may come before they are set again.
        let may_lose_capabilities =
            refused.xattrs.contains_key(CAPABILITY) || self.0.xattr(oid, CAPABILITY)?.is_none();
        if may_lose_capabilities {
            self.try_content_again(oid, before.size, &refused)?;
        }
        if may_lose_capabilities
            && refused.has_content()
            && self.attributes(oid)?.size != self.tree_size(oid)?
        {
            self.truncate(oid, before.size)?;
        }
        if let Some((uid, gid)) = refused.owner.filter(|_| may_lose_capabilities) {
            self.set_owner(oid, uid, gid)?;
            self.set_mode(oid, refused.mode.unwrap_or(before.label.mode))?;
        }
        for (name, value) in &refused.xattrs {
            match value {
                Some(value) => self.set_xattr(oid, name, value)?,
                None => self.remove_xattr(oid, name)?,
            }
        }
        if let Some(mode) = refused.mode {
            self.set_mode(oid, mode)?;
        }
        if refused.label.is_some() {
            self.set_label(oid, &before.label)?;
        }
        self.set_times(oid, Some(before.atime), Some(before.mtime))
    }

    fn try_content_again(&self, oid: Oid, size: u64, refused: &Refused) -> Done {
        let bytes = refused.pieces.iter().filter_map(|(at, piece)| match piece {
            Piece::Bytes(bytes) => Some((*at, bytes)),
            Piece::Zeros(_) => None,
        });
        let each = bytes.map(|(at, bytes)| Written {
            range: at..at + bytes.len() as u64,
            outcome: self.0.write_bytes(oid, at, bytes),
            bytes: || Ok(bytes.clone()),
        });
        self.wrote(oid, size, each)?;
        for (at, piece) in &refused.pieces {
            if let Piece::Zeros(len_bytes) = piece {
                self.fill(oid, *at, *len_bytes, Fill::Zero)?;
            }
        }
        Ok(())
    }

    /// Likewise names that were refused in a directory, whichever these are: where there is room for one depends on its hash.
    pub fn try_names_again(&self, directory: Oid, names: Vec<Name>) -> Done {
        for name in names {
            let kept = Place::new(Parent::Refused(directory), name.clone());
            if self.0.occupant(&kept)?.is_none_or(|occupant| occupant.label.is_none()) {
                continue;
            }
            match self.0.rename(&kept, &Place::new(Parent::Object(directory), name)) {
                Ok(()) => {}
                // Its directory is not there, or something stands there that nobody can account for.
                Err(error) if matches!(error.errno, Errno::NOENT | Errno::EXIST | Errno::INVAL) => {}
                // It stays where it is, for whatever there is no room.
                Err(error) if error.is_no_space() || self.0.is_refusal(&error, 0) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep_times(&self, oid: Oid) -> Done {
        let LocalAttributes { kind, label, atime, mtime, .. } = match self.attributes(oid) {
            Err(TreeError { errno: Errno::NOENT, .. }) => return Ok(()),
            other => other?,
        };
        let known = self.0.remainder().object(oid);
        let mut refused = known.as_deref().cloned().unwrap_or_default();
        (refused.atime, refused.mtime) = (Some(atime), Some(mtime));
        refused.of = refused.of.or(Some(Identity::new(kind, &label)));
        self.0.remainder().keep(oid, refused);
        Ok(())
    }

    /// Contents and owners that are tried again take them away.
    fn keep_capabilities(&self, oid: Oid) -> Done {
        let Some(known) = self.0.remainder().object(oid) else { return Ok(()) };
        if known.has_content() || known.owner.is_some() {
            let value = self.0.xattr(oid, CAPABILITY)?;
            self.change(oid, None, |refused| {
                if value.is_some() {
                    refused.xattrs.entry(CAPABILITY.to_vec()).or_insert(value);
                }
            })?;
        }
        Ok(())
    }

    /// Everything that was ever refused, as it was loaded. `store` stores the records: a name that its directory takes now
    /// changes the directory's times, which must be known also after a crash, until they are set again; and so it is with
    /// capabilities.
    pub fn try_all_again(&self, store: impl FnOnce() -> Done) -> Done {
        let remainder = self.0.remainder();
        remainder.drop_strangers(|oid| {
            let found = self.0.find(oid)?;
            Ok(found.and_then(|found| Some(Identity::new(found.kind, &found.label?))))
        })?;
        for directory in remainder.directories() {
            self.keep_times(directory)?;
        }
        remainder.objects().into_iter().try_for_each(|oid| self.keep_capabilities(oid))?;
        store()?;
        for directory in remainder.directories() {
            self.try_names_again(directory, self.0.list(&Parent::Refused(directory))?)?;
        }
        remainder.objects().into_iter().try_for_each(|oid| self.try_again(oid))?;
        self.0.prune_refused()
    }
}
