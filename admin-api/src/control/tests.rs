//! A server and callers, good and bad ones.

use super::*;
use crate::status::NodeStatus;
use parking_lot::Mutex;
use runtime::shutdown::Shutdown;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

const LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Target(Mutex<Vec<String>>);

impl ControlTarget for Target {
    fn status(&self) -> NodeStatus {
        crate::status::sample()
    }
    fn switchover(&self, volume: &str, timeout: Duration, _: &dyn Caller) -> Result<(), ControlError> {
        self.0.lock().push(format!("switchover {volume} {timeout:?}"));
        if volume == "home" { Ok(()) } else { Err(ControlError::unknown_volume(volume, &["home"])) }
    }
    fn takeover(&self, volume: &str, force: bool, caller: &dyn Caller) -> Result<(), ControlError> {
        if volume == "until it is gone" {
            while !caller.is_gone() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.0.lock().push(format!("takeover {volume} {force}"));
        Err(ControlError::new(ErrorKind::Refused, "the partner is alive"))
    }
    fn resync(&self, volume: &str) -> Result<(), ControlError> {
        self.0.lock().push(format!("resync {volume}"));
        Ok(())
    }
    fn split_show(&self, volume: &str, rows: u32) -> Result<SplitReport, ControlError> {
        Err(ControlError::new(ErrorKind::Refused, format!("{volume} is not split, {rows} rows")))
    }
    fn split_discard(&self, volume: &str, here: bool) -> Result<(), ControlError> {
        self.0.lock().push(format!("discard {volume} {here}"));
        Ok(())
    }
    fn verify(&self, volume: &str, repair: bool, max_rate_bytes: Option<u64>) -> Result<u64, ControlError> {
        self.0.lock().push(format!("verify {volume} {repair} {max_rate_bytes:?}"));
        Ok(7)
    }
    fn consistency_point(&self, _volume: &str) -> Result<ConsistencyPointStatus, ControlError> {
        Err(ControlError::new(ErrorKind::Failed, "no space"))
    }
}

struct Served {
    path: PathBuf,
    target: Arc<Target>,
    shutdown: Shutdown,
    server: ControlServer,
    _directory: tempfile::TempDir,
}

fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/control.sock");
    let (target, shutdown) = (Arc::new(Target::default()), Shutdown::default());
    let server = ControlServer::bind(&path).unwrap().serve(target.clone(), shutdown.clone()).unwrap();
    Served { path, target, shutdown, server, _directory: directory }
}

fn raw(path: &std::path::Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // A refused request may be answered before all of it was sent.
    let _ = stream.write_all(request);
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn commands_reach_the_target() {
    let served = served();
    let ask = |request: Request| call(&served.path, &request, LIMIT).unwrap();
    assert_eq!(ask(Request::Status), Answer::Status(Box::new(crate::status::sample())));
    let switchover = |volume: &str| ask(Request::Switchover { volume: volume.into(), timeout_ms: 1500 });
    assert_eq!(switchover("home"), Answer::Done);
    let Answer::Error(error) = switchover("hone") else { panic!("no such volume") };
    assert_eq!(error.kind, ErrorKind::UnknownVolume);
    assert_eq!(error.message, "no volume \"hone\" on this node (it has: home)");
    let Answer::Error(error) = ask(Request::Takeover { volume: "home".into(), force: true }) else {
        panic!()
    };
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Refused, "the partner is alive"));
    let volume = || "home".to_owned();
    assert_eq!(ask(Request::Resync { volume: volume() }), Answer::Done);
    assert_eq!(ask(Request::SplitDiscard { volume: volume(), here: false }), Answer::Done);
    let Answer::Error(error) = ask(Request::SplitShow { volume: volume(), rows: 7 }) else { panic!() };
    assert_eq!(error.message, "home is not split, 7 rows");
    assert_eq!(
        *served.target.0.lock(),
        [
            "switchover home 1.5s",
            "switchover hone 1.5s",
            "takeover home true",
            "resync home",
            "discard home false"
        ]
    );
    assert_eq!(served.shutdown.requested(), None);
    assert_eq!(ask(Request::Shutdown), Answer::Done);
    assert_eq!(served.shutdown.requested(), Some("the control socket"));
}

#[test]
fn bad_requests_are_answered_and_bounded() {
    let served = served();
    for (request, expected) in [
        (&b"nonsense\n"[..], "was not understood"),
        (b"{\"command\":\"takeover\",\"volume\":\"home\"}\n", "missing field `force`"),
        (b"{\"command\":\"format\"}\n", "unknown variant `format`"),
        (b"\xff\xfe\n", "was not understood"),
        (&[b'x'; protocol::MAX_REQUEST_BYTES + 1], "longer than"),
    ] {
        let answer = raw(&served.path, request);
        assert!(answer.contains("bad_request") && answer.contains(expected), "{answer}");
    }
    let mut stream = UnixStream::connect(&served.path).unwrap();
    stream.write_all(b"{\"command\"").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("no end of line"), "{answer}");
}

#[test]
fn too_many_callers_are_sent_away() {
    let served = served();
    let silent: Vec<UnixStream> =
        (0..server::MAX_CONNECTIONS).map(|_| UnixStream::connect(&served.path).unwrap()).collect();
    let answer = raw(&served.path, b"{\"command\":\"status\"}\n");
    assert!(answer.contains("\"busy\""), "{answer}");
    drop(silent);
}

#[test]
fn the_socket_is_private_and_goes_away() {
    let served = served();
    let mode = std::fs::metadata(&served.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(ControlServer::bind(&served.path), Err(SocketError::InUse(_))));
    drop(served.server);
    assert!(!served.path.exists());
    assert!(matches!(call(&served.path, &Request::Status, LIMIT), Err(ClientError::NotRunning { .. })));
}

#[test]
fn a_dead_socket_is_replaced_and_a_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(ControlServer::bind(&path).unwrap());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(ControlServer::bind(&path), Err(SocketError::Occupied(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn only_root_and_the_daemons_user_may_command() {
    assert!(server::may_command(0, 1000).is_ok() && server::may_command(1000, 1000).is_ok());
    assert_eq!(server::may_command(1001, 1000).unwrap_err().kind, ErrorKind::NotAllowed);
    assert_eq!(server::may_command(1001, 0).unwrap_err().kind, ErrorKind::NotAllowed);
}

#[test]
fn a_command_knows_when_its_caller_is_gone() {
    let served = served();
    let mut stream = UnixStream::connect(&served.path).unwrap();
    let request = Request::Takeover { volume: "until it is gone".to_owned(), force: true };
    let mut line = serde_json::to_vec(&request).unwrap();
    line.push(b'\n');
    stream.write_all(&line).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(served.target.0.lock().is_empty(), "the caller still waits");
    drop(stream);
    while served.target.0.lock().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
