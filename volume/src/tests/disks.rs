//! A base whose disk hangs: whoever has to look into it waits, and nobody else.

use super::*;
use admin_api::metrics::Metrics;
use apply_engine::delta::Vanished;
use apply_engine::view::{BaseEntry, BaseReader};
use apply_engine::{Base, Delta, Layers, NameRef, Target};
use commit::{BaseReads, Client, CommitEvents, CommitPath, Gate, Journal, PatientBase};
use parking_lot::{Condvar, Mutex};
use runtime::Uptime;
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
    let stack = Arc::new(commit::stack::DeltaStack::new(layers));
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

struct NoEvents;

impl CommitEvents for NoEvents {
    fn mirror_lost(&self, _link: u64, _error: rdma_transport::LinkError) {}
    fn log_failed(&self, error: String) {
        panic!("{error}");
    }
    fn want_consistency_point(&self) {}
}

type Request = Box<dyn FnOnce() + Send>;

/// A front door of four threads, as a node has it.
struct Door {
    volume: Arc<Volume>,
    path: Arc<CommitPath>,
    requests: std::sync::mpsc::Sender<Request>,
}

const DOOR_THREADS: usize = 4;
const BASE_THREADS: usize = 4;

impl Door {
    fn open(f: &Fixture, base: Arc<dyn BaseReader>) -> Door {
        let log = f.solo.volume.journal.log().clone();
        let (tail, end) = (log.tail().lsn, log.end().lsn);
        let cursors = ids::Cursors::new(log.capacity_bytes(), tail, tail, end).unwrap();
        let gate = Gate::new(log.capacity_bytes(), 64 << 10, tail);
        let space = SpaceBudget { total_bytes: 1 << 40, free_bytes: 1 << 40, ..SpaceBudget::default() };
        gate.set_local_space(tail, space);
        let metrics = Metrics::new().volume("v");
        let path =
            Arc::new(CommitPath::new(log.clone(), cursors, gate, metrics, Box::new(NoEvents), Uptime::now()));
        path.set_rule(ids::AckRule::Local).unwrap();
        path.set_lease(u64::MAX);
        path.open();
        let base = PatientBase::over(base, BaseReads::of_threads(DOOR_THREADS));
        let layers = Layers::new(Delta::new(end, Vanished::Forget), Vec::new(), base, log);
        let stack = Arc::new(commit::stack::DeltaStack::new(layers));
        let next_oid = f.solo.base().next_oid();
        let volume = Arc::new(Volume::new(stack, path.clone(), f.limits, next_oid));
        for _ in 0..BASE_THREADS {
            let path = path.clone();
            std::thread::spawn(move || path.serve_base());
        }
        let (parked, answers) = (path.clone(), path.clone());
        std::thread::spawn(move || parked.serve_parked());
        std::thread::spawn(move || answers.drive_for_answers());
        let (requests, inbox) = std::sync::mpsc::channel::<Request>();
        let inbox = Arc::new(Mutex::new(inbox));
        for _ in 0..DOOR_THREADS {
            let inbox = inbox.clone();
            std::thread::spawn(move || {
                loop {
                    let Ok(request) = inbox.lock().recv() else { return };
                    request();
                }
            });
        }
        Door { volume, path, requests }
    }

    /// Hands a request in; its answer comes to `answers`.
    fn ask<T: Send + 'static>(
        &self,
        answers: &std::sync::mpsc::Sender<Result<T>>,
        act: impl Fn(&Volume) -> Result<T> + Clone + Send + 'static,
    ) {
        let (volume, answers) = (self.volume.clone(), answers.clone());
        let request = move || {
            let client = Client { id: 0, gave_up: |_| false };
            let (now, again) = (volume.clone(), volume.clone());
            let repeat = act.clone();
            let answer = move |outcome| answers.send(outcome).unwrap();
            volume.serve(client, || act(&now), |_| (0, move || repeat(&again)), answer);
        };
        self.requests.send(Box::new(request)).unwrap();
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.path.end_serving();
    }
}

/// More than there are threads look into the base, all of them for the same directory, or each for something else.
#[test]
fn however_many_hang_on_the_disk_the_door_serves_the_rest() {
    for same in [false, true] {
        let (f, _, disk) = hanging();
        let door = Door::open(&f, disk.clone());
        let (cached, file) = (oid_of(&door.volume, "cached"), oid_of(&door.volume, "file"));
        let stream = Arc::new(door.volume.open_directory(Oid::ROOT).unwrap());
        door.volume.write(cached, WriteAt::End, b"known", None).unwrap();
        door.volume.getattr(cached).unwrap();
        disk.hang_after(0);
        let (told, hung) = std::sync::mpsc::channel();
        let hung_requests = 3 * (DOOR_THREADS + BASE_THREADS);
        for number in 0..hung_requests {
            let stream = stream.clone();
            door.ask(&told, move |v| match number % 4 {
                _ if same => v.read_directory(&stream, 0, |_| false),
                0 => v.rename(&Root, (Oid::ROOT, b"moved"), (Oid::ROOT, b"there"), RenameMode::NoReplace),
                1 => v.link(file, Oid::ROOT, format!("linked {number}").as_bytes()).map(drop),
                2 => v.lookup(Oid::ROOT, b"cold").map(drop),
                _ => make(v, Oid::ROOT, &format!("new {number}"), NodeKind::File),
            });
        }
        let deadline = Instant::now() + NEVER;
        while disk.waiting() == 0 || !same && disk.waiting() < DOOR_THREADS - 1 + BASE_THREADS {
            assert!(Instant::now() < deadline, "{} hang", disk.waiting());
            std::thread::yield_now();
        }
        let (done, others) = std::sync::mpsc::channel();
        for _ in 0..20 {
            door.ask(&done, move |v| v.write(cached, WriteAt::End, b"served", None).map(drop));
            door.ask(&done, move |v| v.getattr(cached).map(drop));
            door.ask(&done, |v| v.space().map(drop));
            door.ask(&done, |v| v.sync());
        }
        for _ in 0..80 {
            assert_eq!(others.recv_timeout(NEVER), Ok(Ok(())), "those who need no disk are stopped");
        }
        assert_eq!(hung.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
        disk.heal();
        let outcomes: Vec<_> = (0..hung_requests).map(|_| hung.recv_timeout(NEVER).unwrap()).collect();
        let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        // Each has its effect once: of all renames the first.
        assert_eq!(refused, if same { 0 } else { hung_requests / 4 - 1 }, "{outcomes:?}");
        door.volume.close_directory(&stream);
    }
}

/// A page is filled from the beginning whenever it is tried: what has to be asked is asked before anything is shown.
#[test]
fn a_page_that_had_to_wait_shows_each_name_once() {
    let (f, _, disk) = hanging();
    let door = Door::open(&f, disk.clone());
    let dir = oid_of(&door.volume, "full");
    let stream = Arc::new(door.volume.open_directory(dir).unwrap());
    let mut names = Vec::new();
    let note = |names: &mut Vec<Vec<u8>>, entry: crate::directory::Shown<'_>| {
        names.push(entry.name.to_vec());
        false
    };
    door.volume.read_directory(&stream, 0, |entry| note(&mut names, entry)).unwrap();
    assert!(names.len() > 2, "{names:?}");
    // As many wait for the disk as may.
    disk.hang_after(0);
    let (told, hung) = std::sync::mpsc::channel();
    for number in 1..DOOR_THREADS {
        door.ask(&told, move |v| v.lookup(Oid::ROOT, format!("cold {number}").as_bytes()).map(drop));
    }
    let deadline = Instant::now() + NEVER;
    while disk.waiting() < DOOR_THREADS - 1 {
        assert!(Instant::now() < deadline, "{} hang", disk.waiting());
        std::thread::yield_now();
    }
    let (done, listed) = std::sync::mpsc::channel();
    let page = Arc::new(Mutex::new(Vec::new()));
    let (fill, list) = (page.clone(), stream.clone());
    door.ask(&done, move |v| v.read_directory(&list, 0, |entry| note(&mut fill.lock(), entry)));
    assert_eq!(listed.recv_timeout(NEVER / 100), Err(std::sync::mpsc::RecvTimeoutError::Timeout));
    disk.heal();
    assert_eq!(listed.recv_timeout(NEVER), Ok(Ok(())));
    assert_eq!(*page.lock(), names);
    for _ in 1..DOOR_THREADS {
        hung.recv_timeout(NEVER).unwrap().unwrap_err();
    }
    door.volume.close_directory(&stream);
}

/// What a change answers is kept by a kernel: it shows blocks, and waits for no disk to count them.
#[test]
fn a_change_tells_of_blocks_without_the_disk() {
    let (_f, volume, disk) = hanging();
    let cached = oid_of(&volume, "cached");
    for asked_before in [false, true] {
        if asked_before {
            volume.getattr(cached).unwrap();
        }
        volume.write(cached, WriteAt::End, b"more", None).unwrap();
        disk.hang_after(0);
        let (done, outcome) = std::sync::mpsc::channel();
        let changes = volume.clone();
        std::thread::spawn(move || {
            let set = SetAttributes { atime: Some(SetTime::Now), ..SetAttributes::default() };
            let _late = done.send(changes.setattr(&Root, cached, set));
        });
        let changed = outcome.recv_timeout(NEVER).expect("it waits for the disk").unwrap();
        let counted = volume.knows_blocks(cached);
        disk.heal();
        assert_eq!(counted, asked_before);
        let exact = volume.getattr(cached).unwrap().blocks_bytes;
        assert!(
            if counted { changed.blocks_bytes == exact } else { changed.blocks_bytes > 0 },
            "{changed:?}"
        );
    }
}

/// A node that is deposed does not wait for readers that hang, and they are given nothing of what comes then.
#[test]
fn who_hangs_while_the_stack_begins_anew_is_left_behind() {
    let (_f, volume, disk) = hanging();
    let cached = oid_of(&volume, "cached");
    volume.write(cached, WriteAt::Offset(100), b"in the log", None).unwrap();
    disk.hang_after(0);
    let reads = volume.clone();
    let reader = std::thread::spawn(move || reads.read(cached, 0, &mut [0; 200]));
    let deadline = Instant::now() + NEVER;
    while disk.waiting() == 0 {
        assert!(Instant::now() < deadline, "nobody looked into the base");
        std::thread::yield_now();
    }
    let (begun, done) = std::sync::mpsc::channel();
    let (stack, log) = (volume.stack.clone(), volume.journal.log().clone());
    let base: Arc<dyn BaseReader> = disk.clone();
    std::thread::spawn(move || {
        stack.reset(Layers::new(Delta::new(log.end().lsn, Vanished::Keep), Vec::new(), base, log));
        begun.send(()).unwrap();
    });
    assert_eq!(done.recv_timeout(NEVER), Ok(()), "a reader that hangs holds up a node that is deposed");
    disk.heal();
    assert_eq!(reader.join().unwrap(), Err(Errno::EIO));
}
