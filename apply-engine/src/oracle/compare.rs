//! Compares what merged reads show with what the model holds.

use super::Model;
use crate::attributes::{Attributes, ObjectKind};
use crate::name::NameRef;
use crate::view::{BaseReader, Layers, ViewError};
use ids::Oid;
use std::collections::BTreeMap;

/// The first thing in which `layers` and `model` differ, in words; `None` when nothing does. Not compared,
/// because filesystems are free in it: block counts, directory sizes, and where exactly holes are.
pub fn difference(layers: &Layers, model: &Model) -> Option<String> {
    let orphans = model.orphans().unwrap_or_default();
    match layers.orphans() {
        Ok(shown) if shown == orphans => {}
        other => return Some(format!("orphans: {other:?}, expected {orphans:?}")),
    }
    model.nodes.keys().find_map(|&oid| object_difference(layers, model, oid).transpose()).map(|found| {
        match found {
            Ok(text) => text,
            Err(error) => format!("reading failed: {error}"),
        }
    })
}

/// Like [`difference`], and also: holes byte by byte, and that no OID below `first_unused` is there that the
/// model does not have.
pub fn exact_difference(layers: &Layers, model: &Model, first_unused: Oid) -> Option<String> {
    let gone = |oid: &Oid| !model.nodes.contains_key(oid);
    let wrong = (Oid::FIRST_FREE.0..first_unused.0)
        .map(Oid)
        .filter(gone)
        .find(|&oid| !matches!(layers.attributes(oid), Err(ViewError::NoObject(_))))
        .map(|oid| format!("{oid} is still there"));
    let files = || model.nodes.iter().filter(|(_, node)| node.attributes.kind == ObjectKind::File);
    let holes = || files().find_map(|(&oid, _)| hole_difference(layers, model, oid));
    difference(layers, model).or(wrong).or_else(holes)
}

/// Goes from data to hole to data through the file, as `cp --sparse` does.
fn hole_difference(layers: &Layers, model: &Model, oid: Oid) -> Option<String> {
    let mut at = 0;
    loop {
        let (data, hole) = (model.seek_data(oid, at).ok()?, model.seek_hole(oid, at).ok()?);
        let shown = (layers.seek_data(oid, at), layers.seek_hole(oid, at));
        if !matches!(shown, (Ok(d), Ok(h)) if (d, h) == (data, hole)) {
            return Some(format!("{oid} seek from {at}: {shown:?}, expected {:?}", (data, hole)));
        }
        // One of the two is the position itself; the other is the next edge.
        at = data.max(hole)?;
        if hole == Some(at) && data.is_none() {
            return None;
        }
    }
}

fn object_difference(layers: &Layers, model: &Model, oid: Oid) -> Result<Option<String>, ViewError> {
    let node = model.node(oid);
    let kind = node.attributes.kind;
    let differs = |what: &str, shown: &dyn std::fmt::Debug, expected: &dyn std::fmt::Debug| {
        Ok(Some(format!("{what} of {oid} ({kind:?}): {shown:?}, expected {expected:?}")))
    };
    let shown = layers.attributes(oid)?;
    if comparable(shown) != comparable(node.attributes) {
        return differs("attributes", &comparable(shown), &comparable(node.attributes));
    }
    let names = layers.xattr_names(oid)?;
    if !names.iter().eq(node.xattrs.keys()) {
        return differs("xattr names", &names, &node.xattrs.keys());
    }
    for (name, value) in &node.xattrs {
        let shown = layers.xattr(oid, name)?;
        if shown.as_ref() != Some(value) {
            return differs("an xattr", &shown, value);
        }
    }
    match kind {
        ObjectKind::Symlink => {
            let target = layers.readlink(oid)?;
            if target != node.target {
                return differs("target", &target, &node.target);
            }
        }
        ObjectKind::File => {
            let mut content = vec![0xEE; node.content.len() + 10];
            let len = layers.read(oid, 0, &mut content)?;
            content.truncate(len);
            if content != node.content {
                let at = content.iter().zip(&node.content).position(|(a, b)| a != b);
                return differs("content", &(len, at), &node.content.len());
            }
        }
        ObjectKind::Directory => return directory_difference(layers, model, oid),
        _ => {}
    }
    Ok(None)
}

fn directory_difference(layers: &Layers, model: &Model, oid: Oid) -> Result<Option<String>, ViewError> {
    let node = model.node(oid);
    let listing = layers.listing(oid)?;
    let shown: BTreeMap<_, _> =
        listing.entries().iter().map(|entry| (entry.name.clone(), (entry.oid, entry.kind))).collect();
    let expected: BTreeMap<_, _> =
        node.entries.iter().map(|(name, &oid)| (name.clone(), (oid, model.kind(oid)))).collect();
    if shown != expected || listing.entries().len() != shown.len() {
        return Ok(Some(format!("entries of {oid}: {shown:?}, expected {expected:?}")));
    }
    if layers.is_empty_directory(oid)? != expected.is_empty() {
        return Ok(Some(format!("{oid} says wrongly whether it is empty")));
    }
    for (name, &(child, kind)) in &expected {
        let found = layers.lookup(oid, name.as_ref())?;
        if found.map(|target| (target.oid, target.kind)) != Some((child, kind)) {
            return Ok(Some(format!("{name:?} in {oid}: {found:?}, expected {child} {kind:?}")));
        }
    }
    if let Ok(free) = NameRef::new(b"never used")
        && let Some(found) = layers.lookup(oid, free)?
    {
        return Ok(Some(format!("a name never used in {oid} leads to {found:?}")));
    }
    if node.attributes.nlink > 0 && layers.parent(oid)? != node.parent {
        return Ok(Some(format!("{oid} is not in {}", node.parent)));
    }
    Ok(None)
}

fn comparable(attributes: Attributes) -> Attributes {
    let size = if attributes.kind.is_directory() { 0 } else { attributes.size };
    Attributes { size, blocks_bytes: 0, ..attributes }
}
