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
use parking_lot::Mutex;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use std::collections::HashMap;
use std::path::Path;
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

/// See the module.
pub(crate) struct Index {
    database: Database,
    pending: Mutex<HashMap<Oid, Option<FileHandle>>>,
    commits: AtomicU64,
}

impl Index {
    /// Opens an index that exists and is sound.
    pub(crate) fn open(path: &Path) -> Result<Index, IndexError> {
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(path)?;
        let commits = {
            let transaction = database.begin_read()?;
            transaction.open_table(HANDLES)?;
            transaction.open_table(NUMBERS)?.get(COMMIT)?.map_or(0, |stored| stored.value())
        };
        Ok(Index { database, pending: Mutex::default(), commits: AtomicU64::new(commits) })
    }

    /// Makes an empty one. Its commits go on from `commits`.
    pub(crate) fn create(path: &Path, commits: u64) -> Result<Index, IndexError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let transaction = database.begin_write()?;
        transaction.open_table(HANDLES)?;
        transaction.open_table(NUMBERS)?.insert(COMMIT, commits)?;
        transaction.commit()?;
        Ok(Index { database, pending: Mutex::default(), commits: AtomicU64::new(commits) })
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
        let table = self.database.begin_read()?.open_table(HANDLES)?;
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
        let table = self.database.begin_read()?.open_table(HANDLES)?;
        table.range(from.0..)?.take(max).map(|entry| Ok(Oid(entry?.0.value()))).collect()
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> Result<u64, IndexError> {
        use redb::ReadableTableMetadata;
        self.write(&mut self.pending.lock(), Durability::None)?;
        Ok(self.database.begin_read()?.open_table(HANDLES)?.len()?)
    }

    fn write(
        &self,
        pending: &mut HashMap<Oid, Option<FileHandle>>,
        durability: Durability,
    ) -> Result<(), IndexError> {
        let mut transaction = self.database.begin_write()?;
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
