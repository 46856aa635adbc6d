//! File contents: opening, reading, writing, closing.
//!
//! The path of a small write: one admission, the writer lock, one lookup in a map, an encoded head in a kept
//! buffer, a reservation, an insert into the Delta, the copy into the log outside of the locks, and the wait
//! for the commit. No system call, no allocation but the Delta's.

use super::Volume;
use super::errno::{Errno, Result};
use super::principal::Principal;
use super::state::Opens;
use super::transaction::Transaction;
use super::xattrs::CAPABILITY;
use apply_engine::op::codec::WRITE_HEAD_BYTES;
use apply_engine::view::SegmentSource;
use apply_engine::{AttrPatch, ObjectKind, Operation, Timestamp, ViewError};
use commit::Ask;
use ids::Oid;
use std::ops::Range;

/// Payload of records that may come with a write: set-id bits and capabilities that go, or capabilities and a time that stay.
const PRIVILEGE_PAYLOAD_BYTES: usize = 576;
/// Longest value of file capabilities that a kernel takes (`XATTR_CAPS_SZ_3`).
const MAX_CAPABILITY_BYTES: usize = 24;

/// What an object is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Its contents stay as they are.
    Read,
    /// Its contents may change, also where only the opener's kernel knows it yet (a shared mapping).
    Write,
}

/// Where to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteAt {
    /// At this offset.
    Offset(u64),
    /// At the end of the file, wherever that is.
    End,
    /// At this offset, out of a kernel's page cache. It was changed there earlier, and what that took away is gone: set-id
    /// bits and capabilities that the file has now, it was given since. A modification time that was set since stays.
    Cached(u64),
}

impl Volume {
    /// Counts `oid` as open: it lives on without a name until [`Volume::release`] for the same access.
    ///
    /// # Errors
    /// ESTALE for an object that is gone.
    pub fn open(&self, oid: Oid, access: Access) -> Result<()> {
        self.journal.check_lease()?;
        for _ in 0..super::MAX_WARM_ATTEMPTS {
            let mut state = self.state.write();
            if let Some(inode) = state.inodes.get(&oid) {
                let had_no_block = inode.attributes.blocks_bytes == 0;
                let opens = state.opens.entry(oid).or_default();
                opens.add(access);
                let first_writer = access == Access::Write && opens.writers == 1;
                drop(state);
                if first_writer && had_no_block {
                    self.attributes_changed(oid);
                }
                return Ok(());
            }
            drop(state);
            self.known(oid)?;
        }
        Err(Errno::EIO)
    }

    /// One opening less. The last one of an object without a name ends it; nobody waits for that record.
    pub fn release(&self, oid: Oid, access: Access) {
        let last = {
            let mut state = self.state.write();
            let left = state.opens.get_mut(&oid).map(|opens| opens.remove(access));
            if access == Access::Write
                && left.is_some_and(|left| left.writers == 0)
                && let Some(inode) = state.inodes.get_mut(&oid)
            {
                inode.keeps_mtime = false;
            }
            match left {
                Some(Opens { all: 0, .. }) => {
                    state.opens.remove(&oid);
                    state.inodes.get(&oid).is_none_or(|inode| inode.attributes.nlink == 0)
                }
                _ => false,
            }
        };
        if last && let Err(error) = self.reap_if_unused(oid) {
            // The next primary reaps it: it finds all orphans.
            tracing::debug!(%oid, %error, "an orphan could not be reaped");
        }
    }

    /// Ends every object without a name that nobody has open; how many. On becoming primary these are those
    /// of all earlier times.
    ///
    /// # Errors
    /// When the base cannot be read, or the node does not serve any more.
    pub fn reap_orphans(&self) -> Result<usize> {
        let orphans = self.stack.snapshot().orphans()?;
        for oid in &orphans {
            match self.reap_if_unused(*oid) {
                Ok(()) | Err(Errno::ESTALE) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(orphans.len())
    }

    /// Ends `oid` if it has no name and nobody has it open: what is left of a [`Volume::release`] that had to wait.
    ///
    /// # Errors
    /// When the base cannot be read, or the node does not serve any more.
    pub fn reap_if_unused(&self, oid: Oid) -> Result<()> {
        let (outcome, _) =
            self.transact_uncommitted(Ask::keeping(PRIVILEGE_PAYLOAD_BYTES), None, |transaction| {
                if transaction.state.is_open(oid) || transaction.inode(oid)?.attributes.nlink > 0 {
                    return Ok(());
                }
                transaction.record(&Operation::Reap { oid }, &[])?;
                transaction.state.bury(oid);
                Ok(())
            })?;
        outcome
    }

    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    ///
    /// Which layer has which bytes is decided under the lock, together with what has to be committed; the
    /// bytes are copied after that commit and without a lock, so a record that is not filled yet is not read.
    ///
    /// # Errors
    /// EISDIR, EINVAL, EIO.
    pub fn read(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.warm(oid)?;
        let resets = self.stack.resets();
        let (layers, segments, gate, len) = {
            let state = self.state.read();
            let inode = state.inodes.get(&oid).ok_or(Errno::ESTALE)?;
            require_file(inode.attributes.kind)?;
            let len = (buf.len() as u64).min(inode.attributes.size.saturating_sub(offset));
            let layers = self.stack.snapshot();
            let segments = layers.plan(oid, offset..offset + len);
            (layers, segments, inode.gate, len as usize)
        };
        self.journal.check_lease()?;
        if self.journal.answerable() < gate {
            self.journal.require_answerable(gate)?;
        }
        for segment in segments {
            let start = (segment.offset - offset) as usize;
            let part = &mut buf[start..start + segment.len_bytes as usize];
            match segment.source {
                SegmentSource::Log(lsn) => layers.log.copy_out(lsn, part).map_err(ViewError::from)?,
                SegmentSource::Zeros => part.fill(0),
                SegmentSource::Base => {
                    let got = layers
                        .base
                        .read_at(oid, segment.offset, part)
                        .map_err(|source| ViewError::Base { oid, source })?;
                    part[got..].fill(0);
                }
            }
        }
        if self.stack.resets() != resets {
            // This node is not the primary any more, and the log may hold another's bytes there.
            return Err(Errno::EIO);
        }
        Ok(len)
    }

    /// Writes all of `data`, in several records if need be; how many bytes, fewer only at the largest size of
    /// a file. `stranger`: a caller that may not keep set-id bits on what it changes.
    ///
    /// # Errors
    /// EFBIG, ENOSPC, EISDIR, EINVAL.
    pub fn write(
        &self,
        oid: Oid,
        at: WriteAt,
        data: &[u8],
        stranger: Option<&dyn Principal>,
    ) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        self.warm(oid)?;
        let mut written = 0;
        for chunk in data.chunks(self.max_data_bytes) {
            let at = match at {
                WriteAt::Offset(offset) => WriteAt::Offset(offset.saturating_add(written as u64)),
                WriteAt::Cached(offset) => WriteAt::Cached(offset.saturating_add(written as u64)),
                WriteAt::End => WriteAt::End,
            };
            match self.write_record(oid, at, chunk, stranger) {
                Ok(len) => {
                    written += len;
                    if len < chunk.len() {
                        break;
                    }
                }
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn write_record(
        &self,
        oid: Oid,
        at: WriteAt,
        data: &[u8],
        stranger: Option<&dyn Principal>,
    ) -> Result<usize> {
        let max_file_bytes = self.limits.max_file_bytes;
        let payload_bytes = PRIVILEGE_PAYLOAD_BYTES + WRITE_HEAD_BYTES + data.len();
        let map_bytes = self.limits.map_bytes();
        let ask = Ask { content: true, map_bytes, ..Ask::growing(payload_bytes) };
        let may = || {
            let start = match at {
                WriteAt::Offset(offset) | WriteAt::Cached(offset) => offset,
                WriteAt::End => self.known(oid)?.attributes.size,
            };
            self.has_room(oid, start..start.saturating_add(data.len() as u64))
        };
        self.transact_in_place(ask, None, may, |transaction, in_place| {
            let inode = transaction.inode(oid)?;
            let before = inode.attributes;
            let is_late = matches!(at, WriteAt::Cached(_));
            let keeps_mtime = is_late && inode.keeps_mtime;
            let bare = inode.capability == Some(false) && !super::attributes::has_set_ids(before.mode);
            require_file(before.kind)?;
            let offset = match at {
                WriteAt::Offset(offset) | WriteAt::Cached(offset) => offset,
                WriteAt::End => before.size,
            };
            if offset >= max_file_bytes {
                return Err(Errno::EFBIG);
            }
            let len = (data.len() as u64).min(max_file_bytes - offset);
            if in_place && !transaction.layers().is_allocated(oid, offset..offset + len)? {
                return Ok(None);
            }
            let kept = match is_late {
                true => transaction.capability(oid)?,
                false if bare => None,
                false => transaction.drop_privileges(oid, stranger).map(|()| None)?,
            };
            if let Some(value) = &kept {
                transaction.keep_capability(oid, value)?;
            }
            let written = transaction.write(oid, offset, &data[..len as usize])?;
            if let Some(value) = kept {
                transaction.keep_capability(oid, &value)?;
            }
            if keeps_mtime {
                transaction.keep_mtime(oid, before.mtime)?;
            }
            Ok(Some(written))
        })
    }

    /// Have both nodes blocks for a range of a file, so that writing there takes no room? The partner's answer stays
    /// right: what takes those away is a record, which the Deltas here tell of, or this base does.
    pub(super) fn has_room(&self, oid: Oid, range: Range<u64>) -> Result<bool> {
        let here = self.stack.snapshot().is_allocated(oid, range.clone())?;
        Ok(here && self.journal.partner_has_room(oid, range))
    }

    /// What an fsync of any kind waits for (that of a directory, an `O_SYNC` write, an NFS COMMIT or FILE_SYNC): everything
    /// that was done so far is committed. Where nothing is answered earlier, it is already.
    ///
    /// # Errors
    /// When the node does not serve any more.
    pub fn sync(&self) -> Result<()> {
        self.journal.check_lease()?;
        let end = self.state.read().end;
        Ok(self.journal.sync(end)?)
    }

    pub(super) fn gate(&self, oid: Oid) -> Result<ids::Lsn> {
        match self.state.read().inodes.get(&oid) {
            Some(inode) => Ok(inode.gate),
            None => Ok(super::state::gate_of(&self.stack.snapshot(), oid)),
        }
    }
}

impl<'a> Transaction<'a> {
    fn write(&mut self, oid: Oid, offset: u64, data: &'a [u8]) -> Result<usize> {
        let at = self.at;
        let written_end = offset + data.len() as u64;
        let size_after = self.inode(oid)?.attributes.size.max(written_end);
        let len_bytes = data.len() as u32;
        let end = self.record(&Operation::Write { oid, offset, len_bytes, size_after, at }, data)?;
        self.update(oid, end, |inode| {
            inode.attributes.size = size_after;
            inode.attributes.mtime = at;
            inode.attributes.ctime = at;
            inode.blocks_stale = true;
            inode.keeps_mtime = false;
        });
        Ok(data.len())
    }

    /// File capabilities, if it has any that a base can hold.
    fn capability(&mut self, oid: Oid) -> Result<Option<Vec<u8>>> {
        if !self.has_capability(oid)? {
            return Ok(None);
        }
        let value = self.layers().xattr(oid, CAPABILITY)?;
        Ok(value.filter(|value| value.len() <= MAX_CAPABILITY_BYTES))
    }

    /// Capabilities that a write leaves. Applying it is a write to the base, which takes them away there: so each Delta
    /// with the write has to say that they are there. One record of it comes before the write's, for the log may end
    /// there, and one after it, for a Delta may begin there.
    fn keep_capability(&mut self, oid: Oid, value: &[u8]) -> Result<()> {
        let at = self.at;
        let end = self.record(&Operation::SetXattr { oid, name: CAPABILITY, value, mode: None, at }, &[])?;
        self.update(oid, end, |inode| inode.attributes.ctime = at);
        Ok(())
    }

    /// What was written was changed before `mtime` was set.
    fn keep_mtime(&mut self, oid: Oid, mtime: Timestamp) -> Result<()> {
        let patch = AttrPatch { mtime: Some(mtime), ctime: Some(self.at), ..AttrPatch::default() };
        let end = self.record(&Operation::SetAttr { oid, patch }, &[])?;
        self.update(oid, end, |inode| {
            inode.attributes.apply(&patch);
            inode.keeps_mtime = true;
        });
        Ok(())
    }
}

pub(super) fn require_file(kind: ObjectKind) -> Result<()> {
    match kind {
        ObjectKind::File => Ok(()),
        ObjectKind::Directory => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    }
}
