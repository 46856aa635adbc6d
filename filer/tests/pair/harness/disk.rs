//! A filesystem of a node's own: an image on a loop device.

use super::process::run;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A mounted image; dropping it unmounts it, whoever uses it.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Makes a filesystem of `mib` in `image` and mounts it at `at`.
    pub fn make(kind: &str, more: &[&str], image: &Path, mib: u64, at: &Path) -> Disk {
        File::create(image).unwrap().set_len(mib << 20).unwrap();
        let path = image.display().to_string();
        let own: &[&str] = match kind {
            // Small ones would get small blocks, and with them other limits than the partner's.
            "ext4" => &["-q", "-m", "0", "-b", "4096"],
            "xfs" | "btrfs" => &["-q"],
            other => panic!("no tests run on {other}"),
        };
        run(&format!("mkfs.{kind}"), &[own, more, &[&path]].concat());
        Disk::mount(kind, image, at)
    }

    /// Mounts it again, which repairs it.
    pub fn mount(kind: &str, image: &Path, at: &Path) -> Disk {
        let options = if kind == "ext4" { "loop,errors=remount-ro" } else { "loop" };
        run("mount", &["-o", options, &image.display().to_string(), &at.display().to_string()]);
        Disk { at: at.to_owned() }
    }

    /// Unmounts it when nobody uses it any more. Its image is whole only when the loop device has let go of it.
    pub fn unmount(self, image: &Path) {
        drop(self);
        let device = || run("losetup", &["--associated", &image.display().to_string()]);
        let begun = std::time::Instant::now();
        while !device().is_empty() {
            assert!(begun.elapsed() < super::ANSWER_LIMIT, "{} is still in use", image.display());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Whoever uses it from now on gets EIO, until it has been mounted anew (ext4, XFS).
    pub fn shut_down(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", &self.at.display().to_string()]);
    }

    /// Whoever writes to it from now on waits: a disk that hangs. Ends with the guard.
    pub fn freeze(&self) -> Frozen {
        run("fsfreeze", &["--freeze", &self.at.display().to_string()]);
        Frozen { at: self.at.clone() }
    }

    /// Whoever writes to it waits for up to `stop`, again and again, and gets somewhere in between: a disk that is slow
    /// and moves. Ends with the guard.
    pub fn slow(&self, stop: Duration) -> Slow {
        self.in_turns(stop, MOVES)
    }

    /// So slow that who writes to it does so almost step by step, and can be met between two of them.
    pub fn crawl(&self) -> Slow {
        self.in_turns(CRAWLS, Duration::ZERO)
    }

    fn in_turns(&self, stop: Duration, moves: Duration) -> Slow {
        let (at, (end, ended)) = (self.at.clone(), channel::<()>());
        let turns = std::thread::spawn(move || {
            loop {
                let frozen = Frozen { at: at.clone() };
                let froze = Command::new("fsfreeze").arg("--freeze").arg(&at).status();
                let news = ended.recv_timeout(stop);
                if news == Ok(()) {
                    return Some(frozen);
                }
                drop(frozen);
                if news != Err(RecvTimeoutError::Timeout) || !froze.is_ok_and(|status| status.success()) {
                    return None;
                }
                std::thread::sleep(moves);
            }
        });
        Slow { end: Some(end), turns: Some(turns) }
    }

    /// Makes the filesystem behave as after an input or output error: it goes read-only (EROFS for whoever writes).
    pub fn break_it(&self) {
        let source = run("findmnt", &["-n", "-o", "SOURCE", &self.at.display().to_string()]);
        let device = source.trim().trim_start_matches("/dev/");
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }
}

/// A small filesystem in memory. An image in it is a device that refuses writes when there is no room left here.
pub struct Memory {
    pub at: PathBuf,
}

impl Memory {
    pub fn of(mib: u64, at: &Path) -> Memory {
        std::fs::create_dir(at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "memory", &at.display().to_string()]);
        Memory { at: at.to_owned() }
    }

    /// Copies an image without its holes, but reads all of it: `cp` asks the filesystem where data is, and was not told of
    /// all that a loop device had written a moment before.
    pub fn take_in(&self, image: &Path) -> PathBuf {
        let copy = self.at.join("image");
        let (from, to) = (format!("if={}", image.display()), format!("of={}", copy.display()));
        run("dd", &[&from, &to, "bs=64K", "conv=sparse", "status=none"]);
        copy
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// A filesystem that is frozen while this lives.
pub struct Frozen {
    at: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _never_frozen = Command::new("fsfreeze").arg("--unfreeze").arg(&self.at).status();
    }
}

/// For how long a slow disk moves.
const MOVES: Duration = Duration::from_millis(50);
/// For how long one that crawls stands still each time. It moves for as long as it takes to freeze it again.
const CRAWLS: Duration = Duration::from_secs(1);

/// A filesystem that is slow while this lives.
pub struct Slow {
    end: Option<Sender<()>>,
    turns: Option<JoinHandle<Option<Frozen>>>,
}

impl Slow {
    /// From now on whoever writes to it waits.
    pub fn hang(mut self) -> Frozen {
        self.end.take().unwrap().send(()).unwrap();
        self.turns.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ended = self.turns.take().map(JoinHandle::join);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
