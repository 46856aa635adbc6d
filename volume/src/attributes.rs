//! Attributes: stat, chmod, chown, utimes, truncate.
//!
//! The rules for set-id bits are those of Linux' fs/attr.c: a change of contents takes them away unless the
//! caller has `CAP_FSETID`, a change of owner always does (set-group-id without group execute permission, once
//! the mark of mandatory locking, stays for members of the group). File capabilities go with either.

use super::Volume;
use super::acl;
use super::errno::{Errno, Result};
use super::principal::Principal;
use super::transaction::Transaction;
use apply_engine::{AttrPatch, Attributes, Layers, ObjectKind, Operation, Timestamp};
use commit::Ask;
use ids::{BaseLimits, Oid};

/// Payload of the records of one change of attributes: a truncation, a patch, an ACL.
const PAYLOAD_BYTES: usize = 1024;

/// A new value for a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The time of the operation.
    Now,
    /// This one.
    To(Timestamp),
}

/// What to change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length of a file.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of contents.
    pub mtime: Option<SetTime>,
    /// Last change of anything; the time of the operation if not given.
    pub ctime: Option<Timestamp>,
}

impl SetAttributes {
    /// All of it but the length, in times that the bases can hold.
    pub(super) fn patch(&self, now: Timestamp, limits: &BaseLimits) -> AttrPatch {
        let clamp = |at| super::limits::clamp(limits, at);
        let time = |time| match time {
            SetTime::Now => now,
            SetTime::To(at) => clamp(at),
        };
        AttrPatch {
            mode: self.mode.map(|mode| mode & 0o7777),
            uid: self.uid,
            gid: self.gid,
            atime: self.atime.map(time),
            mtime: self.mtime.map(time),
            ctime: self.ctime.map(clamp),
            ..AttrPatch::default()
        }
    }
}

/// Is there something in `mode` that a change of contents may take away?
pub(super) fn has_set_ids(mode: u32) -> bool {
    mode & (libc::S_ISUID | libc::S_ISGID) != 0
}

/// `mode` as a change leaves it that takes set-id bits away: set-group-id without group execute permission stays
/// for members of the file's group, and for those who keep set-id bits (`setattr_should_drop_sgid` of Linux).
pub(super) fn without_set_ids(mode: u32, keeps_mark: impl FnOnce() -> bool) -> u32 {
    let mode = mode & !libc::S_ISUID;
    let marked = mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID;
    if marked && keeps_mark() { mode } else { mode & !libc::S_ISGID }
}

/// What a change of the owner by `who` makes of the mode, if anything.
pub(super) fn mode_after_chown(who: &dyn Principal, before: &Attributes) -> Option<u32> {
    if before.kind.is_directory() || !has_set_ids(before.mode) {
        return None;
    }
    let mode = without_set_ids(before.mode, || who.in_group(before.gid) || who.keeps_set_ids());
    (mode != before.mode).then_some(mode)
}

/// Whoever may not change the mode may not make it lose set-id bits by a chown that names nobody; the rest of that is
/// allowed to everybody.
pub(super) fn may_not_chown_to_nobody_else(who: &dyn Principal, before: &Attributes) -> bool {
    mode_after_chown(who, before).is_some() && who.uid() != before.uid && !who.acts_as_owner()
}

/// `who`, if it is one that may not keep the set-id bits of `mode` on what it changes.
pub(super) fn stranger(who: &dyn Principal, mode: u32) -> Option<&dyn Principal> {
    (has_set_ids(mode) && !who.keeps_set_ids()).then_some(who)
}

impl Volume {
    /// All attributes.
    ///
    /// # Errors
    /// ESTALE for an object that is gone, unless a kernel may still refer to it.
    pub fn getattr(&self, oid: Oid) -> Result<Attributes> {
        match self.shown(oid) {
            Err(Errno::ESTALE) => self.ghost(oid),
            other => other,
        }
    }

    /// Changes attributes; those afterwards.
    ///
    /// # Errors
    /// EISDIR, EINVAL and EFBIG for a size that cannot be set.
    pub fn setattr(&self, who: &dyn Principal, oid: Oid, set: SetAttributes) -> Result<Attributes> {
        if set.size.is_some_and(|size| size > self.limits.max_file_bytes) {
            return Err(Errno::EFBIG);
        }
        match self.warm(oid) {
            Err(Errno::ESTALE) => return self.set_ghost(who, oid, set),
            known => known?,
        }
        let asked = self.asking();
        let acl_bytes = match set.mode {
            Some(_) => self.acl_bytes(&asked.under(&self.stack.snapshot()), oid, acl::ACCESS)?,
            None => 0,
        };
        let payload_bytes = PAYLOAD_BYTES + acl_bytes;
        let changed = self.transact_asked(Ask::keeping(payload_bytes), Some(asked), |transaction| {
            transaction.setattr(who, oid, set)?;
            let inode = transaction.inode(oid)?;
            Ok(inode.attributes)
        })?;
        Ok(self.as_left(changed))
    }
}

impl Volume {
    /// What a kernel asks that names no attribute, but for a change time if it keeps those; the attributes afterwards.
    /// It leaves the set-id bits to us then, in one of two calls:
    /// - a change of contents that comes next, by somebody who has the file open for writing: what that takes away is
    ///   gone from the kernel's cache before it is made;
    /// - chown(2) to nobody else, which alone comes with a change time. Of a file that somebody has open for writing it
    ///   cannot be told from the other.
    ///
    /// # Errors
    /// EPERM for a chown that only the owner may make; ESTALE.
    pub fn set_nothing(&self, who: &dyn Principal, oid: Oid, ctime: Option<Timestamp>) -> Result<Attributes> {
        match self.warm(oid) {
            Err(Errno::ESTALE) => {
                return self.set_ghost(who, oid, SetAttributes { ctime, ..SetAttributes::default() });
            }
            known => known?,
        }
        let changed = self.transact(Ask::keeping(PAYLOAD_BYTES), |transaction| {
            let before = transaction.inode(oid)?.attributes;
            let contents_may_change =
                before.kind == ObjectKind::File && transaction.state.is_open_for_writing(oid);
            if ctime.is_none() && contents_may_change {
                transaction.drop_privileges(oid, stranger(who, before.mode))?;
            } else {
                transaction.chown_to_nobody_else(who, &before, ctime)?;
            }
            Ok(transaction.inode(oid)?.attributes)
        })?;
        Ok(self.as_left(changed))
    }

    /// Room that a copy of this ACL needs in a record.
    pub(super) fn acl_bytes(&self, layers: &Layers, oid: Oid, name: &[u8]) -> Result<usize> {
        let absent = match self.state.read().inodes.get(&oid) {
            Some(inode) if name == acl::ACCESS => inode.access_acl == Some(false),
            Some(inode) => inode.default_acl == Some(None),
            None => false,
        };
        if absent {
            return Ok(0);
        }
        Ok(layers.xattr(oid, name)?.map_or(0, |value| value.len()))
    }
}

impl Transaction<'_> {
    fn setattr(&mut self, who: &dyn Principal, oid: Oid, set: SetAttributes) -> Result<()> {
        let before = self.inode(oid)?.attributes;
        if set.mode.is_some() {
            // Looked at below, when there may be a record already.
            self.access_acl(oid)?;
        }
        if let Some(size) = set.size {
            self.truncate(who, &before, size)?;
        }
        let mut patch = set.patch(self.at, self.limits());
        if patch.uid.is_some() || patch.gid.is_some() {
            self.chown(who, &before, &mut patch)?;
        }
        if patch.is_empty() {
            return Ok(());
        }
        let at = *patch.ctime.get_or_insert(self.at);
        // Set-id bits, which a chown takes, are not in it.
        if let Some(mode) = patch.mode
            && set.mode.is_some()
            && let Some(access) = self.access_acl(oid)?
        {
            let value = access.after_chmod(mode).to_bytes();
            let name = acl::ACCESS;
            let end =
                self.record(&Operation::SetXattr { oid, name, value: &value, mode: Some(mode), at }, &[])?;
            patch.mode = None;
            self.update(oid, end, |inode| {
                inode.attributes.mode = mode;
                inode.attributes.ctime = at;
            });
            if (AttrPatch { ctime: None, ..patch }).is_empty() {
                return Ok(());
            }
        }
        let end = self.record(&Operation::SetAttr { oid, patch }, &[])?;
        let outlives_write_back = patch.mtime.is_some()
            && set.size.is_none()
            && self.state.is_open_for_writing(oid)
            && !self.kernel_keeps_times();
        self.update(oid, end, |inode| {
            inode.attributes.apply(&patch);
            inode.keeps_mtime |= outlives_write_back;
        });
        Ok(())
    }

    fn truncate(&mut self, who: &dyn Principal, before: &Attributes, size: u64) -> Result<()> {
        let oid = before.oid;
        match before.kind {
            ObjectKind::File => {}
            ObjectKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        self.drop_privileges(oid, stranger(who, before.mode))?;
        let at = self.at;
        let end = self.record(&Operation::Truncate { oid, size, at }, &[])?;
        self.update(oid, end, |inode| {
            inode.attributes.size = size;
            inode.attributes.mtime = at;
            inode.attributes.ctime = at;
            inode.blocks_stale = true;
            inode.keeps_mtime = false;
        });
        Ok(())
    }

    fn chown_to_nobody_else(
        &mut self,
        who: &dyn Principal,
        before: &Attributes,
        ctime: Option<Timestamp>,
    ) -> Result<()> {
        let at = ctime.map_or(self.at, |at| self.clamp(at));
        let mut patch = AttrPatch { ctime: Some(at), ..AttrPatch::default() };
        if may_not_chown_to_nobody_else(who, before) {
            return Err(Errno::EPERM);
        }
        self.chown(who, before, &mut patch)?;
        let end = self.record(&Operation::SetAttr { oid: before.oid, patch }, &[])?;
        self.update(before.oid, end, |inode| inode.attributes.apply(&patch));
        Ok(())
    }

    fn chown(&mut self, who: &dyn Principal, before: &Attributes, patch: &mut AttrPatch) -> Result<()> {
        if before.kind.is_directory() {
            return Ok(());
        }
        self.drop_privileges(before.oid, None)?;
        patch.mode = patch.mode.or_else(|| mode_after_chown(who, before));
        Ok(())
    }
}
