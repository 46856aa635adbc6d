//! The superblock: what a log is, where it begins, how far it was durable, which epochs wrote it, and the role state
//! that must survive a restart. Each write goes to both copies, one after the other: a torn write leaves the state
//! before it, and a copy that rots later leaves the same state in the other.
//!
//! Invariant: a copy is believed only when magic, version and CRC are right and its values make sense; a copy
//! of a newer version refuses the whole log, because this program cannot know what the newer one did.
//! What can go wrong is a row of [`choose`]: one copy bad (used around, healed when the log is opened), both bad.
//! Rejected: to write the copies in turns, as version 1 did. When the newer one rots, an old tail and an old role
//! count, and nothing shows it.

use crate::format::{
    CAPACITY_ALIGN_BYTES, FORMAT_VERSION, MAX_ROLE_STATE_BYTES, MIN_CAPACITY_BYTES, SUPERBLOCK_BYTES,
    SUPERBLOCK_MAGIC, superblock as at,
};
use crate::record::{crc32c, put, u32_at, u64_at};
use ids::{ChainCrc, Epoch, EpochHistory, EpochStart, HistoryError, LogPoint, Lsn, VolumeId};
use std::fmt;

const FLAG_MEMORY_LOST: u16 = 1;
const HISTORY_ENTRY_BYTES: usize = 16;

/// The kernel's random id of one boot of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BootId(pub [u8; 16]);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The superblock as it is in the newest valid copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The volume that this log belongs to.
    pub volume: VolumeId,
    /// Length of the ring.
    pub capacity_bytes: u64,
    /// Where recovery begins: everything before it is applied and flushed.
    pub tail: LogPoint,
    /// Which epoch wrote which part.
    pub epoch_history: EpochHistory,
    /// Opaque to the log, at most [`MAX_ROLE_STATE_BYTES`].
    pub role_state: Vec<u8>,
    /// Boot of the machine in which the log was last opened.
    pub boot_id: BootId,
    /// The memory did not survive a restart of the machine, or the log is known to lack something, and nobody has
    /// declared it complete since.
    pub memory_lost: bool,
    /// Counts the writes of the superblock.
    pub generation: u64,
    /// Everything before it was durable when this was written, so a walk from the tail must reach it.
    pub durable_end: Lsn,
    /// The base tree holds no effect of a record at or after it; `None`: not told. See [`crate::Log::begin_applying`].
    pub applying_end: Option<Lsn>,
    /// Format version of the copy that this was read from.
    pub version: u16,
}

/// The part of the superblock that the log's owner may change; see [`crate::Log::update_superblock`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SuperblockDraft {
    /// Opaque to the log, at most [`MAX_ROLE_STATE_BYTES`].
    pub role_state: Vec<u8>,
    /// Which epoch wrote which part.
    pub epoch_history: EpochHistory,
    /// Cleared by the owner once the log is complete again (after a resync or a rejoin).
    pub memory_lost: bool,
}

impl SuperblockDraft {
    /// Notes that `epoch` begins at `first_lsn`.
    ///
    /// # Errors
    /// When that breaks the order of the history. To note the newest entry again is no error.
    pub fn push_epoch(&mut self, epoch: Epoch, first_lsn: Lsn) -> Result<(), HistoryError> {
        let new = EpochStart { epoch, first_lsn };
        if self.epoch_history.last() == Some(new) {
            return Ok(());
        }
        self.epoch_history.push(new)
    }
}

/// Why a superblock cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SuperblockError {
    /// Neither copy carries the magic.
    #[error("there is no Twinfiler log here (no superblock); `twinfiler init` makes one")]
    NotALog,
    /// Both copies are damaged.
    #[error(
        "both superblock copies are damaged ({a}; {b}): look at it with `twinfiler log inspect`, then make a new \
         log and let the partner resync it"
    )]
    BothCorrupt {
        /// What is wrong with the first copy.
        a: String,
        /// What is wrong with the second copy.
        b: String,
    },
    /// A copy was written by a newer program.
    #[error(
        "the log has format version {found}, this program reads up to {FORMAT_VERSION}: use the newer program"
    )]
    FutureVersion {
        /// The version of the log.
        found: u16,
    },
}

/// What one copy turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum CopyState {
    /// No magic: never written, or wiped.
    Blank,
    /// Written by a newer program.
    Future(u16),
    /// Magic without a valid rest, and why.
    Corrupt(String),
    /// To be believed.
    Valid(Box<Superblock>),
}

impl fmt::Display for CopyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyState::Blank => write!(f, "no magic"),
            CopyState::Future(version) => write!(f, "format version {version}"),
            CopyState::Corrupt(why) => write!(f, "{why}"),
            CopyState::Valid(superblock) => write!(f, "valid, generation {}", superblock.generation),
        }
    }
}

/// The copy to use: its index, its content, and what is wrong with the other one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chosen {
    pub index: usize,
    pub superblock: Superblock,
    pub other_is_bad: Option<String>,
}

/// The decision table over the states of both copies.
///
/// ```text
/// any copy Future                → refuse: FutureVersion
/// Valid  + Valid                 → the higher generation (the first copy when equal)
/// Valid  + Corrupt | Blank       → the valid one; opening the log heals the other
/// Corrupt + Corrupt | Blank      → refuse: BothCorrupt
/// Blank  + Blank                 → refuse: NotALog
/// ```
pub(crate) fn choose(copies: [CopyState; 2]) -> Result<Chosen, SuperblockError> {
    use CopyState::{Blank, Corrupt, Future, Valid};
    let [a, b] = copies;
    match (a, b) {
        (Future(found), _) | (_, Future(found)) => Err(SuperblockError::FutureVersion { found }),
        (Valid(a), Valid(b)) => {
            let index = usize::from(b.generation > a.generation);
            let superblock = if index == 0 { *a } else { *b };
            Ok(Chosen { index, superblock, other_is_bad: None })
        }
        (Valid(a), bad) => Ok(Chosen { index: 0, superblock: *a, other_is_bad: Some(bad.to_string()) }),
        (bad, Valid(b)) => Ok(Chosen { index: 1, superblock: *b, other_is_bad: Some(bad.to_string()) }),
        (Blank, Blank) => Err(SuperblockError::NotALog),
        (a @ (Blank | Corrupt(_)), b @ (Blank | Corrupt(_))) => {
            Err(SuperblockError::BothCorrupt { a: a.to_string(), b: b.to_string() })
        }
    }
}

impl Superblock {
    /// The bytes of a copy. The role state's bound is checked by who changes it.
    pub(crate) fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        assert!(self.role_state.len() <= MAX_ROLE_STATE_BYTES, "the role state's bound was checked");
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let history = self.epoch_history.entries();
        let flags = if self.memory_lost { FLAG_MEMORY_LOST } else { 0 };
        put(&mut bytes, at::MAGIC, &SUPERBLOCK_MAGIC);
        put(&mut bytes, at::VERSION, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, at::FLAGS, &flags.to_le_bytes());
        put(&mut bytes, at::HISTORY_COUNT, &(history.len() as u32).to_le_bytes());
        put(&mut bytes, at::GENERATION, &self.generation.to_le_bytes());
        put(&mut bytes, at::VOLUME, &self.volume.0);
        put(&mut bytes, at::CAPACITY, &self.capacity_bytes.to_le_bytes());
        put(&mut bytes, at::TAIL_LSN, &self.tail.lsn.0.to_le_bytes());
        put(&mut bytes, at::TAIL_CRC, &self.tail.crc.0.to_le_bytes());
        put(&mut bytes, at::ROLE_STATE_LEN, &(self.role_state.len() as u32).to_le_bytes());
        put(&mut bytes, at::BOOT_ID, &self.boot_id.0);
        put(&mut bytes, at::DURABLE_END, &self.durable_end.0.to_le_bytes());
        let applying_end = self.applying_end.map_or(0, |end| end.0 + 1);
        put(&mut bytes, at::APPLYING_END, &applying_end.to_le_bytes());
        for (i, entry) in history.iter().enumerate() {
            let offset = at::HISTORY + i * HISTORY_ENTRY_BYTES;
            put(&mut bytes, offset, &entry.epoch.0.to_le_bytes());
            put(&mut bytes, offset + 8, &entry.first_lsn.0.to_le_bytes());
        }
        put(&mut bytes, at::ROLE_STATE, &self.role_state);
        let crc = crc32c(&bytes[..at::CRC]);
        put(&mut bytes, at::CRC, &crc.to_le_bytes());
        bytes
    }
}

/// Reads one copy. Never trusts a value before the CRC is right.
pub(crate) fn decode(bytes: &[u8; SUPERBLOCK_BYTES]) -> CopyState {
    if bytes[at::MAGIC..at::MAGIC + SUPERBLOCK_MAGIC.len()] != SUPERBLOCK_MAGIC {
        return CopyState::Blank;
    }
    if crc32c(&bytes[..at::CRC]) != u32_at(bytes, at::CRC) {
        return CopyState::Corrupt("CRC does not match".to_owned());
    }
    let version = u16_at(bytes, at::VERSION);
    if version > FORMAT_VERSION {
        return CopyState::Future(version);
    }
    match decode_values(bytes, version) {
        Ok(superblock) => CopyState::Valid(Box::new(superblock)),
        Err(why) => CopyState::Corrupt(why),
    }
}

fn decode_values(bytes: &[u8; SUPERBLOCK_BYTES], version: u16) -> Result<Superblock, String> {
    if version == 0 {
        return Err(format!("format version {version} was never released"));
    }
    let capacity_bytes = u64_at(bytes, at::CAPACITY);
    if !capacity_is_legal(capacity_bytes) {
        return Err(format!("capacity of {capacity_bytes} bytes is impossible"));
    }
    let tail = LogPoint { lsn: Lsn(u64_at(bytes, at::TAIL_LSN)), crc: ChainCrc(u32_at(bytes, at::TAIL_CRC)) };
    if !tail.lsn.0.is_multiple_of(ids::RECORD_ALIGN_BYTES) || tail.lsn.0 > MAX_LSN {
        return Err(format!("tail {} is impossible", tail.lsn));
    }
    // Version 1 does not tell: nothing is promised then.
    let durable_end = if version == 1 { tail.lsn } else { Lsn(u64_at(bytes, at::DURABLE_END)) };
    if durable_end < tail.lsn || durable_end.since(tail.lsn) > capacity_bytes {
        return Err(format!("durable records from {} to {durable_end} are impossible", tail.lsn));
    }
    let count = u32_at(bytes, at::HISTORY_COUNT) as usize;
    let role_len = u32_at(bytes, at::ROLE_STATE_LEN) as usize;
    if count > EpochHistory::MAX_ENTRIES || role_len > MAX_ROLE_STATE_BYTES {
        return Err(format!("{count} history entries and {role_len} bytes of role state are too many"));
    }
    let entries = (0..count).map(|i| at::HISTORY + i * HISTORY_ENTRY_BYTES).map(|offset| EpochStart {
        epoch: Epoch(u64_at(bytes, offset)),
        first_lsn: Lsn(u64_at(bytes, offset + 8)),
    });
    let epoch_history = EpochHistory::new(entries.collect()).map_err(|error| error.to_string())?;
    let mut volume = [0; 16];
    volume.copy_from_slice(&bytes[at::VOLUME..at::VOLUME + 16]);
    let mut boot_id = [0; 16];
    boot_id.copy_from_slice(&bytes[at::BOOT_ID..at::BOOT_ID + 16]);
    Ok(Superblock {
        volume: VolumeId(volume),
        capacity_bytes,
        tail,
        epoch_history,
        role_state: bytes[at::ROLE_STATE..at::ROLE_STATE + role_len].to_vec(),
        boot_id: BootId(boot_id),
        memory_lost: u16_at(bytes, at::FLAGS) & FLAG_MEMORY_LOST != 0,
        generation: u64_at(bytes, at::GENERATION),
        durable_end,
        applying_end: u64_at(bytes, at::APPLYING_END).checked_sub(1).map(Lsn),
        version,
    })
}

/// LSNs stay below this, so that sums of an LSN and a length never overflow. At 100 GB/s it lasts a year and a
/// half times a million.
pub(crate) const MAX_LSN: u64 = 1 << 62;

/// Whether a ring may have this length.
pub(crate) fn capacity_is_legal(capacity_bytes: u64) -> bool {
    (MIN_CAPACITY_BYTES..=MAX_LSN).contains(&capacity_bytes)
        && capacity_bytes.is_multiple_of(CAPACITY_ALIGN_BYTES)
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}
