//! Names: looking them up, making them, taking them away.
//!
//! Invariants: a new object is born with its final mode and ACLs (umask and inheritance already applied), in
//! one record; a removed object lives on as an orphan if somebody has it open, and is gone at once if not.

use super::Volume;
use super::acl;
use super::asked::Question;
use super::data::Access;
use super::errno::{Errno, Result};
use super::limits::checked_name;
use super::principal::Principal;
use super::state::Inode;
use super::transaction::Transaction;
use apply_engine::base::is_reserved_in_root;
use apply_engine::{
    Attributes, Layers, NameRef, NewKind, NewObject, ObjectKind, Operation, Other, Target, Timestamp,
};
use commit::Ask;
use ids::Oid;
use std::sync::Arc;

/// Payload of a record without data: names, link counts, times; with room for two inherited ACLs.
pub(super) const NAMESPACE_PAYLOAD_BYTES: usize = 1024;

/// What kind of object to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeKind<'a> {
    /// An empty regular file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// A unix socket's name.
    Socket,
    /// A character device.
    CharDevice(u64),
    /// A block device.
    BlockDevice(u64),
}

impl NodeKind<'_> {
    /// The same, if it borrows nothing: anything but a symbolic link.
    pub fn without_target(self) -> Option<NodeKind<'static>> {
        match self {
            NodeKind::Symlink(_) => None,
            NodeKind::File => Some(NodeKind::File),
            NodeKind::Directory => Some(NodeKind::Directory),
            NodeKind::Fifo => Some(NodeKind::Fifo),
            NodeKind::Socket => Some(NodeKind::Socket),
            NodeKind::CharDevice(rdev) => Some(NodeKind::CharDevice(rdev)),
            NodeKind::BlockDevice(rdev) => Some(NodeKind::BlockDevice(rdev)),
        }
    }
}

/// An object to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node<'a> {
    /// What it is.
    pub kind: NodeKind<'a>,
    /// Permission bits before umask and inheritance.
    pub mode: u32,
    /// Bits that the caller never wants; not looked at below a directory with a default ACL.
    pub umask: u32,
    /// Count it as open for writing at once.
    pub open: bool,
}

impl<'a> From<NodeKind<'a>> for NewKind<'a> {
    fn from(kind: NodeKind<'a>) -> NewKind<'a> {
        match kind {
            NodeKind::File => NewKind::File,
            NodeKind::Directory => NewKind::Directory,
            NodeKind::Symlink(target) => NewKind::Symlink(target),
            NodeKind::Fifo => NewKind::Fifo,
            NodeKind::Socket => NewKind::Socket,
            NodeKind::CharDevice(rdev) => NewKind::CharDevice(rdev),
            NodeKind::BlockDevice(rdev) => NewKind::BlockDevice(rdev),
        }
    }
}

/// Whether a name can be made in a directory: the base's own names in the root cannot.
pub(super) fn check_new_name(parent: Oid, name: NameRef<'_>) -> Result<()> {
    match parent == Oid::ROOT && is_reserved_in_root(name.as_bytes()) {
        true => Err(Errno::EPERM),
        false => Ok(()),
    }
}

impl Volume {
    /// The object under a name. `.` and `..` are understood, as an NFS server asks for them.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENAMETOOLONG; ESTALE for a directory that is gone.
    pub fn lookup(&self, parent: Oid, name: &[u8]) -> Result<Attributes> {
        // Also of a file: so a kernel asks for what it has only the number of (open_by_handle_at, a server).
        if name == b"." {
            return self.shown(parent);
        }
        let directory = self.known(parent)?;
        if !directory.attributes.kind.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if name == b".." {
            return self.shown(self.stack.snapshot().parent(parent)?);
        }
        let name = checked_name(name)?;
        if check_new_name(parent, name).is_err() {
            return Err(Errno::ENOENT);
        }
        let found = self.stack.snapshot().lookup(parent, name)?;
        let shown = match found {
            Some(target) => self.shown(target.oid),
            None => Err(Errno::ENOENT),
        };
        match shown {
            // It went away meanwhile; so the directory has changed.
            Err(Errno::ESTALE | Errno::ENOENT) => {
                self.show(self.known(parent)?.gate)?;
                Err(Errno::ENOENT)
            }
            other => other,
        }
    }

    /// Makes an object.
    ///
    /// # Errors
    /// EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, ENOSPC, EPERM for a reserved name.
    pub fn create(
        &self,
        who: &dyn Principal,
        parent: Oid,
        name: &[u8],
        node: Node<'_>,
    ) -> Result<Attributes> {
        let name = checked_name(name)?;
        check_new_name(parent, name)?;
        let target_bytes = match node.kind {
            NodeKind::Symlink(b"") => return Err(Errno::ENOENT),
            NodeKind::Symlink(target) if target.len() > self.limits.max_symlink_bytes as usize => {
                return Err(Errno::ENAMETOOLONG);
            }
            NodeKind::Symlink(target) => target.len(),
            NodeKind::CharDevice(device) | NodeKind::BlockDevice(device) => {
                let (major, minor) = self.limits.max_device;
                if rustix::fs::major(device) > major || rustix::fs::minor(device) > minor {
                    return Err(Errno::EINVAL);
                }
                0
            }
            _ => 0,
        };
        self.warm(parent)?;
        // A directory inherits it twice: as its own and as its access ACL.
        let asked = self.asking();
        let merged = asked.under(&self.stack.snapshot());
        let acls = 2 * self.acl_bytes(&merged, parent, acl::DEFAULT)?;
        self.ask_slot(&merged, parent, name)?;
        let payload_bytes = NAMESPACE_PAYLOAD_BYTES + target_bytes + acls;
        let ask = Ask { inodes: 1, ..Ask::growing(payload_bytes) };
        let made = self.transact_asked(ask, Some(asked), |transaction| {
            transaction.directory(parent)?;
            if transaction.lookup(parent, name)?.is_some() {
                return Err(Errno::EEXIST);
            }
            let made = transaction.make(who, parent, &node)?;
            let parent_inode = transaction.directory(parent)?;
            let parent_nlink = parent_inode.attributes.nlink + u32::from(node.kind == NodeKind::Directory);
            if node.kind == NodeKind::Directory {
                transaction.require_subdirectory(parent_nlink)?;
            }
            let at = transaction.at;
            let object = made.object(&node);
            let operation = Operation::Create { parent, name, object, parent_nlink, at };
            let end = transaction.record(&operation, &[])?;
            transaction.update(parent, end, |inode| touched(inode, parent_nlink, at));
            let attributes = made.attributes(&node, at);
            transaction.state.remember(made.inode(attributes, end));
            if node.open {
                transaction.state.opens.entry(attributes.oid).or_default().add(Access::Write);
            }
            Ok(attributes)
        })?;
        Ok(self.as_shown(made))
    }

    /// What stands in a slot before the change; in what is no directory, nothing.
    pub(super) fn ask_slot(&self, layers: &Layers, parent: Oid, name: NameRef<'_>) -> Result<Option<Target>> {
        match self.known(parent)?.attributes.kind.is_directory() {
            true => Ok(layers.lookup(parent, name)?),
            false => Ok(None),
        }
    }

    /// Gives an object one more name.
    ///
    /// # Errors
    /// EEXIST, EPERM for a directory, EMLINK, ENOENT for an object that has lost its last name.
    pub fn link(&self, oid: Oid, parent: Oid, name: &[u8]) -> Result<Attributes> {
        let name = checked_name(name)?;
        check_new_name(parent, name)?;
        self.warm(oid)?;
        self.warm(parent)?;
        let asked = self.asking();
        self.ask_slot(&asked.under(&self.stack.snapshot()), parent, name)?;
        let linked =
            self.transact_asked(Ask::growing(NAMESPACE_PAYLOAD_BYTES), Some(asked), |transaction| {
                let object = transaction.inode(oid)?.attributes;
                transaction.directory(parent)?;
                if transaction.lookup(parent, name)?.is_some() {
                    return Err(Errno::EEXIST);
                }
                if object.kind.is_directory() {
                    return Err(Errno::EPERM);
                }
                if object.nlink == 0 {
                    return Err(Errno::ENOENT);
                }
                if object.nlink >= transaction.limits().max_links {
                    return Err(Errno::EMLINK);
                }
                let at = transaction.at;
                let other = Other { oid, kind: object.kind, nlink: object.nlink + 1 };
                let end = transaction.record(&Operation::Link { object: other, parent, name, at }, &[])?;
                transaction.update(parent, end, |inode| {
                    let nlink = inode.attributes.nlink;
                    touched(inode, nlink, at);
                });
                transaction.update(oid, end, |inode| relinked(inode, other.nlink, at));
                Ok(transaction.inode(oid)?.attributes)
            })?;
        Ok(self.as_left(linked))
    }

    /// Takes the name of anything but a directory away.
    ///
    /// # Errors
    /// ENOENT, EISDIR.
    pub fn unlink(&self, parent: Oid, name: &[u8]) -> Result<()> {
        self.remove(parent, name, |_, target| match target.kind.is_directory() {
            true => Err(Errno::EISDIR),
            false => Ok(()),
        })
    }

    /// Takes an empty directory away.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENOTEMPTY.
    pub fn rmdir(&self, parent: Oid, name: &[u8]) -> Result<()> {
        match name {
            b"." => return Err(Errno::EINVAL),
            b".." => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        self.remove(parent, name, |transaction, target| transaction.require_empty_directory(target))
    }

    fn remove(
        &self,
        parent: Oid,
        name: &[u8],
        allowed: impl Fn(&mut Transaction<'_>, Target) -> Result<()>,
    ) -> Result<()> {
        let name = checked_name(name)?;
        if check_new_name(parent, name).is_err() {
            return Err(Errno::ENOENT);
        }
        self.warm(parent)?;
        let asked = self.asking();
        if let Some(target) = self.ask_slot(&asked.under(&self.stack.snapshot()), parent, name)? {
            // It may be gone by now; then the transaction finds out.
            let _ = self.warm(target.oid);
            if target.kind.is_directory() {
                self.ask(&asked, Question::Empty(target.oid))?;
            }
        }
        self.transact_asked(Ask::keeping(NAMESPACE_PAYLOAD_BYTES), Some(asked), |transaction| {
            let mut parent_nlink = transaction.directory(parent)?.attributes.nlink;
            let target = transaction.lookup(parent, name)?.ok_or(Errno::ENOENT)?;
            allowed(transaction, target)?;
            parent_nlink = parent_nlink.saturating_sub(u32::from(target.kind.is_directory()));
            let (object, reap) = transaction.losing_a_name(target)?;
            let at = transaction.at;
            let operation = Operation::Unlink { parent, name, object, reap, parent_nlink, at };
            let end = transaction.record(&operation, &[])?;
            transaction.update(parent, end, |inode| touched(inode, parent_nlink, at));
            transaction.update(object.oid, end, |inode| relinked(inode, object.nlink, at));
            if reap {
                transaction.state.bury(object.oid);
            }
            Ok(())
        })
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// EINVAL for what is none.
    pub fn readlink(&self, oid: Oid) -> Result<Vec<u8>> {
        let inode = self.known(oid)?;
        if inode.attributes.kind != ObjectKind::Symlink {
            return Err(Errno::EINVAL);
        }
        let target = self.stack.snapshot().readlink(oid)?;
        self.show(inode.gate)?;
        Ok(target)
    }
}

impl Transaction<'_> {
    /// What is left of an object that loses a name, and whether it is gone then.
    pub(super) fn losing_a_name(&mut self, target: Target) -> Result<(Other, bool)> {
        let nlink = match target.kind.is_directory() {
            true => 0,
            false => self.inode(target.oid)?.attributes.nlink.saturating_sub(1),
        };
        let reap = nlink == 0 && !self.state.is_open(target.oid);
        Ok((Other { oid: target.oid, kind: target.kind, nlink }, reap))
    }

    pub(super) fn require_empty_directory(&mut self, target: Target) -> Result<()> {
        if !target.kind.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        self.require_empty(target.oid)
    }

    /// Decides all of a new object but its name.
    pub(super) fn make(&mut self, who: &dyn Principal, parent: Oid, node: &Node<'_>) -> Result<Made> {
        let inherited = match node.kind {
            NodeKind::Symlink(_) => None,
            _ => self.default_acl(parent)?,
        };
        let directory = self.directory(parent)?.attributes;
        let is_directory = node.kind == NodeKind::Directory;
        let mut mode = node.mode & 0o7777;
        let mut acls = Vec::new();
        match &inherited {
            None => mode &= !(node.umask & 0o777),
            Some(default) => {
                let inherited = default.inherit(mode);
                mode = inherited.mode;
                acls.extend(inherited.access.map(|access| (acl::ACCESS, access.to_bytes())));
                acls.extend(is_directory.then(|| (acl::DEFAULT, default.to_bytes())));
                self.require_room_for_inherited(&acls)?;
            }
        }
        let mut gid = who.gid();
        if directory.mode & libc::S_ISGID != 0 {
            gid = directory.gid;
            mode |= if is_directory { libc::S_ISGID } else { 0 };
        }
        if matches!(node.kind, NodeKind::Symlink(_)) {
            mode = 0o777;
        }
        let oid = self.state.next_oid;
        self.state.next_oid = Oid(oid.0 + 1);
        let generation =
            (self.at.secs as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(self.at.nanos));
        let default_acl = if is_directory { inherited } else { None };
        Ok(Made { oid, mode, uid: who.uid(), gid, generation, acls, default_acl })
    }
}

/// A new object, decided and not yet recorded.
pub(super) struct Made {
    oid: Oid,
    mode: u32,
    uid: u32,
    gid: u32,
    generation: u64,
    acls: Vec<(&'static [u8], Vec<u8>)>,
    default_acl: Option<Arc<acl::Acl>>,
}

impl Made {
    pub(super) fn object<'a>(&'a self, node: &Node<'a>) -> NewObject<'a> {
        NewObject {
            oid: self.oid,
            kind: node.kind.into(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            generation: self.generation,
            xattrs: self.acls.iter().map(|(name, value)| (*name, value.as_slice())).collect(),
        }
    }

    pub(super) fn attributes(&self, node: &Node<'_>, at: Timestamp) -> Attributes {
        let kind: NewKind<'_> = node.kind.into();
        Attributes {
            oid: self.oid,
            kind: kind.kind(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: if kind.kind().is_directory() { 2 } else { 1 },
            size: if let NodeKind::Symlink(target) = node.kind { target.len() as u64 } else { 0 },
            blocks_bytes: 0,
            atime: at,
            mtime: at,
            ctime: at,
            rdev: kind.rdev(),
            generation: self.generation,
        }
    }

    pub(super) fn inode(self, attributes: Attributes, gate: ids::Lsn) -> Inode {
        Inode {
            capability: Some(false),
            access_acl: Some(self.acls.iter().any(|(name, _)| *name == acl::ACCESS)),
            default_acl: Some(self.default_acl),
            blocks_stale: attributes.kind.is_directory(),
            in_base: None,
            ..Inode::new(attributes, gate)
        }
    }
}

/// A directory whose entries changed.
pub(super) fn touched(inode: &mut Inode, nlink: u32, at: Timestamp) {
    inode.attributes.nlink = nlink;
    inode.attributes.mtime = at;
    inode.attributes.ctime = at;
}

/// An object whose names changed.
pub(super) fn relinked(inode: &mut Inode, nlink: u32, at: Timestamp) {
    inode.attributes.nlink = nlink;
    inode.attributes.ctime = at;
}
