//! What makes a filesystem no place for a volume, each with its remedy.
//!
//! Invariant: every reason has a remedy that names a command or an option. What can go wrong: nothing here.

use crate::attributes::ObjectKind;

/// See the module. Its text says what is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Lack {
    /// Inodes of 128 bytes, or a filesystem from long ago.
    #[error("it keeps times in whole seconds only, so they would change at a switchover")]
    Nanoseconds,
    /// The same, or XFS without `bigtime`.
    #[error("its times end in 2038")]
    Years,
    /// `noacl`.
    #[error("it keeps no POSIX ACLs")]
    Acls,
    /// `nouser_xattr`.
    #[error("it keeps no `user.` xattrs")]
    UserXattrs,
    /// A namespace that one kind of object does not have.
    #[error("it keeps no `{namespace}` xattrs on an object of the kind {kind:?}")]
    Xattrs {
        /// Which.
        namespace: &'static str,
        /// On what.
        kind: ObjectKind,
    },
    /// An object of this kind cannot be made.
    #[error("an object of the kind {0:?} cannot be made on it")]
    Kind(ObjectKind),
    /// Names that are not kept as they are.
    #[error("it does not keep names byte by byte: it ignores case, or wants UTF-8")]
    Names,
    /// Short names.
    #[error("its names end at {0} bytes, and programs rely on 255")]
    ShortNames(u32),
    /// btrfs without `extref`.
    #[error("one object takes only {0} names in one directory")]
    LinksInOneDirectory(u32),
    /// `ulimit -f`.
    #[error("this process may not write files as long as the filesystem allows")]
    FileSizeLimit,
    /// The old 16-bit identities.
    #[error("it cuts user and group ids to 16 bits")]
    ShortIds,
    /// Quotas that hold for root too.
    #[error("user or group quotas of XFS would refuse what was answered to clients")]
    Quotas,
    /// One of btrfs, its own or above it.
    #[error(
        "the quota group {}/{} of btrfs limits its subvolume, and what clients may use is counted without that",
        .0 >> 48, .0 & 0xFFFF_FFFF_FFFF
    )]
    QuotaGroup(u64),
    /// Nothing may be changed.
    #[error("the volume's root or its .twinfiler is immutable or append-only")]
    Frozen,
    /// `FS_PROJINHERIT_FL` on one of both.
    #[error(
        "the volume's root and its .twinfiler are in different projects, and nothing can be moved between those"
    )]
    Project,
    /// `FS_ENCRYPT_FL` on one of both.
    #[error(
        "the volume's root and its .twinfiler are not encrypted alike, and nothing can be moved between them"
    )]
    Encrypted,
    /// Space goes in pieces that are not counted so.
    #[error("it gives space in pieces of {0} bytes, and what clients may use is counted in pieces of 4096")]
    AllocationUnit(u64),
    /// `mkfs.xfs -n size=`.
    #[error("its directories grow by {0} bytes, and what clients may use is counted in pieces of 4096")]
    DirectoryUnit(u64),
    /// Something else sits where the measuring would be done.
    #[error(".twinfiler/probe is no directory of root")]
    Occupied,
    /// Two processes.
    #[error("another process finds out just now what it can hold")]
    Busy,
    /// It is full.
    #[error("it is too full to find out what it can hold")]
    Room,
}

impl Lack {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Lack::Nanoseconds => "make the filesystem anew with inodes of 256 bytes (`mkfs.ext4 -I 256`)",
            Lack::Years => {
                "make it anew with `mkfs.ext4 -I 256`; on XFS, `xfs_admin -O bigtime=1` while it is not mounted"
            }
            Lack::Acls => "mount it without `noacl`",
            Lack::UserXattrs => "mount it without `nouser_xattr`",
            Lack::Xattrs { .. } | Lack::ShortNames(_) => "use ext4, XFS or btrfs",
            Lack::Kind(_) => "use ext4, XFS or btrfs, and give the daemon the capability CAP_MKNOD",
            Lack::Names => {
                "make it anew without `-n version=ci`, or take the flag off the directory (`chattr -F`)"
            }
            Lack::LinksInOneDirectory(_) => "`btrfstune -r` while it is not mounted",
            Lack::FileSizeLimit => {
                "raise the limit (`LimitFSIZE=infinity` in the unit, `ulimit -f unlimited`)"
            }
            Lack::ShortIds => "mount it without `nouid32`",
            Lack::Quotas => "mount it with `uqnoenforce,gqnoenforce`, or without quotas",
            Lack::QuotaGroup(_) => {
                "take the limit off (`btrfs qgroup limit none GROUP PATH`), or give the volume a filesystem of its own"
            }
            Lack::Frozen => "`chattr -i -a` both",
            Lack::Project => {
                "give both one project (`chattr -p NUMBER`) and the same flag P, or take P off both"
            }
            Lack::Encrypted => "begin with an empty directory that is encrypted, or with one that is not",
            Lack::AllocationUnit(_) => {
                "make it anew without `bigalloc` or larger blocks, or take the extent size hint off (`xfs_io`)"
            }
            Lack::DirectoryUnit(_) => {
                "make it anew without larger directory blocks (`mkfs.xfs -n size=4096`)"
            }
            Lack::Occupied => "look what it is, and remove it",
            Lack::Busy => "try again",
            Lack::Room => "free 4 MiB and 64 inodes",
        }
    }
}
