//! The comparison of a model with a real tree, by content, and the resolution of an operation in doubt.

use super::model::{Kind, Model, Object, ObjectId};
use super::operation::Operation;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// More differences than this are not reported one by one.
const MAX_REPORTED: usize = 12;

/// Compares the tree at `root` with the model. Empty: they are equal.
pub fn differences(root: &Path, model: &Model) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    walk(root, "", &mut seen)?;
    for path in &seen {
        if model.get(path).is_none() {
            found.push(format!("{path}: exists, but it was never acknowledged or was removed"));
        }
    }
    let mut inodes: BTreeMap<u64, ObjectId> = BTreeMap::new();
    for (path, id, object) in model.entries() {
        if !seen.contains(path) {
            found.push(format!("{path}: missing ({})", describe(object)));
            continue;
        }
        let real = root.join(path);
        let meta = fs::symlink_metadata(&real)?;
        compare_object(&real, path, &meta, object, &mut found)?;
        if !object.is_directory() {
            let links = model.links(id) as u64;
            if meta.nlink() != links {
                found.push(format!("{path}: {} links instead of {links}", meta.nlink()));
            }
        }
        if *inodes.entry(meta.ino()).or_insert(id) != id {
            found.push(format!("{path}: shares its inode with another object"));
        }
    }
    let objects: BTreeSet<ObjectId> = model.entries().map(|(_, id, _)| id).collect();
    if found.is_empty() && inodes.len() != objects.len() {
        found.push(format!(
            "{} inodes for {} objects: a hard link was broken up",
            inodes.len(),
            objects.len()
        ));
    }
    let more = found.len().saturating_sub(MAX_REPORTED);
    if more > 0 {
        found.truncate(MAX_REPORTED);
        found.push(format!("... and {more} more"));
    }
    Ok(found)
}

/// Compares the tree with the model, which may or may not have seen the operation in doubt, and makes the model
/// follow what is there. The error of a mismatch lists the differences from the closest allowed state.
pub fn resolve(
    root: &Path,
    model: &mut Model,
    in_doubt: Option<&Operation>,
) -> io::Result<Result<(), Vec<String>>> {
    let before = differences(root, model)?;
    if before.is_empty() {
        return Ok(Ok(()));
    }
    let mut closest = before;
    for effect in in_doubt.map(|operation| operation.possible_effects(model)).unwrap_or_default() {
        let mut after = model.clone();
        effect.apply(&mut after);
        let left = differences(root, &after)?;
        if left.is_empty() {
            *model = after;
            return Ok(Ok(()));
        }
        if left.len() < closest.len() {
            closest = left;
        }
    }
    if let Some(operation) = in_doubt {
        closest.push(format!("(in doubt was: {operation:?})"));
    }
    Ok(Err(closest))
}

fn walk(root: &Path, prefix: &str, seen: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(prefix))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if !seen.insert(path.clone()) {
            return Err(io::Error::other(format!("{path}: listed twice in its directory")));
        }
        if entry.file_type()?.is_dir() {
            walk(root, &path, seen)?;
        }
    }
    Ok(())
}

fn compare_object(
    real: &Path,
    path: &str,
    meta: &fs::Metadata,
    object: &Object,
    found: &mut Vec<String>,
) -> io::Result<()> {
    let kind = meta.file_type();
    let same_kind = match &object.kind {
        Kind::File(_) => kind.is_file(),
        Kind::Directory => kind.is_dir(),
        Kind::Symlink(_) => kind.is_symlink(),
        Kind::Fifo => kind.is_fifo(),
    };
    if !same_kind {
        found.push(format!("{path}: is of another type than {}", describe(object)));
        return Ok(());
    }
    match &object.kind {
        Kind::File(expected) => compare_content(real, path, expected, found)?,
        Kind::Symlink(target) if fs::read_link(real)?.as_os_str() != target.as_str() => {
            found.push(format!("{path}: symbolic link points elsewhere"));
        }
        _ => {}
    }
    if let Some(mode) = object.mode
        && meta.mode() & 0o7777 != mode
    {
        found.push(format!("{path}: mode {:o} instead of {mode:o}", meta.mode() & 0o7777));
    }
    if (meta.uid(), meta.gid()) != (object.uid, object.gid) {
        found.push(format!(
            "{path}: owner {}:{} instead of {}:{}",
            meta.uid(),
            meta.gid(),
            object.uid,
            object.gid
        ));
    }
    if let Some((seconds, nanos)) = object.mtime
        && (meta.mtime(), meta.mtime_nsec()) != (seconds, i64::from(nanos))
    {
        found.push(format!(
            "{path}: modified {}.{:09} instead of {seconds}.{nanos:09}",
            meta.mtime(),
            meta.mtime_nsec()
        ));
    }
    if matches!(object.kind, Kind::File(_) | Kind::Directory) {
        let real_xattrs = user_xattrs(real)?;
        if real_xattrs != object.xattrs {
            let names = |map: &BTreeMap<String, Vec<u8>>| map.keys().cloned().collect::<Vec<_>>().join(",");
            found.push(format!(
                "{path}: xattrs differ (there: {}; expected: {})",
                names(&real_xattrs),
                names(&object.xattrs)
            ));
        }
    }
    Ok(())
}

fn compare_content(real: &Path, path: &str, expected: &[u8], found: &mut Vec<String>) -> io::Result<()> {
    let bytes = fs::read(real)?;
    if bytes.len() != expected.len() {
        found.push(format!("{path}: {} bytes instead of {}", bytes.len(), expected.len()));
    } else if let Some(first) = bytes.iter().zip(expected).position(|(is, should)| is != should) {
        let wrong = bytes.iter().zip(expected).filter(|(is, should)| is != should).count();
        let zero = if bytes[first..].iter().take(64).all(|byte| *byte == 0) { ", zeros there" } else { "" };
        found.push(format!("{path}: {wrong} of {} bytes differ, first at {first}{zero}", bytes.len()));
    }
    Ok(())
}

fn user_xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let all = crate::tree::xattrs(path)?;
    Ok(all.into_iter().filter(|(name, _)| name.starts_with("user.")).collect())
}

fn describe(object: &Object) -> String {
    match &object.kind {
        Kind::File(bytes) => format!("a file of {} bytes", bytes.len()),
        Kind::Directory => "a directory".to_owned(),
        Kind::Symlink(_) => "a symbolic link".to_owned(),
        Kind::Fifo => "a FIFO".to_owned(),
    }
}
