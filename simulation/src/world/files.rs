//! What one client has done to its own directory, and what it may do next: the oracle of its answers.
//!
//! Slow and obvious: a list of objects and a list of names. Nobody but the client changes its directory, and it does
//! one thing after the other, so every answer can be told beforehand; but a change that was cut off may have been
//! made or not, until it was looked.

use ids::Oid;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use volume::{
    AllocateMode, Errno, Node, NodeKind, RenameMode, Root, SetAttributes, Volume, WriteAt, XattrMode,
};

/// Different names in a directory: few, so that names are used again often.
const NAMES: usize = 5;
/// Longest file.
const MAX_FILE_BYTES: usize = 24 << 10;
/// Longest write: one record each.
const MAX_WRITE_BYTES: usize = 6 << 10;

/// What an object is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    /// Shared with the states before the last changes.
    File(Arc<Vec<u8>>),
    Directory,
    Symlink(Vec<u8>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Object {
    kind: Kind,
    mode: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Object {
    fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// A client's directory. Paths have one or two components.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Files {
    objects: BTreeMap<u64, Object>,
    names: BTreeMap<String, u64>,
    next: u64,
}

/// One change, valid where it was drawn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A file.
    Create { path: String, mode: u32 },
    /// A directory.
    Mkdir { path: String },
    /// A symbolic link.
    Symlink { path: String, target: Vec<u8> },
    /// Bytes into a file.
    Write { path: String, offset: usize, bytes: Vec<u8> },
    /// A file's length.
    Truncate { path: String, size: usize },
    /// A hole in a file.
    Punch { path: String, offset: usize, len_bytes: usize },
    /// A name moves, and may replace another.
    Rename { from: String, to: String },
    /// One more name.
    Link { from: String, to: String },
    /// A name of something that is no directory goes.
    Unlink { path: String },
    /// An empty directory goes.
    Rmdir { path: String },
    /// Permission bits.
    Chmod { path: String, mode: u32 },
    /// An xattr.
    SetXattr { path: String, name: Vec<u8>, value: Vec<u8> },
    /// An xattr goes.
    RemoveXattr { path: String, name: Vec<u8> },
}

/// What is seen under one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    kind: char,
    mode: u32,
    links: u32,
    /// The first path of the same object.
    first: String,
    content: Arc<Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A whole directory as it is seen.
pub type Tree = BTreeMap<String, Seen>;

/// The directory part and the last component.
fn split(path: &str) -> (Option<&str>, &str) {
    match path.rsplit_once('/') {
        Some((directory, name)) => (Some(directory), name),
        None => (None, path),
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

impl Files {
    fn object(&self, path: &str) -> &Object {
        &self.objects[&self.names[path]]
    }

    fn is_directory(&self, path: &str) -> bool {
        self.object(path).is_directory()
    }

    fn is_empty(&self, path: &str) -> bool {
        !self.names.keys().any(|other| is_below(other, path))
    }

    fn links(&self, object: u64) -> u32 {
        self.names.values().filter(|other| **other == object).count() as u32
    }

    /// Paths that pass.
    fn paths(&self, test: impl Fn(&str, &Object) -> bool) -> Vec<&str> {
        let passes = |(path, object): &(&String, &u64)| test(path, &self.objects[*object]);
        self.names.iter().filter(passes).map(|(path, _)| path.as_str()).collect()
    }

    fn files(&self) -> Vec<&str> {
        self.paths(|_, object| matches!(object.kind, Kind::File(_)))
    }

    /// A path at which nothing is, in a directory that is there.
    fn free(&self, rng: &mut StdRng) -> Option<String> {
        let mut directories = self.paths(|path, object| object.is_directory() && !path.contains('/'));
        directories.push("");
        let (mut free, mut path) = (Vec::new(), String::new());
        for directory in directories {
            for name in 0..NAMES {
                put_path(&mut path, directory, name);
                free.extend((!self.names.contains_key(&path)).then_some((directory, name)));
            }
        }
        let (directory, name) = pick(rng, &free)?;
        put_path(&mut path, directory, name);
        Some(path)
    }

    /// Any path.
    pub fn any(&self, rng: &mut StdRng) -> Option<String> {
        pick(rng, &self.paths(|_, _| true)).map(str::to_owned)
    }

    /// The next change: always one that must succeed.
    pub fn draw(&self, rng: &mut StdRng) -> Change {
        // Each try can find nothing that fits; making a file nearly always fits.
        const MAX_TRIES: usize = 1000;
        (0..MAX_TRIES).find_map(|_| self.intend(rng)).expect("something can always be done")
    }

    fn intend(&self, rng: &mut StdRng) -> Option<Change> {
        Some(match rng.random_range(0..100) {
            0..14 => Change::Create { path: self.free(rng)?, mode: rng.random_range(0..0o1000) },
            14..18 => {
                let path = self.free(rng).filter(|path| !path.contains('/'))?;
                Change::Mkdir { path }
            }
            18..20 => Change::Symlink { path: self.free(rng)?, target: text(rng) },
            20..60 => {
                let path = pick(rng, &self.files())?.to_owned();
                let len = rng.random_range(1..=MAX_WRITE_BYTES);
                let offset = rng.random_range(0..=MAX_FILE_BYTES - len);
                let byte: u8 = rng.random();
                let mut bytes = vec![0; len];
                for (number, part) in bytes.chunks_mut(7).enumerate() {
                    part.fill(byte.wrapping_add(number as u8));
                }
                Change::Write { path, offset, bytes }
            }
            60..64 => Change::Truncate {
                path: pick(rng, &self.files())?.to_owned(),
                size: rng.random_range(0..MAX_FILE_BYTES),
            },
            64..67 => {
                let path = pick(rng, &self.files())?.to_owned();
                let offset = rng.random_range(0..MAX_FILE_BYTES);
                Change::Punch { path, offset, len_bytes: rng.random_range(1..MAX_WRITE_BYTES) }
            }
            67..77 => {
                let from = pick(rng, &self.paths(|_, _| true))?.to_owned();
                let to = match rng.random_bool(0.5) {
                    true => self.free(rng)?,
                    false => pick(rng, &self.paths(|_, _| true))?.to_owned(),
                };
                self.may_rename(&from, &to).then_some(Change::Rename { from, to })?
            }
            77..80 => {
                let from = pick(rng, &self.paths(|_, object| !object.is_directory()))?.to_owned();
                Change::Link { from, to: self.free(rng)? }
            }
            80..89 => {
                let path = pick(rng, &self.paths(|_, object| !object.is_directory()))?.to_owned();
                Change::Unlink { path }
            }
            89..91 => {
                let empty = |path: &str, object: &Object| object.is_directory() && self.is_empty(path);
                Change::Rmdir { path: pick(rng, &self.paths(empty))?.to_owned() }
            }
            91..94 => {
                let shown = |_: &str, object: &Object| !matches!(object.kind, Kind::Symlink(_));
                let path = pick(rng, &self.paths(shown))?.to_owned();
                Change::Chmod { path, mode: rng.random_range(0..0o1000) }
            }
            94..98 => {
                let name = format!("user.{}", rng.random_range(0..3)).into_bytes();
                Change::SetXattr { path: pick(rng, &self.files())?.to_owned(), name, value: text(rng) }
            }
            _ => {
                let path = pick(rng, &self.paths(|_, object| !object.xattrs.is_empty()))?.to_owned();
                let names: Vec<&Vec<u8>> = self.object(&path).xattrs.keys().collect();
                let name = pick(rng, &names)?.clone();
                Change::RemoveXattr { path, name }
            }
        })
    }

    fn may_rename(&self, from: &str, to: &str) -> bool {
        let deep = self.is_directory(from) && to.contains('/');
        if from == to || is_below(to, from) || is_below(from, to) || deep {
            return false;
        }
        match self.names.get(to) {
            None => true,
            // Two names of one object: rename does nothing.
            Some(other) if *other == self.names[from] => false,
            Some(_) => self.is_directory(from) == self.is_directory(to) && self.is_empty(to),
        }
    }

    /// What a change does.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { path, mode } => self.add(path, Kind::File(Arc::default()), *mode),
            Change::Mkdir { path } => self.add(path, Kind::Directory, 0o755),
            Change::Symlink { path, target } => self.add(path, Kind::Symlink(target.clone()), 0o777),
            Change::Write { path, offset, bytes } => {
                let content = self.content(path);
                content.resize(content.len().max(offset + bytes.len()), 0);
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Change::Truncate { path, size } => self.content(path).resize(*size, 0),
            Change::Punch { path, offset, len_bytes } => {
                let content = self.content(path);
                let end = (offset + len_bytes).min(content.len());
                if *offset < end {
                    content[*offset..end].fill(0);
                }
            }
            Change::Rename { from, to } => {
                self.remove(to);
                let moved = self.paths(|path, _| path == from || is_below(path, from));
                let moved: Vec<String> = moved.into_iter().map(str::to_owned).collect();
                for path in moved {
                    let object = self.names.remove(&path).expect("it was listed");
                    self.names.insert(format!("{to}{}", &path[from.len()..]), object);
                }
            }
            Change::Link { from, to } => {
                let object = self.names[from.as_str()];
                self.names.insert(to.clone(), object);
            }
            Change::Unlink { path } | Change::Rmdir { path } => self.remove(path),
            Change::Chmod { path, mode } => self.changed(path).mode = *mode,
            Change::SetXattr { path, name, value } => {
                self.changed(path).xattrs.insert(name.clone(), value.clone());
            }
            Change::RemoveXattr { path, name } => drop(self.changed(path).xattrs.remove(name)),
        }
    }

    fn add(&mut self, path: &str, kind: Kind, mode: u32) {
        self.next += 1;
        self.objects.insert(self.next, Object { kind, mode, xattrs: BTreeMap::new() });
        self.names.insert(path.to_owned(), self.next);
    }

    fn remove(&mut self, path: &str) {
        if let Some(object) = self.names.remove(path)
            && self.links(object) == 0
        {
            self.objects.remove(&object);
        }
    }

    fn changed(&mut self, path: &str) -> &mut Object {
        self.objects.get_mut(&self.names[path]).expect("every name has its object")
    }

    fn content(&mut self, path: &str) -> &mut Vec<u8> {
        match &mut self.changed(path).kind {
            Kind::File(content) => Arc::make_mut(content),
            other => panic!("{path} is no file but {other:?}"),
        }
    }

    /// As it must be seen.
    pub fn tree(&self) -> Tree {
        self.names.keys().filter_map(|path| Some((path.clone(), self.expected(path)?))).collect()
    }

    /// As it must be seen under one path; `None`: nothing.
    pub fn expected(&self, path: &str) -> Option<Seen> {
        let object = self.names.get(path)?;
        let first = self.names.iter().find(|(_, other)| *other == object).map(|(path, _)| path.clone());
        let Object { kind, mode, xattrs } = &self.objects[object];
        let below = |other: &&String| is_below(other, path) && self.is_directory(other);
        let (kind, content, links) = match kind {
            Kind::File(content) => ('f', content.clone(), self.links(*object)),
            Kind::Symlink(target) => ('l', Arc::new(target.clone()), self.links(*object)),
            Kind::Directory => ('d', Arc::default(), 2 + self.names.keys().filter(below).count() as u32),
        };
        let first = first.unwrap_or_default();
        Some(Seen { kind, mode: *mode, links, first, content, xattrs: xattrs.clone() })
    }
}

/// The path of a name in a directory; "" is the client's own.
fn put_path(path: &mut String, directory: &str, name: usize) {
    path.clear();
    if !directory.is_empty() {
        path.push_str(directory);
        path.push('/');
    }
    path.push('n');
    path.push_str(&name.to_string());
}

fn pick<T: Clone>(rng: &mut StdRng, choices: &[T]) -> Option<T> {
    (!choices.is_empty()).then(|| choices[rng.random_range(0..choices.len())].clone())
}

fn text(rng: &mut StdRng) -> Vec<u8> {
    let len = rng.random_range(1..20);
    (0..len).map(|_| b'a' + rng.random_range(0..26_u8)).collect()
}

fn find(volume: &Volume, home: Oid, path: &str) -> Result<Oid, Errno> {
    let (directory, name) = split(path);
    Ok(volume.lookup(parent(volume, home, directory)?, name.as_bytes())?.oid)
}

fn parent(volume: &Volume, home: Oid, directory: Option<&str>) -> Result<Oid, Errno> {
    directory.map_or(Ok(home), |name| Ok(volume.lookup(home, name.as_bytes())?.oid))
}

fn place<'p>(volume: &Volume, home: Oid, path: &'p str) -> Result<(Oid, &'p [u8]), Errno> {
    let (directory, name) = split(path);
    Ok((parent(volume, home, directory)?, name.as_bytes()))
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::Create { path, mode } => write!(f, "create {path} {mode:o}"),
            Change::Mkdir { path } => write!(f, "mkdir {path}"),
            Change::Symlink { path, .. } => write!(f, "symlink {path}"),
            Change::Write { path, offset, bytes } => write!(f, "write {path} {offset} {}", bytes.len()),
            Change::Truncate { path, size } => write!(f, "truncate {path} {size}"),
            Change::Punch { path, offset, len_bytes } => write!(f, "punch {path} {offset} {len_bytes}"),
            Change::Rename { from, to } => write!(f, "rename {from} {to}"),
            Change::Link { from, to } => write!(f, "link {from} {to}"),
            Change::Unlink { path } => write!(f, "unlink {path}"),
            Change::Rmdir { path } => write!(f, "rmdir {path}"),
            Change::Chmod { path, mode } => write!(f, "chmod {path} {mode:o}"),
            Change::SetXattr { path, .. } => write!(f, "setxattr {path}"),
            Change::RemoveXattr { path, .. } => write!(f, "removexattr {path}"),
        }
    }
}

impl Change {
    /// Makes the change through the volume.
    pub fn make(&self, volume: &Volume, home: Oid) -> Result<(), Errno> {
        let node = |path: &str, kind: NodeKind<'_>, mode| {
            let (parent, name) = place(volume, home, path)?;
            volume.create(&Root, parent, name, Node { kind, mode, umask: 0, open: false }).map(drop)
        };
        let set = |path: &str, set| volume.setattr(&Root, find(volume, home, path)?, set).map(drop);
        match self {
            Change::Create { path, mode } => node(path, NodeKind::File, *mode),
            Change::Mkdir { path } => node(path, NodeKind::Directory, 0o755),
            Change::Symlink { path, target } => node(path, NodeKind::Symlink(target), 0o777),
            Change::Write { path, offset, bytes } => {
                let at = WriteAt::Offset(*offset as u64);
                let written = volume.write(find(volume, home, path)?, at, bytes, None)?;
                assert_eq!(written, bytes.len(), "a write of one record is made whole or not at all");
                Ok(())
            }
            Change::Truncate { path, size } => {
                set(path, SetAttributes { size: Some(*size as u64), ..SetAttributes::default() })
            }
            Change::Punch { path, offset, len_bytes } => {
                let (oid, mode) = (find(volume, home, path)?, AllocateMode::PunchHole);
                volume.allocate(&Root, oid, mode, *offset as u64, *len_bytes as u64)
            }
            Change::Rename { from, to } => {
                let (from, to) = (place(volume, home, from)?, place(volume, home, to)?);
                volume.rename(&Root, from, to, RenameMode::from_bits(0)?)
            }
            Change::Link { from, to } => {
                let (parent, name) = place(volume, home, to)?;
                volume.link(find(volume, home, from)?, parent, name).map(drop)
            }
            Change::Unlink { path } => {
                let (parent, name) = place(volume, home, path)?;
                volume.unlink(parent, name)
            }
            Change::Rmdir { path } => {
                let (parent, name) = place(volume, home, path)?;
                volume.rmdir(parent, name)
            }
            Change::Chmod { path, mode } => {
                set(path, SetAttributes { mode: Some(*mode), ..SetAttributes::default() })
            }
            Change::SetXattr { path, name, value } => {
                let oid = find(volume, home, path)?;
                volume.set_xattr(&Root, oid, name, value, XattrMode::from_bits(0)?)
            }
            Change::RemoveXattr { path, name } => volume.remove_xattr(&Root, find(volume, home, path)?, name),
        }
    }
}

/// Reads what stands under one path; `None`: nothing does.
pub fn look_at(volume: &Volume, home: Oid, path: &str) -> Result<Option<Seen>, Errno> {
    let (directory, name) = split(path);
    let parent = match parent(volume, home, directory) {
        Err(Errno::ENOENT) => return Ok(None),
        other => other?,
    };
    match volume.lookup(parent, name.as_bytes()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        found => see(volume, &found?).map(Some),
    }
}

/// Reads a client's whole directory through the volume.
pub fn look(volume: &Volume, home: Oid) -> Result<Tree, Errno> {
    let (mut tree, mut first) = (BTreeMap::new(), BTreeMap::new());
    let mut waiting = vec![(String::new(), home)];
    while let Some((prefix, directory)) = waiting.pop() {
        for name in names(volume, directory)? {
            let path = format!("{prefix}{name}");
            let found = volume.lookup(directory, name.as_bytes())?;
            if found.kind.is_directory() {
                waiting.push((format!("{path}/"), found.oid));
            }
            tree.insert(path, (found.oid, see(volume, &found)?));
        }
    }
    for (path, (oid, _)) in &tree {
        first.entry(*oid).or_insert_with(|| path.clone());
    }
    let named =
        |(path, (oid, seen)): (String, (Oid, Seen))| (path, Seen { first: first[&oid].clone(), ..seen });
    Ok(tree.into_iter().map(named).collect())
}

fn names(volume: &Volume, directory: Oid) -> Result<Vec<String>, Errno> {
    let stream = volume.open_directory(directory)?;
    let mut names = Vec::new();
    let read = volume.read_directory(&stream, 0, |entry| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        false
    });
    volume.close_directory(&stream);
    read?;
    names.retain(|name| name != "." && name != "..");
    Ok(names)
}

fn see(volume: &Volume, found: &apply_engine::Attributes) -> Result<Seen, Errno> {
    let (kind, content) = match found.kind {
        apply_engine::ObjectKind::File => {
            // One byte more than there should be: a file that is too long is seen.
            let mut content = vec![0xEE; found.size as usize + 1];
            let len = volume.read(found.oid, 0, &mut content)?;
            content.truncate(len);
            ('f', content)
        }
        apply_engine::ObjectKind::Symlink => ('l', volume.readlink(found.oid)?),
        apply_engine::ObjectKind::Directory => ('d', Vec::new()),
        other => panic!("no client made a {other:?}"),
    };
    let mut xattrs = BTreeMap::new();
    let listed = volume.xattr_names(&Root, found.oid)?;
    for name in listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        xattrs.insert(name.to_vec(), volume.xattr(found.oid, name)?);
    }
    Ok(Seen {
        kind,
        mode: found.mode,
        links: found.nlink,
        first: String::new(),
        content: Arc::new(content),
        xattrs,
    })
}

impl Seen {
    /// The same, whatever other paths lead to it.
    pub fn is_like(&self, other: &Seen) -> bool {
        let Seen { kind, mode, links, first: _, content, xattrs } = self;
        (kind, mode, links) == (&other.kind, &other.mode, &other.links)
            && (content, xattrs) == (&other.content, &other.xattrs)
    }
}

/// The first path at which two trees differ, and how, in few words.
pub fn difference(seen: &Tree, expected: &Tree) -> Option<String> {
    let paths: std::collections::BTreeSet<&String> = seen.keys().chain(expected.keys()).collect();
    paths.into_iter().find_map(|path| match (seen.get(path), expected.get(path)) {
        (Some(seen), Some(expected)) if seen == expected => None,
        (Some(seen), Some(expected)) => {
            let at = seen.content.iter().zip(&*expected.content).position(|(a, b)| a != b);
            let short = |seen: &Seen| {
                let Seen { kind, mode, links, first, content, xattrs } = seen;
                format!("{kind} {mode:o} {links} links, first {first}, {} bytes, {xattrs:?}", content.len())
            };
            Some(format!("{path}: {} instead of {}, contents differ at {at:?}", short(seen), short(expected)))
        }
        (Some(_), None) => Some(format!("{path} should not be there")),
        (None, _) => Some(format!("{path} is missing")),
    })
}
