//! What the volume remembers beside the layers: attributes of objects in use, who is open, what is gone.
//!
//! Invariant: a cached [`Inode`] equals what the layers say, because every change goes through a transaction
//! that changes both under one lock. So the path of a write makes no system call, however often the Delta is
//! sealed in between. What can go wrong: a change that bypasses the volume; nothing may (a node that stops
//! being primary drops its `Volume` with all this).

use super::acl::Acl;
use super::data::Access;
use apply_engine::{Attributes, Layers, OidMap};
use ids::{Lsn, Oid};
use std::sync::Arc;

/// Cached inodes; beyond it the cache starts anew.
const MAX_INODES: usize = 1 << 17;
/// Memory for default ACLs; beyond it they are forgotten.
const MAX_ACL_BYTES: usize = 16 << 20;
/// Dead objects whose last attributes are kept for a kernel that still refers to them.
const MAX_GHOSTS: usize = 1 << 14;

/// What the base says of an object, at a version of the base.
pub(super) type InBase = (u64, Box<Attributes>);

/// What is known of one object.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    /// As the layers say, but for `blocks_bytes` once `blocks_stale`.
    pub attributes: Attributes,
    /// Whoever shows this object waits until everything before is committed.
    pub gate: Lsn,
    /// The block count has to be asked for again.
    pub blocks_stale: bool,
    /// So that its blocks are counted without a disk.
    pub in_base: Option<InBase>,
    /// Its mtime was set while somebody had it open for writing, and the contents were not changed since but by what a
    /// kernel may have gathered before.
    pub keeps_mtime: bool,
    /// Does it have file capabilities? `None`: not looked yet.
    pub capability: Option<bool>,
    /// Does it have an access ACL? `None`: not looked yet.
    pub access_acl: Option<bool>,
    /// A directory's default ACL, shared with the directories that inherited it. Outer `None`: not looked yet. Changed by
    /// [`State::know_default_acl`].
    pub default_acl: Option<Option<Arc<Acl>>>,
}

impl Inode {
    pub fn new(attributes: Attributes, gate: Lsn) -> Inode {
        Inode {
            attributes,
            gate,
            blocks_stale: false,
            in_base: None,
            keeps_mtime: false,
            capability: None,
            access_acl: None,
            default_acl: None,
        }
    }
}

/// How often an object is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Opens {
    /// In all.
    pub all: u32,
    /// For writing.
    pub writers: u32,
}

impl Opens {
    pub fn add(&mut self, access: Access) {
        self.all += 1;
        self.writers += u32::from(access == Access::Write);
    }

    /// One less; what is left.
    pub fn remove(&mut self, access: Access) -> Opens {
        self.all = self.all.saturating_sub(1);
        self.writers = self.writers.saturating_sub(u32::from(access == Access::Write));
        *self
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub inodes: OidMap<Inode>,
    /// What their default ACLs take at most.
    acl_bytes: usize,
    /// How often each object is open.
    pub opens: OidMap<Opens>,
    /// Last attributes of objects that are gone and that a kernel may still ask for (a shell's working
    /// directory).
    pub ghosts: OidMap<Attributes>,
    /// The next object's.
    pub next_oid: Oid,
    /// End of the last record of this volume.
    pub end: Lsn,
    /// How often a directory was moved to another one.
    pub moves: u64,
    /// How often all inodes were forgotten.
    pub forgotten: u64,
}

impl State {
    pub fn new(next_oid: Oid, end: Lsn) -> State {
        State {
            inodes: OidMap::default(),
            acl_bytes: 0,
            opens: OidMap::default(),
            ghosts: OidMap::default(),
            next_oid,
            end,
            moves: 0,
            forgotten: 0,
        }
    }

    pub fn remember(&mut self, inode: Inode) -> &mut Inode {
        if self.inodes.len() >= MAX_INODES {
            self.inodes.clear();
            self.acl_bytes = 0;
            self.forgotten += 1;
        }
        match self.inodes.entry(inode.attributes.oid) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                known.insert(inode);
                known.into_mut()
            }
            std::collections::hash_map::Entry::Vacant(free) => free.insert(inode),
        }
    }

    /// Notes a directory's default ACL, which is its own: it does not share it with the directory above it.
    pub fn know_default_acl(&mut self, oid: Oid, acl: Option<Arc<Acl>>) {
        let bytes = acl.as_ref().map_or(0, |acl| acl.memory_bytes());
        if self.acl_bytes + bytes > MAX_ACL_BYTES {
            self.inodes.values_mut().for_each(|inode| inode.default_acl = None);
            self.acl_bytes = 0;
        }
        if let Some(inode) = self.inodes.get_mut(&oid) {
            inode.default_acl = Some(acl);
            self.acl_bytes += bytes;
        }
    }

    pub fn is_open(&self, oid: Oid) -> bool {
        self.opens.contains_key(&oid)
    }

    /// Could its contents change where only an opener's kernel knows it?
    pub fn is_open_for_writing(&self, oid: Oid) -> bool {
        self.opens.get(&oid).is_some_and(|opens| opens.writers > 0)
    }

    /// The object is gone for good.
    pub fn bury(&mut self, oid: Oid) {
        if let Some(inode) = self.inodes.remove(&oid) {
            if self.ghosts.len() >= MAX_GHOSTS {
                self.ghosts.clear();
            }
            self.ghosts.insert(oid, Attributes { nlink: 0, ..inode.attributes });
        }
    }
}

/// What has to be committed before `oid` may be shown, as the layers know it.
pub(super) fn gate_of(layers: &Layers, oid: Oid) -> Lsn {
    let after = |lsn: Lsn| lsn.plus(1);
    if let Some(object) = layers.active.read().object(oid) {
        return after(object.last_lsn);
    }
    layers.sealed.iter().rev().find_map(|delta| delta.object(oid)).map_or(Lsn::ZERO, |o| after(o.last_lsn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use apply_engine::{ObjectKind, Timestamp};
    use std::collections::HashMap;

    fn directory(oid: Oid) -> Inode {
        let zero = Timestamp::default();
        let attributes = Attributes {
            oid,
            kind: ObjectKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            size: 0,
            blocks_bytes: 0,
            atime: zero,
            mtime: zero,
            ctime: zero,
            rdev: 0,
            generation: 1,
        };
        Inode::new(attributes, Lsn::ZERO)
    }

    fn kept_bytes(state: &State) -> usize {
        let acls = state.inodes.values().filter_map(|inode| inode.default_acl.as_ref()?.as_ref());
        let each: HashMap<_, _> = acls.map(|acl| (Arc::as_ptr(acl), acl.memory_bytes())).collect();
        each.values().sum()
    }

    #[test]
    fn default_acls_take_no_more_memory_than_they_may() {
        let mut state = State::new(Oid::FIRST_FREE, Lsn::ZERO);
        let acl = crate::acl::with_users(4000);
        let (mut most_bytes, count) = (0, 3 * MAX_ACL_BYTES / acl.memory_bytes());
        for oid in (0..count as u64).map(|number| Oid(Oid::FIRST_FREE.0 + number)) {
            state.remember(directory(oid));
            state.know_default_acl(oid, Some(Arc::new(acl.clone())));
            assert!(state.inodes[&oid].default_acl.is_some(), "what was noted last is known");
            most_bytes = most_bytes.max(kept_bytes(&state));
        }
        assert!((MAX_ACL_BYTES / 2..=MAX_ACL_BYTES).contains(&most_bytes), "{most_bytes}");
        state.inodes.values_mut().for_each(|inode| assert_ne!(inode.default_acl, Some(None)));
    }
}
