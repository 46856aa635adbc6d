//! What clients with open files read on a node that has lost the right to serve: never old bytes.

use crate::harness::{Cluster, Load, Side, Spec, check_all};
use admin_api::control::{Answer, Request};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const LEN: usize = 256 << 10;

/// An open file whose pages the kernel has.
fn cached(path: &Path) -> File {
    fs::write(path, vec![b'o'; LEN]).unwrap();
    let file = File::open(path).unwrap();
    assert_eq!(read(&file).unwrap(), vec![b'o'; LEN]);
    file
}

fn read(file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; LEN];
    file.read_exact_at(&mut bytes, 0).map(|()| bytes)
}

/// Until the lease of A is over, and the time after it in which its kernel is made to forget.
fn wait_without_lease(pair: &mut Cluster) {
    pair.wait_volume(Side::A, "without a lease", |volume| volume.lease.as_ref().is_some_and(|l| !l.valid));
    std::thread::sleep(Duration::from_millis(500));
}

/// Whatever an open file of the old primary still gives, it is not what has been overwritten.
fn check_nothing_old(what: &str, file: &File) {
    let old = read(file).is_ok_and(|bytes| bytes.contains(&b'o'));
    assert!(!old, "{what}: an open file on the old primary gives bytes that the new one has overwritten");
    assert!(file.metadata().is_err(), "{what}: its attributes are still told");
}

#[test]
fn an_open_file_gives_no_old_bytes_after_a_switchover() {
    let mut pair = Cluster::start(Spec::default());
    let file = cached(&pair.mount(Side::A).join("f"));
    let wish = Request::Switchover { volume: "v".to_owned(), timeout_ms: 30_000 };
    assert_eq!(pair.ask(Side::A, &wish), Ok(Answer::Done), "{}", pair.diagnosis());
    pair.wait_serving(Side::B);
    fs::write(pair.mount(Side::B).join("f"), vec![b'n'; LEN]).unwrap();
    check_nothing_old("after a switchover", &file);
}

#[test]
fn an_open_file_gives_no_old_bytes_after_a_deposition() {
    let mut pair = Cluster::start(Spec::default());
    let file = cached(&pair.mount(Side::A).join("f"));
    pair.signal(Side::A, Signal::STOP);
    pair.wait_serving(Side::B);
    fs::write(pair.mount(Side::B).join("f"), vec![b'n'; LEN]).unwrap();
    // A daemon that stands still cannot make the kernel forget: docs/failures.md says so.
    pair.signal(Side::A, Signal::CONT);
    assert_eq!(pair.wait_mirrored(), Side::B);
    check_nothing_old("after a deposition", &file);
}

/// Calls that wait hold pages that cannot be invalidated; a process that waited for them could not be killed.
#[test]
fn a_frozen_primary_is_killed_and_comes_back() {
    let mut pair = Cluster::start(Spec::default());
    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(50);
    let file = cached(&pair.mount(Side::A).join("f"));
    let mut appended = OpenOptions::new().append(true).open(pair.mount(Side::A).join("f")).unwrap();
    pair.kill_witness();
    pair.kill(Side::B);
    // Part of a page that the kernel has not got: it holds that page until the answer comes.
    let writer = std::thread::spawn(move || appended.write_all(b"waits"));
    wait_without_lease(&mut pair);
    let reader = std::thread::spawn(move || read(&file));
    pair.kill(Side::A);
    assert!(writer.join().unwrap().is_err());
    assert!(reader.join().unwrap().is_err());
    pair.start_witness();
    pair.start_node(Side::A);
    pair.start_node(Side::B);
    let primary = pair.wait_mirrored();
    check_all(&pair.mount(primary), &load.join());
}

/// Without partner and witness nobody knows whether another node serves, so nothing is read, cached or not.
#[test]
fn an_isolated_primary_shows_nothing_that_its_kernel_has() {
    let mut pair = Cluster::start(Spec::default());
    let file = cached(&pair.mount(Side::A).join("f"));
    pair.kill_witness();
    pair.kill(Side::B);
    wait_without_lease(&mut pair);
    let (done, answered) = channel();
    std::thread::spawn(move || {
        // The test may be over by then.
        let _ended = done.send(read(&file));
    });
    let at_once = answered.recv_timeout(Duration::from_secs(1));
    assert!(matches!(at_once, Err(RecvTimeoutError::Timeout)), "a cached page was read without a lease");
    pair.start_witness();
    // Alone, and allowed to be: the read is answered.
    assert_eq!(answered.recv_timeout(Duration::from_secs(60)).unwrap().unwrap(), vec![b'o'; LEN]);
}
