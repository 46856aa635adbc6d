//! What one object is like in a tree, as five numbers.
//!
//! What can go wrong: it cannot be read ([`ResyncError::Read`]), or its label cannot be used.

use ids::{Lsn, Oid};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use xxhash_rust::xxh3::Xxh3Default;

use super::content::{Content, content};
use super::part::PIECE_BYTES;
use crate::attributes::{Attributes, ObjectKind};
use crate::base::{Label, is_reserved_in_root};
use crate::name::Name;
use crate::resync::ResyncError;
use crate::resync::site::Site;
use crate::tree::Parent;

/// Names of xattrs that belong to a machine and not to the volume begin so.
const MACHINE_XATTR: &[u8] = b"security.selinux";

/// Digests of what an object is like, one for each sort of difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Aspects {
    /// Kind, generation, device number, target of a symbolic link, and the last record that changed it.
    pub identity: u64,
    /// Mode, owner, link count, length, times.
    pub attributes: u64,
    /// Xattrs, with them ACLs.
    pub xattrs: u64,
    /// What a directory holds, also what is no object of the volume.
    pub names: u64,
    /// Content of a file that is one piece; 0 when that is nothing but zeros.
    pub contents: u64,
}

impl Aspects {
    /// All of them in one, never 0.
    pub fn digest(&self) -> u64 {
        let Aspects { identity, attributes, xattrs, names, contents } = self;
        let mut hash = Digest::default();
        [identity, attributes, xattrs, names, contents].iter().for_each(|aspect| hash.number(**aspect));
        hash.end()
    }

    /// Which of them differ, in words.
    pub fn differences(&self, other: &Aspects) -> Vec<&'static str> {
        let pairs = [
            (self.identity != other.identity, "identity"),
            (self.attributes != other.attributes, "attributes"),
            (self.xattrs != other.xattrs, "xattrs"),
            (self.names != other.names, "names"),
            (self.contents != other.contents, "contents"),
        ];
        pairs.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what).collect()
    }
}

/// A digest in the making: every field says how long it is, so that no two sequences look alike.
#[derive(Default)]
pub(super) struct Digest(Xxh3Default);

impl Digest {
    pub fn number(&mut self, value: u64) {
        self.0.update(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    /// What a range of a file holds.
    pub fn content(&mut self, content: Content) {
        self.number(content.digest.unwrap_or(0));
    }

    /// Never 0, which stands for what cannot be read.
    pub fn end(&self) -> u64 {
        self.0.digest().max(1)
    }
}

/// The label of an object that is in the tree: found, labelled, and with a name somewhere.
pub(super) fn label_of(site: &impl Site, oid: Oid) -> Result<Option<Label>, ResyncError> {
    // A name taken away behind our back leaves a descriptor that still works.
    let found = site.find(oid)?.filter(|occupant| oid == Oid::ROOT || occupant.local_nlink > 0);
    Ok(found.and_then(|occupant| occupant.label))
}

/// See [`super::aspects`]. Beside it, how much was read of the content.
pub(super) fn aspects(site: &impl Site, oid: Oid) -> Result<Option<(Aspects, u64)>, ResyncError> {
    let Some(label) = label_of(site, oid)? else { return Ok(None) };
    let failed = |error| ResyncError::Read(oid, error);
    let reader = site.reader();
    let attributes = reader.attributes(oid).map_err(failed)?;
    let kind = attributes.kind;
    let mut identity = Digest::default();
    identity.number(u64::from(kind.format_bits()));
    identity.number(label.generation);
    identity.number(attributes.rdev);
    identity.number(label.last_lsn.0);
    if kind == ObjectKind::Symlink {
        identity.bytes(&reader.readlink(oid).map_err(failed)?);
    }
    let content = match kind {
        ObjectKind::File if attributes.size <= PIECE_BYTES => content(site, oid, 0, attributes.size)?,
        _ => Content::default(),
    };
    let aspects = Aspects {
        identity: identity.end(),
        attributes: of_attributes(&attributes, &label),
        xattrs: xattrs(site, oid)?,
        names: if kind.is_directory() { names(site, oid)? } else { 0 },
        contents: content.digest.unwrap_or(0),
    };
    Ok(Some((aspects, content.read_bytes)))
}

/// Mode, owner, links, length and times, as far as both nodes must agree on them.
pub(super) fn of_attributes(attributes: &Attributes, label: &Label) -> u64 {
    let mut hash = Digest::default();
    hash.number(u64::from(attributes.mode));
    hash.number(u64::from(attributes.uid));
    hash.number(u64::from(attributes.gid));
    hash.number(u64::from(attributes.nlink));
    hash.number(if attributes.kind == ObjectKind::File { attributes.size } else { 0 });
    if attributes.oid != Oid::ROOT {
        hash.number(attributes.mtime.secs as u64);
        hash.number(u64::from(attributes.mtime.nanos));
        // Adopted on each node for itself: nobody can set a change time.
        if label.last_lsn != Lsn::ZERO {
            hash.number(attributes.ctime.secs as u64);
            hash.number(u64::from(attributes.ctime.nanos));
        }
    }
    hash.end()
}

/// Names and values of xattrs.
pub(super) fn xattrs(site: &impl Site, oid: Oid) -> Result<u64, ResyncError> {
    let failed = |error| ResyncError::Read(oid, error);
    let mut names = site.reader().xattr_names(oid).map_err(failed)?;
    names.retain(|name| !name.starts_with(MACHINE_XATTR));
    names.sort_unstable();
    let mut hash = Digest::default();
    for name in names {
        hash.bytes(&name);
        hash.bytes(&site.reader().xattr(oid, &name).map_err(failed)?.unwrap_or_default());
    }
    Ok(hash.end())
}

/// Everything in a directory by name; `None` stands for what is no object of the volume.
pub(super) fn listing(site: &impl Site, oid: Oid) -> Result<BTreeMap<Vec<u8>, Option<Oid>>, ResyncError> {
    let mut here: BTreeMap<Vec<u8>, Option<Oid>> = BTreeMap::new();
    for name in site.seen_names(oid)? {
        if oid != Oid::ROOT || !is_reserved_in_root(name.as_bytes()) {
            here.insert(name.as_bytes().to_vec(), None);
        }
    }
    let keep = &mut |entry: crate::view::BaseEntry<'_>| {
        here.insert(entry.name.as_bytes().to_vec(), Some(entry.oid));
        ControlFlow::Continue(())
    };
    site.reader().readdir(oid, keep).map_err(|error| ResyncError::Read(oid, error))?;
    Ok(here)
}

/// The same, as sums over all names: whatever order a directory is read in, and however many there are.
fn names(site: &impl Site, oid: Oid) -> Result<u64, ResyncError> {
    let one = |name: &[u8], target: u64| {
        let mut hash = Digest::default();
        hash.bytes(name);
        hash.number(target);
        hash.end()
    };
    // No object has this number.
    let nothing = |name: &[u8]| one(name, u64::MAX);
    let hidden = |name: &[u8]| oid == Oid::ROOT && is_reserved_in_root(name);
    let elsewhere: HashSet<Name> = match site.remainder().has_names(oid) {
        true => site.list(&Parent::Refused(oid))?.into_iter().collect(),
        false => HashSet::new(),
    };
    let sum = Cell::new(0_u64);
    let add = |digest: u64| sum.set(sum.get().wrapping_add(digest));
    site.list_some(&Parent::Object(oid), &|name| {
        if !hidden(name) && !elsewhere.contains(name) {
            add(nothing(name));
        }
        false
    })?;
    elsewhere.iter().for_each(|name| add(nothing(name.as_bytes())));
    let objects = &mut |entry: crate::view::BaseEntry<'_>| {
        add(one(entry.name.as_bytes(), entry.oid.0).wrapping_sub(nothing(entry.name.as_bytes())));
        ControlFlow::Continue(())
    };
    site.reader().readdir(oid, objects).map_err(|error| ResyncError::Read(oid, error))?;
    let mut hash = Digest::default();
    hash.number(sum.get());
    Ok(hash.end())
}
