//! Salvages on a small btrfs, and what they are written with.
//!
//! What can go wrong: they need root, loop devices and `mkfs.btrfs`, and fail without.

use super::*;
use apply_engine::{
    Base, Delta, LogBytes, NameRef, NewKind, NewObject, Operation, Other, Overwritten, RecordPosition,
    Timestamp, Vanished,
};
use ids::ChainCrc;
use std::cell::Cell;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;

const VOLUME: VolumeId = VolumeId([7; 16]);
const NOW: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 5 };

/// A small btrfs in an image file, whose directories have room for 13 long names of one hash each.
struct Image(tempfile::TempDir);

impl Image {
    fn new() -> Image {
        let image = Image(tempfile::tempdir().expect("a temporary directory"));
        let (file, mounted) = (image.0.path().join("image"), image.mounted());
        File::create(&file).and_then(|file| file.set_len(600 << 20)).expect("a sparse file");
        std::fs::create_dir(&mounted).expect("a mount point");
        run(Command::new("mkfs.btrfs").args(["-q", "-n", "4096"]).arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).args([&file, &mounted]));
        image
    }

    fn mounted(&self) -> PathBuf {
        self.0.path().join("mounted")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.mounted()).status();
    }
}

fn run(command: &mut Command) {
    let outcome = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(outcome.status.success(), "{command:?}: {}", String::from_utf8_lossy(&outcome.stderr));
}

/// Names of 255 bytes that have one hash: CRC-32C does not notice its own polynomial.
fn colliding(count: usize) -> Vec<Vec<u8>> {
    const POLYNOMIAL: [u8; 5] = [0xF1, 0x76, 0xEC, 0x05, 0x01];
    let name = |number: usize| {
        let mut name = vec![b'a'; 255];
        for (bit, part) in name.chunks_mut(POLYNOMIAL.len()).take(16).enumerate() {
            if number >> bit & 1 == 1 {
                part.iter_mut().zip(POLYNOMIAL).for_each(|(byte, other)| *byte ^= other);
            }
        }
        name
    };
    (0..count).map(name).collect()
}

/// No record has content.
struct NoLog;

impl LogBytes for NoLog {
    fn copy_out(&self, lsn: Lsn, _: &mut [u8]) -> Result<(), Overwritten> {
        Err(Overwritten { lsn })
    }
}

/// A primary that has some objects just so, and nothing else.
struct Has(Vec<Oid>);

impl Primary for Has {
    fn same(&mut self, _: &Layers, entries: &[Entry]) -> Result<Vec<bool>, SalvageError> {
        Ok(entries.iter().map(|entry| self.0.contains(&entry.oid)).collect())
    }

    fn names(&mut self, _: &Layers, _: &[Oid]) -> Result<Vec<(Oid, Vec<u8>)>, SalvageError> {
        Ok(Vec::new())
    }
}

/// What clients have made, none of it applied.
struct Made {
    base: Arc<Base>,
    layers: Layers,
    next: Cell<u64>,
    image: Image,
}

impl Made {
    fn new() -> Made {
        let image = Image::new();
        let tree = image.mounted().join("volume");
        std::fs::create_dir(&tree).expect("a directory");
        let base = Arc::new(Base::create(&tree, VOLUME).expect("creates"));
        let delta = Delta::new(Lsn(0), Vanished::Forget);
        let layers = Layers::new(delta, Vec::new(), base.clone(), Arc::new(NoLog));
        Made { base, layers, next: Cell::new(0), image }
    }

    fn absorb(&self, operation: &Operation<'_>) {
        let lsn = Lsn(self.next.get());
        self.next.set(lsn.0 + 64);
        self.layers.absorb(RecordPosition { lsn, end: Lsn(lsn.0 + 64), payload_lsn: lsn }, operation);
    }

    fn create(&self, parent: Oid, name: &[u8], oid: u64, kind: NewKind<'_>) {
        let mode = 0o640;
        let object =
            NewObject { oid: Oid(oid), kind, mode, uid: 3, gid: 4, generation: 1, xattrs: Vec::new() };
        let name = NameRef::new(name).expect("a name");
        self.absorb(&Operation::Create { parent, name, object, parent_nlink: 2, at: NOW });
    }

    fn link(&self, parent: Oid, name: &[u8], oid: u64, nlink: u32) {
        let object = Other { oid: Oid(oid), kind: ObjectKind::File, nlink };
        let name = NameRef::new(name).expect("a name");
        self.absorb(&Operation::Link { object, parent, name, at: NOW });
    }

    /// Where it is by default.
    fn salvage_path(&self) -> PathBuf {
        self.image.mounted().join("volume/.twinfiler/salvage")
    }

    /// Keeps all of it but what the primary has.
    fn keep(&self, primary: &mut Has, go_on: GoOn<'_>) -> Result<Option<Kept>, SalvageError> {
        let (at, node) = (self.salvage_path(), "n".parse().expect("a name"));
        let log_end = LogPoint { lsn: Lsn(0), crc: ChainCrc(0) };
        let salvage = Salvage { volume: VOLUME, node: &node, at: &at, since: None, log_end };
        let layers = Arc::new(self.layers.clone());
        let changes = Changes::find(&self.base, || layers.clone(), None, &|| true).expect("finds");
        salvage.keep(&changes, Removed::default(), primary, go_on, &|_| {})
    }

    /// Every path leads to its object, one for all names of it.
    fn check(&self, kept: &Kept, paths: &[(Vec<u8>, u64)]) {
        let elsewhere = elsewhere(&kept.at);
        assert_eq!((kept.objects, kept.elsewhere), (paths.len() as u64, elsewhere.len() as u64));
        let mut inodes = HashMap::new();
        for (path, oid) in paths {
            let attributes = self.layers.attributes(Oid(*oid)).expect("reads");
            let found = find(&kept.at, &elsewhere, path);
            let stat = std::fs::symlink_metadata(&found).unwrap_or_else(|error| panic!("{found:?}: {error}"));
            assert_eq!((stat.uid(), stat.gid(), stat.mtime()), (3, 4, attributes.mtime.secs), "{found:?}");
            assert_eq!(stat.is_dir(), attributes.kind.is_directory(), "{found:?}");
            assert_eq!(*inodes.entry(oid).or_insert(stat.ino()), stat.ino(), "{found:?}");
        }
    }
}

/// What the list says does not stand under its path, and where it is.
fn elsewhere(salvage: &Path) -> HashMap<Vec<u8>, PathBuf> {
    let list = std::fs::read_to_string(salvage.join("elsewhere")).expect("some are elsewhere");
    let line = |line: &str| {
        let (path, there) = line.split_once('\t').expect("two words");
        let there = unescape(there).expect("a path");
        (unescape(path).expect("a path"), salvage.join(OsStr::from_bytes(&there)))
    };
    list.lines().map(line).collect()
}

/// Where somebody who reads the list finds what had this path.
fn find(salvage: &Path, elsewhere: &HashMap<Vec<u8>, PathBuf>, path: &[u8]) -> PathBuf {
    let inside = || {
        let slash = path.iter().rposition(|byte| *byte == b'/')?;
        Some(elsewhere.get(&path[..slash])?.join(OsStr::from_bytes(&path[slash + 1..])))
    };
    let named = || salvage.join("tree").join(OsStr::from_bytes(path));
    elsewhere.get(path).cloned().or_else(inside).unwrap_or_else(named)
}

/// btrfs has room for 13 of them in one directory, and older kernels give the filesystem up where one more is made.
#[test]
fn names_of_one_hash_do_not_stop_a_salvage() {
    const KINDS: [NewKind<'_>; 4] =
        [NewKind::File, NewKind::Directory, NewKind::Symlink(b"target"), NewKind::Fifo];
    let (made, names) = (Made::new(), colliding(60));
    let mut paths: Vec<(Vec<u8>, u64)> = Vec::new();
    for (name, oid) in names[..48].iter().zip(100..) {
        let kind = KINDS[oid as usize % 4];
        made.create(Oid::ROOT, name, oid, kind);
        paths.push((name.clone(), oid));
        if kind == NewKind::Directory {
            made.create(Oid(oid), b"inside", oid + 100, NewKind::File);
            paths.push(([name, &b"/inside"[..]].concat(), oid + 100));
        }
    }
    // A file with many such names, and directories that the primary has, with something in them that it has not.
    for (name, nlink) in names[48..56].iter().zip(2..) {
        made.link(Oid::ROOT, name, 100, nlink);
        paths.push((name.clone(), 100));
    }
    for (name, oid) in names[56..].iter().zip(300..) {
        made.create(Oid::ROOT, name, oid, NewKind::Directory);
        made.create(Oid(oid), b"inside", oid + 100, NewKind::Fifo);
        paths.push(([name, &b"/inside"[..]].concat(), oid + 100));
    }
    // An attempt that is cut off among the copies.
    let (asked, primary) = (Cell::new(0), &mut Has((300..304).map(Oid).collect()));
    let cut_off = made.keep(primary, &|| {
        asked.set(asked.get() + 1);
        asked.get() < 80
    });
    assert!(matches!(cut_off, Err(SalvageError::Changes(ChangesError::Ended))), "{cut_off:?}");
    let found =
        || std::fs::read_dir(made.salvage_path()).expect("lists").map(|entry| entry.expect("lists").path());
    let left: Vec<PathBuf> = found().collect();
    assert!(
        left.len() == 1 && std::fs::read_dir(left[0].join("deep")).expect("lists").count() > 0,
        "{left:?}"
    );

    let kept = made.keep(primary, &|| true).expect("keeps").expect("something");
    assert_eq!(found().collect::<Vec<_>>(), std::slice::from_ref(&kept.at));
    made.check(&kept, &paths);
    let elsewhere = elsewhere(&kept.at);
    assert!(elsewhere.len() > 40, "{}", elsewhere.len());
    assert!(elsewhere.values().any(|path| path.is_dir()), "a directory");
    std::fs::write(made.salvage_path().join("still"), "writable").expect("the filesystem takes more");
}

/// It has one number, whatever its names.
#[test]
fn a_file_with_two_overlong_paths_is_kept_once() {
    let (made, name) = (Made::new(), [b'd'; 255]);
    let (mut path, mut paths) = (Vec::new(), Vec::new());
    for oid in 100..112 {
        let parent = if oid == 100 { Oid::ROOT } else { Oid(oid - 1) };
        made.create(parent, &name, oid, NewKind::Directory);
        path.extend(name);
        paths.push((path.clone(), oid));
        path.push(b'/');
    }
    made.create(Oid(111), b"one", 200, NewKind::File);
    made.link(Oid(111), b"two", 200, 2);
    paths.extend([b"one", b"two"].map(|name| ([&path[..], name].concat(), 200)));
    let kept = made.keep(&mut Has(Vec::new()), &|| true).expect("keeps").expect("something");
    made.check(&kept, &paths);
    assert_eq!(kept.elsewhere, 3, "the deepest directory, and the file's names");
}

#[test]
fn moments_become_names_that_sort() {
    let name = |seconds| utc_name(Duration::from_secs(seconds));
    for (seconds, expected) in [
        (0, "19700101T000000Z"),
        (951_782_399, "20000228T235959Z"),
        (951_868_800, "20000301T000000Z"),
        (1_795_374_191, "20261122T190311Z"),
    ] {
        assert_eq!(name(seconds), expected);
    }
}

#[test]
fn any_path_stands_on_one_line_of_the_list() {
    let path: Vec<u8> = (1..=255).collect();
    let line = path.escape_ascii().to_string();
    assert!(!line.contains('\n'));
    assert_eq!(unescape(&line), Some(path));
    assert_eq!(unescape("a\\"), None);
    assert_eq!(unescape("\\x4"), None);
}
