//! rename(2) and its flags.
//!
//! Invariants: never a directory below itself; a directory replaces only an empty directory; what is replaced
//! loses a name and may be gone with it; parents' link counts follow the subdirectories. What can go wrong:
//! the kernel has checked most of this against its own cache; other front doors will not have.

use super::Volume;
use super::errno::{Errno, Result};
use super::limits::checked_name;
use super::namespace::{NAMESPACE_PAYLOAD_BYTES, Node, NodeKind, check_new_name, relinked, touched};
use super::principal::Principal;
use super::transaction::Transaction;
use apply_engine::{Displaced, NameRef, Operation, Other, Target, Timestamp};
use commit::Ask;
use ids::{Lsn, Oid};

/// The flags of renameat2(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// Replace what stands at the target.
    Replace,
    /// `RENAME_NOREPLACE`
    NoReplace,
    /// `RENAME_EXCHANGE`
    Exchange,
    /// `RENAME_WHITEOUT`: leave a character device 0:0 under the old name.
    Whiteout,
    /// `RENAME_WHITEOUT | RENAME_NOREPLACE`
    WhiteoutNoReplace,
}

impl RenameMode {
    /// From the bits of renameat2(2).
    ///
    /// # Errors
    /// EINVAL for bits that are unknown or contradict each other.
    pub fn from_bits(bits: u32) -> Result<RenameMode> {
        const WHITEOUT_NOREPLACE: u32 = libc::RENAME_WHITEOUT | libc::RENAME_NOREPLACE;
        match bits {
            0 => Ok(RenameMode::Replace),
            libc::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
            libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
            libc::RENAME_WHITEOUT => Ok(RenameMode::Whiteout),
            WHITEOUT_NOREPLACE => Ok(RenameMode::WhiteoutNoReplace),
            _ => Err(Errno::EINVAL),
        }
    }

    fn keeps_target(self) -> bool {
        matches!(self, RenameMode::NoReplace | RenameMode::WhiteoutNoReplace)
    }

    fn leaves_whiteout(self) -> bool {
        matches!(self, RenameMode::Whiteout | RenameMode::WhiteoutNoReplace)
    }
}

/// One end of a rename.
#[derive(Clone, Copy)]
struct End<'n> {
    parent: Oid,
    name: NameRef<'n>,
}

impl Volume {
    /// Moves a name.
    ///
    /// # Errors
    /// ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL for a directory below itself.
    pub fn rename(
        &self,
        who: &dyn Principal,
        (from_parent, from_name): (Oid, &[u8]),
        (to_parent, to_name): (Oid, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        let from = End { parent: from_parent, name: checked_name(from_name)? };
        let to = End { parent: to_parent, name: checked_name(to_name)? };
        check_new_name(from.parent, from.name)?;
        check_new_name(to.parent, to.name)?;
        let asked = self.asking();
        let merged = asked.under(&self.stack.snapshot());
        for end in [from, to] {
            self.warm(end.parent)?;
            if let Some(target) = self.ask_slot(&merged, end.parent, end.name)? {
                // It may be gone by now; then the transaction finds out.
                let _ = self.warm(target.oid);
            }
        }
        drop(merged);
        let inodes = u64::from(mode.leaves_whiteout());
        let ask = Ask { inodes, ..Ask::growing(2 * NAMESPACE_PAYLOAD_BYTES) };
        let act = |transaction: &mut Transaction<'_>| transaction.rename(who, from, to, mode);
        if mode.leaves_whiteout() {
            return self.transact_asked(ask, Some(asked), act);
        }
        // A name that stands there already needs no place in its directory.
        self.transact_in_place(
            ask,
            Some(asked),
            || Ok(true),
            |transaction, in_place| {
                if in_place && transaction.lookup(to.parent, to.name)?.is_none() {
                    return Ok(None);
                }
                act(transaction).map(Some)
            },
        )
    }
}

impl Transaction<'_> {
    fn rename(&mut self, who: &dyn Principal, from: End<'_>, to: End<'_>, mode: RenameMode) -> Result<()> {
        let mut from_nlink = self.directory(from.parent)?.attributes.nlink;
        let mut to_nlink = self.directory(to.parent)?.attributes.nlink;
        let moved = self.lookup(from.parent, from.name)?.ok_or(Errno::ENOENT)?;
        let standing = self.lookup(to.parent, to.name)?;
        if standing.is_some() && mode.keeps_target() {
            return Err(Errno::EEXIST);
        }
        if standing.is_none() && mode == RenameMode::Exchange {
            return Err(Errno::ENOENT);
        }
        if standing.is_some_and(|standing| standing.oid == moved.oid) {
            return Ok(());
        }
        self.refuse_cycles(from, to, moved, standing, mode)?;

        let is_dir = |target: Option<Target>| u32::from(target.is_some_and(|t| t.kind.is_directory()));
        // What leaves and enters each parent, counted in subdirectories.
        from_nlink = from_nlink.saturating_sub(is_dir(Some(moved)));
        to_nlink += is_dir(Some(moved));
        to_nlink = to_nlink.saturating_sub(is_dir(standing));
        let displaced = match standing {
            None => Displaced::Nothing,
            Some(standing) if mode == RenameMode::Exchange => {
                from_nlink += is_dir(Some(standing));
                let nlink = self.inode(standing.oid)?.attributes.nlink;
                Displaced::Exchanged(Other { oid: standing.oid, kind: standing.kind, nlink })
            }
            Some(standing) => {
                self.require_replaceable(moved, standing)?;
                let (object, reap) = self.losing_a_name(standing)?;
                Displaced::Replaced { object, reap }
            }
        };
        if from.parent == to.parent {
            // Both were counted from the same start: what left by one entered by the other.
            let start = self.directory(from.parent)?.attributes.nlink;
            let replaced = if mode == RenameMode::Exchange { 0 } else { is_dir(standing) };
            from_nlink = start.saturating_sub(replaced);
            to_nlink = from_nlink;
        }
        if moved.kind.is_directory() && from.parent != to.parent {
            self.require_subdirectory(to_nlink)?;
        }
        let moved_nlink = self.inode(moved.oid)?.attributes.nlink;
        let whiteout_node = Node { kind: NodeKind::CharDevice(0), mode: 0, umask: 0, open: false };
        let made = match mode.leaves_whiteout() {
            true => Some(self.make(who, from.parent, &whiteout_node)?),
            false => None,
        };
        let at = self.at;
        let operation = Operation::Rename {
            from_parent: from.parent,
            from_name: from.name,
            to_parent: to.parent,
            to_name: to.name,
            moved: Other { oid: moved.oid, kind: moved.kind, nlink: moved_nlink },
            displaced,
            whiteout: made.as_ref().map(|made| made.object(&whiteout_node)),
            from_parent_nlink: from_nlink,
            to_parent_nlink: to_nlink,
            at,
        };
        let end = self.record(&operation, &[])?;
        let moves_a_directory =
            moved.kind.is_directory() || standing.is_some_and(|standing| standing.kind.is_directory());
        if from.parent != to.parent && moves_a_directory {
            self.state.moves += 1;
        }
        self.update(from.parent, end, |inode| touched(inode, from_nlink, at));
        self.update(to.parent, end, |inode| touched(inode, to_nlink, at));
        self.update(moved.oid, end, |inode| relinked(inode, moved_nlink, at));
        self.update_displaced(displaced, end, at);
        if let Some(made) = made {
            let attributes = made.attributes(&whiteout_node, at);
            self.state.remember(made.inode(attributes, end));
        }
        Ok(())
    }

    fn update_displaced(&mut self, displaced: Displaced, end: Lsn, at: Timestamp) {
        match displaced {
            Displaced::Nothing => {}
            Displaced::Exchanged(other) => {
                self.update(other.oid, end, |inode| relinked(inode, other.nlink, at))
            }
            Displaced::Replaced { object, reap } => {
                self.update(object.oid, end, |inode| relinked(inode, object.nlink, at));
                if reap {
                    self.state.bury(object.oid);
                }
            }
        }
    }

    fn require_replaceable(&mut self, moved: Target, standing: Target) -> Result<()> {
        match (moved.kind.is_directory(), standing.kind.is_directory()) {
            (true, true) => self.require_empty_directory(standing),
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            (false, false) => Ok(()),
        }
    }

    /// No directory may come to stand below itself, neither the moved one nor one it changes places with; nor is one
    /// replaced by what lies in it.
    fn refuse_cycles(
        &self,
        from: End<'_>,
        to: End<'_>,
        moved: Target,
        standing: Option<Target>,
        mode: RenameMode,
    ) -> Result<()> {
        if from.parent == to.parent {
            return Ok(());
        }
        if moved.kind.is_directory() && self.is_at_or_below(to.parent, moved.oid)? {
            return Err(Errno::EINVAL);
        }
        // A directory that what is moved lies in: as the kernel, before asking what both are.
        if let Some(standing) = standing.filter(|target| target.kind.is_directory())
            && self.is_at_or_below(from.parent, standing.oid)?
        {
            return Err(if mode == RenameMode::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        Ok(())
    }
}
