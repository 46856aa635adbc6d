//! How much disk an operation may need once it is applied, and what that leaves.
//!
//! Invariant: upper bounds, on ext4, XFS and btrfs. What an operation really took shows at the next consistency point,
//! when the filesystem is asked again; so a bound that is too high costs a full volume a short wait, and one that is
//! too low costs invariant 7. Sources of the numbers: a block of 4096 bytes is the unit in which contents, xattr
//! blocks, symbolic links and directories grow; btrfs puts what is short, and all names, into leaves that may be half
//! empty (`BTRFS_MAX_INLINE_DATA_SIZE`, max_inline 2048), and 32 bytes of checksums beside each 4096 at most.

use super::{Ask, Room, SpaceBudget};
use apply_engine::{DeltaStats, FULL_BYTES, FULL_METADATA_BYTES};

const BLOCK_BYTES: u64 = 4096;
/// Disk space one record may need beside its payload: a directory block and its share of inode and extent trees.
const DISK_BYTES_PER_RECORD: u64 = 4096;
/// Metadata one record may need where that has room of its own: its items, in leaves that are half empty.
const METADATA_BYTES_PER_RECORD: u64 = 4096;
/// Payload that may become metadata: an xattr, a symbolic link's target.
const MAX_INLINE_BYTES: u64 = 16 << 10;
/// File content that may: an inline file.
const MAX_INLINE_CONTENT_BYTES: u64 = 2048;
/// One byte of metadata for so many bytes of content: checksums and extents.
const CONTENT_BYTES_PER_METADATA_BYTE: u64 = 128;
/// Where there is a map of each block: one byte of it for so many of content (blocks of 1024 bytes, numbers of 4).
const CONTENT_BYTES_PER_MAP_BYTE: u64 = 256;
/// Kept free on both nodes, so that what the local filesystem needs for itself never runs out.
pub(super) const DISK_MARGIN_BYTES: u64 = 12 << 20;
/// Likewise of the room for metadata.
const METADATA_MARGIN_BYTES: u64 = 16 << 20;
/// Likewise of inodes: staging while names are exchanged.
const MARGIN_INODES: u64 = 16;

// Where clients have taken all that they may, also in place, a base is not taken for full: what it refuses then is kept.
const _: () = assert!(FULL_BYTES < DISK_MARGIN_BYTES / 4 && FULL_METADATA_BYTES < METADATA_MARGIN_BYTES / 3);

/// What has to be placed on disk, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    pub(super) disk_bytes: u64,
    metadata_bytes: u64,
    inodes: u64,
}

impl Needs {
    /// Of one operation.
    pub fn of(ask: &Ask) -> Needs {
        if ask.content && ask.room == Room::There {
            // The extent trees grow: what was reserved as one piece becomes several.
            let disk_bytes = DISK_BYTES_PER_RECORD;
            return Needs { disk_bytes, metadata_bytes: METADATA_BYTES_PER_RECORD, inodes: 0 };
        }
        let allocate_bytes = ask.allocate_bytes.saturating_add(BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
        let content_bytes = ask.payload_bytes.saturating_add(allocate_bytes);
        Needs {
            disk_bytes: (ask.payload_bytes.next_multiple_of(BLOCK_BYTES) + DISK_BYTES_PER_RECORD)
                .saturating_add(map_bytes(ask.map_bytes, 1, ask.payload_bytes))
                .saturating_add(allocate_bytes),
            metadata_bytes: METADATA_BYTES_PER_RECORD
                + ask.payload_bytes.min(if ask.content {
                    MAX_INLINE_CONTENT_BYTES
                } else {
                    MAX_INLINE_BYTES
                })
                + content_bytes / CONTENT_BYTES_PER_METADATA_BYTE,
            inodes: ask.inodes,
        }
    }

    /// Of all records of a Delta. `each_map_bytes`: as of an [`Ask`], of each of them, for any may write content.
    pub fn of_delta(stats: &DeltaStats, each_map_bytes: u64) -> Needs {
        let content_bytes = stats.logged_bytes.saturating_add(stats.allocated_bytes);
        Needs {
            disk_bytes: content_bytes
                .saturating_add(stats.records * (BLOCK_BYTES + DISK_BYTES_PER_RECORD))
                .saturating_add(map_bytes(each_map_bytes, stats.records, stats.logged_bytes)),
            metadata_bytes: stats.records * METADATA_BYTES_PER_RECORD
                + stats.logged_data_bytes.min(stats.records * MAX_INLINE_CONTENT_BYTES)
                + (stats.logged_bytes - stats.logged_data_bytes).min(stats.records * MAX_INLINE_BYTES)
                + content_bytes / CONTENT_BYTES_PER_METADATA_BYTE,
            inodes: stats.made,
        }
    }

    /// Both together.
    pub fn add(&mut self, other: Needs) {
        self.disk_bytes = self.disk_bytes.saturating_add(other.disk_bytes);
        self.metadata_bytes = self.metadata_bytes.saturating_add(other.metadata_bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }

    pub(super) fn take_off(&mut self, other: Needs) {
        self.disk_bytes -= other.disk_bytes;
        self.metadata_bytes -= other.metadata_bytes;
        self.inodes -= other.inodes;
    }
}

/// What so many records may take for maps of blocks, if each may take `each`.
fn map_bytes(each: u64, records: u64, content_bytes: u64) -> u64 {
    match each {
        0 => 0,
        each => each.saturating_mul(records).saturating_add(content_bytes / CONTENT_BYTES_PER_MAP_BYTE),
    }
}

impl SpaceBudget {
    /// What is left when `needs` have been met.
    #[must_use]
    pub fn after(self, needs: Needs) -> SpaceBudget {
        // Metadata that finds no room of its own takes some of what contents could have had, in two copies.
        let shared = if self.metadata.is_some() { needs.metadata_bytes.saturating_mul(2) } else { 0 };
        let taken = needs.disk_bytes.saturating_add(shared);
        SpaceBudget {
            free_bytes: self.free_bytes.saturating_sub(taken),
            available_bytes: self.available_bytes.saturating_sub(taken),
            free_inodes: self.free_inodes.saturating_sub(needs.inodes),
            likely_inodes: self.likely_inodes.saturating_sub(needs.inodes),
            metadata: self.metadata.map(|metadata| metadata.after(needs.disk_bytes, needs.metadata_bytes)),
            ..self
        }
    }

    /// What clients may use of it.
    #[must_use]
    pub fn without_margin(self) -> SpaceBudget {
        self.after(Needs {
            disk_bytes: DISK_MARGIN_BYTES,
            metadata_bytes: if self.metadata.is_some() { METADATA_MARGIN_BYTES } else { 0 },
            inodes: MARGIN_INODES,
        })
    }

    /// What an operation may use of it.
    #[must_use]
    pub fn for_room(self, room: Room) -> SpaceBudget {
        match room {
            Room::New | Room::Perhaps => self.without_margin(),
            // The other half stays for what only removes or describes.
            Room::There => self.after(Needs {
                disk_bytes: DISK_MARGIN_BYTES / 2,
                metadata_bytes: if self.metadata.is_some() { METADATA_MARGIN_BYTES / 2 } else { 0 },
                inodes: MARGIN_INODES / 2,
            }),
        }
    }

    /// Is there certainly room for all that, whatever it is for? On the way of each commit.
    #[inline(always)]
    pub(super) fn has_plenty(&self, all: &Needs) -> bool {
        let free_bytes = self.free_bytes.saturating_sub(DISK_MARGIN_BYTES);
        let disk = match &self.metadata {
            None => free_bytes >= all.disk_bytes,
            Some(metadata) => {
                let metadata_bytes = all.metadata_bytes.saturating_add(METADATA_MARGIN_BYTES);
                metadata.free_bytes >= metadata_bytes
                    && free_bytes >= all.disk_bytes.saturating_add(metadata_bytes.saturating_mul(2))
            }
        };
        let free_inodes = self.free_inodes.saturating_sub(MARGIN_INODES);
        disk && (self.total_inodes == 0 || free_inodes >= all.inodes)
    }

    /// Is there room for all that?
    pub fn holds(&self, needs: Needs) -> bool {
        let inodes = needs.inodes == 0 || self.total_inodes == 0 || self.free_inodes >= needs.inodes;
        let metadata = self.metadata.is_none_or(|metadata| metadata.total_bytes() >= needs.metadata_bytes);
        inodes && metadata && self.free_bytes >= needs.disk_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apply_engine::MetadataSpace;
    use ids::BaseLimits;

    fn budget(free_bytes: u64, metadata: Option<MetadataSpace>) -> SpaceBudget {
        let total = SpaceBudget { total_bytes: 1 << 40, total_inodes: 0, ..SpaceBudget::default() };
        SpaceBudget { free_bytes, available_bytes: free_bytes, metadata, ..total }
    }

    #[test]
    fn what_is_set_aside_counts_as_much_as_what_is_written() {
        let allocates = Ask { allocate_bytes: 1 << 30, ..Ask::growing(100) };
        assert!(!budget(1 << 30, None).holds(Needs::of(&allocates)));
        assert!(budget((1 << 30) + 16384, None).holds(Needs::of(&allocates)));
        let endless = Ask { allocate_bytes: u64::MAX, ..Ask::growing(100) };
        assert!(!budget(1 << 40, None).holds(Needs::of(&endless)));
    }

    /// Inodes are limited where one of both filesystems limits them, whichever that is.
    #[test]
    fn inodes_of_the_partner_bind_beside_a_filesystem_that_makes_them() {
        let makes = Needs::of(&Ask { inodes: 1, ..Ask::growing(100) });
        let endless = budget(1 << 40, None);
        let limited = |free| SpaceBudget::of_partner(1 << 40, (free, free), None, endless);
        assert!(endless.smaller(limited(MARGIN_INODES + 1)).without_margin().holds(makes));
        assert!(!endless.smaller(limited(MARGIN_INODES)).without_margin().holds(makes));
        assert!(!endless.smaller(limited(0)).holds(makes));
        let both = endless.smaller(limited(u64::MAX)).without_margin();
        assert!(both.holds(makes));
        assert_eq!((both.total_inodes, both.free_inodes), (0, 0), "nothing is told of what has no number");
        let here = SpaceBudget { total_inodes: 1000, free_inodes: 900, ..endless };
        let seen = here.smaller(limited(u64::MAX));
        assert_eq!((seen.total_inodes, seen.free_inodes), (1000, 900));
    }

    /// What clients may make is what is certain on both nodes; what they are told is what is likely.
    #[test]
    fn only_certain_inodes_are_made_and_likely_ones_are_shown() {
        let makes = Needs::of(&Ask { inodes: 1, ..Ask::growing(100) });
        let here = SpaceBudget {
            total_inodes: 9000,
            free_inodes: 200,
            likely_inodes: 8000,
            ..budget(1 << 40, None)
        };
        let there = SpaceBudget::of_partner(1 << 40, (MARGIN_INODES, 7000), None, here);
        let both = here.smaller(there);
        assert_eq!((both.total_inodes, both.shown_inodes()), (9000, 7000));
        assert!(here.without_margin().holds(makes) && !both.without_margin().holds(makes));
    }

    proptest::proptest! {
        /// The quick look says yes only where the whole one does.
        #[test]
        fn plenty_is_enough(
            free_mib in 0u64..200,
            inodes in 0u64..60,
            has_metadata: bool,
            metadata_mib in 0u64..100,
            unallocated_mib in 0u64..400,
            pending in 0u64..50 << 20,
            asked in 0u64..50 << 20,
        ) {
            let own =
                MetadataSpace { free_bytes: metadata_mib << 20, unallocated_bytes: unallocated_mib << 20 };
            let space = SpaceBudget {
                total_inodes: 100,
                free_inodes: inodes,
                ..budget(free_mib << 20, has_metadata.then_some(own))
            };
            let needs = |bytes| Needs { disk_bytes: bytes, metadata_bytes: bytes / 3, inodes: bytes >> 22 };
            let mut all = needs(pending);
            all.add(needs(asked));
            if space.has_plenty(&all) {
                let left = space.after(needs(pending)).without_margin();
                proptest::prop_assert!(left.holds(needs(asked)), "{left:?}");
            }
        }
    }

    #[test]
    fn a_delta_needs_at_least_what_its_operations_need_without_their_heads() {
        for payload in [1, 100, 4096, 5000, 100_000] {
            let operation = Needs::of(&Ask { allocate_bytes: 8192, inodes: 1, ..Ask::growing(payload) });
            let stats = DeltaStats {
                records: 1,
                logged_bytes: payload as u64,
                made: 1,
                allocated_bytes: 8192,
                ..DeltaStats::default()
            };
            let delta = Needs::of_delta(&stats, 0);
            assert!(delta.disk_bytes >= operation.disk_bytes, "{delta:?} {operation:?}");
            assert_eq!((delta.metadata_bytes, delta.inodes), (operation.metadata_bytes, operation.inodes));
        }
    }

    /// One byte in a file without extents takes its block, and others for the way there.
    #[test]
    fn where_blocks_are_mapped_one_by_one_the_map_counts() {
        let map_bytes = BaseLimits { allocates: false, ..BaseLimits::LINUX }.map_bytes();
        let byte = Ask { content: true, ..Ask::growing(1) };
        let mapped = Needs::of(&Ask { map_bytes, ..byte });
        assert_eq!(mapped.disk_bytes - Needs::of(&byte).disk_bytes, 5 * BLOCK_BYTES);
        let in_place = |ask| Needs::of(&Ask { room: Room::There, ..ask });
        assert_eq!(in_place(Ask { map_bytes, ..byte }), in_place(byte), "it is mapped already");
        let stats = DeltaStats { records: 3, logged_bytes: 3, ..DeltaStats::default() };
        assert!(Needs::of_delta(&stats, map_bytes).disk_bytes >= 3 * mapped.disk_bytes - 3 * BLOCK_BYTES);
        let large = Ask { content: true, map_bytes, ..Ask::growing(1 << 20) };
        assert!(Needs::of(&large).disk_bytes >= (1 << 20) + (1 << 12) + map_bytes + (1 << 12));
    }

    #[test]
    fn room_for_contents_is_none_for_names_where_metadata_has_room_of_its_own() {
        let metadata = MetadataSpace { free_bytes: 20 << 20, unallocated_bytes: 0 };
        let (plenty, left) = (budget(1 << 40, None), budget(1 << 40, Some(metadata)).without_margin());
        let mut files = Needs::default();
        (0..400).for_each(|_| files.add(Needs::of(&Ask { inodes: 1, ..Ask::growing(300) })));
        assert!(left.holds(files) && plenty.holds(files));
        (0..800).for_each(|_| files.add(Needs::of(&Ask { inodes: 1, ..Ask::growing(300) })));
        assert!(!left.holds(files) && plenty.holds(files));
        // What is unallocated can become either, but not both.
        let unallocated = MetadataSpace { free_bytes: 17 << 20, unallocated_bytes: 1 << 30 };
        let left = budget(1 << 40, Some(unallocated)).without_margin();
        assert!(left.holds(files));
        assert!(!left.after(Needs { disk_bytes: 1 << 30, ..Needs::default() }).holds(files));
    }
}
