//! The program under test: given, or built by cargo.
//!
//! It is linked into a directory of this run. A build that goes on meanwhile replaces its own file and not ours, so
//! guests, which load it piece by piece, never see half of one and half of another.

use anyhow::{Context, Result, bail};
use soft_roce_ci::lab::{self, LabDirectory};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program, as long as this lives.
pub struct Program {
    directory: LabDirectory,
}

impl Program {
    /// Takes the given one or lets cargo build it.
    pub fn find(given: Option<&Path>) -> Result<Program> {
        let source = given.map_or_else(build, |path| Ok(path.to_owned()))?;
        let directory = LabDirectory::create(&lab::cache()?.join("labs"))?;
        let target = directory.path().join(lab::PROGRAM_NAME);
        lab::place(&source, &target)?;
        Ok(Program { directory })
    }

    /// Where it is, on the host and in guests.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(lab::PROGRAM_NAME)
    }
}

/// Builds it for release; silent and quick when it is up to date.
fn build() -> Result<PathBuf> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("this crate is in no workspace")?;
    let target = lab::target_directory()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "filer",
            "--bin",
            lab::PROGRAM_NAME,
            "--target-dir",
        ])
        .arg(&target)
        .current_dir(workspace)
        .status()
        .context("cannot start cargo; say with --program what to test")?;
    if !status.success() {
        bail!("cargo cannot build {}: {status}", lab::PROGRAM_NAME);
    }
    let built = target.join("release").join(lab::PROGRAM_NAME);
    fs::metadata(&built).with_context(|| format!("cargo built no {}", built.display()))?;
    Ok(built)
}
