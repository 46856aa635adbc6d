//! Extended attributes: `user.`, `trusted.`, `security.`, and POSIX ACLs.
//!
//! Invariants: the volume's own label is neither shown nor changed; what is accepted fits into the weaker base
//! filesystem together with what is there already; an access ACL and the mode's permission bits agree.

use super::Volume;
use super::acl::{self, Acl};
use super::errno::{Errno, Result};
use super::limits::{MAX_XATTR_LIST_BYTES, MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES};
use super::principal::Principal;
use super::transaction::Transaction;
use apply_engine::base::{LABEL_BYTES, LABEL_XATTR};
use apply_engine::{AttrPatch, Layers, ObjectKind, Operation};
use commit::Ask;
use ids::Oid;
use std::sync::Arc;

/// File capabilities, which a change of contents or owner takes away.
pub(super) const CAPABILITY: &[u8] = b"security.capability";
/// Payload of a record beside name and value.
const PAYLOAD_BYTES: usize = 512;

/// setxattr(2)'s flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Make or replace.
    Set,
    /// `XATTR_CREATE`
    Create,
    /// `XATTR_REPLACE`
    Replace,
    /// `XATTR_CREATE | XATTR_REPLACE`: refused, as the one that is broken says.
    CreateAndReplace,
}

impl XattrMode {
    /// From the bits of setxattr(2).
    ///
    /// # Errors
    /// EINVAL.
    pub fn from_bits(bits: i32) -> Result<XattrMode> {
        const BOTH: i32 = libc::XATTR_CREATE | libc::XATTR_REPLACE;
        match bits {
            0 => Ok(XattrMode::Set),
            libc::XATTR_CREATE => Ok(XattrMode::Create),
            libc::XATTR_REPLACE => Ok(XattrMode::Replace),
            BOTH => Ok(XattrMode::CreateAndReplace),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Room in a base's list of xattr names for those that no client sees: the label, what XFS shows of each ACL beside its
/// own name, and what a security module may add.
const HIDDEN_LIST_BYTES: usize = 128;

/// What btrfs spends on each of the xattrs that it keeps together.
const ALIKE_BYTES: usize = 30;

/// Whether btrfs keeps two xattrs together, in no more room than one alone could have: their names have one hash. Nobody's
/// names do by chance, so it is asked of every base.
fn are_alike(name: &[u8], other: &[u8]) -> bool {
    let hash = |name: &[u8]| crc32c::crc32c_append(1, name);
    name != other && hash(name) == hash(other)
}

/// Our label and whatever else begins with its name; and what a base shows of other things, an ACL, under a name of its
/// own.
fn is_hidden(name: &[u8]) -> bool {
    !apply_engine::base::is_xattr_of_clients(name)
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > MAX_XATTR_NAME_BYTES || name.contains(&0) {
        return Err(Errno::ERANGE);
    }
    let namespaces = [&b"user."[..], b"trusted.", b"security."];
    match namespaces.iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) if name.len() == prefix.len() => Err(Errno::EINVAL),
        None if !is_acl(name) => Err(Errno::EOPNOTSUPP),
        _ => Ok(()),
    }
}

impl Volume {
    /// The value of an xattr.
    ///
    /// # Errors
    /// ENODATA, EOPNOTSUPP for a namespace that does not exist, EINVAL for nothing but a namespace.
    pub fn xattr(&self, oid: Oid, name: &[u8]) -> Result<Vec<u8>> {
        check_name(name)?;
        if is_hidden(name) {
            return Err(Errno::ENODATA);
        }
        let inode = match self.known(oid) {
            Err(Errno::ESTALE) => return self.ghost(oid).and(Err(Errno::ENODATA)),
            known => known?,
        };
        let absent = (name == CAPABILITY && inode.capability == Some(false))
            || (name == acl::ACCESS && inode.access_acl == Some(false))
            || (name == acl::DEFAULT && inode.default_acl == Some(None));
        let value = if absent { None } else { self.stack.snapshot().xattr(oid, name)? };
        self.show(self.gate(oid)?)?;
        value.ok_or(Errno::ENODATA)
    }

    /// The names of all xattrs that `who` may know of, each ended by a NUL.
    ///
    /// # Errors
    /// E2BIG when the list is longer than Linux can return.
    pub fn xattr_names(&self, who: &dyn Principal, oid: Oid) -> Result<Vec<u8>> {
        match self.known(oid) {
            Err(Errno::ESTALE) => return self.ghost(oid).map(|_| Vec::new()),
            known => known?,
        };
        let names = self.stack.snapshot().xattr_names(oid)?;
        self.show(self.gate(oid)?)?;
        let mut sees_trusted = None;
        let mut list = Vec::new();
        for name in names.iter().filter(|name| !is_hidden(name)) {
            if name.starts_with(b"trusted.") && !*sees_trusted.get_or_insert_with(|| who.sees_trusted()) {
                continue;
            }
            list.extend_from_slice(name);
            list.push(0);
        }
        if list.len() > MAX_XATTR_LIST_BYTES { Err(Errno::E2BIG) } else { Ok(list) }
    }

    /// Sets an xattr.
    ///
    /// # Errors
    /// EEXIST and ENODATA as `mode` says, ERANGE, E2BIG, ENOSPC, EOPNOTSUPP, EPERM for the volume's label.
    pub fn set_xattr(
        &self,
        who: &dyn Principal,
        oid: Oid,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        check_name(name)?;
        if is_hidden(name) {
            return Err(Errno::EPERM);
        }
        if value.len() > MAX_XATTR_VALUE_BYTES {
            return Err(Errno::E2BIG);
        }
        let record = self.max_data_bytes.saturating_sub(PAYLOAD_BYTES);
        let largest = record.min(self.limits.max_xattr_value_bytes as usize);
        // An ACL is kept in other words than its value; its entries are counted below.
        let fits = value.len() <= largest && name.len() + value.len() <= self.limits.max_xattr_bytes as usize;
        if !fits && !is_acl(name) {
            return Err(Errno::ENOSPC);
        }
        self.warm(oid)?;
        let payload_bytes = PAYLOAD_BYTES + name.len() + value.len();
        let asked = self.asking();
        self.ask_xattrs(&asked.under(&self.stack.snapshot()), oid, name)?;
        let ask = Ask::growing(payload_bytes);
        self.transact_in_place(
            ask,
            Some(asked),
            || Ok(true),
            |transaction, in_place| {
                let now = transaction.layers().xattr(oid, name)?;
                if in_place && now.as_ref().is_none_or(|now| now.len() < value.len()) {
                    return Ok(None);
                }
                let present = now.is_some();
                match mode {
                    XattrMode::Create | XattrMode::CreateAndReplace if present => return Err(Errno::EEXIST),
                    XattrMode::Replace | XattrMode::CreateAndReplace if !present => {
                        return Err(Errno::ENODATA);
                    }
                    _ => {}
                }
                if is_acl(name) {
                    return transaction.set_acl(who, oid, name, Acl::parse(value)?).map(Some);
                }
                transaction.require_xattr_room(oid, name, value.len())?;
                let at = transaction.at;
                let end =
                    transaction.record(&Operation::SetXattr { oid, name, value, mode: None, at }, &[])?;
                transaction.update(oid, end, |inode| {
                    inode.attributes.ctime = at;
                    if name == CAPABILITY {
                        inode.capability = Some(true);
                    }
                });
                Ok(Some(()))
            },
        )
    }

    /// Removes an xattr.
    ///
    /// # Errors
    /// ENODATA, EOPNOTSUPP.
    pub fn remove_xattr(&self, who: &dyn Principal, oid: Oid, name: &[u8]) -> Result<()> {
        check_name(name)?;
        if is_hidden(name) {
            return Err(Errno::ENODATA);
        }
        match self.warm(oid) {
            Err(Errno::ESTALE) => return self.ghost(oid).and(Err(Errno::ENODATA)),
            known => known?,
        }
        let asked = self.asking();
        asked.under(&self.stack.snapshot()).xattr(oid, name)?;
        self.transact_asked(Ask::keeping(PAYLOAD_BYTES + name.len()), Some(asked), |transaction| {
            if is_acl(name) {
                return transaction.set_acl(who, oid, name, None);
            }
            if transaction.layers().xattr(oid, name)?.is_none() {
                return Err(Errno::ENODATA);
            }
            transaction.forget_xattr(oid, name, None)
        })
    }
}

impl Volume {
    /// Reads what setting an xattr has to know: whether there is one, and how much room the others take.
    fn ask_xattrs(&self, layers: &Layers, oid: Oid, name: &[u8]) -> Result<()> {
        layers.xattr(oid, name)?;
        let names = layers.xattr_names(oid)?;
        let has_room = self.limits.xattr_room.is_some();
        if has_room {
            layers.attributes(oid)?;
        }
        for other in names.iter().filter(|other| has_room || are_alike(name, other)) {
            layers.xattr(oid, other)?;
        }
        Ok(())
    }
}

impl Transaction<'_> {
    fn forget_xattr(&mut self, oid: Oid, name: &[u8], mode: Option<u32>) -> Result<()> {
        let at = self.at;
        let end = self.record(&Operation::RemoveXattr { oid, name, mode, at }, &[])?;
        self.update(oid, end, |inode| {
            inode.attributes.ctime = at;
            inode.attributes.mode = mode.unwrap_or(inode.attributes.mode);
            match name {
                CAPABILITY => inode.capability = Some(false),
                acl::ACCESS => inode.access_acl = Some(false),
                acl::DEFAULT => inode.default_acl = Some(None),
                _ => {}
            }
        });
        Ok(())
    }

    /// Sets an ACL, or takes it away. An access ACL that says no more than a mode becomes a mode.
    fn set_acl(&mut self, who: &dyn Principal, oid: Oid, name: &[u8], new: Option<Acl>) -> Result<()> {
        let before = self.inode(oid)?.attributes;
        if before.kind == ObjectKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        if name == acl::DEFAULT && !before.kind.is_directory() {
            return if new.is_some() { Err(Errno::EACCES) } else { Ok(()) };
        }
        let present = self.layers().xattr(oid, name)?.is_some();
        let mut mode = before.mode;
        if name == acl::ACCESS
            && let Some(access) = &new
        {
            mode = access.mode(mode);
            if mode & libc::S_ISGID != 0 && !who.in_group(before.gid) && !who.keeps_set_ids() {
                mode &= !libc::S_ISGID;
            }
        }
        let changed_mode = (mode != before.mode).then_some(mode);
        let stored = new.filter(|new| name == acl::DEFAULT || !new.is_only_mode());
        let at = self.at;
        let Some(stored) = stored else {
            if present {
                return self.forget_xattr(oid, name, changed_mode);
            }
            let patch = AttrPatch { mode: changed_mode, ctime: Some(at), ..AttrPatch::default() };
            if changed_mode.is_some() {
                let end = self.record(&Operation::SetAttr { oid, patch }, &[])?;
                self.update(oid, end, |inode| inode.attributes.apply(&patch));
            }
            return Ok(());
        };
        if stored.entries() > self.limits().max_acl_entries as usize {
            return Err(Errno::ENOSPC);
        }
        let value = stored.to_bytes();
        self.require_xattr_room(oid, name, value.len())?;
        let operation = Operation::SetXattr { oid, name, value: &value, mode: changed_mode, at };
        let end = self.record(&operation, &[])?;
        self.update(oid, end, |inode| {
            inode.attributes.ctime = at;
            inode.attributes.mode = mode;
            match name {
                acl::ACCESS => inode.access_acl = Some(true),
                _ => inode.default_acl = None,
            }
        });
        if name == acl::DEFAULT {
            self.state.know_default_acl(oid, Some(Arc::new(stored)));
        }
        Ok(())
    }

    /// A new object takes its directory's default ACL, a directory twice.
    pub(super) fn require_room_for_inherited(&self, acls: &[(&'static [u8], Vec<u8>)]) -> Result<()> {
        let Some(room) = self.limits().xattr_room else { return Ok(()) };
        let costs = acls.iter().map(|(name, value)| room.cost_bytes(name, value.len()));
        let (total_bytes, largest_bytes) =
            costs.fold((0, 0), |(sum, most), cost| (sum + cost, most.max(cost)));
        if room.holds(total_bytes, largest_bytes) { Ok(()) } else { Err(Errno::ENOSPC) }
    }

    /// The list of names must stay readable, what has one hash must lie together, and where a base keeps all xattrs of an object in one place, there must be
    /// room in it.
    fn require_xattr_room(&self, oid: Oid, name: &[u8], value_bytes: usize) -> Result<()> {
        let others = self.layers().xattr_names(oid)?;
        let listed: usize = others.iter().filter(|other| *other != name).map(|other| other.len() + 1).sum();
        if listed + name.len() + 1 + HIDDEN_LIST_BYTES > MAX_XATTR_LIST_BYTES {
            return Err(Errno::ENOSPC);
        }
        let mut alike_bytes = 0;
        if are_alike(name, LABEL_XATTR.as_bytes()) {
            alike_bytes += ALIKE_BYTES + LABEL_XATTR.len() + LABEL_BYTES;
        }
        for other in others.iter().filter(|other| !is_hidden(other) && are_alike(name, other)) {
            let len = self.layers().xattr(oid, other)?.map_or(0, |value| value.len());
            alike_bytes += ALIKE_BYTES + other.len() + len;
        }
        if alike_bytes > 0 && alike_bytes + name.len() + value_bytes > self.limits().max_xattr_bytes as usize
        {
            return Err(Errno::ENOSPC);
        }
        let Some(room) = self.limits().xattr_room else { return Ok(()) };
        let cost_bytes = room.cost_bytes(name, value_bytes);
        // In a tree that was adopted the label came last, so it may have found its place beside the others.
        let adopted = self.layers().attributes(oid)?.generation == apply_engine::base::ADOPTED_GENERATION;
        let label_bytes = room.cost_bytes(LABEL_XATTR.as_bytes(), LABEL_BYTES);
        let mut total_bytes = cost_bytes + if adopted { label_bytes } else { 0 };
        let mut largest_bytes = cost_bytes;
        for other in others.iter().filter(|other| *other != name && !is_hidden(other)) {
            let len = self.layers().xattr(oid, other)?.map_or(0, |value| value.len());
            let cost_bytes = room.cost_bytes(other, len);
            total_bytes += cost_bytes;
            largest_bytes = largest_bytes.max(cost_bytes);
        }
        if room.holds(total_bytes, largest_bytes) { Ok(()) } else { Err(Errno::ENOSPC) }
    }
}
