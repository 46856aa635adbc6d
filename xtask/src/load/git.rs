//! A git clone on the volume with one commit after the other.
//!
//! A commit is acknowledged when git says so. After a change of mounts every acknowledged commit must be in the
//! history, in its order, and the repository must pass `git fsck`.

use super::{Checked, Load};
use crate::random::{Random, content};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Programs that hang, because the volume hangs, are given up after this.
const LIMIT: Duration = Duration::from_secs(60);

/// Pause between two commits: git is here for its pattern, not for its speed.
const PAUSE: Duration = Duration::from_millis(30);

/// Commits stop here, so that checks stay quick.
const MAX_COMMITS: usize = 400;

/// See the module.
pub struct Git {
    source: PathBuf,
    logs: PathBuf,
    random: Random,
    cloned: bool,
    commits: Vec<String>,
}

impl Git {
    /// Makes a repository at `source`, outside of the volume, with what is there as its first commit.
    pub fn new(source: &Path, logs: &Path, random: Random) -> io::Result<Self> {
        let load = Git {
            source: source.to_path_buf(),
            logs: logs.to_path_buf(),
            random,
            cloned: false,
            commits: Vec::new(),
        };
        load.git(source, &["init", "-q", "-b", "main"])?;
        load.git(source, &["add", "-A", "-f"])?;
        load.git(source, &["commit", "-q", "-m", "The source"])?;
        Ok(load)
    }

    /// Runs git, gives its output.
    fn git(&self, dir: &Path, arguments: &[&str]) -> io::Result<String> {
        let verb = arguments.first().copied().unwrap_or_default();
        let mut command = Command::new("git");
        // Nobody's own settings, and no maintenance in the background that would outlive the command.
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "Twinfiler")
                .env(format!("GIT_{role}_EMAIL"), "demo@localhost");
        }
        command.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "advice.detachedHead=false"]);
        command.arg("-C").arg(dir).args(arguments).stdin(Stdio::null());
        let log = crate::steps::run(&self.logs, &format!("git-{verb}"), &mut command, LIMIT)
            .map_err(|error| io::Error::other(format!("{error:#}")))?;
        fs::read_to_string(log)
    }

    fn clone_dir(mount: &Path) -> PathBuf {
        mount.join("clone")
    }

    fn history(&self, clone: &Path) -> io::Result<Vec<String>> {
        let text = self.git(clone, &["log", "--format=%H", "--reverse"])?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

impl Load for Git {
    fn name(&self) -> String {
        "git clone and commits".to_owned()
    }

    fn arrive(&mut self, mount: &Path) -> io::Result<Checked> {
        let clone = Self::clone_dir(mount);
        let mut checked = Checked::default();
        if !self.cloned {
            if clone.exists() {
                fs::remove_dir_all(&clone)?;
            }
            let source = self.source.to_string_lossy().into_owned();
            self.git(mount, &["clone", "-q", "--no-local", &source, "clone"])?;
            self.cloned = true;
            self.commits = self.history(&clone)?;
        }
        // What the interrupted command held is left over, as after any crash of a client.
        for lock in ["index.lock", "HEAD.lock", "refs/heads/main.lock"] {
            match fs::remove_file(clone.join(".git").join(lock)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let history = self.history(&clone)?;
        checked.compared += self.commits.len() as u64;
        if !history.starts_with(&self.commits) {
            let kept = history.iter().zip(&self.commits).take_while(|(is, should)| is == should).count();
            checked.lost.push(format!("git: {} of {} commits are there", kept, self.commits.len()));
        } else if history.len() > self.commits.len() + 1 {
            checked.lost.push(format!("git: {} commits, {} were made", history.len(), self.commits.len()));
        } else {
            self.commits = history;
        }
        if let Err(error) = self.git(&clone, &["fsck", "--full", "--no-dangling"]) {
            checked.lost.push(format!("git fsck: {error}"));
        }
        if checked.lost.is_empty() {
            self.git(&clone, &["reset", "-q", "--hard"])?;
        }
        Ok(checked)
    }

    fn step(&mut self, mount: &Path) -> io::Result<u64> {
        std::thread::sleep(PAUSE);
        if self.commits.len() >= MAX_COMMITS {
            return Ok(0);
        }
        let clone = Self::clone_dir(mount);
        let name = format!("change-{}", self.random.below(40));
        let len = 100 + self.random.index(6000);
        fs::write(clone.join(name), content(self.random.next(), len))?;
        self.git(&clone, &["add", "-A"])?;
        let message = format!("Change {}", self.commits.len());
        self.git(&clone, &["commit", "-q", "-m", &message])?;
        let head = self.git(&clone, &["rev-parse", "HEAD"])?;
        self.commits.push(head.trim().to_owned());
        Ok(1)
    }
}
