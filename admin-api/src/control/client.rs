//! The caller's side of the control socket.

use super::protocol::{Answer, MAX_ANSWER_BYTES, Request};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no daemon answers at {}: {source}\n    remedy: is `twinfiler serve` running, and is this its `node.control`?",
        path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// The socket belongs to somebody else.
    #[error("no permission to use {}\n    remedy: run the command as root", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke or the answer took too long.
    #[error("the daemon at {} did not answer: {source}\n    remedy: does it still run? See its log", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer is not one.
    #[error("the daemon at {} answered something else: {why}\n    remedy: is it of the same version?", path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Sends `request` to the daemon at `path` and waits at most `timeout` for its answer.
///
/// # Errors
/// When no answer was had; an [`Answer::Error`] is an answer.
pub fn call(path: &Path, request: &Request, timeout: Duration) -> Result<Answer, ClientError> {
    let path_buf = || path.to_owned();
    let mut stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path: path_buf() },
        _ => ClientError::NotRunning { path: path_buf(), source },
    })?;
    let no_answer = |source| ClientError::NoAnswer { path: path_buf(), source };
    let garbled = |why: String| ClientError::Garbled { path: path_buf(), why };
    stream.set_read_timeout(Some(timeout)).map_err(no_answer)?;
    stream.set_write_timeout(Some(timeout)).map_err(no_answer)?;
    let mut line = serde_json::to_vec(request).map_err(|error| garbled(error.to_string()))?;
    line.push(b'\n');
    // A server that refuses the caller may have answered and closed already: read before judging the write.
    let written = stream.write_all(&line);
    let mut answer = Vec::new();
    let mut reader = BufReader::new(stream).take(MAX_ANSWER_BYTES as u64);
    let read = reader.read_until(b'\n', &mut answer);
    if answer.last() != Some(&b'\n') {
        read.map_err(no_answer)?;
        written.map_err(no_answer)?;
        return Err(garbled(format!("{} bytes without an end of line", answer.len())));
    }
    serde_json::from_slice(&answer).map_err(|error| garbled(error.to_string()))
}
