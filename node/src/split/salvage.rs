//! Keeping aside what only this node holds, before its tree becomes the primary's.
//!
//! ```text
//! SALVAGE/20261122T190311Z.partial/   being made; begun anew after an interruption
//! SALVAGE/20261122T190311Z/           whole, and flushed
//!     tree/        the objects under their paths: contents, holes, owner, mode, times, xattrs, hard links
//!     deep/        under their numbers, those whose paths are too long or whose names this filesystem refuses
//!     elsewhere    their paths, and where they are; what is in such a directory is there, too
//!     changed      their paths, one on a line, with what they are
//!     removed      names that are not here any more and that the primary still has
//!     about        volume, node, when, since which point of the log
//! ```
//!
//! `SALVAGE` is `salvage` of `[volume.resync]`, by default `.twinfiler/salvage` in the base directory, which no client
//! sees and no node replicates.
//!
//! Invariants: nothing of the base tree changes here; a directory without `.partial` is whole and was flushed before it
//! got its name, and only after that may the tree change (so a crash at any moment leaves the tree, or the salvage, or
//! both); nothing is ever removed but what carries `.partial`.
//!
//! What can go wrong: too little space, found before anything is copied ([`SalvageError::Space`]); a filesystem that
//! cannot hold an object (reported, the tree stays).

mod copying;

use super::changes::{Changes, ChangesError, Entry, GoOn, Removed, shown};
use apply_engine::{Layers, ObjectKind, ViewError};
use copying::Copying;
use ids::{LogPoint, Lsn, NodeName, Oid, VolumeId};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names that are compared with the primary's at a time.
const BATCH: usize = 256;
/// Left free in the salvage's filesystem.
const SPARE_BYTES: u64 = 64 << 20;
/// What an object needs beside its content, at most.
const OBJECT_BYTES: u64 = 8 << 10;
/// Longest path that is kept as such; objects below deeper ones are kept in `deep` under their number.
const MAX_PATH_BYTES: usize = 3000;
/// In the list of removed names: whose name it was is not known.
const NOBODY: Oid = Oid(u64::MAX);
const PARTIAL: &str = ".partial";

/// Why what this node holds could not be kept aside. The tree is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SalvageError {
    /// Not enough room.
    #[error(
        "what only this node holds needs {needed_bytes} bytes in {}, where {free_bytes} are free: make room there, or name \
         a directory with more room as `salvage` in [volume.resync] and restart this node; nothing was changed", at.display()
    )]
    Space { needed_bytes: u64, free_bytes: u64, at: PathBuf },
    /// A file could not be written.
    #[error("what only this node holds cannot be kept in {}: {source}; nothing of the tree was changed", at.display())]
    Io { at: PathBuf, source: io::Error },
    /// This node's tree cannot be read.
    #[error(transparent)]
    Changes(#[from] ChangesError),
    /// It could not be asked what the primary has.
    #[error("{0}")]
    Primary(String),
}

impl From<ViewError> for SalvageError {
    fn from(error: ViewError) -> SalvageError {
        SalvageError::Changes(error.into())
    }
}

fn at<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> SalvageError {
    let at = path.to_owned();
    move |error| SalvageError::Io { at, source: error.into() }
}

/// What is kept, and where.
pub(crate) struct Salvage<'a> {
    pub volume: VolumeId,
    pub node: &'a NodeName,
    /// The directory that holds all salvages of the volume.
    pub at: &'a Path,
    /// What was changed from here on is kept; `None`: everything that the primary has not.
    pub since: Option<Lsn>,
    pub log_end: LogPoint,
}

/// What the primary has.
pub(crate) trait Primary {
    /// Which of these objects it has just as they are here, names aside.
    fn same(&mut self, layers: &Layers, entries: &[Entry]) -> Result<Vec<bool>, SalvageError>;
    /// Names that it has in these directories and this node has not, of objects that were there at the common point;
    /// without one, of all objects.
    fn names(&mut self, layers: &Layers, directories: &[Oid]) -> Result<Vec<(Oid, Vec<u8>)>, SalvageError>;
}

/// What was kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub at: PathBuf,
    pub objects: u64,
    pub bytes: u64,
    pub removed: u64,
    /// Names that are not in `tree`, but in the list of that name.
    pub elsewhere: u64,
}

impl Salvage<'_> {
    /// Keeps everything that was changed and that the primary has not just so. `None`: there is no such thing.
    pub fn keep(
        &self,
        changes: &Changes<'_>,
        mut removed: Removed,
        primary: &mut dyn Primary,
        go_on: GoOn<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<Option<Kept>, SalvageError> {
        self.clear()?;
        let name = utc_name(runtime::unix_time());
        let partial = self.at.join(format!("{name}{PARTIAL}"));
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for directory in [self.at, &partial] {
            builder.create(directory).map_err(at(directory))?;
        }
        // Which objects: written down first, so that memory does not grow with them.
        let list = partial.join("list");
        let mut writing = BufWriter::new(File::create(&list).map_err(at(&list))?);
        let (mut waiting, mut kept): (Vec<Entry>, Kept) =
            (Vec::new(), Kept { at: self.at.join(&name), objects: 0, bytes: 0, removed: 0, elsewhere: 0 });
        let mut directories: Vec<Oid> = vec![Oid::ROOT];
        let mut flush = |waiting: &mut Vec<Entry>, layers: &Layers| -> Result<(), SalvageError> {
            let same = primary.same(layers, waiting)?;
            for (entry, _) in waiting.drain(..).zip(same).filter(|(_, same)| !same) {
                let size = match entry.kind {
                    ObjectKind::File => layers.size(entry.oid)?,
                    _ => 0,
                };
                kept.objects += 1;
                kept.bytes += size;
                let line = format!("{} {:?} ", entry.oid.0, entry.kind);
                let line =
                    [line.as_bytes(), entry.path.escape_ascii().to_string().as_bytes(), b"\n"].concat();
                writing.write_all(&line).map_err(at(&list))?;
            }
            Ok(())
        };
        let (parents, mut paths) = (removed.parents(), HashMap::new());
        changes.walk::<SalvageError>(go_on, &parents, &mut paths, |layers, entry| {
            if entry.kind.is_directory() {
                directories.push(entry.oid);
            }
            waiting.push(entry);
            match waiting.len() < BATCH {
                true => Ok(()),
                false => flush(&mut waiting, layers),
            }
        })?;
        let layers = changes.layers();
        flush(&mut waiting, &layers)?;
        writing.flush().map_err(at(&list))?;
        drop(writing);
        // Which names are not here any more: those that the log tells, and those that only the primary has.
        for some in directories.chunks(BATCH) {
            for (directory, name) in primary.names(&layers, some)? {
                removed.add(directory, &name, NOBODY);
            }
        }
        changes.walk::<SalvageError>(go_on, &removed.parents(), &mut paths, |_, _| Ok(()))?;
        let (names, beyond) = removed.paths(&layers, &paths);
        kept.removed = names.len() as u64 + beyond;
        if kept.objects == 0 && kept.removed == 0 {
            std::fs::remove_dir_all(&partial).map_err(at(&partial))?;
            return Ok(None);
        }
        self.check_space(&kept)?;
        kept.elsewhere = self.copy(&partial, &list, &layers, go_on, progress)?;
        self.describe(&partial, &kept, &names, beyond)?;
        self.finish(&partial, &kept.at)?;
        Ok(Some(kept))
    }

    /// Removes what an interrupted attempt left.
    fn clear(&self) -> Result<(), SalvageError> {
        let found = match std::fs::read_dir(self.at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(at(self.at))?,
        };
        for entry in found {
            let path = entry.map_err(at(self.at))?.path();
            if path.extension() == Some(OsStr::new(&PARTIAL[1..])) {
                std::fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    fn check_space(&self, kept: &Kept) -> Result<(), SalvageError> {
        let found = rustix::fs::statvfs(self.at).map_err(at(self.at))?;
        let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
        let needed_bytes = kept.bytes.saturating_add(kept.objects.saturating_mul(OBJECT_BYTES)) + SPARE_BYTES;
        match needed_bytes <= free_bytes {
            true => Ok(()),
            false => Err(SalvageError::Space { needed_bytes, free_bytes, at: self.at.to_owned() }),
        }
    }

    /// Copies what the list names. How many names are not in `tree`.
    fn copy(
        &self,
        partial: &Path,
        list: &Path,
        layers: &Layers,
        go_on: GoOn<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<u64, SalvageError> {
        let mut copying = Copying::begin(partial, layers, progress)?;
        for line in BufReader::new(File::open(list).map_err(at(list))?).lines() {
            if !go_on() {
                return Err(ChangesError::Ended.into());
            }
            let line = line.map_err(at(list))?;
            let mut words = line.splitn(3, ' ');
            let oid = words.next().and_then(|word| word.parse().ok()).map(Oid);
            let path = words.nth(1).and_then(unescape);
            let (Some(oid), Some(path)) = (oid, path) else {
                let broken = io::Error::other("the list that was just written is damaged");
                return Err(at::<io::Error>(list)(broken));
            };
            copying.object(oid, &path)?;
        }
        copying.end()
    }

    fn describe(
        &self,
        partial: &Path,
        kept: &Kept,
        removed: &[Vec<u8>],
        beyond: u64,
    ) -> Result<(), SalvageError> {
        let since = self.since.map_or_else(|| "(no common point)".to_owned(), |lsn| lsn.to_string());
        let about = format!(
            "volume {}\nnode {}\nsalvaged {}\nchanged at or after LSN {since}\nthis node's log ended at {}\n\
             objects {}\nbytes {}\nremoved names {}\nnames that are elsewhere {}\n",
            self.volume,
            self.node,
            utc_name(runtime::unix_time()),
            self.log_end,
            kept.objects,
            kept.bytes,
            kept.removed,
            kept.elsewhere
        );
        let mut lines = removed.iter().map(|path| shown(path) + "\n").collect::<String>();
        if beyond > 0 {
            lines += &format!("... and {beyond} more\n");
        }
        for (name, text) in [("about", about), ("removed", lines)] {
            let path = partial.join(name);
            std::fs::write(&path, text).map_err(at(&path))?;
        }
        std::fs::rename(partial.join("list"), partial.join("changed")).map_err(at(partial))
    }

    /// Flushed, then named.
    fn finish(&self, partial: &Path, whole: &Path) -> Result<(), SalvageError> {
        let above = File::open(self.at).map_err(at(self.at))?;
        rustix::fs::syncfs(&above).map_err(at(self.at))?;
        std::fs::rename(partial, whole).map_err(at(whole))?;
        above.sync_all().map_err(at(self.at))?;
        // The directory itself may have been made just now.
        match self.at.parent() {
            Some(parent) => File::open(parent).and_then(|parent| parent.sync_all()).map_err(at(parent)),
            None => Ok(()),
        }
    }
}

/// The inverse of `escape_ascii`.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (kind, after) = rest.split_first()?;
        rest = after;
        bytes.push(match kind {
            b't' => b'\t',
            b'r' => b'\r',
            b'n' => b'\n',
            b'\'' | b'"' | b'\\' => *kind,
            b'x' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

/// A moment as a name that sorts: `20261122T190311Z`. (Days to dates: H. Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`.)
fn utc_name(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests;
