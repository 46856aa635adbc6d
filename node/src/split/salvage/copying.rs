//! Copying what is kept: each object is made under its number, and then gets its name.
//!
//! Invariant: no object is made under a name that clients chose. Where btrfs has no room for a name, older kernels give
//! the transaction up when an object is made there, and the filesystem becomes read-only; `link` and `rename` look before.
//!
//! What can go wrong: a name is refused for good, as names of one hash are by btrfs, which keeps those of a directory in
//! one item. In the volume they may have been spread over several places (`apply-engine/src/remainder.rs`). Such an object
//! stays where it was made, and is listed. Whatever else fails ends the salvage.

use super::{MAX_PATH_BYTES, SalvageError, at};
use apply_engine::remainder::is_refusal;
use apply_engine::{Attributes, FULL_BYTES, Layers, ObjectKind};
use ids::Oid;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Content that is copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// A salvage that is being filled.
pub(super) struct Copying<'a> {
    layers: &'a Layers,
    partial: &'a Path,
    tree: PathBuf,
    /// Where objects are made, and where those stay whose place is refused or lies too deep.
    deep: PathBuf,
    /// Where objects with several names are already.
    linked: HashMap<Oid, PathBuf>,
    /// Whose attributes are set last, because making things in them changes their times.
    directories: Vec<(Oid, PathBuf)>,
    /// Directories that stayed in `deep`, by their paths: what is in them goes there, too.
    moved: HashMap<Vec<u8>, PathBuf>,
    /// The last directory that was asked for, and where it is; `None`: it is refused.
    last: Option<(Vec<u8>, Option<PathBuf>)>,
    /// Tells what does not stand under its path, and how many that are; made with the first of them.
    elsewhere: Option<BufWriter<File>>,
    elsewhere_count: u64,
    progress: &'a dyn Fn(u64),
}

impl<'a> Copying<'a> {
    /// Begins in an empty directory.
    pub(super) fn begin(
        partial: &'a Path,
        layers: &'a Layers,
        progress: &'a dyn Fn(u64),
    ) -> Result<Copying<'a>, SalvageError> {
        let (tree, deep) = (partial.join("tree"), partial.join("deep"));
        for directory in [&tree, &deep] {
            std::fs::create_dir(directory).map_err(at(directory))?;
        }
        Ok(Copying {
            layers,
            partial,
            tree,
            deep,
            linked: HashMap::new(),
            directories: Vec::new(),
            moved: HashMap::new(),
            last: None,
            elsewhere: None,
            elsewhere_count: 0,
            progress,
        })
    }

    /// Copies an object, or gives the copy one more name.
    pub(super) fn object(&mut self, oid: Oid, path: &[u8]) -> Result<(), SalvageError> {
        let attributes = self.layers.attributes(oid)?;
        let to = self.place_of(path)?;
        if let Some(first) = self.linked.get(&oid).cloned() {
            let named = match to {
                Some(to) => self.takes(&to, || rustix::fs::link(&first, &to))?,
                None => false,
            };
            return if named { Ok(()) } else { self.tell_elsewhere(&first, path) };
        }
        let made = self.deep.join(oid.0.to_string());
        self.make(oid, &attributes, &made)?;
        if !attributes.kind.is_directory() {
            self.set(oid, &attributes, &made)?;
        }
        let named = match &to {
            Some(to) => self.takes(to, || rename_new(&made, to))?,
            None => false,
        };
        let there = match to.filter(|_| named) {
            Some(to) => to,
            None => {
                self.tell_elsewhere(&made, path)?;
                made
            }
        };
        if attributes.kind.is_directory() {
            // Nobody looks for a longer path.
            if !named && path.len() <= MAX_PATH_BYTES {
                self.moved.insert(path.to_vec(), there.clone());
            }
            self.directories.push((oid, there));
        } else if attributes.nlink > 1 || !named {
            self.linked.insert(oid, there);
        }
        Ok(())
    }

    /// Where an object with this path goes, if there is such a place.
    fn place_of(&mut self, path: &[u8]) -> Result<Option<PathBuf>, SalvageError> {
        if path.len() > MAX_PATH_BYTES {
            return Ok(None);
        }
        let (above, name) = parted(path);
        if self.last.as_ref().is_none_or(|(last, _)| last != above) {
            self.last = Some((above.to_vec(), self.directory(above)?));
        }
        let directory = self.last.as_ref().and_then(|(_, directory)| directory.as_ref());
        Ok(directory.map(|directory| directory.join(OsStr::from_bytes(name))))
    }

    /// The directory with this path, which is made where it was not changed itself; `None`: its name is refused.
    fn directory(&self, path: &[u8]) -> Result<Option<PathBuf>, SalvageError> {
        if path.is_empty() {
            return Ok(Some(self.tree.clone()));
        }
        if let Some(there) = self.moved.get(path) {
            return Ok(Some(there.clone()));
        }
        let (above, name) = parted(path);
        let Some(above) = self.directory(above)? else { return Ok(None) };
        let to = above.join(OsStr::from_bytes(name));
        match std::fs::symlink_metadata(&to) {
            Ok(found) => return Ok(found.is_dir().then_some(to)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return self.refuses(errno_of(&error), &to).map(|()| None),
        }
        let made = self.deep.join("directory");
        std::fs::create_dir(&made).map_err(at(&made))?;
        if self.takes(&to, || rename_new(&made, &to))? {
            return Ok(Some(to));
        }
        std::fs::remove_dir(&made).map_err(at(&made))?;
        Ok(None)
    }

    /// Gives a name; `false`: that is refused for good.
    fn takes(&self, to: &Path, name: impl FnOnce() -> Result<(), Errno>) -> Result<bool, SalvageError> {
        match name() {
            Ok(()) => Ok(true),
            Err(errno) => self.refuses(errno, to).map(|()| false),
        }
    }

    /// Is that about this name, and not about the disk or the machine? Where the filesystem takes some names for one
    /// (`chattr +F`), another object has it.
    fn refuses(&self, errno: Errno, to: &Path) -> Result<(), SalvageError> {
        let has_room = || {
            let found = rustix::fs::statvfs(self.partial);
            found.is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= FULL_BYTES)
        };
        match errno == Errno::EXIST || is_refusal(errno, has_room) {
            true => Ok(()),
            false => Err(at(to)(errno)),
        }
    }

    fn tell_elsewhere(&mut self, there: &Path, path: &[u8]) -> Result<(), SalvageError> {
        let list = self.partial.join("elsewhere");
        let there = there.strip_prefix(self.partial).unwrap_or(there).as_os_str().as_bytes();
        if self.elsewhere.is_none() {
            self.elsewhere = Some(BufWriter::new(File::create(&list).map_err(at(&list))?));
        }
        self.elsewhere_count += 1;
        match &mut self.elsewhere {
            Some(writing) => {
                writeln!(writing, "{}\t{}", path.escape_ascii(), there.escape_ascii()).map_err(at(&list))
            }
            None => Ok(()),
        }
    }

    /// Everything is there. How many objects' names are not in `tree`.
    pub(super) fn end(mut self) -> Result<u64, SalvageError> {
        self.set_directories()?;
        if let Some(mut writing) = self.elsewhere.take() {
            writing.flush().map_err(at(self.partial))?;
        }
        match std::fs::remove_dir(&self.deep) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(at(&self.deep)(error)),
            _ => Ok(self.elsewhere_count),
        }
    }

    fn make(&self, oid: Oid, attributes: &Attributes, to: &Path) -> Result<(), SalvageError> {
        let node = |kind: FileType, device: u64| {
            rustix::fs::mknodat(CWD, to, kind, Mode::RUSR | Mode::WUSR, device).map_err(at(to))
        };
        match attributes.kind {
            ObjectKind::File => self.file(oid, attributes.size, to),
            ObjectKind::Directory => std::fs::create_dir(to).map_err(at(to)),
            ObjectKind::Symlink => {
                let target = self.layers.readlink(oid)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), to).map_err(at(to))
            }
            ObjectKind::Fifo => node(FileType::Fifo, 0),
            ObjectKind::Socket => node(FileType::Socket, 0),
            ObjectKind::CharDevice => node(FileType::CharacterDevice, attributes.rdev),
            ObjectKind::BlockDevice => node(FileType::BlockDevice, attributes.rdev),
        }
    }

    fn file(&self, oid: Oid, size: u64, to: &Path) -> Result<(), SalvageError> {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(to)
            .map_err(at(to))?;
        file.set_len(size).map_err(at(to))?;
        let (mut position, mut buffer) = (0, vec![0; COPY_BYTES.min(size as usize)]);
        while position < size {
            let Some(data) = self.layers.seek_data(oid, position)? else { break };
            let end = self.layers.seek_hole(oid, data)?.unwrap_or(size).min(size);
            position = data;
            while position < end {
                let want = (buffer.len() as u64).min(end - position) as usize;
                let got = self.layers.read(oid, position, &mut buffer[..want])?;
                if got == 0 {
                    return Ok(());
                }
                file.write_all_at(&buffer[..got], position).map_err(at(to))?;
                position += got as u64;
                (self.progress)(got as u64);
            }
        }
        Ok(())
    }

    /// Owner, xattrs, mode and times, in this order: each may take something of the ones before it away.
    fn set(&self, oid: Oid, attributes: &Attributes, to: &Path) -> Result<(), SalvageError> {
        std::os::unix::fs::lchown(to, Some(attributes.uid), Some(attributes.gid)).map_err(at(to))?;
        for name in self.layers.xattr_names(oid)? {
            if let Some(value) = self.layers.xattr(oid, &name)? {
                rustix::fs::lsetxattr(to, OsStr::from_bytes(&name), &value, XattrFlags::empty())
                    .map_err(at(to))?;
            }
        }
        if attributes.kind != ObjectKind::Symlink {
            rustix::fs::chmodat(CWD, to, Mode::from_raw_mode(attributes.mode), AtFlags::empty())
                .map_err(at(to))?;
        }
        let time =
            |stamp: apply_engine::Timestamp| Timespec { tv_sec: stamp.secs, tv_nsec: i64::from(stamp.nanos) };
        let times =
            Timestamps { last_access: time(attributes.atime), last_modification: time(attributes.mtime) };
        rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(at(to))
    }

    /// The deepest first: setting one's times is the last that happens to it.
    fn set_directories(&self) -> Result<(), SalvageError> {
        for (oid, to) in self.directories.iter().rev() {
            self.set(*oid, &self.layers.attributes(*oid)?, to)?;
        }
        Ok(())
    }
}

/// Gives what was made its name, where nothing has it.
fn rename_new(made: &Path, to: &Path) -> Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, made, CWD, to, RenameFlags::NOREPLACE) {
        // A filesystem that does not know the flag.
        Err(Errno::INVAL) if std::fs::symlink_metadata(to).is_err() => rustix::fs::rename(made, to),
        other => other,
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The path of the directory, and the name in it.
fn parted(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}
