//! What is in the simulated tree, and the effects that change it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ids::{LogPoint, Oid};
use rustix::io::Errno;

use super::{BLOCK_BYTES, ORPHANS, REFUSED, ROOT, STAGING};
use crate::attributes::{ObjectKind, Timestamp};
use crate::base::Label;
use crate::name::Name;
use crate::remainder::holders::Holder;
use crate::remainder::refused::Identity;
use crate::remainder::tolerant::CAPABILITY;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: ObjectKind,
    pub(super) label: Option<Label>,
    pub(super) children: BTreeMap<Name, u64>,
    /// Shared with the states before it: a flush keeps a copy of everything.
    pub(super) content: Arc<Vec<u8>>,
    pub(super) target: Vec<u8>,
    pub(super) rdev: u64,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
}

impl Node {
    pub(super) fn new(kind: ObjectKind) -> Node {
        let never = Timestamp { secs: 1, nanos: 1 };
        Node {
            kind,
            label: None,
            children: BTreeMap::new(),
            content: Arc::default(),
            target: Vec::new(),
            rdev: 0,
            xattrs: BTreeMap::new(),
            mode: 0o600,
            owner: (0, 0),
            atime: never,
            mtime: never,
        }
    }

    /// As every kernel has it when contents or owner change.
    fn lose_capabilities(&mut self) {
        self.xattrs.remove(CAPABILITY);
    }
}

#[derive(Clone, Debug)]
pub(super) enum Effect {
    Create {
        dir: u64,
        name: Name,
        inode: u64,
        node: Box<Node>,
    },
    Link {
        dir: u64,
        name: Name,
        inode: u64,
    },
    Rename {
        from: (u64, Name),
        to: (u64, Name),
        inode: u64,
    },
    Remove {
        dir: u64,
        name: Name,
        inode: u64,
    },
    Label {
        inode: u64,
        label: Label,
    },
    Truncate {
        inode: u64,
        size: u64,
    },
    Write {
        inode: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    Xattr {
        inode: u64,
        name: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    Owner {
        inode: u64,
        owner: (u32, u32),
    },
    Mode {
        inode: u64,
        mode: u32,
    },
    Times {
        inode: u64,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    },
    /// What the label file keeps.
    Kept {
        next_oid: u64,
        applied: Option<LogPoint>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) index: BTreeMap<Oid, u64>,
    pub(super) next_oid: u64,
    pub(super) applied: Option<LogPoint>,
}

/// When names of a directory were changed last, until its time is set.
const TOUCHED: Timestamp = Timestamp { secs: 2, nanos: 2 };

impl State {
    /// Does one effect, or says what it lacks.
    pub(super) fn perform(&mut self, effect: &Effect) -> Result<(), Errno> {
        self.change(effect)?;
        // As on every filesystem.
        match effect {
            Effect::Create { dir, .. } | Effect::Link { dir, .. } | Effect::Remove { dir, .. } => {
                self.node(*dir)?.mtime = TOUCHED;
            }
            Effect::Rename { from, to, .. } => {
                self.node(from.0)?.mtime = TOUCHED;
                self.node(to.0)?.mtime = TOUCHED;
            }
            _ => {}
        }
        Ok(())
    }

    fn change(&mut self, effect: &Effect) -> Result<(), Errno> {
        match effect {
            Effect::Create { dir, name, inode, node } => {
                self.free_slot(*dir, name)?;
                self.nodes.insert(*inode, (**node).clone());
                self.children(*dir)?.insert(name.clone(), *inode);
            }
            Effect::Link { dir, name, inode } => {
                self.free_slot(*dir, name)?;
                self.names(*inode).checked_sub(1).ok_or(Errno::NOENT)?;
                self.children(*dir)?.insert(name.clone(), *inode);
            }
            Effect::Rename { from, to, inode } => {
                self.holds(from.0, &from.1, *inode)?;
                self.free_slot(to.0, &to.1)?;
                if self.is_below(to.0, *inode) {
                    return Err(Errno::INVAL);
                }
                self.children(from.0)?.remove(&from.1);
                self.children(to.0)?.insert(to.1.clone(), *inode);
            }
            Effect::Remove { dir, name, inode } => {
                self.holds(*dir, name, *inode)?;
                if !self.node(*inode)?.children.is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                self.children(*dir)?.remove(name);
                if self.names(*inode) == 0 {
                    self.nodes.remove(inode);
                }
            }
            Effect::Label { inode, label } => self.node(*inode)?.label = Some(*label),
            Effect::Truncate { inode, size } => {
                let node = self.node(*inode)?;
                node.lose_capabilities();
                Arc::make_mut(&mut node.content).resize(*size as usize, 0);
            }
            Effect::Write { inode, offset, bytes } => {
                let node = self.node(*inode)?;
                node.lose_capabilities();
                let content = Arc::make_mut(&mut node.content);
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(bytes);
            }
            Effect::Xattr { inode, name, value } => {
                let xattrs = &mut self.node(*inode)?.xattrs;
                match value {
                    Some(value) => xattrs.insert(name.clone(), value.clone()),
                    None => xattrs.remove(name),
                };
            }
            Effect::Owner { inode, owner } => {
                let node = self.node(*inode)?;
                node.owner = *owner;
                if !node.kind.is_directory() {
                    node.mode &= 0o1777;
                    node.lose_capabilities();
                }
            }
            Effect::Mode { inode, mode } => self.node(*inode)?.mode = *mode,
            Effect::Times { inode, atime, mtime } => {
                let node = self.node(*inode)?;
                node.atime = atime.unwrap_or(node.atime);
                node.mtime = mtime.unwrap_or(node.mtime);
            }
            Effect::Kept { next_oid, applied } => (self.next_oid, self.applied) = (*next_oid, *applied),
        }
        Ok(())
    }

    /// What all objects take.
    pub(super) fn used_bytes(&self) -> u64 {
        self.nodes
            .values()
            .map(|node| BLOCK_BYTES + node.content.len().next_multiple_of(BLOCK_BYTES as usize) as u64)
            .sum()
    }

    /// What an effect takes at most.
    pub(super) fn grows_bytes(&self, effect: &Effect) -> u64 {
        let beyond = |inode: &u64, end: u64| {
            let len = self.nodes.get(inode).map_or(0, |node| node.content.len() as u64);
            end.next_multiple_of(BLOCK_BYTES).saturating_sub(len.next_multiple_of(BLOCK_BYTES))
        };
        match effect {
            Effect::Create { .. } => BLOCK_BYTES,
            Effect::Truncate { inode, size } => beyond(inode, *size),
            Effect::Write { inode, offset, bytes } => beyond(inode, offset + bytes.len() as u64),
            _ => 0,
        }
    }

    pub(super) fn node(&mut self, inode: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&inode).ok_or(Errno::NOENT)
    }
    pub(super) fn children(&mut self, dir: u64) -> Result<&mut BTreeMap<Name, u64>, Errno> {
        Ok(&mut self.node(dir)?.children)
    }
    fn free_slot(&mut self, dir: u64, name: &Name) -> Result<(), Errno> {
        // Those of one directory are one, for whoever looks for a name there.
        let holders = &self.nodes[&REFUSED].children;
        let own =
            holders.iter().find(|(_, inode)| **inode == dir).and_then(|(name, _)| Holder::of_name(name));
        if own.is_some_and(|own| self.held(own.directory, name).is_some()) {
            return Err(Errno::EXIST);
        }
        if self.children(dir)?.contains_key(name) { Err(Errno::EXIST) } else { Ok(()) }
    }
    fn holds(&mut self, dir: u64, name: &Name, inode: u64) -> Result<(), Errno> {
        if self.children(dir)?.get(name) == Some(&inode) { Ok(()) } else { Err(Errno::NOENT) }
    }
    pub(super) fn names(&self, inode: u64) -> u64 {
        self.nodes.values().flat_map(|node| node.children.values()).filter(|child| **child == inode).count()
            as u64
    }
    pub(super) fn parent(&self, inode: u64) -> Option<(u64, Name)> {
        self.nodes.iter().find_map(|(dir, node)| {
            let (name, _) = node.children.iter().find(|(_, child)| **child == inode)?;
            Some((*dir, name.clone()))
        })
    }
    fn is_below(&self, mut dir: u64, ancestor: u64) -> bool {
        loop {
            if dir == ancestor {
                return true;
            }
            match self.parent(dir) {
                Some((above, _)) => dir = above,
                None => return false,
            }
        }
    }

    /// Forgets what no name leads to.
    pub(super) fn collect_garbage(&mut self) {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![ROOT, STAGING, ORPHANS, REFUSED];
        while let Some(inode) = waiting.pop() {
            if reached.insert(inode) {
                waiting.extend(self.nodes[&inode].children.values());
            }
        }
        self.nodes.retain(|inode, _| reached.contains(inode));
    }

    /// One directory of refused names.
    pub(super) fn holder(&self, holder: Holder) -> Option<u64> {
        self.nodes[&REFUSED].children.get(&holder_name(holder)).copied()
    }

    /// All of them.
    pub(super) fn holders(&self) -> impl Iterator<Item = (Holder, u64)> {
        let holders = self.nodes[&REFUSED].children.iter();
        holders.filter_map(|(name, inode)| Some((Holder::of_name(name)?, *inode)))
    }

    /// The names that were refused in a directory.
    pub(super) fn held_of(&self, directory: Oid) -> impl Iterator<Item = (&Name, &u64)> {
        let own = self.holders().filter(move |(holder, _)| holder.directory == directory);
        own.flat_map(|(_, inode)| &self.nodes[&inode].children)
    }

    /// One of them.
    pub(super) fn held(&self, directory: Oid, name: &Name) -> Option<u64> {
        let mut own = self.holders().filter(|(holder, _)| holder.directory == directory);
        own.find_map(|(_, inode)| self.nodes.get(&inode)?.children.get(name).copied())
    }

    /// The names that were refused, by directory, and what holds each.
    pub(super) fn refused_names(&self) -> BTreeMap<Oid, BTreeMap<Name, u32>> {
        let mut all: BTreeMap<Oid, BTreeMap<Name, u32>> = BTreeMap::new();
        for (holder, inode) in self.holders() {
            for name in self.nodes[&inode].children.keys() {
                all.entry(holder.directory).or_default().insert(name.clone(), holder.number);
            }
        }
        all
    }

    /// Who has an OID, whatever the index knows.
    pub(super) fn identity(&self, oid: Oid) -> Option<Identity> {
        self.nodes.values().find_map(|node| {
            node.label.filter(|label| label.oid == oid).map(|label| Identity::new(node.kind, &label))
        })
    }

    pub(super) fn find(&self, oid: Oid) -> Option<u64> {
        let inode = *self.index.get(&oid)?;
        let label = self.nodes.get(&inode)?.label?;
        (label.oid == oid).then_some(inode)
    }
}

/// What a directory of refused names is called.
pub(super) fn holder_name(holder: Holder) -> Name {
    Name::new(holder.to_string().as_bytes()).expect("digits are a legal name")
}
