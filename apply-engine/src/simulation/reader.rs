//! The simulated tree as merged reads see it.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use ids::{Lsn, Oid};

use super::state::{Node, State};
use super::{ORPHANS, SimDisk};
use crate::attributes::{Attributes, ObjectKind, Timestamp};
use crate::base::Label;
use crate::delta::Target;
use crate::name::{Name, NameRef};
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
            let label = node.label?;
            let (content, target, xattrs) = (node.content.clone(), node.target.clone(), node.xattrs.clone());
            let entries = node.children.iter().map(entry).collect();
            let (kind, rdev, mode, owner) = (node.kind, node.rdev, node.mode, node.owner);
            let times = (node.atime, node.mtime);
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
            let node = &state.nodes[dir.children.get(name.as_bytes())?];
            Some(Target { oid: node.label?.oid, kind: node.kind })
        })
    }
    fn attributes(&self, oid: Oid) -> io::Result<Attributes> {
        self.shown(oid, |_, node| {
            let label = node.label.expect("find() has seen it");
            Attributes {
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
            }
        })
    }
    fn parent(&self, directory: Oid) -> io::Result<Oid> {
        if directory == Oid::ROOT {
            return Ok(directory);
        }
        self.shown(directory, |state, _| {
            let (above, _) = state.parent(state.find(directory)?)?;
            Some(state.nodes[&above].label?.oid)
        })?
        .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn read_at(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.shown(oid, |_, node| {
            let rest = node.content.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            len
        })
    }
    fn readdir(
        &self,
        directory: Oid,
        visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.shown(directory, |state, dir| {
            for (name, inode) in &dir.children {
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
        self.shown(oid, |_, node| node.xattrs.get(name).cloned())
    }
    fn xattr_names(&self, oid: Oid) -> io::Result<Vec<Vec<u8>>> {
        self.shown(oid, |_, node| node.xattrs.keys().cloned().collect())
    }
    fn seek_data(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        self.shown(oid, |_, node| (offset < node.content.len() as u64).then_some(offset))
    }
    fn seek_hole(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        self.shown(oid, |_, node| Some(node.content.len() as u64).filter(|end| offset < *end))
    }
    fn orphans(&self) -> io::Result<Vec<Oid>> {
        Ok(self.0.sim.lock().now.nodes[&ORPHANS].children.keys().filter_map(oid_of_name).collect())
    }
}
