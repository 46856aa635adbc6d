//! What the base filesystems can hold: hard limits that a client must meet at once, with the errno the base
//! would have given, because a record that the base then refuses could never be applied (invariant 7).
//!
//! Both nodes' limits are the same: a partner on another kind of filesystem is refused ([`Limits::describe`]). Sources: ext4 `EXT4_LINK_MAX`,
//! `ext4_max_size`, xattr block layout (Documentation/filesystems/ext4/attributes.rst); xfs
//! `XFS_SYMLINK_MAXLEN`, `XFS_MAXLINK`; btrfs `BTRFS_LINK_MAX`, `BTRFS_MAX_XATTR_SIZE`.

use super::errno::{Errno, Result};
use apply_engine::{NameError, NameRef, Timestamp};

/// Longest xattr name, in bytes (Linux `XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// Largest xattr value, in bytes (Linux `XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE_BYTES: usize = 64 * 1024;
/// Largest list of xattr names, in bytes (Linux `XATTR_LIST_MAX`).
pub const MAX_XATTR_LIST_BYTES: usize = 64 * 1024;

const EXT4_SUPER_MAGIC: u64 = 0xEF53;
const XFS_SUPER_MAGIC: u64 = 0x5846_5342;
const BTRFS_SUPER_MAGIC: u64 = 0x9123_683E;

/// Limits of a base filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Hard links to one object that is not a directory.
    pub max_links: u32,
    /// Size of a file.
    pub max_file_bytes: u64,
    /// Length of a symbolic link's target.
    pub max_symlink_bytes: usize,
    /// Sum over an object's xattrs of [`xattr_cost_bytes`]; `None` where each value stands for itself.
    pub max_xattrs_bytes: Option<usize>,
    /// One xattr value.
    pub max_xattr_value_bytes: usize,
    /// Earliest and latest second that a timestamp can hold; others are clamped, as the base would.
    pub seconds: (i64, i64),
}

/// What one xattr takes in an ext4 xattr block: a 16-byte entry, name and value each padded to 4.
pub fn xattr_cost_bytes(name_len: usize, value_len: usize) -> usize {
    16 + name_len.next_multiple_of(4) + value_len.next_multiple_of(4)
}

impl Limits {
    /// The limits of a filesystem with this `statfs` magic and block size; those of ext4, the tightest, for an
    /// unknown one.
    pub fn of_filesystem(magic: u64, block_bytes: u64) -> Limits {
        let roomy = Limits {
            max_links: i32::MAX as u32,
            max_file_bytes: i64::MAX as u64,
            max_symlink_bytes: 4095,
            max_xattrs_bytes: None,
            max_xattr_value_bytes: MAX_XATTR_VALUE_BYTES,
            seconds: (i64::MIN, i64::MAX),
        };
        match magic {
            XFS_SUPER_MAGIC => {
                Limits { max_symlink_bytes: 1023, seconds: (-(1 << 31), 16_299_260_424), ..roomy }
            }
            BTRFS_SUPER_MAGIC => Limits { max_links: 65_535, max_xattr_value_bytes: 15 * 1024, ..roomy },
            libc_tmpfs if libc_tmpfs == libc::TMPFS_MAGIC as u64 => roomy,
            _ => {
                debug_assert!(magic != 0 || block_bytes == 0, "a filesystem has a magic");
                Limits {
                    max_links: 65_000,
                    max_file_bytes: block_bytes.max(1024).saturating_mul((1 << 32) - 1),
                    max_symlink_bytes: 4095.min(block_bytes.max(1024) as usize - 1),
                    // Block header, end mark, and Twinfiler's own label.
                    max_xattrs_bytes: Some(block_bytes.max(1024) as usize - 36 - 128),
                    seconds: (-(1 << 31), 15_032_385_535),
                    ..roomy
                }
            }
        }
    }

    /// The filesystem in words that differ where limits differ: what the nodes of a pair compare.
    pub fn describe(magic: u64, block_bytes: u64) -> String {
        match magic {
            XFS_SUPER_MAGIC => "XFS".to_owned(),
            BTRFS_SUPER_MAGIC => "btrfs".to_owned(),
            EXT4_SUPER_MAGIC => format!("ext4 with blocks of {block_bytes} bytes"),
            libc_tmpfs if libc_tmpfs == libc::TMPFS_MAGIC as u64 => "tmpfs".to_owned(),
            other => format!("a filesystem of type {other:#x} with blocks of {block_bytes} bytes"),
        }
    }
}

impl Limits {
    /// The nearest timestamp that the base can hold.
    pub fn clamp(&self, at: Timestamp) -> Timestamp {
        let secs = at.secs.clamp(self.seconds.0, self.seconds.1);
        // As the kernel's timestamp_truncate: a second that was moved, or the last ones, have no fraction.
        let edge = secs != at.secs || secs == self.seconds.0 || secs == self.seconds.1;
        Timestamp { secs, nanos: if edge { 0 } else { at.nanos } }
    }
}

/// Checks a name that a client sent.
pub fn checked_name(name: &[u8]) -> Result<NameRef<'_>> {
    NameRef::new(name).map_err(|why| match why {
        NameError::Empty => Errno::ENOENT,
        NameError::TooLong => Errno::ENAMETOOLONG,
        NameError::Reserved => Errno::EINVAL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filesystem_has_its_limits() {
        let ext4 = Limits::of_filesystem(EXT4_SUPER_MAGIC, 4096);
        assert_eq!((ext4.max_links, ext4.max_file_bytes), (65_000, 17_592_186_040_320));
        assert_eq!((ext4.max_xattrs_bytes, ext4.max_symlink_bytes), (Some(3932), 4095));
        assert_eq!(Limits::of_filesystem(XFS_SUPER_MAGIC, 4096).max_symlink_bytes, 1023);
        assert_eq!(Limits::of_filesystem(BTRFS_SUPER_MAGIC, 4096).max_xattr_value_bytes, 15 * 1024);
    }

    #[test]
    fn filesystems_with_other_limits_have_other_descriptions() {
        let kinds = [
            (EXT4_SUPER_MAGIC, 4096),
            (EXT4_SUPER_MAGIC, 1024),
            (XFS_SUPER_MAGIC, 4096),
            (XFS_SUPER_MAGIC, 1024),
            (BTRFS_SUPER_MAGIC, 4096),
            (libc::TMPFS_MAGIC as u64, 4096),
            (0x1234, 4096),
            (0x1234, 1024),
        ];
        for (a, a_block) in kinds {
            for (b, b_block) in kinds {
                let same_limits = Limits::of_filesystem(a, a_block) == Limits::of_filesystem(b, b_block);
                let same_words = Limits::describe(a, a_block) == Limits::describe(b, b_block);
                assert!(same_limits || !same_words, "{a:#x} {a_block}, {b:#x} {b_block}");
            }
        }
    }
}
