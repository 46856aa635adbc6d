//! The repository and cargo: where things are, and how to build and run them.

use crate::steps;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The longest time for one cargo command. A cold release build of everything on two cores takes minutes.
pub const CARGO_LIMIT: Duration = Duration::from_secs(3600);

/// The repository that this program was built from.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace that cargo runs us in.
    pub fn find() -> Result<Self> {
        let own = std::env::var_os("CARGO_MANIFEST_DIR").context("start this with `cargo xtask`")?;
        let root = Path::new(&own).parent().context("xtask's manifest has no parent directory")?;
        Ok(Workspace { root: root.to_path_buf() })
    }

    /// The directory of the workspace's Cargo.toml.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo writes.
    pub fn target_dir(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => self.root.join(dir),
            None => self.root.join("target"),
        }
    }

    /// Where the output of the programs that we run goes.
    pub fn log_dir(&self) -> PathBuf {
        self.target_dir().join("xtask-logs")
    }

    /// A cargo command in the workspace.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root).args(arguments);
        // Set by the cargo that runs us; they would make every build script of the inner cargo stale.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs a cargo command with its output in a file.
    pub fn run_cargo(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        steps::run(&self.log_dir(), name, &mut self.cargo(arguments), CARGO_LIMIT)
    }

    /// Builds the daemon in release mode and says where it is. `shown`: the compiler's progress too, which a
    /// person who waits wants to see; errors always.
    pub fn build_daemon(&self, shown: bool) -> Result<PathBuf> {
        self.build("filer", "twinfiler", shown)
    }

    /// Builds a program of a package in release mode and says where it is.
    pub fn build(&self, package: &str, program: &str, shown: bool) -> Result<PathBuf> {
        let mut command = self.cargo(&["build", "--release", "--message-format=json-render-diagnostics"]);
        command.args(["--package", package, "--bin", program]);
        if !shown {
            command.arg("--quiet");
        }
        let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        if !output.status.success() {
            bail!("building {program} failed: {}", output.status);
        }
        executable(&String::from_utf8_lossy(&output.stdout), program)
            .with_context(|| format!("cargo built {program} but did not say where it is"))
    }

    /// The packages of the workspace as cargo sees them.
    pub fn metadata(&self) -> Result<Value> {
        let output = self
            .cargo(&["metadata", "--no-deps", "--format-version=1"])
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
    }

    /// The archives of published packages that cargo has downloaded to build this workspace, largest first.
    pub fn downloaded_archives(&self) -> Vec<PathBuf> {
        let home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
        let Some(cache) = home.map(|home| home.join("registry/cache")) else { return Vec::new() };
        let mut archives: Vec<(u64, PathBuf)> = children(&cache)
            .iter()
            .flat_map(|registry| children(registry))
            .filter(|path| path.extension().is_some_and(|extension| extension == "crate"))
            .filter_map(|path| Some((path.metadata().ok()?.len(), path)))
            .collect();
        archives.sort();
        archives.into_iter().rev().map(|(_, path)| path).collect()
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Finds the path of a program in cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/x/other"}
{"reason":"compiler-artifact","target":{"name":"twinfiler"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"twinfiler"},"executable":"/x/twinfiler"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "twinfiler"), Some(PathBuf::from("/x/twinfiler")));
        assert_eq!(executable(messages, "absent"), None);
    }
}
