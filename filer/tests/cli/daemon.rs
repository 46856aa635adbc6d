//! What a daemon does about signals, and about messages that nobody takes.

use super::{config, expect};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{PipeReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinfiler");
const LIMIT: Duration = Duration::from_secs(60);

/// A witness without keys; it meets signals as a node does. Its errors go to `said`.
fn witness(before: &[&str], directory: &Path, said: &Path) -> Child {
    Command::new(before[0])
        .args(&before[1..])
        .args([PROGRAM, "witness", "--listen", "127.0.0.1:0", "--state"])
        .arg(directory.join("state"))
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(said).unwrap())
        .spawn()
        .unwrap()
}

/// Waits until somebody has written this.
fn wait_for(path: &Path, what: &str) {
    let begun = Instant::now();
    while !std::fs::read_to_string(path).unwrap_or_default().contains(what) {
        let said = std::fs::read_to_string(path).unwrap_or_default();
        assert!(begun.elapsed() < LIMIT, "no {what:?} in\n{said}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn signals_sent_by_habit_are_told_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let said = directory.path().join("said");
    // In a session of its own, without a terminal, as systemd starts it.
    let mut child = witness(
        &["setpriv", "--pdeathsig", "KILL", "setsid", "env", "--default-signal=HUP"],
        directory.path(),
        &said,
    );
    wait_for(&said, "the witness serves");
    let pid = Pid::from_child(&child);
    for signal in [Signal::PIPE, Signal::XFSZ] {
        kill_process(pid, signal).unwrap();
    }
    for (signal, name) in [
        (Signal::HUP, "SIGHUP"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::VTALARM, "SIGVTALRM"),
        (Signal::PROF, "SIGPROF"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::TSTP, "SIGTSTP"),
        (Signal::TTIN, "SIGTTIN"),
        (Signal::TTOU, "SIGTTOU"),
    ] {
        kill_process(pid, signal).unwrap();
        wait_for(&said, name);
        assert!(child.try_wait().unwrap().is_none(), "{name} ended it");
    }
    kill_process(pid, Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Runs this in a shell that has a terminal, until that is dropped or killed.
fn on_a_terminal(command: &str) -> Child {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "env", "--default-signal=HUP", "script", "--quiet", "--command"])
        .args([command, "/dev/null"])
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_lost_terminal_is_a_clean_stop() {
    let directory = tempfile::tempdir().unwrap();
    let (said, status) = (directory.path().join("said"), directory.path().join("status"));
    // `script` gives it a terminal, which goes with `script`: then the outer shell is ended, and with that the kernel tells
    // everybody in the foreground. The inner one outlives that and notes how the program ended.
    let inside = format!(
        "(trap true HUP; {} witness --listen 127.0.0.1:0 --state {} 2> {}; echo ended $? > {}); true",
        PROGRAM,
        directory.path().join("state").display(),
        said.display(),
        status.display()
    );
    let mut terminal = on_a_terminal(&inside);
    wait_for(&said, "the witness serves");
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    wait_for(&status, "ended 0");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Makes a volume and the configuration of a node that serves it without a partner and a witness.
fn volume(directory: &Path) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    let path = config(directory);
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("17400", &free_port().to_string())).unwrap();
    std::fs::create_dir(at("mount")).unwrap();
    let (base, log) = (at("base"), at("log"));
    let tree = ["init", "--base", &base, "--volume-id", "00112233445566778899aabbccddeeff"];
    let log = ["--log", &log, "--log-kind", "block", "--capacity", "1MiB"];
    expect(0, &[&tree[..], &log[..]].concat());
    path
}

/// Waits until something is so.
fn wait_until(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn answers(config: &str) -> bool {
    super::twinfiler(&["--config", config, "status"]).status.success()
}

/// Standard errors that take nothing, and who should read them.
fn deaf() -> [(&'static str, Stdio, Option<PipeReader>); 3] {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (still, mut filled) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&filled, true).unwrap();
    while filled.write(&[b'x'; 512]).is_ok() {}
    rustix::io::ioctl_fionbio(&filled, false).unwrap();
    [
        ("its reader has gone", writer.into(), None),
        ("its filesystem is full", full.into(), None),
        ("its reader stands still", filled.into(), Some(still)),
    ]
}

/// A daemon that ends with this process, and says what it has to say there.
fn start(arguments: &[&str], stderr: Stdio) -> Child {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", PROGRAM])
        .args(arguments)
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap()
}

#[test]
fn a_node_whose_messages_nobody_takes_serves_on() {
    for (why, stderr, _reader) in deaf() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = volume(directory.path());
        let mut child = start(&["--config", &path, "serve"], stderr);
        wait_until(why, || answers(&path));
        expect(0, &["--config", &path, "takeover", "home", "--force"]);
        let file = directory.path().join("mount/file");
        std::fs::write(&file, "served").unwrap();
        // It would tell of each.
        for signal in [Signal::USR1, Signal::USR2] {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "served", "{why}");
        assert!(answers(&path), "{why}");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{why}");
    }
}

#[test]
fn a_witness_whose_messages_nobody_takes_serves_on() {
    for (why, stderr, _reader) in deaf() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let state = directory.path().join("state").display().to_string();
        let mut child = start(&["witness", "--listen", &address, "--state", &state], stderr);
        let answers = || TcpStream::connect(&address).is_ok();
        wait_until(why, answers);
        kill_process(Pid::from_child(&child), Signal::USR1).unwrap();
        assert!(answers(), "{why}");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{why}");
    }
}

#[test]
fn a_lost_terminal_that_the_messages_went_to_is_a_clean_stop() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = volume(directory.path());
    let status = directory.path().join("status");
    let shown = status.display();
    let inside = format!("(trap true HUP; {PROGRAM} --config {path} serve; echo ended $? > {shown}); true");
    let mut terminal = on_a_terminal(&inside);
    wait_until("the node answers", || answers(&path));
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    wait_for(&status, "ended ");
    assert_eq!(std::fs::read_to_string(&status).unwrap(), "ended 0\n");
}

#[test]
fn a_daemon_that_is_to_outlive_its_terminal_does() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let [pid, said, status, state] = ["pid", "said", "status", "state"].map(at);
    let (pid_to, said_to, status_to, state_in) =
        (pid.display(), said.display(), status.display(), state.display());
    // As nohup does.
    let inside = format!(
        "trap '' HUP; sh -c 'echo $$ > {pid_to}; exec {PROGRAM} witness --listen 127.0.0.1:0 --state {state_in} \
         2> {said_to}'; echo ended $? > {status_to}"
    );
    let mut terminal = on_a_terminal(&inside);
    wait_for(&said, "the witness serves");
    let pid: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    // Signals are met in the order of their numbers: when this one is told, it has met the other.
    kill_process(pid, Signal::USR1).unwrap();
    wait_for(&said, "SIGUSR1");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!status.exists(), "{}", std::fs::read_to_string(&said).unwrap());
    kill_process(pid, Signal::TERM).unwrap();
    wait_for(&status, "ended 0");
}
