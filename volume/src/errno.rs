//! The one error type that a volume operation answers with: an errno, as POSIX wants it.
//!
//! The front doors hand the number to the client unchanged, so every place that makes one has to know which
//! number Linux' own filesystems give in that situation. What can go wrong: a made-up errno sends programs
//! into branches that were never tested; so constructors exist only for numbers that a filesystem may answer.

use commit::{Denied, NotServing, Refused};
use std::fmt;

/// A POSIX error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

/// The result of a volume operation.
pub type Result<T> = std::result::Result<T, Errno>;

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`")]
                pub const $name: Errno = Errno(libc::$name);
            )*
        }

        impl fmt::Display for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Errno::$name => f.write_str(stringify!($name)),)*
                    Errno(number) => write!(f, "errno {number}"),
                }
            }
        }
    };
}

errnos! {
    E2BIG EACCES EBUSY EEXIST EFBIG EINTR EINVAL EIO EISDIR EMLINK ENAMETOOLONG ENOBUFS ENODATA ENOENT ENOSPC ENOSYS ENOTDIR
    ENOTEMPTY ENOTTY ENXIO EOPNOTSUPP EPERM ERANGE EROFS ESHUTDOWN ESTALE EXDEV
}

impl Errno {
    /// In an attempt only, and never answered: the request has to wait ([`commit::attempt`]).
    pub const MUST_WAIT: Errno = Errno(commit::MUST_WAIT);

    /// The number, positive.
    pub fn code(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

impl From<NotServing> for Errno {
    /// A node that does not serve answers like a disk that is gone; clients reach the partner through a new mount.
    fn from(reason: NotServing) -> Errno {
        match reason {
            NotServing::NotPrimary | NotServing::Stopping => Errno::ESHUTDOWN,
            NotServing::Frozen | NotServing::LogFailed => Errno::EIO,
            NotServing::MustWait => Errno::MUST_WAIT,
        }
    }
}

impl From<Refused> for Errno {
    fn from(reason: Refused) -> Errno {
        match reason {
            Refused::NotServing(reason) => reason.into(),
            Refused::NoSpace => Errno::ENOSPC,
        }
    }
}

impl From<Denied> for Errno {
    fn from(why: Denied) -> Errno {
        match why {
            Denied::NotServing(why) => why.into(),
            Denied::Interrupted => Errno::EINTR,
            Denied::TooMany => Errno::ENOBUFS,
        }
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Errno {
        error.raw_os_error().map_or(Errno::EIO, Errno)
    }
}
