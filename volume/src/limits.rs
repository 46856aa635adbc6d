//! Limits that a client must meet at once, with the errno the base would have given, because a record that a base then
//! refuses could never be applied (invariant 7).
//!
//! How much a base holds is measured on it ([`apply_engine::base::limits`]); the weaker of both nodes' counts. Here is
//! what a client is answered, and what Linux itself allows. What can go wrong: a limit that nobody thought of.

use super::errno::{Errno, Result};
use apply_engine::{NameError, NameRef, Timestamp};
use ids::BaseLimits;

/// Longest xattr name, in bytes (Linux `XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// Largest xattr value, in bytes (Linux `XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE_BYTES: usize = 64 * 1024;
/// Largest list of xattr names, in bytes (Linux `XATTR_LIST_MAX`): a longer one can never be read again.
pub const MAX_XATTR_LIST_BYTES: usize = 64 * 1024;

/// The nearest timestamp that both bases can hold.
pub fn clamp(limits: &BaseLimits, at: Timestamp) -> Timestamp {
    let secs = at.secs.clamp(limits.seconds.0, limits.seconds.1);
    // As the kernel's timestamp_truncate: a second that was moved, or the last ones, have no fraction.
    let edge = secs != at.secs || secs == limits.seconds.0 || secs == limits.seconds.1;
    Timestamp { secs, nanos: if edge { 0 } else { at.nanos } }
}

/// Checks a name that a client sent.
pub fn checked_name(name: &[u8]) -> Result<NameRef<'_>> {
    NameRef::new(name).map_err(|why| match why {
        NameError::Empty => Errno::ENOENT,
        NameError::TooLong => Errno::ENAMETOOLONG,
        NameError::Reserved => Errno::EINVAL,
    })
}
