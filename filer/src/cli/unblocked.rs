//! Standard error for those who must not wait for its reader.
//!
//! The threads that keep a pair alive say something now and then. A terminal that was stopped with Ctrl-S, a pager or a
//! full pipe would hold each of them up, and the partner would take over from a node that is well. So a message is
//! written where there is room for it, and else it is lost, and counted. What can go wrong: another process fills the
//! same pipe between the look and the write.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

/// So much a pipe takes without a wait where it says that it takes anything (`PIPE_BUF`).
const PIECE_BYTES: usize = 4096;

/// Messages that were lost since the last one that was not.
static LOST: Mutex<u64> = Mutex::new(0);

/// See the module.
pub(super) struct Unblocked;

impl Write for Unblocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        if *lost > 0 && write_whole(stderr.as_fd(), lost_remark(*lost, bytes).as_bytes())? {
            *lost = 0;
        }
        if *lost > 0 || !write_whole(stderr.as_fd(), bytes)? {
            *lost += 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In the form of the messages: the next one is `beside`.
fn lost_remark(lost: u64, beside: &[u8]) -> String {
    let what = format!("{lost} messages before this were lost: nobody took them from standard error");
    match beside.first() {
        Some(b'{') => format!("{{\"level\":\"WARN\",\"message\":\"{what}\"}}\n"),
        _ => format!("WARN {what}\n"),
    }
}

/// Whether anything of it was written: then the rest of it may be lost, too.
fn write_whole(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<bool> {
    let mut begun = false;
    for piece in bytes.chunks(PIECE_BYTES) {
        if !takes_something(to) {
            break;
        }
        let mut rest = piece;
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(0) => return Ok(begun),
                Ok(written) => rest = &rest[written..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(begun),
                Err(errno) => return Err(errno.into()),
            }
            begun = true;
        }
    }
    Ok(begun)
}

fn takes_something(to: BorrowedFd<'_>) -> bool {
    let mut looked = [PollFd::new(&to, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Where it cannot be looked at, the write tells more.
    poll(&mut looked, Some(&at_once)).is_err() || !looked[0].revents().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_nobody_takes_is_not_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        let line = [b'x'; 1000];
        let mut written = 0;
        while write_whole(writer.as_fd(), &line).unwrap() {
            written += line.len();
        }
        assert!(written > 0, "an empty pipe takes something");
        assert!(!write_whole(writer.as_fd(), &line).unwrap());
        reader.read_exact(&mut vec![0; written]).unwrap();
        assert!(write_whole(writer.as_fd(), &line).unwrap());
    }

    #[test]
    fn a_long_message_is_written_as_far_as_there_is_room() {
        let (_reader, writer) = io::pipe().unwrap();
        assert!(write_whole(writer.as_fd(), &vec![b'x'; 1 << 20]).unwrap());
        assert!(!write_whole(writer.as_fd(), b"no more").unwrap());
    }

    #[test]
    fn what_was_lost_is_told_in_the_form_of_the_messages() {
        assert_eq!(lost_remark(2, b"{\"level\"").lines().count(), 1);
        serde_json::from_str::<serde_json::Value>(&lost_remark(2, b"{")).unwrap();
        assert!(lost_remark(2, b"2026").starts_with("WARN 2 messages"));
    }
}
