//! One daemon that was started here, and what it says over its control socket. Dropping it is SIGKILL.

use admin_api::control::{Answer, Request, call};
use admin_api::status::VolumeStatus;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long an answer may take; a consistency point may be on its way.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// A running process.
pub struct Daemon(Child);

impl Daemon {
    /// Starts a program with its output in a file. The kernel kills it when this program dies, where `setpriv` can
    /// ask for that.
    pub fn start(program: &Path, arguments: &[OsString], output: &Path) -> Result<Daemon> {
        let setpriv = Path::new("/usr/bin/setpriv");
        let mut command = Command::new(if setpriv.exists() { setpriv } else { program });
        if setpriv.exists() {
            command.args(["--pdeathsig", "KILL"]).arg(program);
        }
        let output = File::options().create(true).append(true).open(output)?;
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Daemon(command.spawn().with_context(|| format!("cannot start {}", program.display()))?))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a node keeps what.
#[derive(Clone, Debug)]
pub struct Files {
    /// Its directory.
    pub dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

impl Files {
    /// The local tree.
    pub fn base(&self) -> PathBuf {
        self.dir.join("base")
    }

    /// Where the volume is mounted.
    pub fn mount(&self) -> PathBuf {
        self.dir.join("mount")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("twinfiler.toml")
    }

    /// What the node says about its one volume.
    pub fn status(&self) -> Result<VolumeStatus> {
        match call(&self.control(), &Request::Status, ANSWER_LIMIT)? {
            Answer::Status(status) => status.volumes.into_iter().next().context("a node without volumes"),
            other => bail!("not a status: {other:?}"),
        }
    }

    /// Brings the local tree up to date.
    pub fn consistency_point(&self, volume: &str) -> Result<()> {
        let request = Request::ConsistencyPoint { volume: volume.to_owned() };
        match call(&self.control(), &request, ANSWER_LIMIT)? {
            Answer::ConsistencyPoint(_) => Ok(()),
            other => bail!("no consistency point: {other:?}"),
        }
    }

    /// The end of what the daemon printed.
    pub fn output_tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("output")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
