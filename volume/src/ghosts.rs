//! Objects that are gone and that a kernel still refers to: a shell's working directory, what a descriptor of a path
//! (`O_PATH`) holds, a named pipe that is open.
//!
//! Not chosen: to keep each removed object until the kernel forgets it. That would be one more record for every removal,
//! since the kernel refers to all that it removes, and their room would come free later.
//!
//! What can go wrong: what was in it is gone. So its contents, a new length and new xattrs are ESTALE, and of the xattrs that
//! it had nothing is known; its attributes are only here, and end with this node's time as the primary.

use super::Volume;
use super::attributes::{SetAttributes, may_not_chown_to_nobody_else, mode_after_chown};
use super::errno::{Errno, Result};
use super::principal::Principal;
use apply_engine::{Attributes, Timestamp};
use ids::Oid;

impl Volume {
    /// Nobody refers to `oid` any more (FUSE `FORGET`).
    pub fn forget(&self, oid: Oid) {
        if self.state.read().ghosts.contains_key(&oid) {
            self.state.write().ghosts.remove(&oid);
        }
    }

    /// Last attributes of an object that is gone.
    ///
    /// # Errors
    /// ESTALE for any other.
    pub(super) fn ghost(&self, oid: Oid) -> Result<Attributes> {
        self.journal.check_lease()?;
        self.state.read().ghosts.get(&oid).copied().ok_or(Errno::ESTALE)
    }

    /// [`Volume::setattr`] of one.
    pub(super) fn set_ghost(&self, who: &dyn Principal, oid: Oid, set: SetAttributes) -> Result<Attributes> {
        let before = self.ghost(oid)?;
        if set.size.is_some() {
            return Err(Errno::ESTALE);
        }
        let names_nobody = SetAttributes { ctime: None, ..set } == SetAttributes::default();
        if names_nobody && may_not_chown_to_nobody_else(who, &before) {
            return Err(Errno::EPERM);
        }
        let now = Timestamp::since_epoch(runtime::unix_time());
        let mut patch = set.patch(now, &self.limits);
        if names_nobody || patch.uid.is_some() || patch.gid.is_some() {
            patch.mode = patch.mode.or_else(|| mode_after_chown(who, &before));
        }
        patch.ctime = patch.ctime.or(Some(now));
        let mut state = self.state.write();
        let ghost = state.ghosts.get_mut(&oid).ok_or(Errno::ESTALE)?;
        ghost.apply(&patch);
        Ok(*ghost)
    }
}
