//! A base whose disk hangs: whoever has to look into it waits, and nobody else.

use super::*;
use crate::commit::Journal;
use apply_engine::delta::Vanished;
use apply_engine::view::{BaseEntry, BaseReader};
use apply_engine::{Base, Delta, Layers, NameRef, Target};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Nothing here may ever take longer.
const NEVER: Duration = Duration::from_secs(20);

/// A base that answers a number of questions, and then none until it is healed.
struct Hanging {
    base: Arc<Base>,
    answers: Mutex<Option<usize>>,
    healed: Condvar,
    waiting: std::sync::atomic::AtomicUsize,
}

impl Hanging {
    fn hang_after(&self, answers: usize) {
        *self.answers.lock() = Some(answers);
    }

    fn heal(&self) {
        *self.answers.lock() = None;
        self.healed.notify_all();
    }

    fn waiting(&self) -> usize {
        self.waiting.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn ask(&self) -> &Base {
        let mut answers = self.answers.lock();
        match &mut *answers {
            Some(0) => {
                self.waiting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                while answers.is_some() {
                    self.healed.wait(&mut answers);
                }
                self.waiting.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        &self.base
    }
}

impl BaseReader for Hanging {
    fn lookup(&self, parent: Oid, name: NameRef<'_>) -> io::Result<Option<Target>> {
        self.ask().lookup(parent, name)
    }
    fn attributes(&self, oid: Oid) -> io::Result<Attributes> {
        self.ask().attributes(oid)
    }
    fn parent(&self, directory: Oid) -> io::Result<Oid> {
        self.ask().parent(directory)
    }
    fn read_at(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.ask().read_at(oid, offset, buf)
    }
    fn readdir(
        &self,
        directory: Oid,
        visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.ask().readdir(directory, visit)
    }
    fn readlink(&self, oid: Oid) -> io::Result<Vec<u8>> {
        self.ask().readlink(oid)
    }
    fn xattr(&self, oid: Oid, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.ask().xattr(oid, name)
    }
    fn xattr_names(&self, oid: Oid) -> io::Result<Vec<Vec<u8>>> {
        self.ask().xattr_names(oid)
    }
    fn seek_data(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        self.ask().seek_data(oid, offset)
    }
    fn seek_hole(&self, oid: Oid, offset: u64) -> io::Result<Option<u64>> {
        self.ask().seek_hole(oid, offset)
    }
    fn orphans(&self) -> io::Result<Vec<Oid>> {
        self.ask().orphans()
    }
}

/// A volume over a base that a first one has filled, and that hangs from now on.
fn hanging() -> (Fixture, Arc<Volume>, Arc<Hanging>) {
    let f = fixture();
    let cached = f.file("cached");
    f.put(cached, 0, b"contents");
    for name in ["cold", "moved", "dir", "empty", "full"] {
        f.directory(name);
    }
    let full = f.lookup(Oid::ROOT, b"full").unwrap().oid;
    f.node(full, "child", NodeKind::File).unwrap();
    f.file("file");
    f.checkpoint();
    let log = f.solo.volume.journal.log().clone();
    let base = Arc::clone(f.solo.base());
    let hanging = Arc::new(Hanging {
        base: base.clone(),
        answers: Mutex::new(None),
        healed: Condvar::new(),
        waiting: Default::default(),
    });
    let layers = Layers::new(Delta::new(log.end().lsn, Vanished::Forget), Vec::new(), hanging.clone(), log);
    let journal: Arc<dyn Journal> = f.solo.volume.journal.clone();
    let stack = Arc::new(crate::stack::DeltaStack::new(layers));
    let volume = Arc::new(Volume::new(stack, journal, f.limits, base.next_oid()));
    (f, volume, hanging)
}

/// What changes name, known beforehand.
#[derive(Clone, Copy)]
struct Named {
    cached: Oid,
    cold: Oid,
    dir: Oid,
    file: Oid,
}

type Change = fn(&Volume, Named) -> Result<()>;

fn make(v: &Volume, parent: Oid, name: &str, kind: NodeKind<'_>) -> Result<()> {
    v.create(&Root, parent, name.as_bytes(), Node { kind, mode: 0o755, umask: 0, open: false }).map(drop)
}

fn oid_of(v: &Volume, name: &str) -> Oid {
    v.lookup(Oid::ROOT, name.as_bytes()).unwrap().oid
}

fn chmod(v: &Volume, oid: Oid) -> Result<()> {
    let set = SetAttributes { mode: Some(0o700), ..SetAttributes::default() };
    v.setattr(&Root, oid, set).map(drop)
}

/// Every kind of change that has to look into the base.
const CHANGES: [(&str, Change, Result<()>); 9] = [
    ("create", |v, _| make(v, Oid::ROOT, "new", NodeKind::File), Ok(())),
    ("link", |v, named| v.link(named.file, Oid::ROOT, b"linked").map(drop), Ok(())),
    (
        "rename",
        |v, named| v.rename(&Root, (Oid::ROOT, b"moved"), (named.dir, b"there"), RenameMode::Replace),
        Ok(()),
    ),
    ("rmdir", |v, _| v.rmdir(Oid::ROOT, b"empty"), Ok(())),
    ("rmdir of a full one", |v, _| v.rmdir(Oid::ROOT, b"full"), Err(Errno::ENOTEMPTY)),
    ("unlink", |v, _| v.unlink(Oid::ROOT, b"file"), Ok(())),
    ("chmod", |v, named| chmod(v, named.cold), Ok(())),
    ("setxattr", |v, named| v.set_xattr(&Root, named.cold, b"user.a", b"1", XattrMode::Create), Ok(())),
    ("write", |v, named| v.write(named.file, WriteAt::End, b"x", None).map(drop), Ok(())),
];

/// The disk hangs at one question after the other, until a change has no more of them.
#[test]
fn who_hangs_on_the_disk_holds_no_lock_and_no_admission() {
    for (what, change, expected) in CHANGES {
        let mut asked = 0;
        while hangs_alone(what, change, expected, asked) {
            asked += 1;
            assert!(asked < 100, "{what} asks without end");
        }
        assert!(asked > 0, "{what} asks nothing");
    }
}

/// Whether `change` came as far as the question after `answers`; then everybody else must be served meanwhile.
fn hangs_alone(what: &str, change: Change, expected: Result<()>, answers: usize) -> bool {
    let (_f, volume, disk) = hanging();
    let named = Named {
        cached: oid_of(&volume, "cached"),
        cold: oid_of(&volume, "cold"),
        dir: oid_of(&volume, "dir"),
        file: oid_of(&volume, "file"),
    };
    volume.write(named.cached, WriteAt::End, b"known", None).unwrap();
    disk.hang_after(answers);
    let changes = volume.clone();
    let hung = std::thread::spawn(move || change(&changes, named));
    let deadline = Instant::now() + NEVER;
    while disk.waiting() == 0 && !hung.is_finished() {
        assert!(Instant::now() < deadline, "{what} neither hangs nor ends");
        std::thread::yield_now();
    }
    let hangs = disk.waiting() > 0;
    if hangs {
        let (done, others) = std::sync::mpsc::channel();
        let serves = volume.clone();
        std::thread::spawn(move || {
            let written = serves.write(named.cached, WriteAt::End, b"served", None);
            let _late = done.send((written, serves.is_committed(named.cached)));
        });
        let served = others.recv_timeout(NEVER);
        assert_eq!(
            served,
            Ok((Ok(6), true)),
            "{what} stopped those who need no disk, after {answers} answers"
        );
    }
    disk.heal();
    assert_eq!(hung.join().unwrap(), expected, "{what}");
    hangs
}

#[test]
fn what_changes_while_it_is_asked_is_seen() {
    let (_f, volume, disk) = hanging();
    let empty = oid_of(&volume, "empty");
    let dir = oid_of(&volume, "dir");
    make(&volume, dir, "below", NodeKind::Directory).unwrap();
    let below = volume.lookup(dir, b"below").unwrap().oid;
    let moved = oid_of(&volume, "moved");
    disk.hang_after(0);
    let removes = volume.clone();
    let removal = std::thread::spawn(move || removes.rmdir(Oid::ROOT, b"empty"));
    let deadline = Instant::now() + NEVER;
    while disk.waiting() == 0 {
        assert!(Instant::now() < deadline, "nobody looked into the base");
        std::thread::yield_now();
    }
    disk.heal();
    let outcome = (make(&volume, empty, "born", NodeKind::File), removal.join().unwrap());
    assert!(
        matches!(outcome, (Ok(()), Err(Errno::ENOTEMPTY)) | (Err(Errno::ENOENT | Errno::ESTALE), Ok(()))),
        "{outcome:?}"
    );
    // Two moves that would make a circle: one of them comes first, and the other sees it.
    let (one, other) = (volume.clone(), volume.clone());
    let first = std::thread::spawn(move || {
        one.rename(&Root, (Oid::ROOT, b"moved"), (below, b"m"), RenameMode::Replace)
    });
    let second = std::thread::spawn(move || {
        other.rename(&Root, (Oid::ROOT, b"dir"), (moved, b"d"), RenameMode::Replace)
    });
    let outcomes = [first.join().unwrap(), second.join().unwrap()];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
}
