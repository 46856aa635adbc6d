//! A tree in memory that crashes where a test wants it to, and then keeps any part of what was done.
//!
//! Fault model: after the last barrier or sync every single effect survives or not, independently; one whose
//! ground did not survive (its directory, its inode, a slot that should have been emptied) is lost too. That is
//! harsher than ext4, xfs and btrfs, which keep namespace changes in order. The index survives as of the last
//! sync, so it does not know later inodes, and knows some that are gone.

mod reader;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use ids::{Lsn, Oid};
use parking_lot::Mutex;
use rand::Rng;
use rustix::io::Errno;

use self::state::{Effect, Node, State};
use crate::attributes::{ObjectKind, Timestamp};
use crate::base::{Label, TreeError};
use crate::delta::Birth;
use crate::name::Name;
use crate::tree::{FileWrite, Fill, LocalAttributes, Occupant, Parent, Place, Tree};
use crate::view::LogBytes;

const ROOT: u64 = 1;
const STAGING: u64 = 2;
const ORPHANS: u64 = 3;

struct Sim {
    now: State,
    durable: State,
    since: Vec<Effect>,
    next_inode: u64,
    /// Effects until the crash.
    fuse: Option<usize>,
}

/// See the module.
pub(crate) struct SimTree {
    sim: Mutex<Sim>,
    log: Arc<dyn LogBytes>,
}

impl SimTree {
    /// An empty volume whose root is like that of the oracle's model.
    pub(crate) fn new(log: Arc<dyn LogBytes>) -> SimTree {
        let mut root = Node::new(ObjectKind::Directory);
        (root.mode, root.atime, root.mtime) = (0o755, Timestamp::default(), Timestamp::default());
        let ctime = Timestamp::default();
        root.label =
            Some(Label { oid: Oid::ROOT, generation: 0, nlink: 2, mode: 0o755, ctime, last_lsn: Lsn::ZERO });
        let hidden = || Node::new(ObjectKind::Directory);
        let nodes = BTreeMap::from([(ROOT, root), (STAGING, hidden()), (ORPHANS, hidden())]);
        let now = State { nodes, index: BTreeMap::from([(Oid::ROOT, ROOT)]) };
        let sim = Sim { durable: now.clone(), now, since: Vec::new(), next_inode: 100, fuse: None };
        SimTree { sim: Mutex::new(sim), log }
    }

    pub(crate) fn sync(&self) {
        let sim = &mut *self.sim.lock();
        sim.durable = sim.now.clone();
        sim.since.clear();
    }

    /// Everything after `effects` more effects fails.
    pub(crate) fn crash_after(&self, effects: usize) {
        self.sim.lock().fuse = Some(effects);
    }

    /// Effects since the last sync.
    pub(crate) fn effects(&self) -> usize {
        self.sim.lock().since.len()
    }

    /// What a restart finds when each effect survived with this probability.
    pub(crate) fn restart(&self, rng: &mut impl Rng, survival: f64) {
        let sim = &mut *self.sim.lock();
        let mut state = sim.durable.clone();
        for effect in sim.since.drain(..) {
            if rng.random_bool(survival) {
                // An effect whose ground was lost is lost.
                let _ = state.perform(&effect);
            }
        }
        state.collect_garbage();
        sim.now = state.clone();
        sim.durable = state;
        sim.fuse = None;
    }

    /// Finds every labelled object again, as a walk over a real tree does.
    pub(crate) fn reindex(&self) {
        let state = &mut self.sim.lock().now;
        let found = state.nodes.iter().filter_map(|(inode, node)| Some((node.label?.oid, *inode)));
        state.index = found.collect();
    }

    /// Whether nothing waits in staging.
    pub(crate) fn staging_is_empty(&self) -> bool {
        self.sim.lock().now.nodes[&STAGING].children.is_empty()
    }

    /// Every inode that has a name, with its OID.
    pub(crate) fn oids(&self) -> Vec<Option<Oid>> {
        let sim = self.sim.lock();
        let hidden = [STAGING, ORPHANS];
        let shown = sim.now.nodes.iter().filter(|(inode, _)| !hidden.contains(inode));
        shown.map(|(_, node)| node.label.map(|label| label.oid)).collect()
    }

    fn read<T>(
        &self,
        at: impl ToString,
        act: impl FnOnce(&mut State) -> Result<T, Errno>,
    ) -> Result<T, TreeError> {
        act(&mut self.sim.lock().now).map_err(TreeError::at("read", at.to_string()))
    }

    fn perform(
        &self,
        at: impl ToString,
        decide: impl FnOnce(&State, &mut u64) -> Result<Vec<Effect>, Errno>,
    ) -> Result<(), TreeError> {
        let sim = &mut *self.sim.lock();
        let effects =
            decide(&sim.now, &mut sim.next_inode).map_err(TreeError::at("decide", at.to_string()))?;
        for effect in effects {
            match &mut sim.fuse {
                Some(0) => return Err(TreeError::at("go on after the crash at", at.to_string())(Errno::IO)),
                Some(left) => *left -= 1,
                None => {}
            }
            sim.now.perform(&effect).map_err(TreeError::at("perform", format!("{effect:?}")))?;
            sim.since.push(effect);
        }
        Ok(())
    }

    fn on(&self, oid: Oid, effects: impl FnOnce(u64) -> Vec<Effect>) -> Result<(), TreeError> {
        self.perform(oid, |state, _| Ok(effects(state.find(oid).ok_or(Errno::NOENT)?)))
    }
}

fn directory(state: &State, parent: &Parent) -> Result<u64, Errno> {
    match parent {
        Parent::Object(oid) => state.find(*oid).ok_or(Errno::NOENT),
        Parent::Staging => Ok(STAGING),
        Parent::Orphans => Ok(ORPHANS),
        Parent::Staged(name) => state.nodes[&STAGING].children.get(name).copied().ok_or(Errno::NOENT),
    }
}

fn standing(state: &State, at: &Place) -> Result<u64, Errno> {
    let dir = directory(state, &at.parent)?;
    state.nodes[&dir].children.get(&at.name).copied().ok_or(Errno::NOENT)
}

fn occupant(state: &State, inode: u64) -> Occupant {
    let node = &state.nodes[&inode];
    Occupant { inode, kind: node.kind, label: node.label, local_nlink: state.names(inode) }
}

impl Tree for SimTree {
    fn occupant(&self, at: &Place) -> Result<Option<Occupant>, TreeError> {
        self.read(at, |state| Ok(standing(state, at).ok().map(|inode| occupant(state, inode))))
    }
    fn list(&self, parent: &Parent) -> Result<Vec<Name>, TreeError> {
        self.read(format!("{parent:?}"), |state| {
            let dir = directory(state, parent)?;
            Ok(state.children(dir)?.keys().cloned().collect())
        })
    }
    fn find(&self, oid: Oid) -> Result<Option<Occupant>, TreeError> {
        self.read(oid, |state| Ok(state.find(oid).map(|inode| occupant(state, inode))))
    }
    fn bind(&self, oid: Oid, at: &Place) -> Result<(), TreeError> {
        self.read(at, |state| {
            let inode = standing(state, at)?;
            state.index.insert(oid, inode);
            Ok(())
        })
    }
    fn forget(&self, oid: Oid) -> Result<(), TreeError> {
        self.read(oid, |state| {
            state.index.remove(&oid);
            Ok(())
        })
    }
    fn create(&self, at: &Place, birth: &Birth, label: &Label) -> Result<(), TreeError> {
        let (oid, label) = (label.oid, *label);
        self.perform(at, |state, next_inode| {
            *next_inode += 1;
            let inode = *next_inode;
            let mut node = Box::new(Node::new(birth.kind));
            (node.target, node.rdev) = (birth.target.to_vec(), birth.rdev);
            // As a default ACL of the parent would do it.
            node.xattrs.insert(b"user.inherited".to_vec(), b"x".to_vec());
            let dir = directory(state, &at.parent)?;
            let create = Effect::Create { dir, name: at.name.clone(), inode, node };
            Ok(vec![create, Effect::Label { inode, label }])
        })?;
        self.bind(oid, at)
    }
    fn adopt(&self, at: &Place, label: &Label) -> Result<(), TreeError> {
        let label = *label;
        self.perform(at, |state, _| Ok(vec![Effect::Label { inode: standing(state, at)?, label }]))?;
        self.bind(label.oid, at)
    }
    fn rename(&self, from: &Place, to: &Place) -> Result<(), TreeError> {
        self.perform(format!("{from} to {to}"), |state, _| {
            let inode = standing(state, from)?;
            let place = |at: &Place| Ok((directory(state, &at.parent)?, at.name.clone()));
            Ok(vec![Effect::Rename { from: place(from)?, to: place(to)?, inode }])
        })
    }
    fn link(&self, oid: Oid, to: &Place) -> Result<(), TreeError> {
        self.perform(to, |state, _| {
            let (dir, inode) = (directory(state, &to.parent)?, state.find(oid).ok_or(Errno::NOENT)?);
            Ok(vec![Effect::Link { dir, name: to.name.clone(), inode }])
        })
    }
    fn stage_directory(&self, oid: Oid) -> Result<(), TreeError> {
        self.perform(oid, |state, _| {
            let inode = state.find(oid).ok_or(Errno::NOENT)?;
            let from = state.parent(inode).ok_or(Errno::NOENT)?;
            Ok(vec![Effect::Rename { from, to: (STAGING, Place::staged(oid).name), inode }])
        })
    }
    fn remove(&self, at: &Place, _: ObjectKind) -> Result<(), TreeError> {
        self.perform(at, |state, _| {
            let Ok(inode) = standing(state, at) else { return Ok(Vec::new()) };
            let dir = directory(state, &at.parent)?;
            Ok(vec![Effect::Remove { dir, name: at.name.clone(), inode }])
        })
    }
    fn barrier(&self) -> Result<(), TreeError> {
        let sim = &mut *self.sim.lock();
        let index = sim.durable.index.clone();
        sim.durable = State { index, ..sim.now.clone() };
        sim.since.clear();
        Ok(())
    }
    fn attributes(&self, oid: Oid) -> Result<LocalAttributes, TreeError> {
        self.read(oid, |state| {
            let inode = state.find(oid).ok_or(Errno::NOENT)?;
            let node = state.node(inode)?;
            Ok(LocalAttributes {
                kind: node.kind,
                size: node.content.len() as u64,
                uid: node.owner.0,
                gid: node.owner.1,
                label: node.label.ok_or(Errno::IO)?,
            })
        })
    }
    fn truncate(&self, oid: Oid, size: u64) -> Result<(), TreeError> {
        self.on(oid, |inode| vec![Effect::Truncate { inode, size }])
    }
    fn fill(&self, oid: Oid, offset: u64, len_bytes: u64, fill: Fill) -> Result<(), TreeError> {
        let size = Tree::attributes(self, oid)?.size;
        let end = offset.saturating_add(len_bytes).min(size);
        match fill {
            Fill::Hole | Fill::Zero if offset < end => {
                let bytes = vec![0; (end - offset) as usize];
                self.on(oid, |inode| vec![Effect::Write { inode, offset, bytes }])
            }
            _ => Ok(()),
        }
    }
    fn write(&self, oid: Oid, writes: &[FileWrite]) -> Result<(), TreeError> {
        let bytes = |write: &FileWrite| {
            let mut bytes = vec![0; write.len_bytes as usize];
            self.log.copy_out(write.from, &mut bytes).expect("the log holds what the Delta points to");
            bytes
        };
        let effect =
            |inode, write: &FileWrite| Effect::Write { inode, offset: write.offset, bytes: bytes(write) };
        self.on(oid, |inode| writes.iter().map(|write| effect(inode, write)).collect())
    }
    fn xattr_names(&self, oid: Oid) -> Result<Vec<Vec<u8>>, TreeError> {
        self.read(oid, |state| {
            let inode = state.find(oid).ok_or(Errno::NOENT)?;
            Ok(state.node(inode)?.xattrs.keys().cloned().collect())
        })
    }
    fn set_xattr(&self, oid: Oid, name: &[u8], value: &[u8]) -> Result<(), TreeError> {
        let (name, value) = (name.to_vec(), Some(value.to_vec()));
        self.on(oid, |inode| vec![Effect::Xattr { inode, name, value }])
    }
    fn remove_xattr(&self, oid: Oid, name: &[u8]) -> Result<(), TreeError> {
        self.on(oid, |inode| vec![Effect::Xattr { inode, name: name.to_vec(), value: None }])
    }
    fn set_owner(&self, oid: Oid, uid: u32, gid: u32) -> Result<(), TreeError> {
        self.on(oid, |inode| vec![Effect::Owner { inode, owner: (uid, gid) }])
    }
    fn set_mode(&self, oid: Oid, mode: u32) -> Result<(), TreeError> {
        self.on(oid, |inode| vec![Effect::Mode { inode, mode }])
    }
    fn set_times(
        &self,
        oid: Oid,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> Result<(), TreeError> {
        self.on(oid, |inode| vec![Effect::Times { inode, atime, mtime }])
    }
    fn set_label(&self, oid: Oid, label: &Label) -> Result<(), TreeError> {
        self.on(oid, |inode| vec![Effect::Label { inode, label: *label }])
    }
}

impl crate::resync::site::Site for SimTree {
    fn reader(&self) -> &dyn crate::view::BaseReader {
        self
    }
    fn known(&self, from: Oid, max: usize) -> Result<Vec<Oid>, crate::resync::ResyncError> {
        Ok(self.sim.lock().now.index.range(from..).take(max).map(|(oid, _)| *oid).collect())
    }
    fn renumber(&self, from: Oid, to: Oid) -> Result<(), TreeError> {
        let label = Tree::attributes(self, from)?.label;
        self.set_label(from, &Label { oid: to, ..label })?;
        self.read(from, |state| {
            let inode = state.index.remove(&from).ok_or(Errno::NOENT)?;
            state.index.insert(to, inode);
            Ok(())
        })
    }
    fn write_bytes(&self, oid: Oid, offset: u64, bytes: &[u8]) -> Result<(), TreeError> {
        let bytes = bytes.to_vec();
        self.on(oid, |inode| vec![Effect::Write { inode, offset, bytes }])
    }
}
