//! The simulated tree as merged reads see it.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use ids::{Lsn, Oid};

use super::state::{Node, State};
use super::{ORPHANS, REFUSED, SimDisk};
use crate::attributes::{Attributes, ObjectKind, Timestamp};
use crate::base::Label;
use crate::delta::Target;
use crate::name::{Name, NameRef};
use crate::remainder::holders::Holder;
use crate::resync::INCOMPLETE;
use crate::tree::oid_of_name;
use crate::view::{BaseEntry, BaseReader};

impl SimDisk {
    fn shown<T>(&self, oid: Oid, act: impl FnOnce(&State, &Node) -> T) -> io::Result<T> {
        let state = &self.0.sim.lock().now;
        let inode = state.find(oid).ok_or(io::ErrorKind::NotFound)?;
        Ok(act(state, &state.nodes[&inode]))
    }
}

/// One object as two nodes must agree on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Its label.
    pub label: Label,
    /// What it is.
    pub kind: ObjectKind,
    /// Of a file.
    pub content: Arc<Vec<u8>>,
    /// Of a symbolic link.
    pub target: Vec<u8>,
    /// Of a device.
    pub rdev: u64,
    /// By full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Permission bits of the inode.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Last read, last change of contents.
    pub times: (Timestamp, Timestamp),
    /// What a directory holds.
    pub entries: BTreeMap<Name, Option<Oid>>,
}

impl Shown {
    /// Without contents, for people.
    pub fn brief(&self) -> String {
        let Shown { label, kind, content, mode, owner, times, xattrs, entries, .. } = self;
        let len_bytes = content.len();
        format!("{kind:?} {mode:o} {owner:?} {len_bytes} bytes {times:?} {xattrs:?} {entries:?} {label:?}")
    }
}

impl SimDisk {
    /// The last record of which anything is in the tree, as labels tell. `None`: nothing is.
    pub fn newest_change(&self) -> Option<Lsn> {
        let state = &self.0.sim.lock().now;
        let labels = state.nodes.values().filter_map(|node| node.label);
        labels.map(|label| label.last_lsn).filter(|lsn| *lsn != INCOMPLETE).max()
    }

    /// Every labelled object that has a name or is an orphan. Inode numbers are nobody's business.
    pub fn objects(&self) -> BTreeMap<Oid, Shown> {
        let state = &self.0.sim.lock().now;
        let entry = |(name, inode): (&Name, &u64)| {
            (name.clone(), state.nodes.get(inode).and_then(|node| node.label).map(|label| label.oid))
        };
        let shown = |node: &Node| {
            let mut label = node.label?;
            let (mut content, target) = (node.content.clone(), node.target.clone());
            let mut xattrs = node.xattrs.clone();
            let mut entries: BTreeMap<Name, Option<Oid>> = node.children.iter().map(entry).collect();
            let (kind, rdev, mut mode, mut owner) = (node.kind, node.rdev, node.mode, node.owner);
            let mut times = (node.atime, node.mtime);
            entries.extend(state.held_of(label.oid).map(entry));
            if let Some(refused) = self.remainder().object(label.oid) {
                let len_bytes = content.len() as u64;
                let mut whole = vec![0; refused.size.unwrap_or(len_bytes) as usize];
                let read = refused.read(len_bytes, 0, &mut whole, |buf| {
                    let len = buf.len().min(content.len());
                    buf[..len].copy_from_slice(&content[..len]);
                    Ok(len)
                });
                read.expect("memory can be read");
                content = Arc::new(whole);
                for (name, value) in &refused.xattrs {
                    match value {
                        Some(value) => drop(xattrs.insert(name.clone(), value.clone())),
                        None => drop(xattrs.remove(name)),
                    }
                }
                label = refused.label.map_or(label, |kept| kept.over(label));
                (mode, owner) = (refused.mode.unwrap_or(mode), refused.owner.unwrap_or(owner));
                times = (refused.atime.unwrap_or(times.0), refused.mtime.unwrap_or(times.1));
            }
            Some((
                label.oid,
                Shown { label, kind, content, target, rdev, xattrs, mode, owner, times, entries },
            ))
        };
        state.nodes.values().filter_map(shown).collect()
    }
}

impl BaseReader for SimDisk {
    fn lookup(&self, parent: Oid, name: NameRef<'_>) -> io::Result<Option<Target>> {
        self.shown(parent, |state, dir| {
            let labelled = |inode: u64| {
                let node = &state.nodes[&inode];
                Some(Target { oid: node.label?.oid, kind: node.kind })
            };
            let refused = state.held(parent, &name.to_name()).and_then(labelled);
            refused.or_else(|| labelled(*dir.children.get(name.as_bytes())?))
        })
    }
    fn attributes(&self, oid: Oid) -> io::Result<Attributes> {
        self.shown(oid, |_, node| {
            let label = node.label.expect("find() has seen it");
            let mut attributes = Attributes {
                oid,
                kind: node.kind,
                mode: node.mode,
                uid: node.owner.0,
                gid: node.owner.1,
                nlink: label.nlink,
                size: node.content.len().max(node.target.len()) as u64,
                blocks_bytes: 0,
                atime: node.atime,
                mtime: node.mtime,
                ctime: label.ctime,
                rdev: node.rdev,
                generation: label.generation,
            };
            if let Some(refused) = self.remainder().object(oid) {
                refused.patch(&mut attributes);
            }
            attributes
        })
    }
    fn parent(&self, directory: Oid) -> io::Result<Oid> {
        if directory == Oid::ROOT {
            return Ok(directory);
        }
        self.shown(directory, |state, _| {
            let (above, _) = state.parent(state.find(directory)?)?;
            match (state.nodes[&above].label, state.parent(above)) {
                (Some(label), _) => Some(label.oid),
                (None, Some((REFUSED, name))) => Some(Holder::of_name(&name)?.directory),
                (None, _) => None,
            }
        })?
        .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn read_at(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.shown(oid, |_, node| {
            let read = |buf: &mut [u8]| {
                let rest = node.content.get(offset as usize..).unwrap_or_default();
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            };
            match self.remainder().object(oid) {
                None => read(buf),
                Some(refused) => refused.read(node.content.len() as u64, offset, buf, read),
            }
        })?
    }
    fn readdir(
        &self,
        directory: Oid,
        visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.shown(directory, |state, dir| {
            let mut names: BTreeMap<&Name, &u64> = dir.children.iter().collect();
            let labelled = |inode: &u64| state.nodes[inode].label.is_some();
            names.extend(state.held_of(directory).filter(|(_, inode)| labelled(inode)));
            for (name, inode) in names {
                let node = &state.nodes[inode];
                let Some(label) = node.label else { continue };
                if visit(BaseEntry { name: name.as_ref(), oid: label.oid, kind: node.kind }).is_break() {
                    break;
                }
            }
        })
    }
    fn readlink(&self, oid: Oid) -> io::Result<Vec<u8>> {
        self.shown(oid, |_, node| node.target.clone())
    }
    fn xattr(&self, oid: Oid, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let refused = self.remainder().object(oid).and_then(|refused| refused.xattrs.get(name).cloned());
        self.shown(oid, |_, node| refused.unwrap_or_else(|| node.xattrs.get(name).cloned()))
    }
    fn xattr_names(&self, oid: Oid) -> io::Result<Vec<Vec<u8>>> {
        self.shown(oid, |_, node| {
            let mut names = node.xattrs.keys().cloned().collect();
            if let Some(refused) = self.remainder().object(oid) {
                refused.patch_names(&mut names);
            }
            names
        })
    }
    fn seek_data(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        self.shown(oid, |_, node| {
            let len_bytes = node.content.len() as u64;
            let found = (offset < len_bytes).then_some(offset);
            match self.remainder().object(oid) {
                None => found,
                Some(refused) => refused.seek_data(len_bytes, offset, found),
            }
        })
    }
    fn seek_hole(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        self.shown(oid, |_, node| {
            let len_bytes = node.content.len() as u64;
            let find = |offset: u64| Ok(Some(len_bytes).filter(|end| offset < *end));
            match self.remainder().object(oid) {
                None => find(offset),
                Some(refused) => refused.seek_hole(len_bytes, offset, find),
            }
        })?
    }
    fn orphans(&self) -> io::Result<Vec<Oid>> {
        Ok(self.0.sim.lock().now.nodes[&ORPHANS].children.keys().filter_map(oid_of_name).collect())
    }
}
