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

/// Cached inodes; beyond it the cache starts anew.
const MAX_INODES: usize = 1 << 17;
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
    /// A directory's default ACL. Outer `None`: not looked yet.
    pub default_acl: Option<Option<Acl>>,
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
