//! The registers on disk: one JSON file with a checksum, replaced as a whole.
//!
//! Written beside, synced, renamed over, directory synced: after a crash the file is the old or the new one.
//! Nobody else may open any of it: a lock (flock) takes no more than a descriptor that reads, so whoever opened the lock
//! file could keep the witness from starting.
//! What can go wrong: a file that is neither (edited, bad disk); it is refused, with what to do about it.

use ids::VolumeId;
use pair::witness::Register;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Volumes that one witness serves at most.
pub const MAX_REGISTERS: usize = 1024;
const FORMAT: u32 = 1;
const FILE_NAME: &str = "registers.json";
const NEW_FILE_NAME: &str = "registers.json.new";
const LOCK_FILE_NAME: &str = "lock";
/// Modes of what is made here, whatever the umask.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const OTHERS: u32 = 0o077;

/// Why the state cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is not what this program wrote.
    #[error(
        "witness state {path} is damaged ({why}); move it away (never restore an older copy: an outdated \
         register could let an outdated node serve) and start the witness again: a primary that serves, or \
         two nodes that are both up, create their register anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another witness uses the directory.
    #[error("another witness uses {0}; stop it, or give this one another state directory")]
    Locked(PathBuf),
    /// The file system fails.
    #[error("witness state {path}: {source}; check the disk and the rights of the directory")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too many volumes.
    #[error("this witness holds {MAX_REGISTERS} registers already; use another one for this volume")]
    Full,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    registers: Vec<Register>,
    /// FNV-1a over the JSON of `registers`: enough to notice damage and edits.
    checksum: String,
}

/// The registers, in memory and on disk.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    registers: BTreeMap<VolumeId, Register>,
    /// After a failed write it is not known what the disk holds: no further answer is safe.
    poisoned: bool,
    _lock: File,
}

impl Store {
    /// Opens or creates the state in `directory`, which is created if need be.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(directory: &Path) -> Result<Store, StoreError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(io_error(directory))?;
        let lock_path = directory.join(LOCK_FILE_NAME);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(&lock_path)
            .map_err(io_error(&lock_path))?;
        close_to_others(&lock, &lock_path);
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StoreError::Locked(directory.to_owned()))?;
        let path = directory.join(FILE_NAME);
        let registers = match File::open(&path).and_then(|mut file| {
            close_to_others(&file, &path);
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map(|_| bytes)
        }) {
            Ok(bytes) => parse(&bytes).map_err(|why| StoreError::Damaged { path: path.clone(), why })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        Ok(Store { directory: directory.to_owned(), registers, poisoned: false, _lock: lock })
    }

    /// A volume's register; `None` when there is none.
    pub fn get(&self, volume: VolumeId) -> Option<&Register> {
        self.registers.get(&volume)
    }

    /// False after a write failed: then nothing must be answered any more.
    pub fn is_usable(&self) -> bool {
        !self.poisoned
    }

    /// Replaces a register. Durable on return.
    ///
    /// # Errors
    /// `Full`, with nothing changed; `Io`, after which the store is not usable.
    pub fn put(&mut self, register: Register) -> Result<(), StoreError> {
        if !self.registers.contains_key(&register.volume) && self.registers.len() >= MAX_REGISTERS {
            return Err(StoreError::Full);
        }
        self.registers.insert(register.volume, register);
        self.write().inspect_err(|_| self.poisoned = true)
    }

    /// Could a register be written now? Does all that a change would do up to the moment in which it counts.
    ///
    /// # Errors
    /// `Io`. Nothing has changed, and the store stays usable.
    pub fn probe(&self) -> Result<(), StoreError> {
        let path = self.directory.join(NEW_FILE_NAME);
        let tried = self.write_new(&path).and_then(|()| fs::remove_file(&path));
        tried.map_err(|source| StoreError::Io { path, source })
    }

    fn write(&self) -> Result<(), StoreError> {
        let path = self.directory.join(NEW_FILE_NAME);
        let replace = || -> io::Result<()> {
            self.write_new(&path)?;
            fs::rename(&path, self.directory.join(FILE_NAME))?;
            File::open(&self.directory)?.sync_all()
        };
        replace().map_err(|source| StoreError::Io { path: path.clone(), source })
    }

    /// Everything, durable, beside what counts.
    fn write_new(&self, path: &Path) -> io::Result<()> {
        let registers: Vec<Register> = self.registers.values().cloned().collect();
        let checksum = checksum(&registers);
        let contents = Contents { format: FORMAT, registers, checksum };
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(FILE_MODE).open(path)?;
        // One that was left by an interruption.
        close_to_others(&file, path);
        file.write_all(&serde_json::to_vec_pretty(&contents)?)?;
        file.sync_all()
    }
}

/// Takes a file of this process's user from the others, if it was made when they got it, or by hand.
fn close_to_others(file: &File, path: &Path) {
    let closed = file.metadata().and_then(|found| {
        let is_open = found.mode() & OTHERS != 0;
        if !is_open || found.uid() != rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        file.set_permissions(fs::Permissions::from_mode(FILE_MODE))
    });
    if let Err(error) = closed {
        tracing::warn!(path = %path.display(), %error, "witness: a file cannot be closed to other users (`chmod 600`)");
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<VolumeId, Register>, String> {
    let contents: Contents = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if contents.format != FORMAT {
        return Err(format!("format {}, this program knows {FORMAT}", contents.format));
    }
    if contents.checksum != checksum(&contents.registers) {
        return Err("the checksum does not match".to_owned());
    }
    if contents.registers.len() > MAX_REGISTERS {
        return Err(format!("more than {MAX_REGISTERS} registers"));
    }
    Ok(contents.registers.into_iter().map(|register| (register.volume, register)).collect())
}

fn checksum(registers: &[Register]) -> String {
    let text = serde_json::to_vec(registers).expect("plain data always encodes");
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
