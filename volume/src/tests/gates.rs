//! Nothing is answered that could be undone: with a journal that commits only when it is told to.

use super::*;
use crate::solo::SoloJournal;
use commit::{Admission, Ask, Needs, NotServing, Refused};
use parking_lot::{Condvar, Mutex};
use std::sync::mpsc;
use std::time::Duration;

/// Long enough that an answer which does not wait would be there.
const MOMENT: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Rule {
    Commit,
    Hold,
    Refuse(NotServing),
}

struct HeldJournal {
    inner: Arc<SoloJournal>,
    rule: Mutex<Rule>,
    changed: Condvar,
    space: Mutex<Option<SpaceBudget>>,
}

impl HeldJournal {
    fn set(&self, rule: Rule) {
        *self.rule.lock() = rule;
        self.changed.notify_all();
    }
}

impl Journal for HeldJournal {
    fn admit(&self, ask: Ask) -> std::result::Result<Admission, Refused> {
        let full = ask.grows && !self.space().holds(Needs::of(&ask));
        if full { Err(Refused::NoSpace) } else { self.inner.admit(ask) }
    }
    fn log(&self) -> &Arc<nvlog::Log> {
        self.inner.log()
    }
    fn wait_answerable(&self, lsn: Lsn) -> std::result::Result<(), NotServing> {
        let mut rule = self.rule.lock();
        while *rule == Rule::Hold && self.inner.answerable() < lsn {
            self.changed.wait(&mut rule);
        }
        match *rule {
            Rule::Refuse(why) => Err(why),
            _ => self.inner.wait_answerable(lsn),
        }
    }
    fn answerable(&self) -> Lsn {
        self.inner.answerable()
    }
    fn check_lease(&self) -> std::result::Result<(), NotServing> {
        match *self.rule.lock() {
            Rule::Refuse(why) => Err(why),
            _ => Ok(()),
        }
    }
    fn space(&self) -> SpaceBudget {
        self.space.lock().unwrap_or_else(|| self.inner.space())
    }
}

fn held() -> (Fixture, Arc<HeldJournal>) {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = None;
    let solo = Solo::start_with(dir.path(), volume_id(), LOG_BYTES, None, |inner| {
        let (rule, changed, space) = (Mutex::new(Rule::Commit), Condvar::new(), Mutex::new(None));
        journal.insert(Arc::new(HeldJournal { inner, rule, changed, space })).clone()
    });
    (Fixture { solo: solo.unwrap(), dir }, journal.unwrap())
}

/// Runs `ask` in a thread and checks that its answer comes after the commit and not before.
fn waits_for_commit<T: Send + 'static>(
    (v, journal): &(Fixture, Arc<HeldJournal>),
    change: impl FnOnce(&Volume) + Send + 'static,
    ask: impl FnOnce(&Volume) -> T + Send + 'static,
) -> T {
    journal.set(Rule::Hold);
    let before = v.state.read().end;
    let volume = Arc::clone(&v.solo.volume);
    let changer = std::thread::spawn(move || change(&volume));
    while v.state.read().end == before {
        std::thread::yield_now();
    }
    let (answer, answered) = mpsc::channel();
    let volume = Arc::clone(&v.solo.volume);
    let asker = std::thread::spawn(move || answer.send(ask(&volume)).unwrap());
    assert!(answered.recv_timeout(MOMENT).is_err(), "it was answered before the commit");
    assert!(!changer.is_finished(), "the change itself was answered before the commit");
    journal.set(Rule::Commit);
    let answer = answered.recv_timeout(Duration::from_secs(10)).unwrap();
    changer.join().unwrap();
    asker.join().unwrap();
    answer
}

fn create(v: &Volume, name: &'static [u8]) -> Result<Attributes> {
    v.create(&Root, Oid::ROOT, name, Node { kind: NodeKind::File, mode: 0o644, umask: 0, open: false })
}

#[test]
fn whatever_shows_a_change_waits_for_its_commit() {
    let f = held();
    let oid = f.0.file("f");
    let write = move |v: &Volume| assert_eq!(v.write(oid, WriteAt::End, b"x", None), Ok(1));
    let read = move |v: &Volume| {
        let mut data = [0; 8];
        v.read(oid, 0, &mut data).map(|len| data[..len].to_vec())
    };
    assert_eq!(waits_for_commit(&f, write, read), Ok(b"x".to_vec()));
    assert_eq!(waits_for_commit(&f, write, move |v| v.getattr(oid)).map(|a| a.size), Ok(2));
    assert_eq!(waits_for_commit(&f, write, |v| v.lookup(Oid::ROOT, b"f")).map(|a| a.size), Ok(3));
    let set = move |v: &Volume| v.set_xattr(&Root, oid, b"user.a", b"1", XattrMode::Set).unwrap();
    assert_eq!(waits_for_commit(&f, set, move |v| v.xattr(oid, b"user.a")), Ok(b"1".to_vec()));
    assert_eq!(waits_for_commit(&f, write, move |v| v.seek(oid, 0, SeekTo::Hole)), Ok(4));
}

#[test]
fn errors_show_something_too() {
    let f = held();
    f.0.file("gone");
    let unlink = |v: &Volume| v.unlink(Oid::ROOT, b"gone").unwrap();
    let lookup = |v: &Volume| v.lookup(Oid::ROOT, b"gone").map(|a| a.oid);
    assert_eq!(waits_for_commit(&f, unlink, lookup), Err(Errno::ENOENT));
    let make = |v: &Volume| assert!(create(v, b"made").is_ok());
    assert_eq!(waits_for_commit(&f, make, |v| create(v, b"made").map(|a| a.oid)), Err(Errno::EEXIST));
    let make = |v: &Volume| assert!(create(v, b"listed").is_ok());
    let list = |v: &Volume| {
        let stream = v.open_directory(Oid::ROOT).unwrap();
        let mut count = 0;
        v.read_directory(&stream, 0, |_| {
            count += 1;
            false
        })
        .unwrap();
        v.close_directory(&stream);
        count
    };
    assert_eq!(waits_for_commit(&f, make, list), 2 + 2);
}

#[test]
fn untouched_objects_are_read_while_others_wait() {
    let f = held();
    let (busy, idle) = (f.0.file("busy"), f.0.file("idle"));
    f.0.put(idle, 0, b"data");
    f.1.set(Rule::Hold);
    let volume = Arc::clone(&f.0.solo.volume);
    let writer = std::thread::spawn(move || volume.write(busy, WriteAt::End, b"x", None));
    while f.0.stack.snapshot().attributes(busy).unwrap().size == 0 {
        std::thread::yield_now();
    }
    assert_eq!(f.0.get(idle), b"data");
    f.1.set(Rule::Commit);
    assert_eq!(writer.join().unwrap(), Ok(1));
}

#[test]
fn a_node_that_does_not_serve_answers_nothing_but_that() {
    let f = held();
    let oid = f.0.file("f");
    f.1.set(Rule::Refuse(NotServing::NotPrimary));
    assert_eq!(f.0.read(oid, 0, &mut [0; 1]), Err(Errno::ESHUTDOWN));
    assert_eq!(f.0.getattr(oid), Err(Errno::ESHUTDOWN));
    assert_eq!(f.0.lookup(Oid::ROOT, b"nothing"), Err(Errno::ESHUTDOWN));
    assert_eq!(f.0.write(oid, WriteAt::End, b"x", None), Err(Errno::ESHUTDOWN));
    assert_eq!(create(&f.0, b"f"), Err(Errno::ESHUTDOWN), "not even that the name is taken");
    f.1.set(Rule::Commit);
}

#[test]
fn a_full_disk_of_either_node_refuses_growth_and_allows_the_rest() {
    let f = held();
    let oid = f.0.file("f");
    f.0.put(oid, 0, b"data");
    let full = SpaceBudget { total_bytes: 1 << 30, total_inodes: 100, free_inodes: 9, ..Default::default() };
    *f.1.space.lock() = Some(full);
    let end = f.0.state.read().end;
    assert_eq!(f.0.write(oid, WriteAt::End, b"x", None), Err(Errno::ENOSPC));
    assert_eq!(create(&f.0, b"g"), Err(Errno::ENOSPC));
    let reserve = AllocateMode::Reserve { keep_size: false };
    assert_eq!(f.0.allocate(&Root, oid, reserve, 0, 1 << 20), Err(Errno::ENOSPC));
    assert_eq!(f.0.state.read().end, end, "nothing was logged");
    assert_eq!(f.0.get(oid), b"data");
    f.0.allocate(&Root, oid, AllocateMode::PunchHole, 0, 2).unwrap();
    f.0.setattr(&Root, oid, SetAttributes { size: Some(1), ..Default::default() }).unwrap();
    f.0.unlink(Oid::ROOT, b"f").unwrap();
    // Bytes but no inodes.
    *f.1.space.lock() = Some(SpaceBudget { free_bytes: 1 << 30, free_inodes: 0, ..full });
    assert_eq!(create(&f.0, b"g"), Err(Errno::ENOSPC));
    // A filesystem without a fixed number of inodes.
    *f.1.space.lock() = Some(SpaceBudget { free_bytes: 1 << 30, total_inodes: 0, free_inodes: 0, ..full });
    assert!(create(&f.0, b"g").is_ok());
}
