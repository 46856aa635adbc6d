//! POSIX access control lists, as the bytes of the `system.posix_acl_*` xattrs.
//!
//! The kernel evaluates them (FUSE `default_permissions` with `FUSE_POSIX_ACL`); the volume keeps them in
//! step with the mode: setting an access ACL sets the permission bits, changing the permission bits changes
//! the ACL's owner, mask and other entries, and a new object inherits its directory's default ACL instead of
//! obeying the umask. The rules are those of Linux' fs/posix_acl.c (`posix_acl_update_mode`,
//! `__posix_acl_chmod_masq`, `posix_acl_create_masq`).
//!
//! What can go wrong: bytes come from users; [`Acl::parse`] refuses whatever the kernel would refuse, because
//! the base filesystem will be asked to store them.

use super::errno::{Errno, Result};

/// The xattr that holds the access ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The xattr that holds the ACL that a directory's new entries inherit.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
/// More entries than any filesystem can store in one xattr.
const MAX_ENTRIES: usize = 4096;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A valid access control list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl(Vec<Entry>);

/// What a new object gets from its directory's default ACL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inherited {
    /// Mode with the permissions that the ACL leaves of it.
    pub mode: u32,
    /// Access ACL, when it says more than the mode does.
    pub access: Option<Acl>,
}

impl Acl {
    /// Reads an xattr value. `None` for an ACL without entries, which means "no ACL".
    pub fn parse(value: &[u8]) -> Result<Option<Acl>> {
        let (header, body) = value.split_at_checked(HEADER_BYTES).ok_or(Errno::EINVAL)?;
        if header != VERSION.to_le_bytes() {
            return Err(Errno::EOPNOTSUPP);
        }
        if body.len() % ENTRY_BYTES != 0 || body.len() / ENTRY_BYTES > MAX_ENTRIES {
            return Err(Errno::EINVAL);
        }
        let entries: Vec<Entry> = body
            .chunks_exact(ENTRY_BYTES)
            .map(|e| Entry {
                tag: u16::from_le_bytes([e[0], e[1]]),
                permissions: u16::from_le_bytes([e[2], e[3]]),
                id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
            })
            .collect();
        if entries.is_empty() {
            return Ok(None);
        }
        Self::check(&entries)?;
        Ok(Some(Acl(entries)))
    }

    /// Exactly one of each base entry, named ones sorted by tag, a mask if there is any named one.
    fn check(entries: &[Entry]) -> Result<()> {
        let count = |tag| entries.iter().filter(|e| e.tag == tag).count();
        let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
        let sorted = entries.windows(2).all(|pair| pair[0].tag <= pair[1].tag);
        let base = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1);
        let named = count(USER) + count(GROUP) > 0;
        let masked = count(MASK) == 1 || (count(MASK) == 0 && !named);
        let plain = entries.iter().all(|e| known.contains(&e.tag) && e.permissions <= 7);
        if sorted && base && masked && plain { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// How many entries it has.
    pub fn entries(&self) -> usize {
        self.0.len()
    }

    /// What it takes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Acl>() + self.0.capacity() * size_of::<Entry>()
    }

    /// The xattr value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER_BYTES + self.0.len() * ENTRY_BYTES);
        value.extend_from_slice(&VERSION.to_le_bytes());
        for entry in &self.0 {
            value.extend_from_slice(&entry.tag.to_le_bytes());
            value.extend_from_slice(&entry.permissions.to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value
    }

    /// Does a mode say the same?
    pub fn is_only_mode(&self) -> bool {
        self.0.iter().all(|e| matches!(e.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// `mode` with the permission bits that this access ACL gives.
    pub fn mode(&self, mode: u32) -> u32 {
        let group = self.permissions(MASK).or(self.permissions(GROUP_OBJ)).unwrap_or(0);
        let owner = self.permissions(USER_OBJ).unwrap_or(0);
        let other = self.permissions(OTHER).unwrap_or(0);
        (mode & !0o777) | (u32::from(owner) << 6) | (u32::from(group) << 3) | u32::from(other)
    }

    /// This access ACL after a chmod to `mode`: the group bits go to the mask where there is one.
    pub fn after_chmod(&self, mode: u32) -> Acl {
        let mut changed = self.clone();
        let group = if changed.permissions(MASK).is_some() { MASK } else { GROUP_OBJ };
        for entry in &mut changed.0 {
            if entry.tag == USER_OBJ {
                entry.permissions = (mode >> 6) as u16 & 7;
            } else if entry.tag == group {
                entry.permissions = (mode >> 3) as u16 & 7;
            } else if entry.tag == OTHER {
                entry.permissions = mode as u16 & 7;
            }
        }
        changed
    }

    /// What an object created with `mode` below a directory with this default ACL gets.
    pub fn inherit(&self, mode: u32) -> Inherited {
        let mut access = self.clone();
        let group = if access.permissions(MASK).is_some() { MASK } else { GROUP_OBJ };
        for entry in &mut access.0 {
            if entry.tag == USER_OBJ {
                entry.permissions &= (mode >> 6) as u16;
            } else if entry.tag == group {
                entry.permissions &= (mode >> 3) as u16;
            } else if entry.tag == OTHER {
                entry.permissions &= mode as u16;
            }
        }
        let mode = access.mode(mode);
        Inherited { mode, access: (!access.is_only_mode()).then_some(access) }
    }

    fn permissions(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.permissions)
    }
}

/// One that gives so many users something.
#[cfg(test)]
pub(super) fn with_users(count: u32) -> Acl {
    let entry = |tag, id| Entry { tag, permissions: 7, id };
    let users = (0..count).map(|user| entry(USER, user));
    let last = [GROUP_OBJ, MASK, OTHER].map(|tag| entry(tag, u32::MAX));
    Acl([entry(USER_OBJ, u32::MAX)].into_iter().chain(users).chain(last).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, permissions, id)| Entry { tag, permissions, id }).collect())
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn bytes_round_trip_and_nonsense_is_refused() {
        let a = acl(&[
            (USER_OBJ, 7, NONE),
            (USER, 5, 1000),
            (GROUP_OBJ, 5, NONE),
            (MASK, 5, NONE),
            (OTHER, 0, NONE),
        ]);
        assert_eq!(Acl::parse(&a.to_bytes()), Ok(Some(a.clone())));
        assert_eq!(Acl::parse(&[2, 0, 0, 0]), Ok(None));
        assert_eq!(Acl::parse(&[3, 0, 0, 0]), Err(Errno::EOPNOTSUPP));
        assert_eq!(Acl::parse(&[2, 0]), Err(Errno::EINVAL));
        assert_eq!(Acl::parse(&a.to_bytes()[..11]), Err(Errno::EINVAL));
        let unmasked = acl(&[(USER_OBJ, 7, NONE), (USER, 5, 1000), (GROUP_OBJ, 5, NONE), (OTHER, 0, NONE)]);
        assert_eq!(Acl::parse(&unmasked.to_bytes()), Err(Errno::EINVAL));
        let unsorted = acl(&[(GROUP_OBJ, 7, NONE), (USER_OBJ, 5, NONE), (OTHER, 0, NONE)]);
        assert_eq!(Acl::parse(&unsorted.to_bytes()), Err(Errno::EINVAL));
    }

    #[test]
    fn mode_and_mask_stay_in_step() {
        let a = acl(&[
            (USER_OBJ, 7, NONE),
            (USER, 7, 1000),
            (GROUP_OBJ, 5, NONE),
            (MASK, 6, NONE),
            (OTHER, 1, NONE),
        ]);
        assert_eq!(a.mode(0o104000), 0o104761);
        let chmodded = a.after_chmod(0o640);
        assert_eq!(chmodded.mode(0), 0o640);
        assert_eq!(chmodded.permissions(GROUP_OBJ), Some(5), "the group's own entry stays");
        let plain = acl(&[(USER_OBJ, 7, NONE), (GROUP_OBJ, 5, NONE), (OTHER, 1, NONE)]);
        assert!(plain.is_only_mode());
        assert_eq!(plain.after_chmod(0o640).mode(0), 0o640);
    }

    #[test]
    fn a_default_acl_replaces_the_umask() {
        let a = acl(&[
            (USER_OBJ, 7, NONE),
            (USER, 7, 1000),
            (GROUP_OBJ, 7, NONE),
            (MASK, 7, NONE),
            (OTHER, 5, NONE),
        ]);
        let file = a.inherit(0o100644);
        assert_eq!(file.mode, 0o100644);
        assert_eq!(file.access.as_ref().and_then(|a| a.permissions(MASK)), Some(4));
        let plain = acl(&[(USER_OBJ, 7, NONE), (GROUP_OBJ, 5, NONE), (OTHER, 0, NONE)]);
        assert_eq!(plain.inherit(0o100666), Inherited { mode: 0o100640, access: None });
    }
}
