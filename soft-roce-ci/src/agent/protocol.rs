//! What the harness and its agent in a guest say to each other: one JSON object a line, over a virtio-serial port.
//!
//! There is one primitive for programs: start one, get its output line by line as it comes, and its end. "Run and
//! capture" is made of it on the harness's side, so that a guest which dies in the middle looks the same in both.
//!
//! Bytes of files travel as hexadecimal text: they may be anything, and they are small. Output of programs is
//! text; what is not UTF-8 in it is replaced.

use serde::{Deserialize, Serialize};

/// The name of the virtio-serial port in the guest.
pub const PORT_NAME: &str = "soft-roce-ci.agent";

/// The longest piece of output in one event. A longer line comes in pieces.
pub const MAX_LINE_BYTES: usize = 32 << 10;

/// The most bytes of a file in one read or write. Larger files go over the host's root.
pub const MAX_FILE_BYTES: usize = 16 << 20;

/// One order, named by a number that its answers carry.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Not zero, and used once in a connection.
    pub id: u64,
    /// What to do.
    pub order: Order,
}

/// What the agent can be asked for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Start a program in its own process group. Answers: `Output` any number of times, then `Ended`; or `Failed`.
    Start {
        /// Program and arguments.
        argv: Vec<String>,
        /// The whole group is killed after this time.
        limit_ms: Option<u64>,
    },
    /// Send a signal to the process group of a program started before. Answers: `Done` or `Failed`.
    Signal {
        /// The id of its `Start`.
        target: u64,
        /// The signal's number.
        signal: i32,
    },
    /// Make or replace a file, with its directories. Answers: `Done` or `Failed`.
    Write {
        /// Where.
        path: String,
        /// The whole contents.
        hex: String,
    },
    /// The contents of a file. Answers: `Contents` or `Failed`.
    Read {
        /// Which.
        path: String,
    },
}

/// What the agent says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The guest is up. Said once, first.
    Ready,
    /// A piece of a program's output, with its line end if it has one.
    Output {
        /// The id of its `Start`.
        id: u64,
        /// Where it was written.
        stream: Stream,
        /// At most [`MAX_LINE_BYTES`].
        text: String,
    },
    /// A program's end. Nothing comes after it.
    Ended {
        /// The id of its `Start`.
        id: u64,
        /// How.
        end: End,
    },
    /// An order was carried out.
    Done {
        /// Its id.
        id: u64,
    },
    /// A file's contents.
    Contents {
        /// The order's id.
        id: u64,
        /// All of it.
        hex: String,
    },
    /// An order could not be carried out.
    Failed {
        /// Its id.
        id: u64,
        /// Why.
        error: String,
    },
}

impl Event {
    /// The order that this answers.
    pub fn id(&self) -> Option<u64> {
        match self {
            Event::Ready => None,
            Event::Output { id, .. }
            | Event::Ended { id, .. }
            | Event::Done { id }
            | Event::Contents { id, .. }
            | Event::Failed { id, .. } => Some(*id),
        }
    }
}

/// Where a program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It was killed because its time limit had passed.
    TimedOut,
}

/// Bytes as hexadecimal text.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The bytes that hexadecimal text stands for; `None` when it is not that.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_one_line_and_comes_back_as_it_was() {
        let requests = [
            Order::Start { argv: vec!["sh".into(), "-c".into(), "echo 'a\nb'".into()], limit_ms: Some(5) },
            Order::Signal { target: 7, signal: 9 },
            Order::Write { path: "/etc/x".into(), hex: to_hex(b"\n") },
            Order::Read { path: "/etc/x".into() },
        ];
        for (id, order) in (1..).zip(requests) {
            let request = Request { id, order };
            let line = serde_json::to_string(&request).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
        let events = [
            Event::Ready,
            Event::Output { id: 1, stream: Stream::Stderr, text: "half\n".into() },
            Event::Ended { id: 1, end: End::Signaled(9) },
            Event::Ended { id: 1, end: End::TimedOut },
            Event::Contents { id: 2, hex: to_hex(&[0, 255]) },
            Event::Failed { id: 3, error: "no".into() },
        ];
        for event in events {
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
    }

    #[test]
    fn hexadecimal_text_stands_for_every_byte_and_nothing_else_is_taken() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&all)).unwrap(), all);
        assert_eq!(from_hex(""), Some(Vec::new()));
        for wrong in ["0", "0g", "é0", "0x00"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
