//! What one writer's subtree must look like.
//!
//! Paths are relative to the subtree's root and never end in a slash. Several paths may name one object (hard
//! links). Everything is kept in memory, content included: subtrees are small.

use std::collections::BTreeMap;

/// Names an object of a model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ObjectId(u64);

/// What an object is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file with its whole content.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(String),
    /// A FIFO.
    Fifo,
}

/// One object: content and attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Type and content.
    pub kind: Kind,
    /// Permission bits; None where the system gives them (symbolic links).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes in the `user.` namespace.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Modification time in seconds and nanoseconds, when it was set and nothing has changed it since.
    pub mtime: Option<(i64, u32)>,
}

impl Object {
    fn new(kind: Kind, mode: Option<u32>) -> Self {
        Object { kind, mode, uid: 0, gid: 0, xattrs: BTreeMap::new(), mtime: None }
    }

    /// True for a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// The content, if this is a file.
    pub fn content(&self) -> Option<&Vec<u8>> {
        match &self.kind {
            Kind::File(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// A whole subtree.
#[derive(Clone, Default, Debug)]
pub struct Model {
    names: BTreeMap<String, ObjectId>,
    objects: BTreeMap<ObjectId, Object>,
    next: u64,
}

impl Model {
    /// All names with their objects, sorted by path.
    pub fn entries(&self) -> impl Iterator<Item = (&str, ObjectId, &Object)> {
        self.names.iter().filter_map(|(path, id)| Some((path.as_str(), *id, self.objects.get(id)?)))
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The object that a path names.
    pub fn get(&self, path: &str) -> Option<&Object> {
        self.objects.get(self.names.get(path)?)
    }

    /// The object that a path names, to change it.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Object> {
        self.objects.get_mut(self.names.get(path)?)
    }

    /// The id of the object that a path names.
    pub fn id(&self, path: &str) -> Option<ObjectId> {
        self.names.get(path).copied()
    }

    /// How many names an object has.
    pub fn links(&self, id: ObjectId) -> usize {
        self.names.values().filter(|other| **other == id).count()
    }

    /// True when something is below this directory.
    pub fn has_children(&self, path: &str) -> bool {
        let prefix = format!("{path}/");
        self.names.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
    }

    /// Adds a new object under a free name.
    pub fn create(&mut self, path: &str, kind: Kind, mode: Option<u32>) {
        let id = ObjectId(self.next);
        self.next += 1;
        self.objects.insert(id, Object::new(kind, mode));
        self.names.insert(path.to_owned(), id);
    }

    /// Gives an object one more name.
    pub fn link(&mut self, from: &str, to: &str) {
        if let Some(id) = self.id(from) {
            self.names.insert(to.to_owned(), id);
        }
    }

    /// Removes one name, and the object with its last name.
    pub fn remove(&mut self, path: &str) {
        if let Some(id) = self.names.remove(path)
            && self.links(id) == 0
        {
            self.objects.remove(&id);
        }
    }

    /// Moves a name and everything below it; what was at the new name is replaced.
    pub fn rename(&mut self, from: &str, to: &str) {
        if self.id(from) == self.id(to) {
            return; // two names of one object: POSIX does nothing
        }
        self.remove(to);
        for (path, id) in self.detach(from) {
            self.names.insert(format!("{to}{path}"), id);
        }
    }

    /// Swaps two names and everything below them.
    pub fn exchange(&mut self, one: &str, other: &str) {
        let (first, second) = (self.detach(one), self.detach(other));
        for (path, id) in first {
            self.names.insert(format!("{other}{path}"), id);
        }
        for (path, id) in second {
            self.names.insert(format!("{one}{path}"), id);
        }
    }

    /// Takes out a name and everything below it; the paths are given without their common beginning.
    fn detach(&mut self, path: &str) -> Vec<(String, ObjectId)> {
        let prefix = format!("{path}/");
        let moved: Vec<String> =
            self.names.keys().filter(|name| *name == path || name.starts_with(&prefix)).cloned().collect();
        moved
            .into_iter()
            .filter_map(|name| Some((name[path.len()..].to_owned(), self.names.remove(&name)?)))
            .collect()
    }
}
