//! One object of the source, described completely but for a file's contents.
//!
//! What can go wrong: the object changes while it is read; the caller keeps the tree still, or captures it again.

use ids::{Lsn, Oid};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

use super::site::Site;
use super::{ObjectLabel, ResyncError};
use crate::attributes::{Attributes, ObjectKind, Timestamp};

/// What a directory holds under one name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// The object.
    pub oid: Oid,
    /// What that is.
    pub kind: ObjectKind,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Capture {
    /// Which object.
    pub oid: Oid,
    /// Its generation.
    pub generation: u64,
    /// What it is.
    pub kind: ObjectKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The link count that clients see; 0 for one that only lives because it is open.
    pub nlink: u32,
    /// Length of a file in bytes.
    pub size: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Device number, 0 for what is no device.
    pub rdev: u64,
    /// The last record that changed it.
    pub last_lsn: Lsn,
    /// Target of a symbolic link, else empty.
    pub target: Vec<u8>,
    /// Xattrs by full name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What a directory holds, unless it is told in parts.
    pub entries: Vec<Entry>,
    /// In how many parts that is to be asked for ([`super::entries`]), when it holds too much for this description; else 0.
    pub parts: u32,
}

impl Capture {
    /// What its label says when it is whole.
    pub fn label(&self) -> ObjectLabel {
        ObjectLabel { oid: self.oid, generation: self.generation, last_lsn: self.last_lsn }
    }
}

/// What the source says of an OID.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Surveyed {
    /// This is it.
    Here(Box<Capture>),
    /// There is no such object.
    Gone(Oid),
}

impl Surveyed {
    /// Which object.
    pub fn oid(&self) -> Oid {
        match self {
            Surveyed::Here(capture) => capture.oid,
            Surveyed::Gone(oid) => *oid,
        }
    }
}

/// See [`super::capture`]. `at_once`: so many names make a part.
pub(super) fn capture(
    site: &impl Site,
    oid: Oid,
    room: &mut usize,
    at_once: usize,
) -> Result<Surveyed, ResyncError> {
    let Some(label) = site.find(oid)?.and_then(|found| found.label) else { return Ok(Surveyed::Gone(oid)) };
    let failed = |error| ResyncError::Read(oid, error);
    let reader = site.reader();
    let Attributes { kind, uid, gid, nlink, size, atime, mtime, ctime, rdev, generation, .. } =
        reader.attributes(oid).map_err(failed)?;
    let mut xattrs = Vec::new();
    for name in reader.xattr_names(oid).map_err(failed)? {
        if let Some(value) = reader.xattr(oid, &name).map_err(failed)? {
            xattrs.push((name, value));
        }
    }
    let (mut entries, mut parts) = (Vec::new(), 0);
    if kind.is_directory() {
        let mut names = 0;
        let keep = &mut |entry: crate::view::BaseEntry<'_>| {
            names += 1;
            if names > *room {
                return ControlFlow::Break(());
            }
            entries.push(Entry { name: entry.name.as_bytes().to_vec(), oid: entry.oid, kind: entry.kind });
            ControlFlow::Continue(())
        };
        reader.readdir(oid, keep).map_err(failed)?;
        if names > *room {
            entries = Vec::new();
            // The names alone: nothing is asked about what they lead to.
            let count = site.count_names(oid)?;
            parts = super::parts::parts_of(count, at_once).max(1);
        } else {
            *room -= names;
        }
    }
    let target = match kind {
        ObjectKind::Symlink => reader.readlink(oid).map_err(failed)?,
        _ => Vec::new(),
    };
    Ok(Surveyed::Here(Box::new(Capture {
        oid,
        generation,
        kind,
        // Not the inode's: a change of owner that was cut off may have cleared some bits of that.
        mode: label.mode,
        uid,
        gid,
        nlink,
        size: if kind == ObjectKind::File { size } else { 0 },
        atime,
        mtime,
        ctime,
        rdev,
        last_lsn: label.last_lsn,
        target,
        xattrs,
        entries,
        parts,
    })))
}
