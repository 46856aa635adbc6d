//! What a random operation wants, and the absolute values that it must carry.

use super::Generator;
use super::generator::Step;
use crate::attributes::{AttrPatch, ObjectKind};
use crate::op::{Displaced, NewKind, NewObject, Operation, Other};
use crate::remainder::tolerant::CAPABILITY;
use ids::Oid;
use rand::Rng;

/// Length of their value, of which the kernel looks at the version, the second of four.
const CAPABILITY_BYTES: usize = 20;

fn encoded(operation: &Operation<'_>, data: Vec<u8>) -> Option<Step> {
    let mut head = Vec::new();
    operation.encode_head(&mut head);
    Some(Step { head, data })
}

impl Generator {
    /// One try; `None` when nothing fits.
    pub(super) fn intend(&mut self) -> Option<Step> {
        match self.rng.random_range(0..100) {
            0..20 => self.create(),
            20..24 => self.link(),
            24..36 => self.unlink(),
            36..52 => self.rename(),
            52..72 => self.write(),
            72..77 => self.truncate(),
            77..84 => self.range(),
            84..90 => self.set_attr(),
            90..97 => self.xattr(),
            _ => {
                let oid = self.any(|node| node.attributes.nlink == 0)?;
                encoded(&Operation::Reap { oid }, Vec::new())
            }
        }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rng.fill(&mut bytes[..]);
        bytes
    }

    /// The object and its link count after gaining `gain` links.
    fn other(&self, oid: Oid, gain: i64) -> Other {
        let attributes = self.model.node(oid).attributes;
        let nlink = if attributes.kind.is_directory() && gain < 0 {
            0
        } else {
            (i64::from(attributes.nlink) + gain) as u32
        };
        Other { oid, kind: attributes.kind, nlink }
    }

    fn nlink(&self, directory: Oid, gain: i64) -> u32 {
        (i64::from(self.model.node(directory).attributes.nlink) + gain) as u32
    }

    fn is_directory(&self, oid: Oid) -> bool {
        self.model.kind(oid).is_directory()
    }

    fn create(&mut self) -> Option<Step> {
        let parent = self.directory()?;
        let name = self.free_name(parent)?;
        let target = self.bytes(20).iter().map(|b| b'a' + b % 26).collect::<Vec<u8>>();
        let kind = match self.rng.random_range(0..20) {
            0..6 => NewKind::Directory,
            6..9 => NewKind::Symlink(&target),
            9 => NewKind::Fifo,
            10 => NewKind::Socket,
            11 => NewKind::CharDevice(libc::makedev(1, 3)),
            12 => NewKind::BlockDevice(libc::makedev(7, 300)),
            _ => NewKind::File,
        };
        let value = self.bytes(9);
        let xattrs = if self.chance(20) { vec![(&b"trusted.birth"[..], &value[..])] } else { Vec::new() };
        let mode = match kind {
            NewKind::Symlink(_) => 0o777,
            _ => self.rng.random_range(0..=0o7777),
        };
        let object = NewObject {
            oid: self.fresh_oid(),
            kind,
            mode,
            uid: self.rng.random_range(0..3000),
            gid: self.rng.random_range(0..3000),
            generation: self.rng.random_range(1..1 << 40),
            xattrs,
        };
        let parent_nlink = self.nlink(parent, i64::from(kind.kind().is_directory()));
        let at = self.tick();
        let operation = Operation::Create { parent, name: name.as_ref(), object, parent_nlink, at };
        encoded(&operation, Vec::new())
    }

    fn link(&mut self) -> Option<Step> {
        let oid = self.any(|node| !node.attributes.kind.is_directory() && node.attributes.nlink > 0)?;
        let parent = self.directory()?;
        let name = self.free_name(parent)?;
        let (object, at) = (self.other(oid, 1), self.tick());
        encoded(&Operation::Link { object, parent, name: name.as_ref(), at }, Vec::new())
    }

    fn unlink(&mut self) -> Option<Step> {
        let (parent, name, oid) = self.entry()?;
        let is_directory = self.is_directory(oid);
        if !self.model.node(oid).entries.is_empty() {
            return None;
        }
        let object = self.other(oid, -1);
        let reap = object.nlink == 0 && self.chance(60);
        let parent_nlink = self.nlink(parent, -i64::from(is_directory));
        let at = self.tick();
        let operation = Operation::Unlink { parent, name: name.as_ref(), object, reap, parent_nlink, at };
        encoded(&operation, Vec::new())
    }

    fn rename(&mut self) -> Option<Step> {
        let (from_parent, from_name, oid) = self.entry()?;
        let taken = if self.chance(50) { Some(self.entry()?) } else { None };
        let exchange = self.chance(35);
        let (to_parent, to_name, old) = match taken {
            Some((parent, name, old)) => (parent, name, Some(old)),
            None => {
                let parent = self.directory()?;
                (parent, self.free_name(parent)?, None)
            }
        };
        let moves_directory = self.is_directory(oid);
        if old == Some(oid) || (moves_directory && self.lineage(to_parent).contains(&oid)) {
            return None;
        }
        let (displaced, leaves, enters) = match old {
            None => (Displaced::Nothing, false, false),
            Some(old) if exchange => {
                let is_directory = self.is_directory(old);
                if is_directory && self.lineage(from_parent).contains(&old) {
                    return None;
                }
                (Displaced::Exchanged(self.other(old, 0)), is_directory, is_directory)
            }
            Some(old) => (self.replaced(old, moves_directory)?, moves_directory, false),
        };
        let gain = |there: bool| i64::from(there);
        let mut from_gain = gain(enters) - gain(moves_directory);
        let mut to_gain = gain(moves_directory) - gain(leaves);
        if from_parent == to_parent {
            from_gain += to_gain;
            to_gain = from_gain;
        }
        let whiteout =
            (!matches!(displaced, Displaced::Exchanged(_)) && self.chance(10)).then(|| NewObject {
                oid: self.fresh_oid(),
                kind: NewKind::CharDevice(0),
                mode: 0,
                uid: 0,
                gid: 0,
                generation: 7,
                xattrs: Vec::new(),
            });
        let operation = Operation::Rename {
            from_parent,
            from_name: from_name.as_ref(),
            to_parent,
            to_name: to_name.as_ref(),
            moved: self.other(oid, 0),
            displaced,
            whiteout,
            from_parent_nlink: self.nlink(from_parent, from_gain),
            to_parent_nlink: self.nlink(to_parent, to_gain),
            at: self.tick(),
        };
        encoded(&operation, Vec::new())
    }

    /// `old` gives way to an object that is, or is not, a directory.
    fn replaced(&mut self, old: Oid, by_directory: bool) -> Option<Displaced> {
        if self.is_directory(old) != by_directory || !self.model.node(old).entries.is_empty() {
            return None;
        }
        let object = self.other(old, -1);
        Some(Displaced::Replaced { object, reap: object.nlink == 0 && self.chance(60) })
    }

    fn file(&mut self) -> Option<(Oid, u64)> {
        let oid = self.any(|node| node.attributes.kind == ObjectKind::File)?;
        Some((oid, self.model.node(oid).attributes.size))
    }

    /// A range of at most `max_len`, half of the time starting at the end of the file.
    fn place(&mut self, size: u64, max_len: u64) -> (u64, u64) {
        let offset = if self.chance(40) { size } else { self.rng.random_range(0..Self::MAX_FILE_BYTES) };
        let offset = offset.min(Self::MAX_FILE_BYTES - 1);
        let len_bytes = self.rng.random_range(1..=max_len).min(Self::MAX_FILE_BYTES - offset);
        match self.chance(50) {
            true if offset >= 4096 => (offset / 4096 * 4096, len_bytes),
            _ => (offset, len_bytes),
        }
    }

    /// Who changes contents or owner takes capabilities away first.
    fn without_capability(&mut self, oid: Oid) -> Option<Step> {
        self.model.node(oid).xattrs.get(CAPABILITY)?;
        let at = self.tick();
        encoded(&Operation::RemoveXattr { oid, name: CAPABILITY, mode: None, at }, Vec::new())
    }

    /// Those that a write leaves, because they were given after what is written, are said again behind it.
    fn keep_capability(&mut self, oid: Oid) {
        let at = self.tick();
        self.next = self.model.node(oid).xattrs.get(CAPABILITY).and_then(|value| {
            encoded(&Operation::SetXattr { oid, name: CAPABILITY, value, mode: None, at }, Vec::new())
        });
    }

    fn write(&mut self) -> Option<Step> {
        let (oid, size) = self.file()?;
        if self.chance(50)
            && let Some(before) = self.without_capability(oid)
        {
            return Some(before);
        }
        let (offset, len_bytes) = self.place(size, 9000);
        let data = self.bytes(len_bytes as usize);
        let size_after = size.max(offset + len_bytes);
        let at = self.tick();
        self.keep_capability(oid);
        encoded(&Operation::Write { oid, offset, len_bytes: len_bytes as u32, size_after, at }, data)
    }

    fn truncate(&mut self) -> Option<Step> {
        let (oid, size) = self.file()?;
        if let Some(before) = self.without_capability(oid) {
            return Some(before);
        }
        let size = match self.rng.random_range(0..4) {
            0 => 0,
            1 => self.rng.random_range(0..=size),
            _ => self.rng.random_range(0..Self::MAX_FILE_BYTES),
        };
        let at = self.tick();
        encoded(&Operation::Truncate { oid, size, at }, Vec::new())
    }

    fn range(&mut self) -> Option<Step> {
        let (oid, size) = self.file()?;
        if let Some(before) = self.without_capability(oid) {
            return Some(before);
        }
        let (offset, len_bytes) = self.place(size, 20_000);
        let keep_size = self.chance(50);
        let size_after = if keep_size { size } else { size.max(offset + len_bytes) };
        let at = self.tick();
        let operation = match self.rng.random_range(0..3) {
            0 => Operation::Allocate { oid, offset, len_bytes, size_after, at },
            1 => Operation::ZeroRange { oid, offset, len_bytes, size_after, at },
            _ => Operation::PunchHole { oid, offset, len_bytes, size_after: size, at },
        };
        encoded(&operation, Vec::new())
    }

    fn set_attr(&mut self) -> Option<Step> {
        let oid = self.any(|_| true)?;
        let at = self.tick();
        let mut patch = AttrPatch { ctime: Some(at), ..AttrPatch::default() };
        match self.rng.random_range(0..3) {
            0 if self.model.kind(oid) != ObjectKind::Symlink => {
                patch.mode = Some(self.rng.random_range(0..=0o7777));
            }
            0 | 1 => {
                if let Some(before) = self.without_capability(oid) {
                    return Some(before);
                }
                patch.uid = Some(self.rng.random_range(0..3000));
                patch.gid = self.chance(50).then(|| self.rng.random_range(0..3000));
            }
            _ => {
                patch.atime = Some(self.tick());
                patch.mtime = self.chance(50).then(|| self.tick());
            }
        }
        encoded(&Operation::SetAttr { oid, patch }, Vec::new())
    }

    fn xattr(&mut self) -> Option<Step> {
        let oid = self.any(|_| true)?;
        let at = self.tick();
        let present = self.model.node(oid).xattrs.keys().cloned().collect();
        if self.chance(40) {
            let name = self.pick::<Vec<u8>>(present)?;
            return encoded(&Operation::RemoveXattr { oid, name: &name, mode: None, at }, Vec::new());
        }
        let mut name = format!("trusted.t{}", self.rng.random_range(0..4)).into_bytes();
        let len = self.rng.random_range(0..60);
        let mut value = self.bytes(len);
        if self.model.kind(oid) == ObjectKind::File && self.chance(40) {
            (name, value) = (CAPABILITY.to_vec(), vec![0; CAPABILITY_BYTES]);
            value[3] = 2;
            value[4] = self.rng.random_range(0..=u8::MAX);
        }
        let operation = Operation::SetXattr { oid, name: &name, value: &value, mode: None, at };
        encoded(&operation, Vec::new())
    }
}
