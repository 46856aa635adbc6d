//! What the kernel still tells by itself when the right to serve has ended: nothing, by path, by descriptor or by
//! mapping; and everything again when the lease runs again.

use super::{Mounted, NEVER, mounted_between};
use commit::{Admission, Ask, Journal, NotServing, Refused, SpaceBudget};
use fuse_door::MountOptions;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use volume::solo::SoloJournal;

const LEN: usize = 256 << 10;

/// A journal whose lease the test ends and renews. Without one reads wait, as on a primary that is cut off.
struct Leased {
    journal: Arc<SoloJournal>,
    until: Arc<Mutex<Option<Instant>>>,
}

impl Leased {
    fn left(&self) -> Option<Duration> {
        self.until.lock().unwrap().map(|until| until.saturating_duration_since(Instant::now()))
    }
}

impl Journal for Leased {
    fn admit(&self, ask: Ask) -> Result<Admission, Refused> {
        self.journal.admit(ask)
    }
    fn log(&self) -> &Arc<nvlog::Log> {
        self.journal.log()
    }
    fn wait_answerable(&self, lsn: ids::Lsn) -> Result<(), NotServing> {
        self.journal.wait_answerable(lsn)
    }
    fn answerable(&self) -> ids::Lsn {
        self.journal.answerable()
    }
    fn check_lease(&self) -> Result<(), NotServing> {
        while self.left().is_some_and(|left| left.is_zero()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
    fn lease_left(&self) -> Option<Duration> {
        self.left()
    }
    fn space(&self) -> SpaceBudget {
        self.journal.space()
    }
}

struct Lease(Arc<Mutex<Option<Instant>>>);

impl Lease {
    fn runs_for(&self, left: Duration) {
        *self.0.lock().unwrap() = Some(Instant::now() + left);
    }

    fn renew(&self) {
        *self.0.lock().unwrap() = None;
    }

    /// Lets it run out, and the kernel forget.
    fn end(&self) {
        let until = self.0.lock().unwrap().unwrap();
        std::thread::sleep(until.saturating_duration_since(Instant::now()) + Duration::from_millis(300));
    }
}

/// Attributes and entries may be kept for a minute, if the lease lets them.
fn leased() -> (Mounted, Lease) {
    let until: Arc<Mutex<Option<Instant>>> = Arc::default();
    let shared = until.clone();
    let options = MountOptions { threads: 8, cache_ttl: Duration::from_secs(60), ..MountOptions::default() };
    let mounted = mounted_between(options, |journal| Arc::new(Leased { journal, until: shared }));
    (mounted, Lease(until))
}

/// Runs `act` elsewhere; its answer must not come yet.
fn waits<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (done, answered) = channel();
    std::thread::spawn(move || {
        // The test may be over by then.
        let _ended = done.send(act());
    });
    let at_once = answered.recv_timeout(Duration::from_millis(500));
    assert!(matches!(at_once, Err(RecvTimeoutError::Timeout)), "{what}: told without a lease");
    answered
}

fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn names_and_attributes_end_with_the_lease() {
    let (m, lease) = leased();
    let path = m.path("f");
    fs::write(&path, b"x").unwrap();
    lease.runs_for(Duration::from_millis(500));
    assert_eq!(fs::metadata(&path).unwrap().len(), 1);
    assert!(fs::metadata(m.path("absent")).is_err());
    lease.end();
    let attributes = waits("stat", move || fs::metadata(path).unwrap().len());
    let absent = m.path("absent");
    let nothing = waits("a name that is free", move || fs::metadata(absent).is_err());
    lease.renew();
    assert_eq!(attributes.recv_timeout(NEVER), Ok(1));
    assert_eq!(nothing.recv_timeout(NEVER), Ok(true));
}

#[test]
fn pages_of_open_files_end_with_the_lease() {
    let (m, lease) = leased();
    let files: Vec<File> = (b'a'..=b'f')
        .map(|name| {
            let path = m.path(&char::from(name).to_string());
            fs::write(&path, vec![name; LEN]).unwrap();
            let file = File::open(path).unwrap();
            assert_eq!(read(&file), vec![name; LEN]);
            file
        })
        .collect();
    for round in 0..2 {
        lease.runs_for(Duration::from_millis(300));
        lease.end();
        let answers: Vec<_> = files
            .iter()
            .map(|file| file.try_clone().unwrap())
            .map(|file| waits(&format!("round {round}"), move || read(&file)))
            .collect();
        lease.renew();
        for (name, answer) in (b'a'..=b'f').zip(answers) {
            assert_eq!(answer.recv_timeout(NEVER), Ok(vec![name; LEN]));
        }
    }
}

/// Whoever has mapped a file reads nothing old either: the process waits for the page, and is ended when the mount is
/// taken away.
#[test]
fn a_mapping_gives_no_old_bytes_after_the_mount() {
    let (mut m, _lease) = leased();
    let path = m.path("f");
    fs::write(&path, vec![b'o'; LEN]).unwrap();
    let mut process = Command::new("xfs_io")
        .args(["-r", path.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("xfs_io (package xfsprogs) maps files for this test");
    let mut commands = process.stdin.take().unwrap();
    // Enough to be printed at once, whatever is kept in a buffer.
    commands.write_all(format!("mmap -r 0 {LEN}\nmread -v 0 {LEN}\n").as_bytes()).unwrap();
    let mut printed = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(printed.next().unwrap().unwrap().contains("6f 6f 6f"), "'o', as it is mapped");
    m.handle.take().unwrap().abort();
    // It may be killed before it has read that.
    let _ended = commands.write_all(format!("mread -v 0 {LEN}\n").as_bytes());
    drop(commands);
    let lines = printed.map_while(Result::ok).count() + 1;
    let status = process.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}, after {lines} lines");
    assert!(lines <= LEN / 16, "{lines} lines of old bytes");
}
