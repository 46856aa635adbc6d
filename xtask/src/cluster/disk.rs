//! The local filesystem of a node: a plain directory, or a sparse image that is loop-mounted.

use super::device::{Device, Suspended};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Size of an image; only what is written takes space.
const IMAGE_BYTES: u64 = 2 << 30;

/// The smallest piece of a disk that is filled up.
const PIECE_BYTES: u64 = 4096;

/// Longest time for making or mounting a filesystem.
const LIMIT: Duration = Duration::from_secs(60);

/// What a local tree lies on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Filesystem {
    /// ext4 in an image.
    Ext4,
    /// XFS in an image.
    Xfs,
    /// btrfs in an image.
    Btrfs,
    /// Whatever holds temporary files.
    Dir,
}

impl Filesystem {
    /// The three that base trees are tested on.
    pub const REAL: [Filesystem; 3] = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs];

    /// Its name, as mount knows it.
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
            Filesystem::Btrfs => "btrfs",
            Filesystem::Dir => "dir",
        }
    }
}

/// A mounted image; dropping it unmounts and frees the loop device.
pub struct Disk {
    filesystem: Filesystem,
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
    device: Option<Device>,
}

impl Disk {
    /// Makes a filesystem in `image` and mounts it at `at`. `suspendable`: it lies on a [`Device`].
    pub fn make(filesystem: Filesystem, image: &Path, at: &Path, suspendable: bool) -> Result<Disk> {
        let (image, at) = (image.to_path_buf(), at.to_path_buf());
        let mut disk = Disk { filesystem, image, at, mounted: false, device: None };
        if filesystem == Filesystem::Dir {
            return Ok(disk);
        }
        let image = &disk.image;
        File::create(image)?.set_len(IMAGE_BYTES)?;
        let logs = image.parent().unwrap_or(Path::new("."));
        let mkfs = format!("mkfs.{}", filesystem.name());
        let Some(program) = crate::packages::find_program(&mkfs) else { bail!("{mkfs} is missing") };
        crate::steps::run(logs, "mkfs", Command::new(program).arg("-q").arg(image), LIMIT)?;
        if suspendable {
            disk.device = Some(Device::serve(image)?);
        }
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<()> {
        let logs = self.image.parent().unwrap_or(Path::new("."));
        let source = self.device.as_ref().map_or(self.image.as_path(), Device::path);
        // The loop device of `mount -o loop` is freed by the kernel with the last unmount.
        let mut mount = Command::new("mount");
        mount.args(["-t", self.filesystem.name(), "-o", "loop"]).arg(source).arg(&self.at);
        crate::steps::run(logs, "mount", &mut mount, LIMIT)?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it and mounts it again, which repairs it. Nobody may use it.
    pub fn mount_again(&mut self) -> Result<()> {
        self.unmount();
        if self.filesystem == Filesystem::Dir { Ok(()) } else { self.mount() }
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            super::unmount(&self.at);
        }
    }

    fn at(&self) -> Result<&Path> {
        self.mounted.then_some(self.at.as_path()).context("a plain directory is no filesystem of its own")
    }

    /// Whoever writes to it from now on waits: a disk that hangs. Ends with the guard.
    pub fn freeze(&self) -> Result<Frozen> {
        let at = self.at()?.to_path_buf();
        // On the other side of a full queue of writes it can take a while.
        fsfreeze("--freeze", &at)?;
        Ok(Frozen { at })
    }

    /// Whoever writes to it or reads what is not in memory waits: a device that hangs. Ends with the guard.
    pub fn suspend(&self) -> Result<Suspended<'_>> {
        self.device.as_ref().context("this disk was not made to hang")?.suspend()
    }

    /// Whoever uses it from now on gets EIO, until it has been mounted anew: a disk that has failed. (ext4, XFS)
    pub fn shut_down(&self) -> Result<()> {
        let mut command = Command::new("xfs_io");
        command.args(["-x", "-c", "shutdown"]).arg(self.at()?);
        quiet(&mut command)
    }

    /// Takes all the space that is left, for a file that is in nobody's tree. Ends with the guard.
    pub fn fill(&self) -> Result<Foreign> {
        let path = self.at()?.join("foreign");
        let foreign = Foreign { path: path.clone() };
        let file = File::create(path)?;
        let (mut len, mut piece_bytes) = (0, IMAGE_BYTES);
        // Allocated, not written: the image stays sparse.
        while piece_bytes >= PIECE_BYTES {
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), len, piece_bytes) {
                Ok(()) => len += piece_bytes,
                Err(_) => piece_bytes /= 2,
            }
        }
        let _nothing_left = file.sync_all();
        Ok(foreign)
    }

    /// Leaves it mounted.
    pub fn leave_mounted(mut self) {
        self.mounted = false;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// A filesystem that is frozen while this lives.
pub struct Frozen {
    at: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = fsfreeze("--unfreeze", &self.at) {
            eprintln!("{} stays frozen: {error:#}", self.at.display());
        }
    }
}

/// A file that fills a disk while this lives.
pub struct Foreign {
    path: PathBuf,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}

fn fsfreeze(what: &str, at: &Path) -> Result<()> {
    quiet(Command::new("fsfreeze").arg(what).arg(at))
}

fn quiet(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filesystem_is_made_mounted_and_taken_away() {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            return; // mounting needs root and loop devices
        }
        for filesystem in Filesystem::REAL {
            if crate::packages::find_program(&format!("mkfs.{}", filesystem.name())).is_none() {
                continue; // `cargo xtask test` installs it
            }
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().join("at");
            std::fs::create_dir(&at).unwrap();
            let mut disk = Disk::make(filesystem, &dir.path().join("image"), &at, false).unwrap();
            std::fs::write(at.join("file"), b"x").unwrap();
            disk.mount_again().unwrap();
            assert!(at.join("file").exists());
            drop(disk);
            assert!(!at.join("file").exists());
        }
    }

    #[test]
    fn a_suspended_device_keeps_readers_waiting() {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            return; // mounting needs root and loop devices
        }
        if crate::packages::find_program(super::super::device::PROGRAM).is_none() {
            return; // `cargo xtask test` installs it
        }
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("at");
        std::fs::create_dir(&at).unwrap();
        let disk = Disk::make(Filesystem::Ext4, &dir.path().join("image"), &at, true).unwrap();
        std::fs::write(at.join("file"), b"x").unwrap();
        std::fs::File::open(at.join("file")).unwrap().sync_all().unwrap();
        let suspended = disk.suspend().unwrap();
        let path = at.join("direct");
        let writer = std::thread::spawn(move || {
            let file = std::fs::File::create(path).unwrap();
            file.sync_all().unwrap();
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!writer.is_finished(), "a write reached a device that hangs");
        drop(suspended);
        writer.join().unwrap();
    }
}
