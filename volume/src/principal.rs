//! Who asks for an operation.
//!
//! Permission to do it at all is the front door's matter (the kernel's, for FUSE). The volume needs the owner
//! of what is created, and in rare cases, where set-id bits are at stake, what else the caller may do; those
//! questions may cost a system call and are asked only then.

/// The caller of an operation.
pub trait Principal {
    /// Owner of what it creates.
    fn uid(&self) -> u32;
    /// Group of what it creates, unless the directory decides.
    fn gid(&self) -> u32;
    /// Do set-id bits survive its changes (`CAP_FSETID`)?
    fn keeps_set_ids(&self) -> bool;
    /// Is it in this group?
    fn in_group(&self, gid: u32) -> bool;
    /// Does it see `trusted.` xattrs (`CAP_SYS_ADMIN`)?
    fn sees_trusted(&self) -> bool;
    /// May it do with everybody's objects what their owners may (`CAP_FOWNER`)?
    fn acts_as_owner(&self) -> bool;
}

/// The superuser, for operations of the node itself and for tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root;

impl Principal for Root {
    fn uid(&self) -> u32 {
        0
    }
    fn gid(&self) -> u32 {
        0
    }
    fn keeps_set_ids(&self) -> bool {
        true
    }
    fn in_group(&self, _gid: u32) -> bool {
        true
    }
    fn sees_trusted(&self) -> bool {
        true
    }
    fn acts_as_owner(&self) -> bool {
        true
    }
}
