//! Somebody makes a file and a directory of a node's tree immutable (`chattr +i`), and another pair of them among those that
//! clients work on; over a third pair something is mounted. What the tree refuses then is kept beside it and told; what
//! holds a name fast is taken away by the node.

use crate::cluster::{Cluster, Side, wait};
use crate::interrupt;
use crate::load::fleet::Fleet;
use crate::random::Random;
use anyhow::{Context, Result, bail};
use rustix::fs::IFlags;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ours, in the volume's root.
const DIRECTORY: &str = "held";
/// Below it.
const FILE: &str = "file";
/// What the loads' directories are called.
const WRITERS: &str = "writer-";

/// How often it is tried to end mounts whose names clients move meanwhile.
const ATTEMPTS: usize = 100;

/// Flags that are set as long as this lives, whatever becomes of the names.
struct Held(Vec<File>);

impl Held {
    fn hold(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path)?;
        let now = rustix::fs::ioctl_getflags(&file)?;
        rustix::fs::ioctl_setflags(&file, now | IFlags::IMMUTABLE)?;
        self.0.push(file);
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        self.0.drain(..).try_for_each(|file| {
            let now = rustix::fs::ioctl_getflags(&file)?;
            Ok(rustix::fs::ioctl_setflags(&file, now - IFlags::IMMUTABLE)?)
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // After an error; the whole disk goes soon.
        let _ = self.release();
    }
}

/// Mounts below a base, which end with this, wherever the names have moved to.
struct MountedOver<'a> {
    base: &'a Path,
}

impl MountedOver<'_> {
    /// Mounts something of ours over each of these; a consistency point may just have taken one away.
    fn mount(&self, directory: &Path, names: &[PathBuf]) -> Result<()> {
        let ours = directory.join("mounted-over");
        std::fs::create_dir_all(&ours)?;
        std::fs::write(ours.join(FILE), b"somebody else's")?;
        for name in names {
            let what = if name.is_dir() { ours.clone() } else { ours.join(FILE) };
            let _ = rustix::mount::mount_bind(what, name);
        }
        Ok(())
    }

    fn end(&self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let below = self.below()?;
            if below.is_empty() {
                return Ok(());
            }
            for at in below {
                // A consistency point may just have moved the name, or taken it away.
                let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
            }
        }
        bail!("something stays mounted below {}: {:?}", self.base.display(), self.below()?)
    }

    fn below(&self) -> Result<Vec<PathBuf>> {
        let all = std::fs::read("/proc/self/mountinfo")?;
        let at =
            |line: &[u8]| Some(PathBuf::from(OsStr::from_bytes(line.split(|byte| *byte == b' ').nth(4)?)));
        let below = |at: &PathBuf| at.starts_with(self.base) && at != self.base;
        Ok(all.split(|byte| *byte == b'\n').filter_map(at).filter(below).collect())
    }
}

impl Drop for MountedOver<'_> {
    fn drop(&mut self) {
        // After an error; the whole disk goes soon.
        let _ = self.end();
    }
}

/// Inflicts it on a node, and ends it: the flags go, and the node is started again, which tries everything once more.
pub fn objects(
    cluster: &mut Cluster,
    fleet: &mut Fleet,
    (primary, side): (Side, Side),
    lasts: Duration,
    noise: &mut Random,
) -> Result<()> {
    let (ours, base) = (cluster.mount_path(primary).join(DIRECTORY), cluster.base_path(side));
    std::fs::create_dir_all(&ours)?;
    std::fs::write(ours.join(FILE), b"before")?;
    cluster.consistency_point(side)?;
    let mut held = Held(Vec::new());
    held.hold(&base.join(DIRECTORY).join(FILE))?;
    held.hold(&base.join(DIRECTORY))?;
    for theirs in of_writers(&base, noise) {
        // A consistency point may just have taken it away.
        let _ = held.hold(&theirs);
    }
    let mounted = MountedOver { base: &base };
    mounted.mount(cluster.dir(), &of_writers(&base, noise))?;
    let fresh = format!("new-{}", noise.below(1 << 40));
    let content = fresh.repeat(1 + noise.index(500));
    std::fs::write(ours.join(FILE), &content)?;
    std::fs::write(ours.join(&fresh), &content)?;
    cluster.wait_refused(side, true, wait::LIMIT)?;
    interrupt::sleep(lasts)?;
    fleet.wait_progress(|| cluster.check_alive()).context("with immutable objects in a base")?;
    fleet.check_undisturbed()?;
    if !cluster.status(side)?.can_apply() {
        bail!("immutable objects stop the consistency points of node {}", side.name());
    }
    let read = |at: &Path| std::fs::read(at.join(FILE)).context("what was refused");
    if read(&ours)? != content.as_bytes() {
        bail!("the volume does not show what its base refuses");
    }
    mounted.end()?;
    held.release()?;
    cluster.terminate(side)?;
    cluster.start_node(side)?;
    cluster.wait_mirrored(wait::LIMIT)?;
    cluster.consistency_point(side)?;
    cluster.wait_refused(side, false, wait::LIMIT)?;
    let plain = base.join(DIRECTORY);
    if read(&plain)? != content.as_bytes() || !plain.join(&fresh).exists() {
        bail!("node {} says that its base holds everything, and it does not", side.name());
    }
    Ok(())
}

/// A file and a directory that clients have made, of each what there is.
fn of_writers(base: &Path, noise: &mut Random) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    let is_writers = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(WRITERS.as_bytes()))
    };
    let mut waiting: Vec<PathBuf> = entries(base).filter(is_writers).collect();
    while let Some(path) = waiting.pop() {
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => {
                waiting.extend(entries(&path));
                directories.push(path);
            }
            Ok(found) if found.is_file() => files.push(path),
            _ => {}
        }
    }
    [noise.pick(&files), noise.pick(&directories)].into_iter().flatten().cloned().collect()
}

/// What a directory holds that does not go away meanwhile.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_and_one_directory_of_clients_are_chosen() {
        let base = tempfile::tempdir().unwrap();
        let chosen = |base: &Path| of_writers(base, &mut Random::new(1));
        assert!(chosen(base.path()).is_empty());
        for path in [".twinfiler/staging", "writer-1", "other"] {
            std::fs::create_dir_all(base.path().join(path)).unwrap();
        }
        std::fs::write(base.path().join("other/file"), b"").unwrap();
        std::os::unix::fs::symlink("nowhere", base.path().join("writer-1/link")).unwrap();
        assert_eq!(chosen(base.path()), [base.path().join("writer-1")]);
        std::fs::write(base.path().join("writer-1/file"), b"").unwrap();
        assert_eq!(chosen(base.path()), [base.path().join("writer-1/file"), base.path().join("writer-1")]);
    }
}
