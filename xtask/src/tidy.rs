//! The repository's own rules, checked as tests are: `cargo xtask tidy`, and part of `verify`.
//!
//! Each rule is a function from what it looks at to complaints, so that its tests feed it bad samples. Rules look
//! only at files that git tracks.
//!
//! - [`text`]: length, headers, forbidden words and paths
//! - [`code`]: where `unsafe` may stand (a small lexer tells code from comments and strings)
//! - [`arrows`]: which crate may use which
//! - [`unused`]: every dependency is used
//! - [`runtime`]: where the node takes clocks, threads and locks from
//! - [`documents`]: links resolve, every crate is in ARCHITECTURE.md
//! - [`failures`]: every row of docs/failures.md and docs/operations.md names a test that exists

mod arrows;
mod code;
mod documents;
mod failures;
mod runtime;
mod text;
mod unused;

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// One tracked file that is text.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the root of the repository.
    pub path: String,
    /// Its content.
    pub text: String,
}

impl Source {
    /// True for Rust source.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// True for Markdown.
    pub fn is_markdown(&self) -> bool {
        self.path.ends_with(".md")
    }
}

/// What the rules have to say.
#[derive(Default, Debug)]
pub struct Findings {
    /// Violations: the check fails.
    pub errors: Vec<String>,
    /// Advice: it does not.
    pub warnings: Vec<String>,
}

/// Checks all rules; prints complaints.
pub fn run(workspace: &Workspace) -> Result<()> {
    let sources = tracked(workspace)?;
    let mut findings = Findings::default();
    for source in &sources {
        text::check(source, &mut findings);
        code::check(source, &mut findings);
        runtime::check(source, &mut findings);
    }
    code::check_allowed(&sources, &mut findings);
    documents::check_links(&sources, &mut findings);
    documents::check_commands(&sources, &mut findings);
    failures::check(&sources, &mut findings);
    let metadata = workspace.metadata()?;
    unused::check(&metadata, &sources, &mut findings);
    let crates = arrows::crates(&metadata);
    arrows::check(&crates, &mut findings);
    documents::check_crate_map(&sources, &crates, &mut findings);
    for warning in &findings.warnings {
        println!("warning: {warning}");
    }
    if findings.errors.is_empty() {
        return Ok(());
    }
    bail!("{} tidy rules broken:\n  {}", findings.errors.len(), findings.errors.join("\n  "))
}

/// Inputs of fuzz targets: bytes that follow no rule, which is what they are for.
const FUZZ_CORPUS: &str = "fuzz/corpus/";

/// All text files that git tracks or would track, as they are in the work tree. Without a repository (a release
/// archive) there is nothing to check against, which is said and not passed over.
fn tracked(workspace: &Workspace) -> Result<Vec<Source>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace.root())
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut sources: Vec<Source> = Vec::new();
    let ours = |path: &&str| !path.is_empty() && !path.starts_with(FUZZ_CORPUS);
    for path in names.split('\0').filter(ours) {
        let real: PathBuf = workspace.root().join(path);
        // A file that is deleted but not yet committed, a link, or something that is not text has no rules.
        if let Ok(text) = std::fs::read_to_string(&real) {
            sources.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests;
