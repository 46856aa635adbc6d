//! The disk to measure on: a directory on ext4, or an ext4 image that is loop-mounted. Removed when it is dropped.

use anyhow::{Context, Result, bail};
use rustix::mount::UnmountFlags;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What `statfs` calls ext2, ext3 and ext4.
const EXT_MAGIC: u64 = 0xEF53;

/// See the module.
pub struct Place {
    directory: TempDir,
    mounted: Option<PathBuf>,
}

impl Place {
    /// In `parent`, or where temporary files go.
    pub fn new(parent: Option<&Path>, image_bytes: u64) -> Result<Place> {
        let temporary = std::env::temp_dir();
        let parent = parent.unwrap_or(&temporary);
        let directory = tempfile::Builder::new()
            .prefix("twinfiler-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("no directory in {}", parent.display()))?;
        let mut place = Place { directory, mounted: None };
        let kind = rustix::fs::statfs(place.directory.path()).context("statfs")?.f_type;
        if kind as u64 != EXT_MAGIC {
            place.mount_image(image_bytes)?;
        }
        Ok(place)
    }

    fn mount_image(&mut self, image_bytes: u64) -> Result<()> {
        let (image, at) = (self.directory.path().join("image"), self.directory.path().join("disk"));
        std::fs::create_dir(&at)?;
        std::fs::File::create(&image)?.set_len(image_bytes)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&image).arg(&at))?;
        self.mounted = Some(at);
        Ok(())
    }

    /// The directory, on ext4.
    pub fn path(&self) -> &Path {
        self.mounted.as_deref().unwrap_or(self.directory.path())
    }

    /// How the disk is called in a table.
    pub fn name(&self) -> &'static str {
        if self.mounted.is_some() { "ext4 in a loop-mounted image" } else { "ext4" }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(at) = self.mounted.take()
            && let Err(error) = rustix::mount::unmount(&at, UnmountFlags::DETACH)
        {
            eprintln!("cannot unmount {}: {error}", at.display());
        }
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
