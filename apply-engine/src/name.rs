//! Names of directory entries: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
//!
//! A value of either type has been checked, so nothing behind it can leave its directory. [`NameRef`] borrows
//! (from a request or a record), [`Name`] owns.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// Bytes that cannot name a directory entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// No byte at all.
    #[error("a name cannot be empty")]
    Empty,
    /// More than [`MAX_NAME_BYTES`].
    #[error("a name cannot be longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// `.`, `..`, or with a `/` or NUL in it.
    #[error("a name cannot be \".\" or \"..\" nor hold '/' or NUL")]
    Reserved,
}

/// A checked, borrowed name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameRef<'a>(&'a [u8]);

impl<'a> NameRef<'a> {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn new(bytes: &'a [u8]) -> Result<NameRef<'a>, NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            [b'.'] | [b'.', b'.'] => Err(NameError::Reserved),
            _ if bytes.len() > MAX_NAME_BYTES => Err(NameError::TooLong),
            _ if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(NameError::Reserved),
            _ => Ok(NameRef(bytes)),
        }
    }

    /// The bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The bytes, as the standard library's paths want them.
    pub fn as_os_str(self) -> &'a OsStr {
        OsStr::from_bytes(self.0)
    }

    /// An owned copy.
    pub fn to_name(self) -> Name {
        Name(self.0.into())
    }
}

impl fmt::Debug for NameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_os_str())
    }
}

/// A checked, owned name. Ordered, and found in maps, by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks and copies `bytes`.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn new(bytes: &[u8]) -> Result<Name, NameError> {
        NameRef::new(bytes).map(NameRef::to_name)
    }

    /// Borrows it.
    pub fn as_ref(&self) -> NameRef<'_> {
        NameRef(&self.0)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, as the standard library's paths want them.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'x'; 256]] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        for good in [&b"..."[..], b"\xff\xfe", b" ", &[b'x'; 255]] {
            assert_eq!(Name::new(good).unwrap().as_bytes(), good);
        }
    }
}
