//! The daemon's side of the control socket.

use super::protocol::{Answer, ControlError, ErrorKind, MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, Request};
use super::{Caller, ControlTarget};
use runtime::shutdown::Shutdown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections served at once; more are told to come again.
pub const MAX_CONNECTIONS: usize = 16;
/// Time for a whole request to arrive, and for the caller to take the answer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait that a caller may ask for.
const MAX_COMMAND_TIMEOUT: Duration = Duration::from_secs(3600);
/// How often the listening thread looks whether it should end.
const STOP_POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("another daemon listens at {}\n    remedy: stop it, or give this node its own `node.control`", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket lies there.
    #[error("{} exists and is no socket\n    remedy: choose another `node.control`", .0.display())]
    Occupied(PathBuf),
    /// The system refused.
    #[error("cannot listen at {}: {source}\n    remedy: the directory must exist and be writable by root", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A control socket that is bound and not served yet: nobody else can have it.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the control socket");
        }
    }
}

impl BoundSocket {
    /// Carries out commands on `target`; `Request::Shutdown` goes to `shutdown`.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn serve(
        self,
        target: Arc<dyn ControlTarget>,
        shutdown: Shutdown,
    ) -> Result<ControlServer, SocketError> {
        let path = self.path.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept_all(&self.listener, &target, &shutdown, &stopped))
            .map_err(|source| SocketError::Io { path, source })?;
        Ok(ControlServer { stop, thread: Some(thread) })
    }
}

/// Serves the control socket until it is dropped.
#[derive(Debug)]
pub struct ControlServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Takes the socket at `path`. Callers that connect wait until it is served.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<BoundSocket, SocketError> {
        Ok(BoundSocket { listener: listen(path)?, path: path.to_owned() })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::Occupied(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(SocketError::InUse(path.to_owned())),
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Bound under another name and moved in place once its mode is right: nobody can connect before. The
    // process-wide umask is left alone, other threads create files meanwhile.
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(".{}", std::process::id()));
    let staged = PathBuf::from(staged);
    let listener = UnixListener::bind(&staged).map_err(failed)?;
    let placed = std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| listener.set_nonblocking(true))
        .and_then(|()| std::fs::rename(&staged, path));
    if let Err(error) = placed {
        if let Err(leftover) = std::fs::remove_file(&staged) {
            tracing::warn!(path = %staged.display(), error = %leftover, "could not remove a staged socket");
        }
        return Err(failed(error));
    }
    Ok(listener)
}

fn accept_all(
    listener: &UnixListener,
    target: &Arc<dyn ControlTarget>,
    shutdown: &Shutdown,
    stop: &AtomicBool,
) {
    let active = Arc::new(AtomicUsize::new(0));
    while !stop.load(Ordering::Acquire) {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, Some(&STOP_POLL)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the control socket cannot be polled");
                return;
            }
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::warn!(%error, "a control connection could not be accepted");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if active.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            active.fetch_sub(1, Ordering::AcqRel);
            let busy = ControlError::new(ErrorKind::Busy, "too many control connections; try again");
            answer(&stream, &Answer::Error(busy));
            continue;
        }
        let (target, shutdown, counted) = (Arc::clone(target), shutdown.clone(), Arc::clone(&active));
        let spawned = std::thread::Builder::new().name("control-call".into()).spawn(move || {
            let _one_less = Leave(counted);
            serve_one(&stream, target.as_ref(), &shutdown);
        });
        if let Err(error) = spawned {
            active.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(%error, "no thread for a control connection");
        }
    }
}

/// Counts a connection out, also when serving it panicked.
struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve_one(stream: &UnixStream, target: &dyn ControlTarget, shutdown: &Shutdown) {
    let result = check_caller(stream).and_then(|()| read_request(stream)).and_then(|request| {
        tracing::debug!(?request, "control command");
        carry_out(request, target, shutdown, &Connection(stream))
    });
    answer(stream, &result.unwrap_or_else(Answer::Error));
}

fn check_caller(stream: &UnixStream) -> Result<(), ControlError> {
    let caller = rustix::net::sockopt::socket_peercred(stream).map_err(|error| {
        ControlError::new(ErrorKind::NotAllowed, format!("the caller is unknown: {error}"))
    })?;
    may_command(caller.uid.as_raw(), rustix::process::geteuid().as_raw()).inspect_err(|error| {
        tracing::warn!(uid = caller.uid.as_raw(), pid = caller.pid.as_raw_nonzero(), %error, "a control command was refused");
    })
}

/// Root and the daemon's own user may command.
pub(super) fn may_command(caller_uid: u32, own_uid: u32) -> Result<(), ControlError> {
    if caller_uid == 0 || caller_uid == own_uid {
        return Ok(());
    }
    let message = format!("user {caller_uid} may not command this daemon; run the command as root");
    Err(ControlError::new(ErrorKind::NotAllowed, message))
}

fn read_request(stream: &UnixStream) -> Result<Request, ControlError> {
    let bad = |message: String| ControlError::new(ErrorKind::BadRequest, message);
    let mut line = Vec::new();
    let mut reader = BufReader::new(Deadline { stream, at: Instant::now() + EXCHANGE_LIMIT })
        .take(MAX_REQUEST_BYTES as u64 + 1);
    reader
        .read_until(b'\n', &mut line)
        .map_err(|error| bad(format!("the request did not arrive: {error}")))?;
    if line.len() > MAX_REQUEST_BYTES {
        return Err(bad(format!("the request is longer than {MAX_REQUEST_BYTES} bytes")));
    }
    if line.last() != Some(&b'\n') {
        return Err(bad("the request has no end of line".to_owned()));
    }
    serde_json::from_slice(&line).map_err(|error| bad(format!("the request was not understood: {error}")))
}

/// Reads from a socket until a moment, however slowly the bytes trickle in.
struct Deadline<'s> {
    stream: &'s UnixStream,
    at: Instant,
}

impl Read for Deadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        (&*self.stream).read(buffer)
    }
}

/// A caller waits as long as its end of the connection is open.
struct Connection<'s>(&'s UnixStream);

impl Caller for Connection<'_> {
    fn is_gone(&self) -> bool {
        let hung_up = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        let mut fds = [PollFd::new(self.0, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(hung_up)
    }
}

fn carry_out(
    request: Request,
    target: &dyn ControlTarget,
    shutdown: &Shutdown,
    caller: &dyn Caller,
) -> Result<Answer, ControlError> {
    match request {
        Request::Status => Ok(Answer::Status(Box::new(target.status()))),
        Request::Switchover { volume, timeout_ms } => {
            let timeout = Duration::from_millis(timeout_ms).min(MAX_COMMAND_TIMEOUT);
            target.switchover(&volume, timeout, caller).map(|()| Answer::Done)
        }
        Request::Takeover { volume, force } => target.takeover(&volume, force, caller).map(|()| Answer::Done),
        Request::ConsistencyPoint { volume } => {
            target.consistency_point(&volume).map(Answer::ConsistencyPoint)
        }
        Request::Resync { volume } => target.resync(&volume).map(|()| Answer::Done),
        Request::SplitShow { volume, rows } => {
            target.split_show(&volume, rows).map(|report| Answer::Split(Box::new(report)))
        }
        Request::SplitDiscard { volume, here } => target.split_discard(&volume, here).map(|()| Answer::Done),
        Request::Verify { volume, repair, max_rate_bytes } => {
            target.verify(&volume, repair, max_rate_bytes).map(Answer::VerifyBegan)
        }
        Request::Shutdown => {
            shutdown.request("the control socket");
            Ok(Answer::Done)
        }
    }
}

/// Sends the answer; a caller that is gone is not an error of ours.
fn answer(mut stream: &UnixStream, answer: &Answer) {
    let mut line = match serde_json::to_vec(answer) {
        Ok(line) => line,
        Err(error) => {
            tracing::error!(%error, "an answer could not be encoded");
            return;
        }
    };
    if line.len() >= MAX_ANSWER_BYTES {
        tracing::error!(length_bytes = line.len(), "an answer is too long to be sent");
        return;
    }
    line.push(b'\n');
    let sent = stream.set_write_timeout(Some(EXCHANGE_LIMIT)).and_then(|()| stream.write_all(&line));
    if let Err(error) = sent {
        tracing::debug!(%error, "the caller did not take its answer");
    }
}
