//! A plain in-memory filesystem. One obvious statement per effect of an operation, no layers, no extents.

use crate::attributes::{Attributes, ObjectKind, Timestamp};
use crate::delta::Target;
use crate::name::{Name, NameRef};
use crate::op::{Displaced, NewKind, NewObject, Operation, Other};
use crate::view::{BaseEntry, BaseReader};
use ids::Oid;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

/// One object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its attributes; the size of a directory is 0 and `blocks_bytes` follows from `content`.
    pub attributes: Attributes,
    /// Contents of a file.
    pub content: Vec<u8>,
    /// For each byte of `content`: written (data), or never written or zeroed since (hole).
    pub written: Vec<bool>,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Xattrs by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Entries of a directory.
    pub entries: BTreeMap<Name, Oid>,
    /// Where a directory is.
    pub parent: Oid,
}

/// A whole filesystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    /// All objects, orphans included.
    pub nodes: BTreeMap<Oid, Node>,
}

impl Default for Model {
    fn default() -> Model {
        Model::new()
    }
}

impl Model {
    /// An empty root directory (mode 755, root's, all times 0).
    pub fn new() -> Model {
        let root = NewObject {
            oid: Oid::ROOT,
            kind: NewKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            generation: 0,
            xattrs: Vec::new(),
        };
        Model { nodes: BTreeMap::from([(Oid::ROOT, new_node(&root, Oid::ROOT, Timestamp::default()))]) }
    }

    /// The object.
    ///
    /// # Panics
    /// When there is none: the sequence of operations was not valid.
    pub fn node(&self, oid: Oid) -> &Node {
        self.nodes.get(&oid).unwrap_or_else(|| panic!("the model holds no {oid}"))
    }

    fn node_mut(&mut self, oid: Oid) -> &mut Node {
        self.nodes.get_mut(&oid).unwrap_or_else(|| panic!("the model holds no {oid}"))
    }

    /// Does what `operation` says; `data` is what a write writes.
    pub fn apply(&mut self, operation: &Operation<'_>, data: &[u8]) {
        match operation {
            Operation::Create { parent, name, object, parent_nlink, at } => {
                self.nodes.insert(object.oid, new_node(object, *parent, *at));
                self.node_mut(*parent).entries.insert(name.to_name(), object.oid);
                self.changed_directory(*parent, Some(*parent_nlink), *at);
            }
            Operation::Link { object, parent, name, at } => {
                self.set_nlink(object, *at);
                self.node_mut(*parent).entries.insert(name.to_name(), object.oid);
                self.changed_directory(*parent, None, *at);
            }
            Operation::Unlink { parent, name, object, reap, parent_nlink, at } => {
                self.node_mut(*parent).entries.remove(name.as_bytes());
                self.lose_name(object, *reap, *at);
                self.changed_directory(*parent, Some(*parent_nlink), *at);
            }
            Operation::Rename { .. } => self.rename(operation),
            Operation::Write { oid, offset, size_after, at, .. } => {
                let node = self.node_mut(*oid);
                resize(node, *size_after);
                let range = *offset as usize..*offset as usize + data.len();
                node.content[range.clone()].copy_from_slice(data);
                node.written[range].fill(true);
                changed_content(node, *at);
            }
            Operation::Truncate { oid, size, at } => {
                resize(self.node_mut(*oid), *size);
                changed_content(self.node_mut(*oid), *at);
            }
            Operation::Allocate { oid, size_after, at, .. } => {
                resize(self.node_mut(*oid), *size_after);
                changed_content(self.node_mut(*oid), *at);
            }
            Operation::PunchHole { oid, offset, len_bytes, size_after, at }
            | Operation::ZeroRange { oid, offset, len_bytes, size_after, at } => {
                let node = self.node_mut(*oid);
                resize(node, *size_after);
                let end = (offset + len_bytes).min(*size_after);
                let range = (*offset).min(end) as usize..end as usize;
                node.content[range.clone()].fill(0);
                node.written[range].fill(false);
                changed_content(node, *at);
            }
            Operation::SetAttr { oid, patch } => self.node_mut(*oid).attributes.apply(patch),
            Operation::SetXattr { oid, name, value, mode, at } => {
                let node = self.node_mut(*oid);
                node.xattrs.insert(name.to_vec(), value.to_vec());
                node.attributes.mode = mode.unwrap_or(node.attributes.mode);
                node.attributes.ctime = *at;
            }
            Operation::RemoveXattr { oid, name, mode, at } => {
                let node = self.node_mut(*oid);
                node.xattrs.remove(*name);
                node.attributes.mode = mode.unwrap_or(node.attributes.mode);
                node.attributes.ctime = *at;
            }
            Operation::Reap { oid } => drop(self.nodes.remove(oid)),
        }
    }

    fn rename(&mut self, operation: &Operation<'_>) {
        let Operation::Rename {
            from_parent,
            from_name,
            to_parent,
            to_name,
            moved,
            displaced,
            whiteout,
            from_parent_nlink,
            to_parent_nlink,
            at,
        } = operation
        else {
            return;
        };
        self.node_mut(*from_parent).entries.remove(from_name.as_bytes());
        self.node_mut(*to_parent).entries.insert(to_name.to_name(), moved.oid);
        self.set_nlink(moved, *at);
        self.node_mut(moved.oid).parent = *to_parent;
        match displaced {
            Displaced::Nothing => {}
            Displaced::Replaced { object, reap } => self.lose_name(object, *reap, *at),
            Displaced::Exchanged(other) => {
                self.node_mut(*from_parent).entries.insert(from_name.to_name(), other.oid);
                self.set_nlink(other, *at);
                self.node_mut(other.oid).parent = *from_parent;
            }
        }
        if let Some(object) = whiteout {
            self.nodes.insert(object.oid, new_node(object, *from_parent, *at));
            self.node_mut(*from_parent).entries.insert(from_name.to_name(), object.oid);
        }
        self.changed_directory(*from_parent, Some(*from_parent_nlink), *at);
        self.changed_directory(*to_parent, Some(*to_parent_nlink), *at);
    }

    fn set_nlink(&mut self, other: &Other, at: Timestamp) {
        let attributes = &mut self.node_mut(other.oid).attributes;
        attributes.nlink = other.nlink;
        attributes.ctime = at;
    }

    fn lose_name(&mut self, other: &Other, reap: bool, at: Timestamp) {
        self.set_nlink(other, at);
        if other.nlink == 0 && reap {
            self.nodes.remove(&other.oid);
        }
    }

    fn changed_directory(&mut self, directory: Oid, nlink: Option<u32>, at: Timestamp) {
        let attributes = &mut self.node_mut(directory).attributes;
        attributes.nlink = nlink.unwrap_or(attributes.nlink);
        attributes.mtime = at;
        attributes.ctime = at;
    }

    fn found(&self, oid: Oid) -> io::Result<&Node> {
        self.nodes.get(&oid).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn new_node(object: &NewObject<'_>, parent: Oid, at: Timestamp) -> Node {
    let kind = object.kind.kind();
    let target = match object.kind {
        NewKind::Symlink(target) => target.to_vec(),
        _ => Vec::new(),
    };
    let attributes = Attributes {
        oid: object.oid,
        kind,
        mode: object.mode,
        uid: object.uid,
        gid: object.gid,
        nlink: if kind.is_directory() { 2 } else { 1 },
        size: target.len() as u64,
        blocks_bytes: 0,
        atime: at,
        mtime: at,
        ctime: at,
        rdev: object.kind.rdev(),
        generation: object.generation,
    };
    let xattrs = object.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let (content, written, entries) = (Vec::new(), Vec::new(), BTreeMap::new());
    Node { attributes, content, written, target, xattrs, entries, parent }
}

fn resize(node: &mut Node, size: u64) {
    node.content.resize(size as usize, 0);
    node.written.resize(size as usize, false);
}

fn changed_content(node: &mut Node, at: Timestamp) {
    node.attributes.size = node.content.len() as u64;
    node.attributes.blocks_bytes = node.attributes.size.next_multiple_of(4096);
    node.attributes.mtime = at;
    node.attributes.ctime = at;
}

/// The model as the base of merged reads.
impl BaseReader for Model {
    fn lookup(&self, parent: Oid, name: NameRef<'_>) -> io::Result<Option<Target>> {
        let oid = self.nodes.get(&parent).and_then(|node| node.entries.get(name.as_bytes()));
        Ok(oid.map(|&oid| Target { oid, kind: self.node(oid).attributes.kind }))
    }

    fn attributes(&self, oid: Oid) -> io::Result<Attributes> {
        Ok(self.found(oid)?.attributes)
    }

    fn parent(&self, directory: Oid) -> io::Result<Oid> {
        Ok(self.found(directory)?.parent)
    }

    fn read_at(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let content = &self.found(oid)?.content;
        let start = content.len().min(offset as usize);
        let len = buf.len().min(content.len() - start);
        buf[..len].copy_from_slice(&content[start..start + len]);
        Ok(len)
    }

    fn readdir(
        &self,
        directory: Oid,
        visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        for (name, &oid) in &self.found(directory)?.entries {
            let entry = BaseEntry { name: name.as_ref(), oid, kind: self.node(oid).attributes.kind };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn readlink(&self, oid: Oid) -> io::Result<Vec<u8>> {
        Ok(self.found(oid)?.target.clone())
    }

    fn xattr(&self, oid: Oid, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.found(oid)?.xattrs.get(name).cloned())
    }

    fn xattr_names(&self, oid: Oid) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.found(oid)?.xattrs.keys().cloned().collect())
    }

    fn seek_data(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        let written = &self.found(oid)?.written;
        Ok((offset..written.len() as u64).find(|&at| written[at as usize]))
    }

    fn seek_hole(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        let written = &self.found(oid)?.written;
        let size = written.len() as u64;
        Ok((offset < size).then(|| (offset..size).find(|&at| !written[at as usize]).unwrap_or(size)))
    }

    fn orphans(&self) -> io::Result<Vec<Oid>> {
        Ok(self.nodes.iter().filter(|(_, node)| node.attributes.nlink == 0).map(|(&oid, _)| oid).collect())
    }
}

impl Model {
    /// What an object is.
    pub fn kind(&self, oid: Oid) -> ObjectKind {
        self.node(oid).attributes.kind
    }
}
