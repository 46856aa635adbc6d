//! The index: OID → kernel file handle.
//!
//! A cache, never the truth: whoever opens a handle compares the label of what it got. Missing or corrupt, it
//! is rebuilt by a walk. Changes gather in memory, go to redb in batches without a flush, and become durable
//! with [`Index::commit`], which comes before the log may be trimmed.
//!
//! What can go wrong: an entry that is older than the tree. Its handle is stale (the inode is gone) or opens an
//! inode with another label; both read as "not here". A whole index that is older (put back from a backup, or what
//! redb falls back to) would hide objects that are there, so each commit has a number, which the volume's label file
//! remembers too. And bytes that somebody changed: every page's checksum is verified when it is opened, which reads
//! the file once.

use ids::Oid;
use parking_lot::{Mutex, RwLock};
use redb::backends::FileBackend;
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, TableDefinition};
use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use super::handles::FileHandle;

const HANDLES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("handles");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// The number of the last commit.
const COMMIT: &str = "commit";
/// Changes that are kept in memory before they are written as one batch.
const MAX_PENDING: usize = 4096;
/// redb's page cache.
const CACHE_BYTES: usize = 32 << 20;

/// The index failed.
#[derive(Debug, thiserror::Error)]
#[error("index of the volume: {0}; it is rebuilt when {path} is removed", path = ".twinfiler/index.redb")]
pub struct IndexError(#[source] Box<redb::Error>);

impl<E: Into<redb::Error>> From<E> for IndexError {
    fn from(error: E) -> IndexError {
        IndexError(Box::new(error.into()))
    }
}

impl IndexError {
    /// Is the filesystem below full?
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(&*self.0, redb::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull)
    }
}

/// Opens one that exists and is sound, and tells the number of its last commit.
fn open(file: File) -> Result<(Database, u64), IndexError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    // An empty file becomes an empty database, which lacks the tables.
    let database = builder.create_with_backend(FileBackend::new(file)?)?;
    let commits = {
        let transaction = database.begin_read()?;
        transaction.open_table(HANDLES)?;
        transaction.open_table(NUMBERS)?.get(COMMIT)?.map_or(0, |stored| stored.value())
    };
    Ok((database, commits))
}

/// See the module.
pub(crate) struct Index {
    /// `None` only when it could not be opened again.
    database: RwLock<Option<Database>>,
    pending: Mutex<HashMap<Oid, Option<FileHandle>>>,
    commits: AtomicU64,
}

impl Index {
    /// Opens an index that exists and is sound.
    pub(crate) fn open(file: File) -> Result<Index, IndexError> {
        let (database, commits) = open(file)?;
        Ok(Index::of(database, commits))
    }

    fn of(database: Database, commits: u64) -> Index {
        Index {
            database: RwLock::new(Some(database)),
            pending: Mutex::default(),
            commits: AtomicU64::new(commits),
        }
    }

    /// Opens it again: after an I/O error redb does nothing more. What was not durable is lost, and the caller finds it
    /// again by a walk.
    pub(crate) fn reopen(&self, file: File) -> Result<(), IndexError> {
        let mut database = self.database.write();
        // It has the file locked.
        *database = None;
        *database = Some(open(file)?.0);
        Ok(())
    }

    /// Makes an empty one in an empty file. Its commits go on from `commits`.
    pub(crate) fn create(file: File, commits: u64) -> Result<Index, IndexError> {
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?;
        let transaction = database.begin_write()?;
        transaction.open_table(HANDLES)?;
        transaction.open_table(NUMBERS)?.insert(COMMIT, commits)?;
        transaction.commit()?;
        Ok(Index::of(database, commits))
    }

    /// The number of the last commit.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// The handle last stored for an object.
    pub(crate) fn get(&self, oid: Oid) -> Result<Option<FileHandle>, IndexError> {
        if let Some(change) = self.pending.lock().get(&oid) {
            return Ok(change.clone());
        }
        let table = self.read()?.open_table(HANDLES)?;
        Ok(table.get(oid.0)?.and_then(|stored| FileHandle::from_bytes(stored.value())))
    }

    /// Stores or forgets a handle.
    pub(crate) fn set(&self, oid: Oid, handle: Option<FileHandle>) -> Result<(), IndexError> {
        let mut pending = self.pending.lock();
        pending.insert(oid, handle);
        match pending.len() < MAX_PENDING {
            true => Ok(()),
            false => self.write(&mut pending, Durability::None),
        }
    }

    /// Makes every change so far durable. Gives the commit's number.
    pub(crate) fn commit(&self) -> Result<u64, IndexError> {
        self.write(&mut self.pending.lock(), Durability::Immediate)?;
        Ok(self.commits())
    }

    /// The OIDs from `from` on, ascending, at most `max`.
    pub(crate) fn known(&self, from: Oid, max: usize) -> Result<Vec<Oid>, IndexError> {
        {
            let mut pending = self.pending.lock();
            // Whoever walks over many short ranges should not pay for a transaction each time.
            if !pending.is_empty() {
                self.write(&mut pending, Durability::None)?;
            }
        }
        let table = self.read()?.open_table(HANDLES)?;
        table.range(from.0..)?.take(max).map(|entry| Ok(Oid(entry?.0.value()))).collect()
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> Result<u64, IndexError> {
        use redb::ReadableTableMetadata;
        self.write(&mut self.pending.lock(), Durability::None)?;
        Ok(self.read()?.open_table(HANDLES)?.len()?)
    }

    fn read(&self) -> Result<ReadTransaction, IndexError> {
        Ok(self.database.read().as_ref().ok_or(redb::Error::PreviousIo)?.begin_read()?)
    }

    fn write(
        &self,
        pending: &mut HashMap<Oid, Option<FileHandle>>,
        durability: Durability,
    ) -> Result<(), IndexError> {
        let database = self.database.read();
        let mut transaction = database.as_ref().ok_or(redb::Error::PreviousIo)?.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(HANDLES)?;
            for (oid, change) in pending.iter() {
                match change {
                    Some(handle) => drop(table.insert(oid.0, handle.to_bytes().as_slice())?),
                    None => drop(table.remove(oid.0)?),
                }
            }
        }
        let number = self.commits() + 1;
        transaction.open_table(NUMBERS)?.insert(COMMIT, number)?;
        transaction.commit()?;
        // Everybody who gets here holds `pending`.
        self.commits.store(number, Ordering::Release);
        pending.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    /// A filesystem of 2 MiB, as long as this lives.
    struct Tiny(tempfile::TempDir);

    impl Tiny {
        fn mount() -> Tiny {
            let dir = tempfile::tempdir().expect("a directory");
            let mount =
                Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tiny"]).arg(dir.path()).status();
            assert!(mount.is_ok_and(|status| status.success()), "mounting needs root");
            Tiny(dir)
        }
    }

    impl Drop for Tiny {
        fn drop(&mut self) {
            let _gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    #[test]
    fn an_index_whose_filesystem_was_full_is_opened_again() {
        let tiny = Tiny::mount();
        let (path, filler) = (tiny.0.path().join("index"), tiny.0.path().join("filler"));
        let file = |new| File::options().read(true).write(true).create_new(new).open(&path).expect("a file");
        let index = Index::create(file(true), 5).expect("an index");
        let handle = FileHandle::from_bytes(&[1, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7]).expect("a handle");
        index.set(Oid(16), Some(handle.clone())).expect("in memory");
        let commit = index.commit().expect("there is room");
        let free = rustix::fs::statvfs(&path).expect("its room");
        fs::write(&filler, vec![0; (free.f_bavail * free.f_bsize) as usize]).expect("exactly what is left");
        for oid in 17..50_000 {
            // redb keeps what is not durable in memory, or finds that there is no room.
            let _no_room = index.set(Oid(oid), Some(handle.clone()));
        }
        index.commit().expect_err("no room");
        fs::remove_file(&filler).expect("room again");
        index.commit().expect_err("redb has given up");
        index.reopen(file(false)).expect("opens again");
        assert_eq!(index.get(Oid(16)).expect("reads"), Some(handle.clone()));
        assert!(index.commit().expect("there is room") > commit);
        assert_eq!(
            index.get(Oid(49_999)).expect("reads"),
            Some(handle),
            "what waited in memory is written now"
        );
    }
}
