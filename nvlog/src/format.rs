//! The constants of the on-media format, version 2.
//!
//! `docs/nvlog-format.md` draws them and a test holds the two together. All integers are little-endian.

use ids::RECORD_ALIGN_BYTES;

/// Version of superblocks that this program writes, and the newest that it reads; it reads the one before, too.
///
/// 1: each write went to one copy, in turns, and nothing told where the durable records end.
/// 2: each write goes to both copies, and tells that.
pub const FORMAT_VERSION: u16 = 2;
/// Version of records. They have not changed since the first.
pub const RECORD_VERSION: u16 = 1;

/// Length of one superblock copy; also the unit a block device is written in.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Where the two superblock copies lie in the region.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, SUPERBLOCK_BYTES as u64];
/// First bytes of a superblock copy.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"TWFNVLOG";
/// Where the ring begins; what lies between the superblocks and here is zero and reserved.
pub const RING_OFFSET_BYTES: u64 = 64 * 1024;

/// Smallest ring.
pub const MIN_CAPACITY_BYTES: u64 = 64 * 1024;
/// A ring is a multiple of this.
pub const CAPACITY_ALIGN_BYTES: u64 = 4096;
/// Largest payload, where the ring is large enough (see [`max_payload_bytes`]).
pub const MAX_PAYLOAD_BYTES: u64 = 1024 * 1024 + 64 * 1024;

/// Length of a record's header: one cache line. The payload follows at once.
pub const HEADER_BYTES: usize = 64;
/// First bytes of a record.
pub const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"TWFR");

/// Byte offsets of the fields of a record header.
pub mod header {
    /// u32, [`super::RECORD_MAGIC`].
    pub const MAGIC: usize = 0;
    /// u16, [`super::RECORD_VERSION`].
    pub const VERSION: usize = 4;
    /// u8, [`crate::RecordKind`].
    pub const KIND: usize = 6;
    /// u8, zero.
    pub const RESERVED_BYTE: usize = 7;
    /// u64, LSN of the record's first byte.
    pub const LSN: usize = 8;
    /// u64, the epoch that wrote the record.
    pub const EPOCH: usize = 16;
    /// u32, payload length in bytes, without the padding to 64.
    pub const PAYLOAD_LEN: usize = 24;
    /// u32, CRC-32C of the payload; zero for pad and no-op records, whose payload is not covered.
    pub const PAYLOAD_CRC: usize = 28;
    /// 28 bytes, zero.
    pub const RESERVED: usize = 32;
    /// u32, the chained CRC: CRC-32C of the header with the previous record's chained CRC in this place.
    pub const CHAIN_CRC: usize = 60;
}

/// Byte offsets of the fields of a superblock copy.
pub mod superblock {
    /// 8 bytes, [`super::SUPERBLOCK_MAGIC`].
    pub const MAGIC: usize = 0;
    /// u16, [`super::FORMAT_VERSION`].
    pub const VERSION: usize = 8;
    /// u16, bit 0: the memory was lost in a restart and the log has not been completed since.
    pub const FLAGS: usize = 10;
    /// u32, number of epoch history entries.
    pub const HISTORY_COUNT: usize = 12;
    /// u64, counts the writes of the superblock; the valid copy with the higher one counts.
    pub const GENERATION: usize = 16;
    /// 16 bytes, the volume.
    pub const VOLUME: usize = 24;
    /// u64, length of the ring.
    pub const CAPACITY: usize = 40;
    /// u64, LSN where recovery begins.
    pub const TAIL_LSN: usize = 48;
    /// u32, chained CRC at the tail.
    pub const TAIL_CRC: usize = 56;
    /// u32, length of the role state.
    pub const ROLE_STATE_LEN: usize = 60;
    /// 16 bytes, boot id of the machine when the log was last opened.
    pub const BOOT_ID: usize = 64;
    /// u64, end of what was durable when this was written: a walk from the tail that ends before it lacks something.
    pub const DURABLE_END: usize = 80;
    /// u64, where what was last begun to be applied ends, plus one; 0: not told, as by programs that knew no such field.
    pub const APPLYING_END: usize = 88;
    /// (u64 epoch, u64 first LSN) for each entry of the epoch history, 64 at most.
    pub const HISTORY: usize = 128;
    /// The role state, opaque, 1024 bytes at most.
    pub const ROLE_STATE: usize = 2048;
    /// u32, CRC-32C of all bytes of the copy before this one.
    pub const CRC: usize = super::SUPERBLOCK_BYTES - 4;
}

/// Largest role state.
pub const MAX_ROLE_STATE_BYTES: usize = 1024;

/// Largest payload that a ring of `capacity_bytes` takes: a quarter of the ring, at most
/// [`MAX_PAYLOAD_BYTES`].
pub fn max_payload_bytes(capacity_bytes: u64) -> u64 {
    MAX_PAYLOAD_BYTES.min(capacity_bytes / 4)
}

/// Bytes that a record with a payload of `payload_len` takes in the ring.
pub fn record_bytes(payload_len: u64) -> u64 {
    (HEADER_BYTES as u64 + payload_len).next_multiple_of(RECORD_ALIGN_BYTES)
}
