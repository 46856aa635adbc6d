//! A small filesystem in a sparse image file, mounted for the life of a value, unmounted also when a test panics.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Smallest that mkfs.xfs takes; sparse, so it costs little.
const IMAGE_BYTES: u64 = 320 << 20;
/// What a base may live on.
pub(crate) const FILESYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// See the module.
pub(crate) struct Image {
    directory: tempfile::TempDir,
}

impl Image {
    /// Makes and mounts one.
    pub(crate) fn new(filesystem: &str) -> Image {
        Image::with_size(filesystem, IMAGE_BYTES)
    }

    /// The same with a size.
    pub(crate) fn with_size(filesystem: &str, len_bytes: u64) -> Image {
        Image::with(filesystem, len_bytes, &[], "")
    }

    /// Made with more arguments of mkfs, and mounted with more options.
    pub(crate) fn made(filesystem: &str, arguments: &[&str], options: &str) -> Image {
        Image::with(filesystem, IMAGE_BYTES, arguments, options)
    }

    /// All of it.
    pub(crate) fn with(filesystem: &str, len_bytes: u64, arguments: &[&str], options: &str) -> Image {
        assert!(rustix::process::geteuid().is_root(), "this test mounts filesystems: run it as root");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(len_bytes)).expect("a sparse file");
        std::fs::create_dir(directory.path().join("mounted")).expect("a mount point");
        run(Command::new(format!("mkfs.{filesystem}")).arg("-q").args(arguments).arg(&image));
        let options = ["loop", options].join(",");
        run(Command::new("mount").args(["-o", &options]).arg(&image).arg(directory.path().join("mounted")));
        Image { directory }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// A fresh directory in it.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir(&path).expect("a directory");
        path
    }

    /// Mounts the same image again, with nothing cached.
    pub(crate) fn remount(&self) {
        self.remount_with("");
    }

    /// The same with other options.
    pub(crate) fn remount_with(&self, options: &str) {
        unmount(&self.path());
        let image = self.directory.path().join("image");
        let options = ["loop", options].join(",");
        run(Command::new("mount").args(["-o", &options]).arg(image).arg(self.path()));
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

fn unmount(path: &Path) {
    // Detached lazily when a failed test still holds files open.
    let quietly = Command::new("umount").arg(path).output();
    if !quietly.is_ok_and(|output| output.status.success()) {
        run(Command::new("umount").arg("-l").arg(path));
    }
}

fn run(command: &mut Command) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("{command:?}: {error}; install e2fsprogs, xfsprogs, btrfs-progs and mount"),
    }
}
