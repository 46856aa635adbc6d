//! A whole directory tree as lines of text, so that the local trees of two guests can be compared on the host.
//!
//! Told are names, types, permission bits, owners, device numbers, sizes, contents (by digest), targets of symbolic
//! links, extended attributes, which names are hard links of one object, and modification times. Not told: access
//! and change times, inode numbers, the hidden directory in a volume's root, and the volume's own label attribute,
//! which holds positions that each node reaches at its own time.

use anyhow::{Context, Result};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::hash::Hasher;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The hidden directory of a volume, in its root only.
const HIDDEN: &str = ".twinfiler";

/// The attribute that carries an object's id and positions.
const LABEL: &str = "trusted.twinfiler";

/// How much of a file is read at once.
const READ_BYTES: usize = 256 * 1024;

/// More differences than this are counted only.
const MAX_DIFFERENCES: usize = 12;

/// Arguments of the hidden command `tree`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The root
    pub root: PathBuf,
}

/// Prints the tree.
pub fn run(arguments: &Arguments) -> Result<()> {
    print!("{}", describe(&arguments.root)?);
    Ok(())
}

/// One line for each name, sorted.
pub fn describe(root: &Path) -> Result<String> {
    let mut text = String::new();
    let mut first_names = HashMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let real = root.join(&path);
        let line = line(&real, &path, &mut first_names)
            .with_context(|| format!("cannot look at {}", real.display()))?;
        text.push_str(&line);
        if fs::symlink_metadata(&real)?.is_dir() {
            let children = fs::read_dir(&real)?.map(|child| child.map(|child| path.join(child.file_name())));
            let mut children = children.collect::<io::Result<Vec<_>>>()?;
            children.retain(|child| child != Path::new(HIDDEN));
            // Sorted, so that both walks meet the names of an object in the same order.
            children.sort_by(|one, other| other.cmp(one));
            waiting.extend(children);
        }
    }
    Ok(text)
}

fn line(real: &Path, path: &Path, first_names: &mut HashMap<u64, PathBuf>) -> Result<String> {
    let meta = fs::symlink_metadata(real)?;
    let first_name = first_names.entry(meta.ino()).or_insert_with(|| path.to_path_buf());
    let mut line = format!(
        "{path:?} mode {:o} owner {}:{} device {:x} modified {}.{:09}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.rdev(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    // Writing to a String does not fail.
    if meta.is_file() {
        let _ = write!(line, " size {} content {:016x}", meta.len(), digest(real)?);
    }
    if meta.is_symlink() {
        let _ = write!(line, " to {:?}", fs::read_link(real)?);
    }
    if first_name != path {
        let _ = write!(line, " link of {first_name:?}");
    }
    for (name, value) in xattrs(real)? {
        let value: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = write!(line, " {name}={value}");
    }
    line.push('\n');
    Ok(line)
}

/// A 64-bit SipHash of a file's content: a difference goes unnoticed once in 2^64.
fn digest(path: &Path) -> io::Result<u64> {
    let mut file = fs::File::open(path)?;
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            got => hasher.write(&buffer[..got]),
        }
    }
}

/// The largest list of names and the largest value that Linux has.
const XATTR_MAX_BYTES: usize = 64 * 1024;

fn xattrs(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = |read: &dyn Fn(&mut [u8]) -> rustix::io::Result<usize>| -> Result<Vec<u8>> {
        let mut buffer = vec![0; XATTR_MAX_BYTES];
        let len = read(&mut buffer)?;
        buffer.truncate(len);
        Ok(buffer)
    };
    let names = read(&|buffer| rustix::fs::llistxattr(path, buffer))?;
    let mut all = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsString::from_vec(name.to_vec());
        if name == LABEL {
            continue;
        }
        let value = read(&|buffer| rustix::fs::lgetxattr(path, name.as_bytes(), buffer))?;
        all.insert(name.to_string_lossy().into_owned(), value);
    }
    Ok(all)
}

/// What is not the same in two descriptions, for people. Empty: they are equal.
pub fn differences(one: &str, other: &str) -> Vec<String> {
    let (first, second): (BTreeSet<&str>, BTreeSet<&str>) = (one.lines().collect(), other.lines().collect());
    let only = |mark: &'static str, line: &&str| format!("{mark} {line}");
    let mut found: Vec<String> = first.difference(&second).map(|line| only("first only: ", line)).collect();
    found.extend(second.difference(&first).map(|line| only("second only:", line)));
    let more = found.len().saturating_sub(MAX_DIFFERENCES);
    if more > 0 {
        found.truncate(MAX_DIFFERENCES);
        found.push(format!("and {more} more"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    fn twins() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::create_dir_all(one.join("sub")).unwrap();
        fs::write(one.join("sub/file"), b"content").unwrap();
        fs::hard_link(one.join("sub/file"), one.join("linked")).unwrap();
        symlink("nowhere", one.join("symlink")).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(one.join("sub/file"), "user.key", b"value", flags).unwrap();
        assert!(Command::new("cp").arg("-a").arg(&one).arg(&other).status().unwrap().success());
        (dir, one, other)
    }

    fn found(one: &Path, other: &Path) -> String {
        differences(&describe(one).unwrap(), &describe(other).unwrap()).join("\n")
    }

    #[test]
    fn a_faithful_copy_is_equal_and_the_hidden_directory_is_not_looked_at() {
        let (_dir, one, other) = twins();
        let time = fs::metadata(&other).unwrap().modified().unwrap();
        fs::create_dir(one.join(HIDDEN)).unwrap();
        fs::File::open(&one).unwrap().set_modified(time).unwrap();
        assert_eq!(found(&one, &other), "");
        assert_eq!(describe(&one).unwrap().lines().count(), 5);
    }

    #[test]
    fn each_kind_of_difference_is_found() {
        type Damage = fn(&Path);
        let keep_time = |path: &Path, change: &dyn Fn()| {
            let time = fs::metadata(path).unwrap().modified().unwrap();
            change();
            fs::File::open(path).unwrap().set_modified(time).unwrap();
        };
        let (_dir, one, other) = twins();
        let file = other.join("linked");
        keep_time(&file, &|| fs::write(&file, b"CONTENT").unwrap());
        assert!(found(&one, &other).contains("content"));
        let cases: [(&str, Damage); 4] = [
            ("mode", |root| {
                fs::set_permissions(root.join("linked"), fs::Permissions::from_mode(0o640)).unwrap();
            }),
            ("modified", |root| {
                fs::File::open(root.join("linked")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            }),
            ("user.key", |root| rustix::fs::lremovexattr(root.join("linked"), "user.key").unwrap()),
            ("symlink", |root| fs::remove_file(root.join("symlink")).unwrap()),
        ];
        for (expected, damage) in cases {
            let (_dir, one, other) = twins();
            damage(&other);
            let found = found(&one, &other);
            assert!(found.contains(expected), "expected {expected}: {found}");
        }
    }
}
