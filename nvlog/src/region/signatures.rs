//! Whose data a device holds, told by what the formats write at fixed places of its two edges.
//!
//! The names are for the operator. Whether a device may become a log is not decided by this table: any byte of the edges
//! that is not zero says that somebody has used the device ([`identify`]), so a format that is missing here, or whose
//! magic number somebody has wiped, is only named less well. The edges are long enough for every place at which libblkid
//! (util-linux 2.38) looks. Pure; tested against the tools that write the real thing.

use crate::format::SUPERBLOCK_MAGIC;

/// Length of an edge. The farthest from the begin is LUKS2's second header (at most 4 MiB), from the end ZFS's labels.
pub(crate) const EDGE_BYTES: u64 = 8 << 20;

/// Where a magic number stands.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Bytes from the begin.
    Begin(u64),
    /// Bytes before the end.
    End(u64),
    /// Bytes before the end, which is first rounded down to a multiple of the second number.
    AlignedEnd(u64, u64),
}
use At::{AlignedEnd, Begin, End};

/// More specific ones first: a partition table's mark stands in the boot sector of FAT and NTFS too.
const SIGNATURES: &[(&str, At, &[u8])] = &[
    ("a log of Twinfiler", Begin(0), &SUPERBLOCK_MAGIC),
    ("a log of Twinfiler", Begin(4096), &SUPERBLOCK_MAGIC),
    ("an ext2, ext3 or ext4 filesystem", Begin(0x438), b"\x53\xef"),
    ("an XFS filesystem", Begin(0), b"XFSB"),
    ("a btrfs filesystem", Begin(0x1_0040), b"_BHRfS_M"),
    ("an F2FS filesystem", Begin(1024), b"\x10\x20\xf5\xf2"),
    ("an NTFS filesystem", Begin(3), b"NTFS    "),
    ("an exFAT filesystem", Begin(3), b"EXFAT   "),
    ("a BitLocker volume", Begin(3), b"-FVE-FS-"),
    ("an ReFS filesystem", Begin(3), b"ReFS"),
    ("a FAT filesystem", Begin(0x52), b"FAT32   "),
    ("a FAT filesystem", Begin(0x36), b"FAT16   "),
    ("a FAT filesystem", Begin(0x36), b"FAT12   "),
    ("swap space", Begin(4096 - 10), b"SWAPSPACE2"),
    ("swap space", Begin(16384 - 10), b"SWAPSPACE2"),
    ("swap space", Begin(65536 - 10), b"SWAPSPACE2"),
    ("swap space", Begin(4096 - 10), b"SWAP-SPACE"),
    ("the image of a suspended system", Begin(4096 - 10), b"S1SUSPEND"),
    ("the image of a suspended system", Begin(4096 - 10), b"S2SUSPEND"),
    ("a LUKS volume", Begin(0), b"LUKS\xba\xbe"),
    ("a LUKS volume (its second header)", Begin(0x4000), b"SKUL\xba\xbe"),
    ("a physical volume of LVM", Begin(0), b"LABELONE"),
    ("a physical volume of LVM", Begin(512), b"LABELONE"),
    ("a physical volume of LVM", Begin(1024), b"LABELONE"),
    ("a physical volume of LVM", Begin(1536), b"LABELONE"),
    ("a member of a Linux RAID (md 1.1)", Begin(0), b"\xfc\x4e\x2b\xa9"),
    ("a member of a Linux RAID (md 1.2)", Begin(4096), b"\xfc\x4e\x2b\xa9"),
    ("a member of a Linux RAID (md 1.0)", AlignedEnd(8192, 4096), b"\xfc\x4e\x2b\xa9"),
    ("a member of a Linux RAID (md 0.90)", AlignedEnd(65536, 65536), b"\xfc\x4e\x2b\xa9"),
    ("a member of a DDF RAID", End(512), b"\xde\x11\xde\x11"),
    ("a member of an Intel RAID", End(1024), b"Intel Raid ISM Cfg Sig. "),
    ("metadata of DRBD", End(4096 - 60), b"\x83\x74\x02\x6b"),
    ("metadata of DRBD", End(4096 - 60), b"\x83\x74\x02\x6d"),
    (
        "a device of bcache",
        Begin(0x1018),
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    (
        "a bcachefs filesystem",
        Begin(0x1018),
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    ("a device of Ceph (BlueStore)", Begin(0), b"bluestore block device"),
    ("a device of VDO", Begin(0), b"dmvdo001"),
    ("a device of Stratis", Begin(516), b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("dm-integrity metadata", Begin(0), b"integrt\0"),
    ("dm-verity hashes", Begin(0), b"verity\0\0"),
    ("a GFS2 filesystem", Begin(0x1_0000), b"\x01\x16\x19\x70"),
    ("an OCFS2 filesystem", Begin(8192), b"OCFSV2"),
    ("a VMFS filesystem", Begin(0x10_0000), b"\x0d\xd0\x01\xc0"),
    ("a VMFS filesystem", Begin(0x20_0000), b"\x5e\xf1\xab\x2f"),
    ("an APFS filesystem", Begin(32), b"NXSB"),
    ("an HFS+ filesystem", Begin(1024), b"H+\x00\x04"),
    ("a NILFS2 filesystem", Begin(1030), b"\x34\x34"),
    ("a JFS filesystem", Begin(32768), b"JFS1"),
    ("a ReiserFS filesystem", Begin(0x1_0034), b"ReIsEr"),
    ("an ISO 9660 or UDF filesystem", Begin(32769), b"CD001"),
    ("a UDF filesystem", Begin(32769), b"BEA01"),
    ("a SquashFS filesystem", Begin(0), b"hsqs"),
    ("an EROFS filesystem", Begin(1024), b"\xe2\xe1\xf5\xe0"),
    ("a GPT partition table", Begin(512), b"EFI PART"),
    ("a GPT partition table", Begin(4096), b"EFI PART"),
    ("a GPT partition table (its copy)", End(512), b"EFI PART"),
    ("a GPT partition table (its copy)", End(4096), b"EFI PART"),
    ("a partition table or a boot sector", Begin(510), b"\x55\xaa"),
];

/// ZFS keeps two labels at each end, each with an array of these behind its first half.
const ZFS: &str = "a member of a ZFS pool";
const ZFS_LABEL_BYTES: u64 = 256 << 10;
const ZFS_UBERBLOCK: [[u8; 8]; 2] = [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()];
/// Smallest distance of two uberblocks.
const ZFS_STEP_BYTES: u64 = 1 << 10;

/// The two edges of a device; they overlap or are the same where it is short.
pub(crate) struct Edges<'b> {
    /// Its first bytes.
    pub head: &'b [u8],
    /// Its last bytes.
    pub tail: &'b [u8],
    /// Its length.
    pub len_bytes: u64,
}

impl Edges<'_> {
    /// The bytes at this place, if the edges have them.
    fn at(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let within = |bytes: &'_ [u8], start: u64| {
            let from = usize::try_from(offset.checked_sub(start)?).ok()?;
            Some(from..from.checked_add(len)?).filter(|range| range.end <= bytes.len())
        };
        let tail_start = self.len_bytes - self.tail.len() as u64;
        let in_head = within(self.head, 0).map(|range| &self.head[range]);
        in_head.or_else(|| within(self.tail, tail_start).map(|range| &self.tail[range]))
    }

    fn has(&self, place: At, magic: &[u8]) -> bool {
        let offset = match place {
            Begin(offset) => Some(offset),
            End(before) => self.len_bytes.checked_sub(before),
            AlignedEnd(before, unit) => (self.len_bytes - self.len_bytes % unit).checked_sub(before),
        };
        offset.and_then(|offset| self.at(offset, magic.len())).is_some_and(|found| found == magic)
    }

    fn has_zfs_label(&self) -> bool {
        let aligned = self.len_bytes - self.len_bytes % ZFS_LABEL_BYTES;
        let labels = [
            Some(0),
            Some(ZFS_LABEL_BYTES),
            aligned.checked_sub(2 * ZFS_LABEL_BYTES),
            aligned.checked_sub(ZFS_LABEL_BYTES),
        ];
        let second_half = (ZFS_LABEL_BYTES / 2..ZFS_LABEL_BYTES).step_by(ZFS_STEP_BYTES as usize);
        labels.into_iter().flatten().any(|label| {
            second_half.clone().any(|within| {
                self.at(label + within, 8)
                    .is_some_and(|found| ZFS_UBERBLOCK.iter().any(|magic| found == magic))
            })
        })
    }
}

/// What a device holds; `None`: nothing that shows, both edges are all zeros.
pub(crate) fn identify(edges: &Edges<'_>) -> Option<String> {
    let (head, tail) = (first_used(edges.head), first_used(edges.tail));
    if head.is_none() && tail.is_none() {
        return None;
    }
    if let Some((name, ..)) = SIGNATURES.iter().find(|(_, place, magic)| edges.has(*place, magic)) {
        return Some((*name).to_owned());
    }
    if edges.has_zfs_label() {
        return Some(ZFS.to_owned());
    }
    let tail_start = edges.len_bytes - edges.tail.len() as u64;
    let offset = head.or_else(|| tail.map(|offset| tail_start + offset)).unwrap_or(0);
    Some(format!("data of an unknown kind (byte {offset} is not zero)"))
}

/// Where the first byte that is not zero stands.
fn first_used(bytes: &[u8]) -> Option<u64> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let used = bytes.chunks(ZEROS.len()).position(|chunk| *chunk != ZEROS[..chunk.len()])? * ZEROS.len();
    bytes[used..].iter().position(|byte| *byte != 0).map(|offset| (used + offset) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a device of `len` bytes with `magic` at `offset` and nothing else.
    fn told(len: usize, offset: u64, magic: &[u8]) -> Option<String> {
        let mut bytes = vec![0; len];
        bytes[offset as usize..][..magic.len()].copy_from_slice(magic);
        let edge = (EDGE_BYTES as usize).min(len);
        identify(&Edges { head: &bytes[..edge], tail: &bytes[len - edge..], len_bytes: len as u64 })
    }

    #[test]
    fn each_signature_is_named_wherever_it_stands() {
        // Longer and shorter than two edges, and of lengths that are no multiple of anything.
        for len in [(20 << 20) + 512 * 3, (5 << 20) + 512] {
            for (name, place, magic) in SIGNATURES {
                let offset = match *place {
                    Begin(offset) => offset,
                    End(before) => len as u64 - before,
                    AlignedEnd(before, unit) => len as u64 - len as u64 % unit - before,
                };
                assert_eq!(told(len, offset, magic).as_deref(), Some(*name), "{place:?}");
            }
        }
    }

    #[test]
    fn any_byte_of_the_edges_is_somebodys() {
        let len = 20 << 20;
        assert_eq!(told(len, 0, b""), None);
        for offset in [0, 70_000, EDGE_BYTES - 1, len as u64 - EDGE_BYTES, len as u64 - 1] {
            let found = told(len, offset, b"\x01").unwrap();
            assert!(found.contains(&format!("byte {offset} ")), "{found}");
        }
        assert_eq!(told(len, EDGE_BYTES, b"\x01"), None, "what lies in between belongs to nobody");
    }

    #[test]
    fn a_zfs_label_is_known_by_any_of_its_uberblocks() {
        let len = 20 << 20;
        for label in [0, ZFS_LABEL_BYTES, len - 2 * ZFS_LABEL_BYTES, len - ZFS_LABEL_BYTES] {
            let place = label + ZFS_LABEL_BYTES / 2 + 4 * ZFS_STEP_BYTES;
            assert_eq!(told(len as usize, place, &ZFS_UBERBLOCK[0]).as_deref(), Some(ZFS), "{label}");
        }
    }
}
