//! The label of an object: one small xattr that says which object of the volume an inode is.
//!
//! It is the authority on identity (the index is only a cache of it), and it keeps what the local filesystem
//! cannot be told: the client-visible change time, generation and link count. It also keeps
//! the mode, because a change of owner clears suid bits and a crash may come before they are set again. `trusted.*` works on every inode
//! type, symlinks included, through `/proc/self/fd/N` of an `O_PATH` descriptor.
//!
//! ```text
//! 0        4        8        16           24        32         36       40       48
//! | version | nlink |  oid   | generation | ctime s | ctime ns |  mode  |  LSN   |
//! ```
//! All little endian. 48 bytes, so that it fits into the inode on ext4 and xfs.
//! What can go wrong: a label of a version from the future, or one that somebody else wrote; both are typed
//! errors, never guesses.

use ids::{Lsn, Oid};

use crate::attributes::Timestamp;

/// The xattr's name.
pub const LABEL_XATTR: &str = "trusted.twinfiler";
/// Length of a label.
pub const LABEL_BYTES: usize = 48;
/// The layout that this program writes.
const LABEL_VERSION: u32 = 1;

/// What is written on an object's inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    /// Which object this is.
    pub oid: Oid,
    /// The object's generation, part of file handles.
    pub generation: u64,
    /// The link count that clients see: 0 for an object that lives on only because it is open; for directories
    /// 2 + subdirectories, whatever the local filesystem counts.
    pub nlink: u32,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// The change time that clients see.
    pub ctime: Timestamp,
    /// End of the last record that changed the object.
    pub last_lsn: Lsn,
}

/// A label that cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LabelError {
    /// Not as long as a label.
    #[error(
        "the {LABEL_XATTR} xattr has {0} bytes instead of {LABEL_BYTES}: it was not written by Twinfiler"
    )]
    Length(usize),
    /// Written by a newer program.
    #[error(
        "the {LABEL_XATTR} xattr has version {0}, this program knows {LABEL_VERSION}: use a newer Twinfiler"
    )]
    Version(u32),
}

impl Label {
    /// The xattr's value.
    pub fn encode(&self) -> [u8; LABEL_BYTES] {
        let mut bytes = [0; LABEL_BYTES];
        bytes[0..4].copy_from_slice(&LABEL_VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.nlink.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.oid.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.ctime.secs.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.ctime.nanos.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.mode.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.last_lsn.0.to_le_bytes());
        bytes
    }

    /// Reads an xattr's value.
    ///
    /// # Errors
    /// When it is not a label that this program understands.
    pub fn decode(bytes: &[u8]) -> Result<Label, LabelError> {
        let whole: &[u8; LABEL_BYTES] = bytes.try_into().map_err(|_| LabelError::Length(bytes.len()))?;
        let u32_at = |at: usize| u32::from_le_bytes([whole[at], whole[at + 1], whole[at + 2], whole[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        match u32_at(0) {
            LABEL_VERSION => Ok(Label {
                oid: Oid(u64_at(8)),
                generation: u64_at(16),
                nlink: u32_at(4),
                mode: u32_at(36),
                ctime: Timestamp { secs: u64_at(24) as i64, nanos: u32_at(32) },
                last_lsn: Lsn(u64_at(40)),
            }),
            version => Err(LabelError::Version(version)),
        }
    }
}
