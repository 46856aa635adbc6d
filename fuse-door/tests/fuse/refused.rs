//! What is not to be had through this mount: each thing says so with its own errno (docs/posix.md).

use super::mounted;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::{self, File};

#[test]
fn what_is_not_to_be_had_says_so() {
    let m = mounted();
    // Twice: the kernel remembers the first answer.
    for _ in 0..2 {
        let unnamed = rustix::fs::open(m.path(""), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR | Mode::WUSR);
        assert_eq!(unnamed.unwrap_err(), Errno::OPNOTSUPP, "O_TMPFILE");
        File::create(m.path("f")).unwrap();
        let born = fs::metadata(m.path("f")).unwrap().created();
        assert_eq!(born.unwrap_err().kind(), std::io::ErrorKind::Unsupported, "birth time");
    }
}
