//! What a base filesystem can hold, as it was measured: the facts that two nodes of a pair tell each other.
//!
//! Invariant: whatever keeps within [`BaseLimits::weaker`] of two bases can be applied on both. What can go wrong: a
//! limit that nobody knew of; then that base refuses an object which was answered (the engine keeps it).

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct BaseLimits {
    /// Longest name, in bytes.
    pub max_name_bytes: u32,
    /// Longest target of a symbolic link, in bytes.
    pub max_symlink_bytes: u32,
    /// Hard links to one object that is not a directory.
    pub max_links: u32,
    /// Directories in one directory.
    pub max_subdirectories: u32,
    /// Size of a file that is written or truncated to it.
    pub max_file_bytes: u64,
    /// End of the last range that can be set aside, zeroed or punched.
    pub max_allocate_bytes: u64,
    /// Room can be set aside before it is written (`fallocate`, also to zeroes).
    pub allocates: bool,
    /// Room can be given back from the middle of a file.
    pub punches: bool,
    /// Largest major and minor number of a device.
    pub max_device: (u32, u32),
    /// Earliest and latest second that a timestamp can hold.
    pub seconds: (i64, i64),
    /// Largest xattr value, in bytes.
    pub max_xattr_value_bytes: u32,
    /// Largest name and value of one xattr together, in bytes.
    pub max_xattr_bytes: u32,
    /// Entries of one access control list.
    pub max_acl_entries: u32,
    /// Room for all xattrs of an object; `None` where each stands for itself.
    pub xattr_room: Option<XattrRoom>,
}

/// Where all xattrs of an object share a block, and what the inode has left (ext4). Costs are those of
/// [`XattrRoom::cost_bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct XattrRoom {
    /// What the block holds beside Twinfiler's label.
    pub block_bytes: u32,
    /// What the inode itself holds beside it.
    pub inode_bytes: u32,
    /// Values longer than this lie in inodes of their own and cost their entry only (ext4's `ea_inode`).
    pub outside_from_bytes: Option<u32>,
}

/// An entry, in an inode or block.
const ENTRY_BYTES: usize = 16;
/// Names and values begin at multiples of this.
const PAD_BYTES: usize = 4;
/// Namespaces that an entry has a number for, longest first: the rest of the name is what it keeps.
const NAMESPACES: [&[u8]; 6] = [ACL_ACCESS, ACL_DEFAULT, b"security.", b"trusted.", b"system.", b"user."];
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// Header and entry of a POSIX ACL as its xattr.
const ACL_HEADER_BYTES: usize = 4;
const ACL_ENTRY_BYTES: usize = 8;
/// Entries of an ACL that need no id, at most: owner, group, mask, others. Kept in half the room.
const ACL_SHORT_ENTRIES: usize = 4;

impl XattrRoom {
    /// What an xattr takes in an inode or block of ext4 (Documentation/filesystems/ext4/attributes.rst; for ACLs
    /// fs/ext4/acl.h).
    pub fn cost_bytes(&self, name: &[u8], value_bytes: usize) -> usize {
        let namespace =
            NAMESPACES.iter().find(|prefix| name.starts_with(prefix)).map_or(0, |found| found.len());
        let value_bytes = if name == ACL_ACCESS || name == ACL_DEFAULT {
            let entries = value_bytes.saturating_sub(ACL_HEADER_BYTES) / ACL_ENTRY_BYTES;
            let short = entries.min(ACL_SHORT_ENTRIES);
            ACL_HEADER_BYTES + short * ACL_ENTRY_BYTES / 2 + (entries - short) * ACL_ENTRY_BYTES
        } else {
            value_bytes
        };
        let outside = self.outside_from_bytes.is_some_and(|from| value_bytes > from as usize);
        let inline_bytes = if outside { 0 } else { value_bytes };
        ENTRY_BYTES
            + (name.len() - namespace).next_multiple_of(PAD_BYTES)
            + inline_bytes.next_multiple_of(PAD_BYTES)
    }

    /// Is there room for xattrs of these costs, in whatever order they are set? What finds no place in the inode goes
    /// to the block: that fails only when both have less than the xattr needs.
    pub fn holds(&self, total_bytes: usize, largest_bytes: usize) -> bool {
        let both = (self.block_bytes as usize + self.inode_bytes as usize).saturating_sub(largest_bytes);
        total_bytes <= (self.block_bytes as usize).max(both)
    }

    fn weaker(self, other: XattrRoom) -> XattrRoom {
        let outside = self.outside_from_bytes.zip(other.outside_from_bytes);
        XattrRoom {
            block_bytes: self.block_bytes.min(other.block_bytes),
            inode_bytes: self.inode_bytes.min(other.inode_bytes),
            outside_from_bytes: outside.map(|(a, b)| a.max(b)),
        }
    }
}

/// What a write may add to the map of a file without extents (Documentation/filesystems/ext4/ifork.rst): two blocks of each
/// lower level, where it goes from one to the next, and the one on top.
const MAP_BLOCKS: u64 = 5;
const BLOCK_BYTES: u64 = 4096;

impl BaseLimits {
    /// What a write may take for the map of its file's blocks, in bytes, however little it writes. That is counted with
    /// its content only where files have no extents: where room cannot be set aside, for ext4 does that in files with
    /// extents alone.
    pub fn map_bytes(&self) -> u64 {
        if self.allocates { 0 } else { MAP_BLOCKS * BLOCK_BYTES }
    }

    /// What Linux itself allows: no base holds more.
    pub const LINUX: BaseLimits = BaseLimits {
        max_name_bytes: 255,
        max_symlink_bytes: 4095,
        max_links: u32::MAX,
        max_subdirectories: u32::MAX,
        max_file_bytes: i64::MAX as u64,
        max_allocate_bytes: i64::MAX as u64,
        allocates: true,
        punches: true,
        max_device: (0xFFF, 0xF_FFFF),
        seconds: (i64::MIN, i64::MAX),
        max_xattr_value_bytes: 65_536,
        max_xattr_bytes: 65_536 + 255,
        max_acl_entries: 8191,
        xattr_room: None,
    };

    /// What both can hold.
    #[must_use]
    pub fn weaker(self, other: BaseLimits) -> BaseLimits {
        BaseLimits {
            max_name_bytes: self.max_name_bytes.min(other.max_name_bytes),
            max_symlink_bytes: self.max_symlink_bytes.min(other.max_symlink_bytes),
            max_links: self.max_links.min(other.max_links),
            max_subdirectories: self.max_subdirectories.min(other.max_subdirectories),
            max_file_bytes: self.max_file_bytes.min(other.max_file_bytes),
            max_allocate_bytes: self.max_allocate_bytes.min(other.max_allocate_bytes),
            allocates: self.allocates && other.allocates,
            punches: self.punches && other.punches,
            max_device: (
                self.max_device.0.min(other.max_device.0),
                self.max_device.1.min(other.max_device.1),
            ),
            seconds: (self.seconds.0.max(other.seconds.0), self.seconds.1.min(other.seconds.1)),
            max_xattr_value_bytes: self.max_xattr_value_bytes.min(other.max_xattr_value_bytes),
            max_xattr_bytes: self.max_xattr_bytes.min(other.max_xattr_bytes),
            max_acl_entries: self.max_acl_entries.min(other.max_acl_entries),
            xattr_room: match (self.xattr_room, other.xattr_room) {
                (Some(a), Some(b)) => Some(a.weaker(b)),
                (one, None) => one,
                (None, other) => other,
            },
        }
    }

    /// What was allowed under `granted` and does not fit here: one thing, in words. `None`: all of it fits.
    pub fn lacks_of(&self, granted: &BaseLimits) -> Option<String> {
        let numbers = [
            ("names", self.max_name_bytes.into(), granted.max_name_bytes.into(), "bytes"),
            ("symbolic links", self.max_symlink_bytes.into(), granted.max_symlink_bytes.into(), "bytes"),
            ("files", self.max_file_bytes, granted.max_file_bytes, "bytes"),
            ("files set aside", self.max_allocate_bytes, granted.max_allocate_bytes, "bytes"),
            ("objects", self.max_links.into(), granted.max_links.into(), "hard links"),
            (
                "directories",
                self.max_subdirectories.into(),
                granted.max_subdirectories.into(),
                "directories in them",
            ),
            ("devices", self.max_device.0.into(), granted.max_device.0.into(), "as major number"),
            ("devices", self.max_device.1.into(), granted.max_device.1.into(), "as minor number"),
            (
                "xattr values",
                self.max_xattr_value_bytes.into(),
                granted.max_xattr_value_bytes.into(),
                "bytes",
            ),
            ("xattrs with their names", self.max_xattr_bytes.into(), granted.max_xattr_bytes.into(), "bytes"),
            ("access control lists", self.max_acl_entries.into(), granted.max_acl_entries.into(), "entries"),
        ];
        for (what, ours, allowed, unit) in numbers {
            if ours < allowed {
                return Some(format!("{what} of at most {ours} {unit}, and {allowed} were allowed"));
            }
        }
        if self.seconds.0 > granted.seconds.0 || self.seconds.1 < granted.seconds.1 {
            let (from, to) = self.seconds;
            return Some(format!("times of seconds {from} to {to} only, and others were allowed"));
        }
        if granted.allocates && !self.allocates {
            return Some("no room set aside (`fallocate`), and that was allowed".to_owned());
        }
        if granted.punches && !self.punches {
            return Some("no holes punched into files, and that was allowed".to_owned());
        }
        let ours = self.xattr_room?;
        let fits = granted.xattr_room.is_some_and(|allowed| allowed.weaker(ours) == allowed);
        (!fits).then(|| format!("{} bytes of xattrs on an object, and more were allowed", ours.block_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ext4() -> BaseLimits {
        BaseLimits {
            max_name_bytes: 255,
            max_symlink_bytes: 4095,
            max_links: 65_000,
            max_subdirectories: u32::MAX,
            max_file_bytes: (1 << 44) - 4096,
            max_allocate_bytes: (1 << 44) - 4096,
            allocates: true,
            punches: true,
            max_device: (4095, 1_048_575),
            seconds: (-(1 << 31), 15_032_385_535),
            max_xattr_value_bytes: 4040,
            max_xattr_bytes: 4046,
            max_acl_entries: 506,
            xattr_room: Some(XattrRoom { block_bytes: 4060, inode_bytes: 12, outside_from_bytes: None }),
        }
    }

    fn xfs() -> BaseLimits {
        BaseLimits {
            max_symlink_bytes: 1023,
            max_links: i32::MAX as u32,
            max_file_bytes: i64::MAX as u64,
            max_allocate_bytes: i64::MAX as u64,
            max_device: (511, 262_143),
            seconds: (-(1 << 31), 16_299_260_424),
            max_xattr_value_bytes: 65_536,
            max_xattr_bytes: 65_791,
            max_acl_entries: 5461,
            xattr_room: None,
            ..ext4()
        }
    }

    #[test]
    fn the_weaker_of_two_fits_into_both() {
        let both = ext4().weaker(xfs());
        assert_eq!(both, xfs().weaker(ext4()));
        assert_eq!((both.max_symlink_bytes, both.max_links), (1023, 65_000));
        assert_eq!(both.xattr_room, ext4().xattr_room);
        assert_eq!((ext4().lacks_of(&both), xfs().lacks_of(&both)), (None, None));
        let missing = xfs().lacks_of(&ext4()).expect("shorter symbolic links");
        assert!(missing.contains("symbolic links of at most 1023 bytes, and 4095"), "{missing}");
        assert!(ext4().lacks_of(&xfs()).is_some_and(|missing| missing.contains("files of at most")));
        let roomy = BaseLimits { xattr_room: None, ..ext4() };
        assert!(ext4().lacks_of(&roomy).is_some_and(|missing| missing.contains("4060 bytes of xattrs")));
        assert_eq!(roomy.lacks_of(&ext4()), None);
    }

    #[test]
    fn an_xattr_costs_what_ext4_takes_for_it() {
        let room = XattrRoom { block_bytes: 4060, inode_bytes: 12, outside_from_bytes: None };
        assert_eq!(room.cost_bytes(b"user.z", 4040), 4060);
        assert_eq!(room.cost_bytes(b"user.a0", 9), 16 + 4 + 12);
        assert_eq!(room.cost_bytes(b"trusted.twinfiler", 48), 76);
        // Four entries without an id, and two with: as the kernel keeps them.
        assert_eq!(room.cost_bytes(ACL_ACCESS, 4 + 6 * 8), 16 + 4 + 4 * 4 + 2 * 8);
        let outside = XattrRoom { outside_from_bytes: Some(4040), ..room };
        assert_eq!((outside.cost_bytes(b"user.z", 4041), outside.cost_bytes(b"user.z", 4040)), (20, 4060));
    }

    #[test]
    fn what_is_said_to_fit_does_in_any_order() {
        let room = XattrRoom { block_bytes: 988, inode_bytes: 268, outside_from_bytes: None };
        assert!(room.holds(988, 988) && !room.holds(989, 500));
        // Small ones may fill both: nothing of more than 36 bytes is left over anywhere.
        assert!(room.holds(988 + 268 - 36, 36) && !room.holds(988 + 268 - 35, 36));
    }
}
