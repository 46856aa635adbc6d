//! The comparison of two whole directory trees: are the local trees of two nodes the same?
//!
//! Compared are names, types, permission bits, owners, device numbers, sizes, contents, symbolic links' targets,
//! extended attributes, which names are hard links of one object, and modification times. Not compared: access
//! and change times, inode numbers, the hidden directory in a volume's root, and the volume's own label
//! attribute, which holds positions that each node reaches at its own time.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::hash::Hasher;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The hidden directory of a volume, in its root only.
pub const HIDDEN: &str = ".twinfiler";

/// The attribute that carries an object's id and positions.
pub const LABEL: &str = "trusted.twinfiler";

/// More differences than this are counted, not listed.
const MAX_REPORTED: usize = 20;

/// A filesystem makes this in its own root; a mounted base tree may have one.
const LOST_AND_FOUND: &str = "lost+found";

/// How much of a file is read at once.
const READ_BYTES: usize = 256 * 1024;

/// All that is compared of one name.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    size: u64,
    modified: (i64, i64),
    digest: u64,
    target: Option<PathBuf>,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path of the object, in the order of the walk: equal for two names exactly if they are links.
    first_name: PathBuf,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// How many names the first tree has.
    pub entries: u64,
    /// How many bytes of content the first tree has (hard links counted once).
    pub bytes: u64,
    /// The differences, at most some dozens.
    pub differences: Vec<String>,
}

/// Compares two trees completely.
pub fn compare(one: &Path, other: &Path) -> io::Result<Comparison> {
    let (first, second) = (snapshot(one)?, snapshot(other)?);
    let mut found = Vec::new();
    for (path, entry) in &first {
        match second.get(path) {
            None => found.push(format!("{}: only in {}", path.display(), one.display())),
            Some(twin) => {
                found.extend(describe(entry, twin).map(|what| format!("{}: {what}", path.display())))
            }
        }
    }
    for path in second.keys().filter(|path| !first.contains_key(*path)) {
        found.push(format!("{}: only in {}", path.display(), other.display()));
    }
    if found.len() > MAX_REPORTED {
        let more = found.len() - MAX_REPORTED;
        found.truncate(MAX_REPORTED);
        found.push(format!("... and {more} more"));
    }
    let files = first.iter().filter(|(path, entry)| entry.first_name == **path && entry.target.is_none());
    let bytes = files.map(|(_, entry)| entry.size).sum();
    Ok(Comparison { entries: first.len() as u64, bytes, differences: found })
}

fn describe(one: &Entry, other: &Entry) -> Option<String> {
    let mut what = Vec::new();
    if one.mode != other.mode {
        what.push(format!("mode {:o} / {:o}", one.mode, other.mode));
    }
    if one.owner != other.owner {
        what.push(format!("owner {:?} / {:?}", one.owner, other.owner));
    }
    if one.device != other.device {
        what.push(format!("device {:#x} / {:#x}", one.device, other.device));
    }
    if one.size != other.size {
        what.push(format!("size {} / {}", one.size, other.size));
    }
    if one.digest != other.digest {
        what.push("content".to_owned());
    }
    if one.target != other.target {
        what.push("link target".to_owned());
    }
    if one.modified != other.modified {
        what.push(format!("modified {:?} / {:?}", one.modified, other.modified));
    }
    if one.xattrs != other.xattrs {
        let names = |entry: &Entry| entry.xattrs.keys().cloned().collect::<Vec<_>>().join(",");
        what.push(format!("xattrs {{{}}} / {{{}}}", names(one), names(other)));
    }
    if one.first_name != other.first_name {
        what.push(format!("hard link of {} / {}", one.first_name.display(), other.first_name.display()));
    }
    (!what.is_empty()).then(|| what.join("; "))
}

fn snapshot(root: &Path) -> io::Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    let mut first_names = HashMap::new();
    // The root itself is an object of the volume too.
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let real = root.join(&path);
        let entry = read_entry(&real, &path, &mut first_names)?;
        if entry.mode & FILE_TYPE == DIRECTORY {
            let mut children = fs::read_dir(&real)?
                .map(|child| child.map(|child| path.join(child.file_name())))
                .collect::<io::Result<Vec<_>>>()?;
            children.retain(|child| child != Path::new(HIDDEN) && child != Path::new(LOST_AND_FOUND));
            // Sorted, so that both walks meet the names of an object in the same order.
            children.sort_by(|one, other| other.cmp(one));
            waiting.extend(children);
        }
        entries.insert(path, entry);
    }
    Ok(entries)
}

/// The bits of a mode that hold the type, and the type of a directory and of a regular file.
const FILE_TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

fn read_entry(real: &Path, path: &Path, first_names: &mut HashMap<u64, PathBuf>) -> io::Result<Entry> {
    let meta = fs::symlink_metadata(real)?;
    let kind = meta.mode() & FILE_TYPE;
    let first_name = first_names.entry(meta.ino()).or_insert_with(|| path.to_path_buf()).clone();
    let mut xattrs = xattrs(real)?;
    xattrs.remove(LABEL);
    Ok(Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        device: meta.rdev(),
        size: if kind == REGULAR { meta.len() } else { 0 },
        modified: (meta.mtime(), meta.mtime_nsec()),
        digest: if kind == REGULAR { digest(real)? } else { 0 },
        target: if kind == SYMLINK { Some(fs::read_link(real)?) } else { None },
        xattrs,
        first_name,
    })
}

/// A 64-bit SipHash of a file's content: a difference goes unnoticed once in 2^64.
pub fn digest(path: &Path) -> io::Result<u64> {
    let mut file = fs::File::open(path)?;
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Ok(hasher.finish());
        }
        hasher.write(&buffer[..got]);
    }
}

/// All extended attributes of an object itself (symbolic links are not followed).
pub fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let names = grown(|buffer| rustix::fs::llistxattr(path, buffer))?;
    let mut all = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsString::from_vec(name.to_vec());
        let value = grown(|buffer| rustix::fs::lgetxattr(path, name.as_bytes(), buffer))?;
        all.insert(name.to_string_lossy().into_owned(), value);
    }
    Ok(all)
}

/// The largest list of names and the largest value that Linux has.
const XATTR_MAX_BYTES: usize = 64 * 1024;

fn grown(read: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; XATTR_MAX_BYTES];
    let len = match read(&mut buffer) {
        // Filesystems without xattrs have none.
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    buffer.truncate(len);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    fn twins() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::create_dir_all(one.join("sub/deep")).unwrap();
        fs::write(one.join("sub/file"), b"content").unwrap();
        fs::hard_link(one.join("sub/file"), one.join("linked")).unwrap();
        symlink("nowhere", one.join("symlink")).unwrap();
        rustix::fs::lsetxattr(one.join("sub/file"), "user.key", b"value", rustix::fs::XattrFlags::empty())
            .unwrap();
        let copied = Command::new("cp").arg("-a").arg(&one).arg(&other).status().unwrap();
        assert!(copied.success());
        (dir, one, other)
    }

    fn differences(one: &Path, other: &Path) -> String {
        compare(one, other).unwrap().differences.join("\n")
    }

    #[test]
    fn a_faithful_copy_is_equal_and_the_hidden_directory_is_not_looked_at() {
        let (_dir, one, other) = twins();
        fs::create_dir(one.join(HIDDEN)).unwrap();
        fs::write(one.join(HIDDEN).join("index"), b"x").unwrap();
        // Creating it changed the root's time.
        let time = fs::metadata(&other).unwrap().modified().unwrap();
        fs::File::open(&one).unwrap().set_modified(time).unwrap();
        let comparison = compare(&one, &other).unwrap();
        assert_eq!(comparison.differences, Vec::<String>::new());
        assert_eq!((comparison.entries, comparison.bytes), (6, 7));
    }

    #[test]
    fn each_kind_of_difference_is_found() {
        type Damage = fn(&Path);
        let cases: [(&str, Damage); 7] = [
            ("content", |root| {
                let time = fs::metadata(root.join("linked")).unwrap().modified().unwrap();
                fs::write(root.join("linked"), b"CONTENT").unwrap();
                fs::File::open(root.join("linked")).unwrap().set_modified(time).unwrap();
            }),
            ("mode", |root| {
                fs::set_permissions(root.join("linked"), fs::Permissions::from_mode(0o640)).unwrap();
            }),
            ("modified", |root| {
                fs::File::open(root.join("sub/deep")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            }),
            ("xattrs", |root| rustix::fs::lremovexattr(root.join("linked"), "user.key").unwrap()),
            ("only in", |root| fs::remove_file(root.join("symlink")).unwrap()),
            ("hard link", |root| {
                let status = Command::new("sh")
                    .arg("-c")
                    .arg("cp -a linked copy && mv copy linked")
                    .current_dir(root)
                    .status();
                assert!(status.unwrap().success());
            }),
            ("link target", |root| {
                fs::remove_file(root.join("symlink")).unwrap();
                symlink("elsewhere", root.join("symlink")).unwrap();
            }),
        ];
        for (expected, damage) in cases {
            let (_dir, one, other) = twins();
            damage(&other);
            let found = differences(&one, &other);
            assert!(found.contains(expected), "expected {expected}: {found}");
        }
    }
}
