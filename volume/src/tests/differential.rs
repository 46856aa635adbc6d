//! The same random calls on a volume and on a plain directory of the same filesystem: same errors, same tree.
//!
//! The oracle is the kernel's own filesystem. Consistency points fall between the calls, so all layers take
//! part; at the end the base tree itself is compared, too.

use super::*;
use apply_engine::ObjectKind;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, XattrFlags};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names are few, so that calls meet.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// One or two components.
type Place = (Option<usize>, usize);

#[derive(Clone, Debug)]
enum Call {
    Make(Place, u8),
    Unlink(Place),
    Rmdir(Place),
    Rename(Place, Place, u8),
    Link(Place, Place),
    Write(Place, u16, u16),
    Truncate(Place, u16),
    Allocate(Place, u8, u16, u16),
    Chmod(Place, u32),
    Chown(Place, u32),
    SetXattr(Place, u8, u8, u8),
    RemoveXattr(Place, u8),
    Checkpoint,
}

fn place() -> impl Strategy<Value = Place> {
    (prop::option::of(0..2_usize), 0..NAMES.len())
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (place(), 0..6_u8).prop_map(|(p, kind)| Call::Make(p, kind)),
        2 => place().prop_map(Call::Unlink),
        1 => place().prop_map(Call::Rmdir),
        4 => (place(), place(), 0..4_u8).prop_map(|(a, b, flags)| Call::Rename(a, b, flags)),
        2 => (place(), place()).prop_map(|(a, b)| Call::Link(a, b)),
        4 => (place(), 0..20_000_u16, 1..9000_u16).prop_map(|(p, at, len)| Call::Write(p, at, len)),
        2 => (place(), 0..30_000_u16).prop_map(|(p, size)| Call::Truncate(p, size)),
        2 => (place(), 0..5_u8, 0..20_000_u16, 1..9000_u16).prop_map(|(p, m, at, len)| Call::Allocate(p, m, at, len)),
        1 => (place(), 0..0o10000_u32).prop_map(|(p, mode)| Call::Chmod(p, mode)),
        1 => (place(), 0..3_u32).prop_map(|(p, id)| Call::Chown(p, id)),
        2 => (place(), 0..3_u8, 0..4_u8, 0..100_u8).prop_map(|(p, n, m, len)| Call::SetXattr(p, n, m, len)),
        1 => (place(), 0..3_u8).prop_map(|(p, n)| Call::RemoveXattr(p, n)),
        1 => Just(Call::Checkpoint),
    ]
}

fn kind(code: u8) -> NodeKind<'static> {
    match code {
        0 | 1 => NodeKind::File,
        2 => NodeKind::Symlink(b"some/where"),
        3 => NodeKind::Fifo,
        _ => NodeKind::Directory,
    }
}

fn errno(error: rustix::io::Errno) -> i32 {
    error.raw_os_error()
}

const XATTRS: [&str; 3] = ["user.one", "user.two", "trusted.three"];
const XATTR_FLAGS: [(i32, XattrFlags); 4] = [
    (0, XattrFlags::empty()),
    (libc::XATTR_CREATE, XattrFlags::CREATE),
    (libc::XATTR_REPLACE, XattrFlags::REPLACE),
    (libc::XATTR_CREATE | libc::XATTR_REPLACE, XattrFlags::CREATE.union(XattrFlags::REPLACE)),
];
const RENAMES: [u32; 4] = [0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE, libc::RENAME_WHITEOUT];
const ALLOCATIONS: [i32; 5] = [
    0,
    libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_ZERO_RANGE,
    libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
];

/// What user xattrs may be put on is the kernel's check, before it asks a filesystem.
fn takes_user_xattrs(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::File | ObjectKind::Directory)
}

struct Both {
    v: Fixture,
    plain: TempDir,
}

impl Both {
    fn path(&self, (directory, name): Place) -> PathBuf {
        let parent = directory.map_or(self.plain.path().to_owned(), |d| self.plain.path().join(NAMES[d]));
        parent.join(NAMES[name])
    }

    /// The parent as the kernel's path walk finds it.
    fn parent(&self, (directory, _): Place) -> Result<Oid> {
        let Some(directory) = directory else { return Ok(Oid::ROOT) };
        let found = self.v.lookup(Oid::ROOT, NAMES[directory].as_bytes())?;
        match found.kind {
            ObjectKind::Directory => Ok(found.oid),
            ObjectKind::Symlink => Err(Errno::ENOENT),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn find(&self, place: Place) -> Result<Attributes> {
        self.v.lookup(self.parent(place)?, NAMES[place.1].as_bytes())
    }

    fn file(&self, place: Place) -> Result<Option<Oid>> {
        let found = self.find(place)?;
        Ok((found.kind == ObjectKind::File).then_some(found.oid))
    }

    /// The call on both; `None` where it makes no sense there.
    #[expect(clippy::too_many_lines, reason = "one arm for each call")]
    fn run(&self, call: &Call) -> Option<(Result<()>, std::result::Result<(), i32>)> {
        let v = &self.v;
        Some(match call {
            Call::Make(place, code) => {
                let made = self.parent(*place).and_then(|p| v.node(p, NAMES[place.1], kind(*code)).map(drop));
                (made, self.make_plain(&self.path(*place), kind(*code)).map_err(errno))
            }
            Call::Unlink(place) => (
                self.parent(*place).and_then(|p| v.unlink(p, NAMES[place.1].as_bytes())),
                rustix::fs::unlink(self.path(*place)).map_err(errno),
            ),
            Call::Rmdir(place) => (
                self.parent(*place).and_then(|p| v.rmdir(p, NAMES[place.1].as_bytes())),
                rustix::fs::rmdir(self.path(*place)).map_err(errno),
            ),
            Call::Rename(from, to, mode) => {
                let bits = RENAMES[usize::from(*mode)];
                let ours = self.parent(*from).and_then(|p| Ok((p, self.parent(*to)?))).and_then(|(p, q)| {
                    let (from, to) = (NAMES[from.1].as_bytes(), NAMES[to.1].as_bytes());
                    v.rename(&Root, (p, from), (q, to), RenameMode::from_bits(bits)?)
                });
                let flags = RenameFlags::from_bits_retain(bits);
                let theirs = rustix::fs::renameat_with(CWD, self.path(*from), CWD, self.path(*to), flags);
                (ours, theirs.map_err(errno))
            }
            Call::Link(from, to) => {
                let ours = self.find(*from).and_then(|object| {
                    v.link(object.oid, self.parent(*to)?, NAMES[to.1].as_bytes()).map(drop)
                });
                let theirs = rustix::fs::linkat(CWD, self.path(*from), CWD, self.path(*to), AtFlags::empty());
                (ours, theirs.map_err(errno))
            }
            Call::Write(place, at, len) => {
                let oid = self.file(*place).ok().flatten()?;
                let data = vec![(*at % 250) as u8 + 1; usize::from(*len)];
                let file = std::fs::File::options().write(true).open(self.path(*place)).ok()?;
                let ours = v.write(oid, WriteAt::Offset(u64::from(*at)), &data, None).map(drop);
                (ours, rustix::io::pwrite(&file, &data, u64::from(*at)).map(drop).map_err(errno))
            }
            Call::Truncate(place, size) => {
                let oid = self.file(*place).ok().flatten()?;
                let file = std::fs::File::options().write(true).open(self.path(*place)).ok()?;
                let set = SetAttributes { size: Some(u64::from(*size)), ..Default::default() };
                let ours = v.setattr(&Root, oid, set).map(drop);
                (ours, rustix::fs::ftruncate(&file, u64::from(*size)).map_err(errno))
            }
            Call::Allocate(place, mode, at, len) => {
                let oid = self.file(*place).ok().flatten()?;
                let file = std::fs::File::options().write(true).open(self.path(*place)).ok()?;
                let (bits, at, len) = (ALLOCATIONS[usize::from(*mode)], u64::from(*at), u64::from(*len));
                let ours =
                    AllocateMode::from_bits(bits).and_then(|mode| v.allocate(&Root, oid, mode, at, len));
                let flags = FallocateFlags::from_bits_retain(bits as u32);
                (ours, rustix::fs::fallocate(&file, flags, at, len).map_err(errno))
            }
            Call::Chmod(place, mode) => {
                let found = self.find(*place).ok().filter(|found| found.kind != ObjectKind::Symlink)?;
                let set = SetAttributes { mode: Some(*mode), ..Default::default() };
                let ours = v.setattr(&Root, found.oid, set).map(drop);
                (ours, rustix::fs::chmod(self.path(*place), Mode::from_raw_mode(*mode)).map_err(errno))
            }
            Call::Chown(place, id) => {
                let found = self.find(*place).ok()?;
                let set = SetAttributes { uid: Some(*id), gid: Some(*id + 1), ..Default::default() };
                let ours = v.setattr(&Root, found.oid, set).map(drop);
                (
                    ours,
                    std::os::unix::fs::lchown(self.path(*place), Some(*id), Some(*id + 1))
                        .map_err(|e| e.raw_os_error().unwrap_or(0)),
                )
            }
            Call::SetXattr(place, name, mode, len) => {
                let found = self.find(*place).ok().filter(|found| takes_user_xattrs(found.kind))?;
                let (name, (bits, flags)) = (XATTRS[usize::from(*name)], XATTR_FLAGS[usize::from(*mode)]);
                let value = vec![*len; usize::from(*len)];
                let ours = XattrMode::from_bits(bits)
                    .and_then(|mode| v.set_xattr(&Root, found.oid, name.as_bytes(), &value, mode));
                (ours, rustix::fs::lsetxattr(self.path(*place), name, &value, flags).map_err(errno))
            }
            Call::RemoveXattr(place, name) => {
                let found = self.find(*place).ok().filter(|found| takes_user_xattrs(found.kind))?;
                let name = XATTRS[usize::from(*name)];
                let ours = v.remove_xattr(&Root, found.oid, name.as_bytes());
                (ours, rustix::fs::lremovexattr(self.path(*place), name).map_err(errno))
            }
            Call::Checkpoint => {
                v.checkpoint();
                return None;
            }
        })
    }

    fn make_plain(&self, path: &Path, kind: NodeKind<'_>) -> rustix::io::Result<()> {
        let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        match kind {
            NodeKind::Directory => rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)),
            NodeKind::Symlink(target) => rustix::fs::symlink(target, path),
            NodeKind::Fifo => {
                rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o644), 0)
            }
            _ => rustix::fs::open(path, create, Mode::from_raw_mode(0o644)).map(drop),
        }
    }
}

/// What a tree shows, by path: kind and mode, links, owner, size, contents, xattrs.
type Tree = BTreeMap<PathBuf, (u32, u32, u32, u32, u64, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>)>;

fn tree_of(v: &Fixture) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![(PathBuf::new(), Oid::ROOT)];
    while let Some((path, oid)) = open.pop() {
        for name in v.names(oid).into_iter().filter(|name| name != "." && name != "..") {
            let found = v.lookup(oid, name.as_bytes()).unwrap();
            let contents = match found.kind {
                ObjectKind::File => v.get(found.oid),
                ObjectKind::Symlink => v.readlink(found.oid).unwrap(),
                _ => Vec::new(),
            };
            let names = v.xattr_names(&Root, found.oid).unwrap();
            let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
            let xattrs = names.map(|name| (name.to_vec(), v.xattr(found.oid, name).unwrap())).collect();
            let size = if found.kind.is_directory() { 0 } else { found.size };
            let mode = found.kind.format_bits() | found.mode;
            tree.insert(path.join(&name), (mode, found.nlink, found.uid, found.gid, size, contents, xattrs));
            if found.kind.is_directory() {
                open.push((path.join(&name), found.oid));
            }
        }
    }
    tree
}

fn tree_on_disk(root: &Path) -> Tree {
    use std::os::unix::fs::MetadataExt;
    let mut tree = Tree::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(root.join(&path)).unwrap() {
            let entry = entry.unwrap();
            if path == Path::new("") && entry.file_name() == apply_engine::base::HIDDEN_NAME {
                continue;
            }
            let (shown, meta) = (path.join(entry.file_name()), entry.metadata().unwrap());
            let contents = match meta.file_type() {
                kind if kind.is_file() => std::fs::read(entry.path()).unwrap(),
                kind if kind.is_symlink() => {
                    std::fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
                }
                _ => Vec::new(),
            };
            let mut names = vec![0; 4096];
            let len = rustix::fs::llistxattr(entry.path(), &mut names).unwrap();
            let mut names: Vec<&[u8]> = names[..len].split(|byte| *byte == 0).collect();
            names.retain(|name| !name.is_empty() && !name.starts_with(b"trusted.twinfiler"));
            names.sort();
            let xattrs = names.into_iter().map(|name| {
                let mut value = vec![0; 4096];
                let len = rustix::fs::lgetxattr(entry.path(), name, &mut value).unwrap();
                (name.to_vec(), value[..len].to_vec())
            });
            let size = if meta.is_dir() { 0 } else { meta.size() };
            let shown_as =
                (meta.mode(), meta.nlink() as u32, meta.uid(), meta.gid(), size, contents, xattrs.collect());
            tree.insert(shown.clone(), shown_as);
            if meta.is_dir() {
                open.push(shown);
            }
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig {
        // Each makes thousands of calls on a real filesystem.
        cases: ProptestConfig::default().cases.div_ceil(6),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_volume_behaves_as_the_kernels_own_filesystem(calls in prop::collection::vec(call(), 1..60)) {
        rustix::process::umask(Mode::from_raw_mode(0));
        let both = Both { v: fixture(), plain: tempfile::tempdir().unwrap() };
        for (number, call) in calls.iter().enumerate() {
            if let Some((ours, theirs)) = both.run(call) {
                prop_assert_eq!(ours.map_err(Errno::code), theirs, "call {}: {:?}", number, call);
            }
        }
        let expected = tree_on_disk(both.plain.path());
        prop_assert_eq!(tree_of(&both.v), expected.clone());
        both.v.checkpoint();
        prop_assert_eq!(tree_of(&both.v), expected.clone());
        prop_assert_eq!(tree_on_disk(both.v.dir.path()), expected);
    }
}
