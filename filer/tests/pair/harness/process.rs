//! One process: of the built program, or of one that it works with.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Lines of output that a failed test shows.
const SHOWN_LINES: usize = 40;

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `twinfiler` with its output appended to `output`. It dies with the calling thread.
    pub fn start(arguments: &[&str], output: &Path) -> Process {
        Process::start_program(env!("CARGO_BIN_EXE_twinfiler"), arguments, output)
    }

    /// Starts a program likewise.
    pub fn start_program(program: &str, arguments: &[&str], output: &Path) -> Process {
        let file = File::options().create(true).append(true).open(output).unwrap();
        // The kernel ends it with the thread that started it, should the test be killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(arguments)
            .env_remove("TWINFILER_CONFIG")
            .env_remove("NOTIFY_SOCKET")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .expect("setpriv (util-linux) must be installed");
        Process { child, output: output.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end within {limit:?}\n{}", tail(&self.output));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

/// The end of what it printed.
pub fn tail(output: &Path) -> String {
    let text = std::fs::read_to_string(output).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// Runs `twinfiler` to its end.
pub fn twinfiler(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_twinfiler"))
        .args(arguments)
        .env_remove("TWINFILER_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs a program of the system, which must succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}
