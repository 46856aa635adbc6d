//! The primitive effects of a consistency point on the simulated disk.

use std::ops::Deref;

use ids::{Lsn, Oid};
use rustix::io::Errno;

use super::state::{Effect, Node, State, holder_name};
use super::{DiskWork, ORPHANS, REFUSED, STAGING, SimDisk};
use crate::attributes::{ObjectKind, Timestamp};
use crate::base::{Label, TreeError};
use crate::delta::Birth;
use crate::name::Name;
use crate::plan::birth_place;
use crate::remainder::Remainder;
use crate::remainder::holders::Holder;
use crate::resync::ResyncError;
use crate::resync::site::Site;
use crate::tree::{FileWrite, Fill, LocalAttributes, Occupant, Parent, Place, Tree};
use crate::view::{BaseReader, LogBytes};

/// A disk, and the log that file contents come from.
pub(crate) struct SimTree<S> {
    disk: SimDisk,
    log: S,
}

impl<S> SimTree<S> {
    pub(super) fn new(disk: SimDisk, log: S) -> SimTree<S> {
        SimTree { disk, log }
    }
}

/// A directory for a new name; one of refused names is told by its number.
type NewDirectory<'a> = (&'a Parent, Option<Holder>);

impl<S> SimTree<S> {
    /// Makes a name, as a real tree does.
    fn place(
        &self,
        to: &Place,
        put: impl Fn(NewDirectory<'_>, &State, &mut u64) -> Result<Vec<Effect>, Errno>,
    ) -> Result<(), TreeError> {
        let put = |held_by: Option<Holder>| {
            let takes = held_by.map_or(usize::MAX, |holder| self.takes_names(holder));
            self.perform(to, |state, next| {
                let holds = held_by.and_then(|holder| state.holder(holder));
                match holds.is_some_and(|inode| state.nodes[&inode].children.len() >= takes) {
                    true => Err(Errno::OVERFLOW),
                    false => put((&to.parent, held_by), state, next),
                }
            })
        };
        let Parent::Refused(directory) = to.parent else { return put(None) };
        let is_empty = |state: &State, holder| {
            state.holder(holder).is_none_or(|inode| state.nodes[&inode].children.is_empty())
        };
        self.remainder().place(
            directory,
            &to.name,
            |error| self.is_refusal(error, 0),
            |holder| self.read(to, |state| Ok(is_empty(state, holder))),
            |holder| put(Some(holder)),
        )
    }
}

impl<S> Deref for SimTree<S> {
    type Target = SimDisk;
    fn deref(&self) -> &SimDisk {
        &self.disk
    }
}

fn directory(state: &State, parent: &Parent) -> Result<u64, Errno> {
    match parent {
        Parent::Object(oid) => state.find(*oid).ok_or(Errno::NOENT),
        Parent::Staging => Ok(STAGING),
        Parent::Orphans => Ok(ORPHANS),
        Parent::Refused(directory) => holder(state, Holder { directory: *directory, number: 0 }),
        Parent::Staged(name) => state.nodes[&STAGING].children.get(name).copied().ok_or(Errno::NOENT),
    }
}

fn holder(state: &State, holder: Holder) -> Result<u64, Errno> {
    state.holder(holder).ok_or(Errno::NOENT)
}

/// For a new name in it: what makes it if need be goes to `effects`.
fn directory_for_new(
    state: &State,
    (parent, held_by): NewDirectory<'_>,
    next_inode: &mut u64,
    effects: &mut Vec<Effect>,
) -> Result<u64, Errno> {
    let Some(held_by) = held_by else { return directory(state, parent) };
    holder(state, held_by).or_else(|_| {
        *next_inode += 1;
        let (node, name) = (Box::new(Node::new(ObjectKind::Directory)), holder_name(held_by));
        effects.push(Effect::Create { dir: REFUSED, name, inode: *next_inode, node });
        Ok(*next_inode)
    })
}

/// Whether a name may be made in a directory of the volume.
fn may_name(disk: &SimDisk, at: &Place) -> Result<(), TreeError> {
    match &at.parent {
        Parent::Object(oid) => disk.refuses("name", *oid, at.name.as_bytes()),
        _ => Ok(()),
    }
}

/// Where a name is, if it is.
fn directory_of(disk: &SimDisk, state: &State, at: &Place) -> Result<u64, Errno> {
    match at.parent {
        Parent::Refused(oid) => holder(state, disk.remainder().holder_of(oid, &at.name)),
        _ => directory(state, &at.parent),
    }
}

fn standing(disk: &SimDisk, state: &State, at: &Place) -> Result<u64, Errno> {
    let dir = directory_of(disk, state, at)?;
    state.nodes[&dir].children.get(&at.name).copied().ok_or(Errno::NOENT)
}

fn occupant(state: &State, inode: u64) -> Occupant {
    let node = &state.nodes[&inode];
    Occupant { inode, kind: node.kind, label: node.label, local_nlink: state.names(inode), fresh: true }
}

impl<S: LogBytes> Tree for SimTree<S> {
    fn occupant(&self, at: &Place) -> Result<Option<Occupant>, TreeError> {
        self.read(at, |state| Ok(standing(self, state, at).ok().map(|inode| occupant(state, inode))))
    }
    fn list_some(&self, parent: &Parent, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Vec<Name>, TreeError> {
        self.read(format!("{parent:?}"), |state| {
            if let Parent::Refused(directory) = parent {
                let names = state.held_of(*directory).map(|(name, _)| name);
                return Ok(names.filter(|name| wanted(name.as_bytes())).cloned().collect());
            }
            let dir = directory(state, parent)?;
            Ok(state.children(dir)?.keys().filter(|name| wanted(name.as_bytes())).cloned().collect())
        })
    }
    fn find(&self, oid: Oid) -> Result<Option<Occupant>, TreeError> {
        let found = self.read(oid, |state| Ok(state.find(oid).map(|inode| occupant(state, inode))))?;
        let whole =
            |found: Occupant| Occupant { label: found.label.map(|label| self.whole_label(label)), ..found };
        Ok(found.map(whole))
    }
    fn bind(&self, oid: Oid, at: &Place) -> Result<(), TreeError> {
        self.read(at, |state| {
            let inode = standing(self, state, at)?;
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
        may_name(self, at)?;
        // As the real one does where there may be no room for the name.
        let staged = at.parent != Parent::Staging && self.refuses("make", oid, at.name.as_bytes()).is_err();
        let staged = staged.then(|| birth_place(oid).name);
        self.place(at, |to, state, next_inode| {
            let mut effects = Vec::new();
            let dir = directory_for_new(state, to, next_inode, &mut effects)?;
            *next_inode += 1;
            let inode = *next_inode;
            let mut node = Box::new(Node::new(birth.kind));
            (node.target, node.rdev) = (birth.target.to_vec(), birth.rdev);
            // As a default ACL of the parent would do it.
            node.xattrs.insert(b"user.inherited".to_vec(), b"x".to_vec());
            let Some(staged) = &staged else {
                effects.push(Effect::Create { dir, name: at.name.clone(), inode, node });
                effects.push(Effect::Label { inode, label });
                return Ok(effects);
            };
            let there = state.nodes[&STAGING].children.get(staged);
            effects.extend(there.map(|inode| Effect::Remove {
                dir: STAGING,
                name: staged.clone(),
                inode: *inode,
            }));
            effects.push(Effect::Create { dir: STAGING, name: staged.clone(), inode, node });
            effects.push(Effect::Label { inode, label });
            let (from, to) = ((STAGING, staged.clone()), (dir, at.name.clone()));
            effects.push(Effect::Rename { from, to, inode });
            Ok(effects)
        })?;
        self.bind(oid, at)
    }
    fn adopt(&self, at: &Place, label: &Label) -> Result<(), TreeError> {
        let label = *label;
        self.perform(at, |state, _| Ok(vec![Effect::Label { inode: standing(self, state, at)?, label }]))?;
        self.bind(label.oid, at)
    }
    fn rename(&self, from: &Place, to: &Place) -> Result<(), TreeError> {
        may_name(self, to)?;
        // Before the place of either name may be told anew.
        let (old, inode) = self.read(format!("{from} to {to}"), |state| {
            Ok((directory_of(self, state, from)?, standing(self, state, from)?))
        })?;
        self.place(to, |new, state, next_inode| {
            let mut effects = Vec::new();
            let from = (old, from.name.clone());
            let to = (directory_for_new(state, new, next_inode, &mut effects)?, to.name.clone());
            effects.push(Effect::Rename { from, to, inode });
            Ok(effects)
        })
    }
    fn link(&self, oid: Oid, to: &Place) -> Result<(), TreeError> {
        may_name(self, to)?;
        self.place(to, |new, state, next_inode| {
            let mut effects = Vec::new();
            let inode = state.find(oid).ok_or(Errno::NOENT)?;
            let dir = directory_for_new(state, new, next_inode, &mut effects)?;
            effects.push(Effect::Link { dir, name: to.name.clone(), inode });
            Ok(effects)
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
            let Ok(inode) = standing(self, state, at) else { return Ok(Vec::new()) };
            let dir = directory_of(self, state, at)?;
            Ok(vec![Effect::Remove { dir, name: at.name.clone(), inode }])
        })
    }
    fn barrier(&self) -> Result<(), TreeError> {
        self.wait(DiskWork::Flush { effects: self.effects() });
        let sim = &mut *self.0.sim.lock();
        sim.check("flush")?;
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
                // What is set aside is not simulated: there may always be some.
                has_blocks: true,
                uid: node.owner.0,
                gid: node.owner.1,
                atime: node.atime,
                mtime: node.mtime,
                label: self.whole_label(node.label.ok_or(Errno::IO)?),
            })
        })
    }
    fn truncate(&self, oid: Oid, size: u64) -> Result<(), TreeError> {
        self.refuses("truncate", oid, &[])?;
        self.on(oid, |inode| vec![Effect::Truncate { inode, size }])
    }
    fn fill(&self, oid: Oid, offset: u64, len_bytes: u64, fill: Fill) -> Result<(), TreeError> {
        self.refuses("fill", oid, &[])?;
        let size = Tree::attributes(self, oid)?.size;
        let end = offset.saturating_add(len_bytes).min(size);
        // No byte changes in blocks that are only reserved, but capabilities go.
        let (offset, len) = match fill {
            Fill::Hole | Fill::Zero if offset < end => (offset, (end - offset) as usize),
            _ => (0, 0),
        };
        self.on(oid, |inode| vec![Effect::Write { inode, offset, bytes: vec![0; len] }])
    }
    fn write(&self, oid: Oid, writes: &[FileWrite]) -> Result<(), TreeError> {
        for write in writes {
            self.refuses("write", oid, &(write.offset >> 12).to_le_bytes())?;
        }
        self.perform(oid, |state, _| {
            let inode = state.find(oid).ok_or(Errno::NOENT)?;
            let effect = |write: &FileWrite| {
                let mut bytes = vec![0; write.len_bytes as usize];
                self.log.copy_out(write.from, &mut bytes).map_err(|_| Errno::STALE)?;
                Ok(Effect::Write { inode, offset: write.offset, bytes })
            };
            writes.iter().map(effect).collect()
        })
    }
    fn xattr_names(&self, oid: Oid) -> Result<Vec<Vec<u8>>, TreeError> {
        self.read(oid, |state| {
            let inode = state.find(oid).ok_or(Errno::NOENT)?;
            Ok(state.node(inode)?.xattrs.keys().cloned().collect())
        })
    }
    fn xattr(&self, oid: Oid, name: &[u8]) -> Result<Option<Vec<u8>>, TreeError> {
        self.read(oid, |state| {
            let inode = state.find(oid).ok_or(Errno::NOENT)?;
            Ok(state.node(inode)?.xattrs.get(name).cloned())
        })
    }
    fn set_xattr(&self, oid: Oid, name: &[u8], value: &[u8]) -> Result<(), TreeError> {
        self.refuses("set an xattr", oid, name)?;
        let (name, value) = (name.to_vec(), Some(value.to_vec()));
        self.on(oid, |inode| vec![Effect::Xattr { inode, name, value }])
    }
    fn remove_xattr(&self, oid: Oid, name: &[u8]) -> Result<(), TreeError> {
        self.refuses("remove an xattr", oid, name)?;
        self.on(oid, |inode| vec![Effect::Xattr { inode, name: name.to_vec(), value: None }])
    }
    fn set_owner(&self, oid: Oid, uid: u32, gid: u32) -> Result<(), TreeError> {
        self.refuses("owner", oid, &[])?;
        self.on(oid, |inode| vec![Effect::Owner { inode, owner: (uid, gid) }])
    }
    fn set_mode(&self, oid: Oid, mode: u32) -> Result<(), TreeError> {
        self.refuses("mode", oid, &[])?;
        self.on(oid, |inode| vec![Effect::Mode { inode, mode }])
    }
    fn set_times(
        &self,
        oid: Oid,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> Result<(), TreeError> {
        self.refuses("times", oid, &[])?;
        self.on(oid, |inode| vec![Effect::Times { inode, atime, mtime }])
    }
    fn set_label(&self, oid: Oid, label: &Label) -> Result<(), TreeError> {
        self.refuses("label", oid, &[])?;
        self.on(oid, |inode| vec![Effect::Label { inode, label: *label }])
    }
    fn log_bytes(&self, from: Lsn, len_bytes: usize) -> Result<Vec<u8>, TreeError> {
        let mut bytes = vec![0; len_bytes];
        let copied = self.log.copy_out(from, &mut bytes);
        copied.map_err(|_| TreeError::at("read the log at", from)(Errno::STALE))?;
        Ok(bytes)
    }
    fn remainder(&self) -> &Remainder {
        self.disk.remainder()
    }
    fn is_refusal(&self, error: &TreeError, needs_bytes: u64) -> bool {
        self.disk.is_refusal(error, needs_bytes)
    }
    fn prune_refused(&self) -> Result<(), TreeError> {
        let names = self.read("the refused names", |state| Ok(state.refused_names()))?;
        for directory in self.remainder().directories() {
            self.remainder().names_are(directory, names.get(&directory).cloned().unwrap_or_default());
        }
        self.perform("what held refused names", |state, _| {
            let holders = state.nodes[&REFUSED].children.iter();
            let empty = holders.filter(|(_, inode)| state.nodes[inode].children.is_empty());
            let remove = |(name, inode): (&Name, &u64)| Effect::Remove {
                dir: REFUSED,
                name: name.clone(),
                inode: *inode,
            };
            Ok(empty.map(remove).collect())
        })
    }
    fn write_bytes(&self, oid: Oid, offset: u64, bytes: &[u8]) -> Result<(), TreeError> {
        self.refuses("write", oid, &(offset >> 12).to_le_bytes())?;
        let bytes = bytes.to_vec();
        self.on(oid, |inode| vec![Effect::Write { inode, offset, bytes }])
    }
}

impl<S: LogBytes> Site for SimTree<S> {
    fn reader(&self) -> &dyn BaseReader {
        &self.disk
    }
    fn known(&self, from: Oid, max: usize) -> Result<Vec<Oid>, ResyncError> {
        Ok(self.0.sim.lock().now.index.range(from..).take(max).map(|(oid, _)| *oid).collect())
    }
    fn move_refused(&self, from: Oid, to: Oid) -> Result<(), TreeError> {
        self.perform(from, |state, _| {
            let slot = |holder| (REFUSED, holder_name(holder));
            let mut effects = Vec::new();
            for (old, inode) in state.holders().filter(|(holder, _)| holder.directory == from) {
                let new = Holder { directory: to, ..old };
                // As rename(2) does with an empty directory.
                let empty = state.holder(new).filter(|inode| state.nodes[inode].children.is_empty());
                let (dir, name) = slot(new);
                effects.extend(empty.map(|inode| Effect::Remove { dir, name, inode }));
                effects.push(Effect::Rename { from: slot(old), to: slot(new), inode });
            }
            Ok(effects)
        })?;
        for old in self.remainder().holders(from).rev() {
            self.remainder().move_holder(old, Holder { directory: to, ..old });
        }
        Ok(())
    }
    fn renumber(&self, from: Oid, to: Oid) -> Result<(), TreeError> {
        let label = Tree::attributes(self, from)?.label;
        self.on(from, |inode| vec![Effect::Label { inode, label: Label { oid: to, ..label } }])?;
        self.read(from, |state| {
            let inode = state.index.remove(&from).ok_or(Errno::NOENT)?;
            state.index.insert(to, inode);
            Ok(())
        })
    }
}
