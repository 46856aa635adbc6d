//! Each load against a plain directory: it must pass there, and find what is taken away.

use super::archive::Archive;
use super::blocks::{Blocks, Latencies};
use super::git::Git;
use super::sqlite::{JournalMode, Sqlite};
use super::*;
use crate::oracle::writer::Writer;
use crate::packages::find_program;
use crate::random::Random;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

fn wait(mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready() {
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn arrives(load: &mut dyn Load, mount: &Path) -> Vec<String> {
    load.arrive(mount).unwrap().lost
}

fn works(load: &mut dyn Load, mount: &Path, steps: usize) {
    assert_eq!(arrives(load, mount), Vec::<String>::new());
    for _ in 0..steps {
        load.step(mount).unwrap();
    }
    assert_eq!(arrives(load, mount), Vec::<String>::new());
}

#[test]
fn a_load_moves_with_the_route_and_finds_what_was_lost_there() {
    let (dir, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let route = Arc::<Route>::default();
    let writer = Box::new(Writer::new("w", Random::new(4), Duration::ZERO));
    let running = Running::start(writer, &route).unwrap();
    let progress = Arc::clone(&running.progress);
    route.open(dir.path());
    wait(|| progress.acknowledged.load(Ordering::SeqCst) > 200);
    route.close();
    assert!(route.drain(Duration::from_secs(20)));
    let second = route.open(dir.path());
    wait(|| progress.verified_route.load(Ordering::SeqCst) == second);
    assert_eq!((progress.lost(), progress.errors()), (vec![], vec![]));
    // The last mount has nothing of what was acknowledged.
    route.open(empty.path());
    wait(|| !progress.lost().is_empty());
    route.stop();
    let mut load = running.join().unwrap();
    assert!(progress.lost().iter().any(|line| line.contains("missing")));
    assert_eq!(load.check_copy(dir.path()).unwrap().lost, Vec::<String>::new());
}

#[test]
fn an_error_while_the_mount_is_alive_is_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    let route = Arc::<Route>::default();
    let writer = Box::new(Writer::new("w", Random::new(5), Duration::ZERO));
    let running = Running::start(writer, &route).unwrap();
    route.open(dir.path());
    wait(|| running.progress.acknowledged.load(Ordering::SeqCst) > 20);
    // Somebody removes what the writer works on.
    while fs::remove_dir_all(dir.path().join("w")).is_err() {}
    wait(|| !running.progress.errors().is_empty());
    route.stop();
    running.join().unwrap();
}

#[test]
fn blocks_tell_an_older_version_from_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let latencies = Latencies::new().unwrap();
    let mut load = Blocks::new(Random::new(1), latencies.clone(), Duration::ZERO);
    works(&mut load, dir.path(), 200);
    assert!(latencies.snapshot().len() >= 1600);
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("blocks.bin")).unwrap();
    file.write_all_at(&vec![0; 4096 * 4096], 0).unwrap();
    assert!(arrives(&mut load, dir.path()).iter().any(|line| line.contains("holds version 0 instead of")));
}

#[test]
fn an_archive_member_that_changed_or_vanished_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (source, mount) = (dir.path().join("source"), dir.path().join("mount"));
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::create_dir(&mount).unwrap();
    fs::write(source.join("sub/one"), b"one").unwrap();
    fs::write(source.join("two"), b"two").unwrap();
    let archive = dir.path().join("made.crate");
    let made =
        Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&source).args(["sub", "two"]).status();
    assert!(made.unwrap().success());
    let mut load = Archive::new(&archive, &dir.path().join("reference")).unwrap();
    works(&mut load, &mount, 2);
    assert_eq!(load.arrive(&mount).unwrap().compared, 4);
    fs::write(mount.join("archive-0/sub/one"), b"two").unwrap();
    fs::remove_file(mount.join("archive-1/two")).unwrap();
    assert_eq!(arrives(&mut load, &mount).len(), 2);
}

#[test]
fn a_commit_that_is_gone_is_found() {
    if find_program("git").is_none() {
        return; // `cargo xtask test` installs it
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, mount) = (dir.path().join("source"), dir.path().join("mount"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&mount).unwrap();
    fs::write(source.join("file"), b"content").unwrap();
    let mut load = Git::new(&source, dir.path(), Random::new(1)).unwrap();
    works(&mut load, &mount, 3);
    let undone = Command::new("git")
        .args(["reset", "-q", "--hard", "HEAD~1"])
        .current_dir(mount.join("clone"))
        .status();
    assert!(undone.unwrap().success());
    assert_eq!(arrives(&mut load, &mount), ["git: 3 of 4 commits are there"]);
}

#[test]
fn a_transaction_that_is_gone_or_torn_is_found() {
    if find_program("sqlite3").is_none() {
        return; // `cargo xtask test` installs it
    }
    for mode in [JournalMode::Delete, JournalMode::Wal] {
        let dir = tempfile::tempdir().unwrap();
        let mut load = Sqlite::new(mode, dir.path());
        works(&mut load, dir.path(), 30);
        let database = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path());
        let database =
            database.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "db")).unwrap();
        let torn = Command::new("sqlite3")
            .arg(database)
            .arg("DELETE FROM ledger WHERE tx = 29 AND part = 2")
            .status();
        assert!(torn.unwrap().success());
        assert!(arrives(&mut load, dir.path()).iter().any(|line| line.contains("89 rows")));
    }
}
