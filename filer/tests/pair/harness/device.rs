//! A disk image behind a process of ours, so that it can hang: while that process stands still nobody gets an answer,
//! neither who writes nor who reads. (A frozen filesystem stops writers only.)

use super::ANSWER_LIMIT;
use super::process::{Process, tail};
use rustix::process::Signal;
use std::fs::{File, metadata};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Shows the image as a file through FUSE. Debian's package is `qemu-system-common`.
const PROGRAM: &str = "qemu-storage-daemon";

/// See the module. What is mounted from it must be gone before it is dropped.
pub struct Device {
    server: Process,
    dir: TempDir,
}

impl Device {
    /// Shows `image` at a path of its own.
    pub fn serve(image: &Path) -> Device {
        let dir = tempfile::Builder::new().prefix("twinfiler-test-").tempdir_in("/var/tmp").unwrap();
        let at = dir.path().join("device");
        File::create(&at).unwrap();
        let node = format!("driver=file,node-name=disk,filename={}", image.display());
        let export = format!("type=fuse,id=export,node-name=disk,mountpoint={},writable=on", at.display());
        let output = dir.path().join("output");
        let server = Process::start_program(PROGRAM, &["--blockdev", &node, "--export", &export], &output);
        let mut device = Device { server, dir };
        let begun = Instant::now();
        while metadata(&at).map_or(0, |metadata| metadata.len()) == 0 {
            let waits = begun.elapsed() < ANSWER_LIMIT && device.server.ended().is_none();
            assert!(waits, "{PROGRAM} shows no image\n{}", tail(&output));
            std::thread::sleep(Duration::from_millis(10));
        }
        device
    }

    /// Where.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("device")
    }

    /// Whoever reads or writes from now on waits. Ends with the guard.
    pub fn suspend(&self) -> Suspended<'_> {
        self.server.signal(Signal::STOP);
        Suspended { server: &self.server }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ended = rustix::process::kill_process(self.server.pid(), Signal::TERM);
        let _ended = rustix::process::kill_process(self.server.pid(), Signal::CONT);
        let begun = Instant::now();
        while self.server.ended().is_none() && begun.elapsed() < ANSWER_LIMIT {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _gone = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// A device that hangs while this lives.
pub struct Suspended<'a> {
    server: &'a Process,
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        let _ended = rustix::process::kill_process(self.server.pid(), Signal::CONT);
    }
}
