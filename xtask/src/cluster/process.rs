//! One daemon that we started: its output goes to a file, and it does not outlive us.
//!
//! It runs in its own process group, so that Ctrl-C in the terminal reaches us and not it. The kernel kills it
//! when we die without a chance to clean up (through setpriv, because asking for that ourselves between fork and
//! exec would take unsafe code). That watch is on the thread that starts it: start daemons from the main thread.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often an ending process is looked at.
const POLL: Duration = Duration::from_millis(10);

/// See the module. Dropping it is SIGKILL.
pub struct Daemon {
    name: String,
    child: Option<Child>,
}

impl Daemon {
    /// Starts a program; its output is appended to `log`. `detached`: it may outlive us.
    pub fn start(
        name: &str,
        program: &Path,
        arguments: &[OsString],
        log: &Path,
        detached: bool,
    ) -> Result<Daemon> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = match crate::packages::find_program("setpriv") {
            Some(setpriv) if !detached => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            _ => Command::new(program),
        };
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Daemon { name: name.to_owned(), child: Some(child) })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("it does not run")?;
        kill_process(Pid::from_child(child), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// SIGTERM; waits for the end, which must be a clean one.
    pub fn terminate(mut self, limit: Duration) -> Result<()> {
        // Gone already: the wait below tells how it ended.
        let _ = self.signal(Signal::TERM);
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        let ended = crate::interrupt::poll(limit, POLL, || child.try_wait().ok().flatten())?;
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{} ended with {status} after SIGTERM", self.name),
            None => bail!("{} did not end within {limit:?} after SIGTERM", self.name),
        }
    }

    /// Lets it live on without us.
    pub fn leave_running(mut self) {
        self.child = None;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn start(script: &str, dir: &Path) -> Daemon {
        let arguments = ["-c", script].map(OsString::from);
        Daemon::start("test", &PathBuf::from("/bin/sh"), &arguments, &dir.join("out"), false).unwrap()
    }

    #[test]
    fn dropping_it_kills_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = start("exec sleep 1000", dir.path());
        assert!(daemon.is_running());
        let proc = PathBuf::from(format!("/proc/{}", daemon.id()));
        assert!(proc.exists());
        drop(daemon);
        assert!(!proc.exists());
    }

    #[test]
    fn a_clean_end_is_told_from_a_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(10);
        let ready = |name: &str| {
            let file = dir.path().join(name);
            move || {
                while !file.exists() {
                    std::thread::sleep(POLL)
                }
            }
        };
        let script = |name: &str, status: u8| {
            let file = dir.path().join(name);
            format!("trap 'exit {status}' TERM; touch {}; while :; do sleep 0.01; done", file.display())
        };
        let daemon = start(&script("clean", 0), dir.path());
        ready("clean")();
        assert!(daemon.terminate(limit).is_ok());
        let daemon = start(&script("bad", 3), dir.path());
        ready("bad")();
        assert!(format!("{:#}", daemon.terminate(limit).unwrap_err()).contains("exit status: 3"));
    }
}
