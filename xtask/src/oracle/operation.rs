//! The operations of a writer: one system call each, so that each is wholly acknowledged or wholly in doubt.
//!
//! [`choose`] only proposes what must succeed on the current model; an error that is not a lost connection is
//! therefore a finding. [`Operation::apply`] says what the operation does to the model.

use super::model::{Kind, Model, Object};
use crate::random::{Random, content};

/// Content of one file never grows past this.
pub const MAX_FILE_BYTES: u64 = 192 * 1024;

/// A subtree never grows past this many names.
const MAX_NAMES: usize = 72;

/// The unit in which the kernel may split a write that one system call asked for.
const PAGE_BYTES: u64 = 4096;

/// How many different names are used in one directory.
const NAMES_PER_DIRECTORY: u64 = 14;

/// One system call. Paths are relative to the writer's subtree.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the fields are what the system call takes
pub enum Operation {
    Create { path: String, mode: u32 },
    Write { path: String, offset: u64, len: u64, seed: u64 },
    Append { path: String, len: u64, seed: u64 },
    Truncate { path: String, size: u64 },
    PunchHole { path: String, offset: u64, len: u64 },
    Allocate { path: String, offset: u64, len: u64 },
    MakeDirectory { path: String, mode: u32 },
    RemoveDirectory { path: String },
    Unlink { path: String },
    Rename { from: String, to: String },
    Exchange { one: String, other: String },
    Link { from: String, to: String },
    Symlink { path: String, target: String },
    Fifo { path: String, mode: u32 },
    SetMode { path: String, mode: u32 },
    SetOwner { path: String, uid: u32, gid: u32 },
    SetXattr { path: String, name: String, value: Vec<u8> },
    RemoveXattr { path: String, name: String },
    SetModified { path: String, seconds: i64, nanos: u32 },
}

impl Operation {
    /// Does to the model what the system call does to the tree.
    pub fn apply(&self, model: &mut Model) {
        match self {
            Operation::Create { path, mode } => model.create(path, Kind::File(Vec::new()), Some(*mode)),
            Operation::Write { path, offset, len, seed } => {
                change(model, path, |bytes| overwrite(bytes, *offset, &content(*seed, *len as usize)));
            }
            Operation::Append { path, len, seed } => {
                change(model, path, |bytes| bytes.extend(content(*seed, *len as usize)));
            }
            Operation::Truncate { path, size } => {
                change(model, path, |bytes| bytes.resize(*size as usize, 0))
            }
            Operation::PunchHole { path, offset, len } => change(model, path, |bytes| {
                let start = (*offset as usize).min(bytes.len());
                let end = ((offset + len) as usize).min(bytes.len());
                bytes[start..end].fill(0);
            }),
            Operation::Allocate { path, offset, len } => change(model, path, |bytes| {
                let end = (offset + len) as usize;
                bytes.resize(end.max(bytes.len()), 0);
            }),
            Operation::MakeDirectory { path, mode } => model.create(path, Kind::Directory, Some(*mode)),
            Operation::RemoveDirectory { path } | Operation::Unlink { path } => model.remove(path),
            Operation::Rename { from, to } => model.rename(from, to),
            Operation::Exchange { one, other } => model.exchange(one, other),
            Operation::Link { from, to } => model.link(from, to),
            Operation::Symlink { path, target } => model.create(path, Kind::Symlink(target.clone()), None),
            Operation::Fifo { path, mode } => model.create(path, Kind::Fifo, Some(*mode)),
            Operation::SetMode { path, mode } => attribute(model, path, |object| object.mode = Some(*mode)),
            Operation::SetOwner { path, uid, gid } => attribute(model, path, |object| {
                object.uid = *uid;
                object.gid = *gid;
            }),
            Operation::SetXattr { path, name, value } => attribute(model, path, |object| {
                object.xattrs.insert(name.clone(), value.clone());
            }),
            Operation::RemoveXattr { path, name } => attribute(model, path, |object| {
                object.xattrs.remove(name);
            }),
            Operation::SetModified { path, seconds, nanos } => {
                attribute(model, path, |object| object.mtime = Some((*seconds, *nanos)));
            }
        }
    }

    /// The states that the tree may show when this operation was interrupted: all of it, and, for a write that
    /// the kernel splits at page boundaries, each prefix. `before` is the tree without it.
    pub fn possible_effects(&self, before: &Model) -> Vec<Operation> {
        let mut effects = vec![self.clone()];
        let write = match self {
            Operation::Write { path, offset, len, seed } => Some((path, *offset, len, seed)),
            Operation::Append { path, len, seed } => {
                before.get(path).and_then(Object::content).map(|bytes| (path, bytes.len() as u64, len, seed))
            }
            _ => None,
        };
        if let Some((path, offset, len, seed)) = write {
            let mut cut = (offset / PAGE_BYTES + 1) * PAGE_BYTES;
            while cut < offset + len {
                effects.push(Operation::Write { path: path.clone(), offset, len: cut - offset, seed: *seed });
                cut += PAGE_BYTES;
            }
        }
        effects
    }
}

fn overwrite(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + new.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(new);
}

fn change(model: &mut Model, path: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    if let Some(object) = model.get_mut(path) {
        object.mtime = None;
        if let Kind::File(bytes) = &mut object.kind {
            edit(bytes);
        }
    }
}

fn attribute(model: &mut Model, path: &str, edit: impl FnOnce(&mut Object)) {
    if let Some(object) = model.get_mut(path) {
        edit(object);
    }
}

/// Proposes the next operation: one that must succeed on this model.
pub fn choose(random: &mut Random, model: &Model) -> Operation {
    for _ in 0..ATTEMPTS {
        if let Some(operation) = propose(random, model) {
            return operation;
        }
    }
    // Reached on an empty tree or by bad luck: make something to work with.
    let mut path = format!("start{}", random.below(1_000_000));
    while model.get(&path).is_some() {
        path.push('x');
    }
    Operation::Create { path, mode: 0o644 }
}

/// Proposals that do not fit the model are thrown away; after this many a file is created instead.
const ATTEMPTS: usize = 24;

fn propose(random: &mut Random, model: &Model) -> Option<Operation> {
    let full = model.len() >= MAX_NAMES;
    match random.below(100) {
        0..12 if !full => {
            Some(Operation::Create { path: free_name(random, model)?, mode: some_mode(random) })
        }
        12..17 if !full => Some(Operation::MakeDirectory {
            path: free_name(random, model)?,
            mode: 0o700 | some_mode(random),
        }),
        17..19 if !full => Some(Operation::Symlink {
            path: free_name(random, model)?,
            target: format!("to/{}", random.next()),
        }),
        19..20 if !full => Some(Operation::Fifo { path: free_name(random, model)?, mode: some_mode(random) }),
        20..24 if !full => {
            let from = some_path(random, model, |object| !object.is_directory())?;
            Some(Operation::Link { from, to: free_name(random, model)? })
        }
        0..32 => Some(Operation::Unlink { path: some_path(random, model, |object| !object.is_directory())? }),
        32..34 => {
            let path = some_path(random, model, Object::is_directory)?;
            (!model.has_children(&path)).then_some(Operation::RemoveDirectory { path })
        }
        34..43 => rename(random, model),
        43..45 => exchange(random, model),
        45..49 => Some(Operation::SetMode {
            path: some_path(random, model, has_mode)?,
            mode: 0o600 | some_mode(random),
        }),
        49..51 => {
            let (uid, gid) = (random.below(5000) as u32, random.below(5000) as u32);
            Some(Operation::SetOwner { path: some_path(random, model, has_mode)?, uid, gid })
        }
        51..55 => {
            let len = random.below(200) as usize;
            let name = format!("user.key{}", random.below(4));
            Some(Operation::SetXattr {
                path: some_path(random, model, takes_xattrs)?,
                name,
                value: content(random.next(), len),
            })
        }
        55..57 => {
            let path = some_path(random, model, |object| !object.xattrs.is_empty())?;
            let name = model.get(&path)?.xattrs.keys().next()?.clone();
            Some(Operation::RemoveXattr { path, name })
        }
        57..59 => {
            let path = some_path(random, model, |object| object.content().is_some())?;
            Some(Operation::SetModified {
                path,
                seconds: random.below(2_000_000_000) as i64,
                nanos: random.below(1_000_000_000) as u32,
            })
        }
        _ => data(random, model),
    }
}

fn data(random: &mut Random, model: &Model) -> Option<Operation> {
    let path = some_path(random, model, |object| object.content().is_some())?;
    let size = model.get(&path)?.content()?.len() as u64;
    let len = match random.below(10) {
        0 => 1 + random.below(48 * 1024),
        1..4 => PAGE_BYTES,
        _ => 1 + random.below(PAGE_BYTES),
    };
    match random.below(20) {
        0..7 if size + len <= MAX_FILE_BYTES => {
            Some(Operation::Append { path, len: len.min(PAGE_BYTES), seed: random.next() })
        }
        0..14 => {
            let reach = (size + 2 * PAGE_BYTES).min(MAX_FILE_BYTES - len);
            let mut offset = random.below(reach + 1);
            if random.chance(50) {
                offset -= offset % PAGE_BYTES;
            }
            Some(Operation::Write { path, offset, len, seed: random.next() })
        }
        14..17 => {
            Some(Operation::Truncate { path, size: random.below(size + PAGE_BYTES).min(MAX_FILE_BYTES) })
        }
        17..19 => Some(Operation::PunchHole { path, offset: random.below(size + 1), len }),
        _ => {
            let offset = random.below(size + 1).min(MAX_FILE_BYTES - len);
            Some(Operation::Allocate { path, offset, len })
        }
    }
}

fn rename(random: &mut Random, model: &Model) -> Option<Operation> {
    let from = some_path(random, model, |_| true)?;
    let directory = model.get(&from)?.is_directory();
    let to = if random.chance(50) {
        free_name(random, model)?
    } else {
        some_path(random, model, |object| object.is_directory() == directory)?
    };
    let fits = !inside(&to, &from) && !inside(&from, &to) && to != from;
    (fits && !model.has_children(&to)).then_some(Operation::Rename { from, to })
}

fn exchange(random: &mut Random, model: &Model) -> Option<Operation> {
    let (one, other) = (some_path(random, model, |_| true)?, some_path(random, model, |_| true)?);
    let fits = !inside(&one, &other) && !inside(&other, &one) && model.id(&one) != model.id(&other);
    fits.then_some(Operation::Exchange { one, other })
}

/// True when `path` is below `directory`.
fn inside(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn has_mode(object: &Object) -> bool {
    object.mode.is_some()
}

fn takes_xattrs(object: &Object) -> bool {
    matches!(object.kind, Kind::File(_) | Kind::Directory)
}

fn some_mode(random: &mut Random) -> u32 {
    random.below(0o1000) as u32
}

fn some_path(random: &mut Random, model: &Model, fits: impl Fn(&Object) -> bool) -> Option<String> {
    let paths: Vec<&str> =
        model.entries().filter(|(_, _, object)| fits(object)).map(|(path, ..)| path).collect();
    random.pick(&paths).map(|path| (*path).to_owned())
}

fn free_name(random: &mut Random, model: &Model) -> Option<String> {
    let leaf = format!("n{}", random.below(NAMES_PER_DIRECTORY));
    let path = if random.chance(35) {
        leaf
    } else {
        format!("{}/{leaf}", some_path(random, model, Object::is_directory)?)
    };
    (model.get(&path).is_none() && path.matches('/').count() < 5).then_some(path)
}
