//! Server, client and state file together, over loopback.

use super::server::{Spawn, Work, serve_with, spawn};
use super::*;
use ids::{Epoch, VolumeId};
use pair::WitnessOutcome;
use pair::witness::{Answer, Mode, Register, Request};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::Scope;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(2);
const VOLUME: VolumeId = VolumeId([3; 16]);

fn register(epoch: u64, primary: &str, mode: Mode, generation: u64) -> Register {
    Register { volume: VOLUME, epoch: Epoch(epoch), primary: primary.parse().unwrap(), mode, generation }
}

fn cas(expected: Option<Register>, new: Register) -> Request {
    Request::CompareAndSwap { expected, new }
}

fn with_server<T>(state: &Path, test: impl FnOnce(SocketAddr) -> T) -> T {
    with_server_of(state, spawn, test)
}

fn with_server_of<T>(state: &Path, spawn: Spawn, test: impl FnOnce(SocketAddr) -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let stop = &stop;
        let server = scope.spawn(move || {
            serve_with(
                "127.0.0.1:0".parse().unwrap(),
                state,
                Access::Anybody,
                |address| sender.send(address).unwrap(),
                stop,
                spawn,
            )
        });
        let address = receiver.recv_timeout(TIMEOUT).expect("the server starts");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(address)));
        stop.store(true, Ordering::SeqCst);
        server.join().unwrap().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_register_is_created_swapped_and_kept_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = register(1, "a", Mode::Solo, 1);
    let second = register(1, "a", Mode::Mirrored, 2);
    with_server(directory.path(), |address| {
        let mut client = Client::new(address.to_string(), None);
        let read = Request::Read { volume: VOLUME };
        assert_eq!(client.request(&read, TIMEOUT).unwrap(), Answer::Is { register: None });
        let swapped = client.request(&cas(None, first.clone()), TIMEOUT).unwrap();
        assert_eq!(swapped, Answer::Swapped { register: first.clone() });
        let again = client.request(&cas(None, first.clone()), TIMEOUT).unwrap();
        assert_eq!(again, Answer::Conflict { register: Some(first.clone()) });
        let swapped = client.request(&cas(Some(first.clone()), second.clone()), TIMEOUT).unwrap();
        assert_eq!(swapped, Answer::Swapped { register: second.clone() });
    });
    with_server(directory.path(), |address| {
        let reply = Client::new(address.to_string(), None).ask(&Request::Read { volume: VOLUME }, TIMEOUT);
        assert_eq!(reply.outcome, WitnessOutcome::Is(Some(second.clone())));
    });
}

#[test]
fn of_two_nodes_that_claim_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    with_server(directory.path(), |address| {
        let start = register(1, "a", Mode::Mirrored, 1);
        Client::new(address.to_string(), None).request(&cas(None, start.clone()), TIMEOUT).unwrap();
        let claims = ["a", "b"].map(|name| {
            let start = start.clone();
            std::thread::spawn(move || {
                let new = register(2, name, Mode::Solo, 2);
                Client::new(address.to_string(), None).request(&cas(Some(start), new), TIMEOUT).unwrap()
            })
        });
        let answers = claims.map(|claim| claim.join().unwrap());
        let won = answers.iter().filter(|answer| matches!(answer, Answer::Swapped { .. })).count();
        assert_eq!(won, 1, "{answers:?}");
    });
}

#[test]
fn rules_of_the_register_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    with_server(directory.path(), |address| {
        let mut client = Client::new(address.to_string(), None);
        let start = register(5, "a", Mode::Mirrored, 1);
        client.request(&cas(None, start.clone()), TIMEOUT).unwrap();
        let same_generation = cas(Some(start.clone()), register(6, "b", Mode::Solo, 1));
        assert!(matches!(client.request(&same_generation, TIMEOUT).unwrap(), Answer::Refused { .. }));
        let back = cas(Some(start.clone()), register(4, "b", Mode::Solo, 2));
        assert!(matches!(client.request(&back, TIMEOUT).unwrap(), Answer::Refused { .. }));
    });
}

#[test]
fn a_damaged_state_file_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    with_server(directory.path(), |address| {
        let create = cas(None, register(1, "a", Mode::Solo, 1));
        Client::new(address.to_string(), None).request(&create, TIMEOUT).unwrap();
    });
    let path = directory.path().join("registers.json");
    let good = std::fs::read_to_string(&path).unwrap();
    for bad in [good.replace("\"a\"", "\"b\""), good[..good.len() / 2].to_owned(), String::new()] {
        std::fs::write(&path, &bad).unwrap();
        let stop = AtomicBool::new(true);
        let refused = serve("127.0.0.1:0".parse().unwrap(), directory.path(), Access::Anybody, |_| {}, &stop)
            .unwrap_err();
        assert!(matches!(refused, ServeError::Store(StoreError::Damaged { .. })), "{refused}");
        assert!(refused.to_string().contains("move it away"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), bad, "nothing is overwritten");
    }
}

#[test]
fn a_second_witness_on_the_same_state_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    with_server(directory.path(), |_| {
        let stop = AtomicBool::new(true);
        let refused = serve("127.0.0.1:0".parse().unwrap(), directory.path(), Access::Anybody, |_| {}, &stop)
            .unwrap_err();
        assert!(matches!(refused, ServeError::Store(StoreError::Locked(_))), "{refused}");
    });
}

#[test]
fn a_failing_disk_gives_no_answer_and_ends_the_server() {
    let directory = tempfile::tempdir().unwrap();
    // A directory stands where the new state file must be written.
    std::fs::create_dir(directory.path().join("registers.json.new")).unwrap();
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let ended = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            serve(
                "127.0.0.1:0".parse().unwrap(),
                directory.path(),
                Access::Anybody,
                |at| sender.send(at).unwrap(),
                &stop,
            )
        });
        let mut client = Client::new(receiver.recv_timeout(TIMEOUT).unwrap().to_string(), None);
        let error = client.request(&cas(None, register(1, "a", Mode::Solo, 1)), TIMEOUT).unwrap_err();
        assert!(error.maybe_applied(), "{error}");
        server.join().unwrap()
    });
    assert!(matches!(ended, Err(ServeError::Store(StoreError::Io { .. }))), "{ended:?}");
}

#[test]
fn garbage_and_huge_frames_end_only_their_own_connection() {
    let directory = tempfile::tempdir().unwrap();
    with_server(directory.path(), |address| {
        for bytes in [&b"\x7f\xff\xff\xff"[..], b"\x00\x00\x00\x02{]", b"GET / HTTP/1.1\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(bytes).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let ended = stream.read(&mut [0; 16]);
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        }
        let read = Request::Read { volume: VOLUME };
        assert!(Client::new(address.to_string(), None).request(&read, TIMEOUT).is_ok());
    });
}

#[test]
fn nobody_there_means_certainly_not_applied() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reply = Client::new(address.to_string(), None).ask(&Request::Read { volume: VOLUME }, TIMEOUT);
    assert_eq!(reply.outcome, WitnessOutcome::Unreachable { maybe_applied: false });
}

#[test]
fn silence_ends_at_the_time_limit_and_is_in_doubt() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Client::new(listener.local_addr().unwrap().to_string(), None);
    let since = Instant::now();
    let reply = client.ask(&Request::Read { volume: VOLUME }, Duration::from_millis(100));
    assert_eq!(reply.outcome, WitnessOutcome::Unreachable { maybe_applied: true });
    assert!(since.elapsed() < TIMEOUT, "{:?}", since.elapsed());
}

#[test]
fn a_client_reconnects_after_the_server_was_restarted() {
    let directory = tempfile::tempdir().unwrap();
    let read = Request::Read { volume: VOLUME };
    let (mut client, address) = with_server(directory.path(), |address| {
        let mut client = Client::new(address.to_string(), None);
        client.request(&read, TIMEOUT).unwrap();
        (client, address)
    });
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            serve(address, directory.path(), Access::Anybody, |at| sender.send(at).unwrap(), &stop)
        });
        receiver.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(client.request(&read, TIMEOUT).unwrap(), Answer::Is { register: None });
        stop.store(true, Ordering::SeqCst);
        server.join().unwrap().unwrap();
    });
}

#[test]
fn a_witness_that_cannot_write_says_so_to_who_only_reads() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let read = Request::Read { volume: VOLUME };
    with_server(&state, |address| {
        std::fs::remove_dir_all(&state).unwrap();
        let mut client = Client::new(address.to_string(), None);
        let reply = client.ask(&read, TIMEOUT);
        assert_eq!(reply.outcome, WitnessOutcome::Unreachable { maybe_applied: false });
        let why = reply.why.unwrap();
        assert!(why.contains("cannot write its state"), "{why}");
        // As soon as it can, it answers; it has lost nothing by that.
        std::fs::create_dir(&state).unwrap();
        let is_none = Reply { outcome: WitnessOutcome::Is(None), why: None };
        assert_eq!(client.ask(&read, TIMEOUT), is_none);
    });
}

/// The machine has no more threads for it, as the process's limit of tasks has it.
#[test]
fn a_connection_without_a_thread_is_closed_and_the_others_go_on() {
    static SHORT: AtomicBool = AtomicBool::new(false);
    fn spawn_or_not<'scope>(scope: &'scope Scope<'scope, '_>, work: Work<'scope>) -> io::Result<()> {
        match SHORT.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => spawn(scope, work),
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let read = Request::Read { volume: VOLUME };
    with_server_of(directory.path(), spawn_or_not, |address| {
        let mut known = Client::new(address.to_string(), None);
        known.request(&read, TIMEOUT).unwrap();
        SHORT.store(true, Ordering::SeqCst);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        match stream.read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("it waits: {other:?}"),
        }
        known.request(&read, TIMEOUT).unwrap();
        SHORT.store(false, Ordering::SeqCst);
        Client::new(address.to_string(), None).request(&read, TIMEOUT).unwrap();
    });
}

/// Half a witness, which answers who is connected and lets nobody in, would be worse than none: that is started again.
#[test]
fn a_panic_of_the_accept_loop_ends_the_conversations_too() {
    static BROKEN: AtomicBool = AtomicBool::new(false);
    fn spawn_or_panic<'scope>(scope: &'scope Scope<'scope, '_>, work: Work<'scope>) -> io::Result<()> {
        assert!(!BROKEN.load(Ordering::SeqCst), "on purpose");
        spawn(scope, work)
    }
    const LIMIT: Duration = Duration::from_secs(20);
    let directory = tempfile::tempdir().unwrap();
    let read = Request::Read { volume: VOLUME };
    let (sender, receiver) = mpsc::channel();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (address, stop) = ("127.0.0.1:0".parse().unwrap(), &stop);
        let ready = move |at| sender.send(at).unwrap();
        let state = directory.path();
        let server =
            scope.spawn(move || serve_with(address, state, Access::Anybody, ready, stop, spawn_or_panic));
        let address = receiver.recv_timeout(TIMEOUT).unwrap();
        let mut known = Client::new(address.to_string(), None);
        known.request(&read, TIMEOUT).unwrap();
        BROKEN.store(true, Ordering::SeqCst);
        let _last = TcpStream::connect(address).unwrap();
        let (since, mut is_answered) = (Instant::now(), true);
        while is_answered && since.elapsed() < LIMIT {
            is_answered = known.request(&read, TIMEOUT).is_ok();
        }
        stop.store(true, Ordering::SeqCst);
        assert!(server.join().is_err(), "the process ends with the panic");
        assert!(!is_answered, "who was connected is still answered");
    });
}

/// A lock takes no more than a descriptor that reads: nobody else may open any of it.
#[test]
fn no_other_user_can_open_the_state() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let set_mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let create = cas(None, register(1, "a", Mode::Solo, 1));
    let second = cas(Some(register(1, "a", Mode::Solo, 1)), register(1, "a", Mode::Mirrored, 2));
    let state = directory.path().join("made/state");
    let (lock, registers) = (state.join("lock"), state.join("registers.json"));
    let is_closed = |what| {
        assert_eq!((mode(&lock), mode(&registers)), (0o600, 0o600), "{what}");
    };
    with_server(&state, |address| {
        Client::new(address.to_string(), None).request(&create, TIMEOUT).unwrap();
        is_closed("new");
    });
    assert_eq!((mode(&state), mode(&directory.path().join("made"))), (0o700, 0o700));
    // As they were made before, in a directory that somebody else may have made for more than this.
    std::fs::write(state.join("registers.json.new"), "").unwrap();
    for path in [&lock, &registers, &state.join("registers.json.new")] {
        set_mode(path, 0o644);
    }
    set_mode(&state, 0o755);
    with_server(&state, |address| {
        is_closed("at the start");
        Client::new(address.to_string(), None).request(&second, TIMEOUT).unwrap();
        is_closed("over one that was left");
    });
    assert_eq!(mode(&state), 0o755);
}
