//! What a directory tree holds, for comparing the local trees of both nodes.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Everything below `root` by its path: kind, mode, owner, links, times and contents. Without Twinfiler's own
/// directory.
pub fn snapshot(root: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    visit(root, root, &mut found)?;
    Ok(found)
}

fn visit(root: &Path, path: &Path, found: &mut BTreeMap<String, String>) -> std::io::Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let content = if kind.is_file() {
        format!("{:x}", hash(&std::fs::read(path)?))
    } else if kind.is_symlink() {
        std::fs::read_link(path)?.display().to_string()
    } else if kind.is_dir() {
        String::new()
    } else {
        format!("{} {}", meta.rdev(), kind.is_fifo())
    };
    let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
    let size = if kind.is_dir() { 0 } else { meta.size() };
    let line = format!(
        "{:o} {}:{} {size} bytes {} links {}.{:09} {content}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    // The root of the tree is the operator's directory.
    if !name.is_empty() {
        found.insert(name, line);
    }
    if kind.is_dir() {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if path == root && [".twinfiler", "lost+found"].iter().any(|own| entry.file_name() == *own) {
                continue;
            }
            visit(root, &entry.path(), found)?;
        }
    }
    Ok(())
}

/// FNV-1a: enough to tell different contents apart in a test.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What differs between two trees, a line each.
pub fn differences(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| format!("{name}: {:?} / {:?}", a.get(name), b.get(name)))
        .collect()
}
