//! Documents stay true where a program can tell: links lead somewhere, every crate is on the map, and of each command it is
//! said who runs it.

use super::arrows::Crate;
use super::{Findings, Source};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The one-page map of the code.
const MAP: &str = "ARCHITECTURE.md";

/// Complains about links between documents and files of the repository that lead nowhere.
pub fn check_links(sources: &[Source], findings: &mut Findings) {
    let files: BTreeSet<&Path> = sources.iter().map(|source| Path::new(&source.path)).collect();
    let directories: BTreeSet<&Path> = files.iter().flat_map(|file| file.ancestors().skip(1)).collect();
    for source in sources.iter().filter(|source| source.is_markdown()) {
        let here = Path::new(&source.path).parent().unwrap_or(Path::new(""));
        for (line, link) in links(&source.text) {
            let target = link.split('#').next().unwrap_or_default();
            let (path, anchor) = if target.is_empty() {
                (PathBuf::from(&source.path), link.split('#').nth(1))
            } else {
                (normal(&here.join(target)), link.split('#').nth(1))
            };
            let known = files.contains(path.as_path()) || directories.contains(path.as_path());
            if !known {
                findings.errors.push(format!("{}:{line}: the link {link} leads nowhere", source.path));
            } else if let Some(anchor) = anchor
                && !has_anchor(sources, &path, anchor)
            {
                findings.errors.push(format!("{}:{line}: {link}: no such heading", source.path));
            }
        }
    }
}

/// Complains about commands in documents of which nobody has said who runs them in the tests, or why nobody does; and about
/// blocks of nothing in particular, which may be commands. `filer/tests/documents` runs them.
pub fn check_commands(sources: &[Source], findings: &mut Findings) {
    let is_shown = |path: &str| path == "README.md" || path.starts_with("docs/");
    for source in sources.iter().filter(|source| source.is_markdown() && is_shown(&source.path)) {
        let mut above = "";
        let mut inside = false;
        for (index, line) in source.text.lines().enumerate() {
            if let Some(kind) = line.trim_start().strip_prefix("```") {
                let at = format!("{}:{}", source.path, index + 1);
                match kind.trim() {
                    _ if inside => {}
                    "sh" if is_said(above) => {}
                    "sh" => findings.errors.push(format!(
                        "{at}: say above these commands who runs them: <!-- run: a -->, or <!-- not run: why -->"
                    )),
                    "toml" | "text" => {}
                    other => findings.errors.push(format!("{at}: {other:?} is no kind of block: use sh, toml or text")),
                }
                inside = !inside;
            }
            above = line;
        }
    }
}

fn is_said(remark: &str) -> bool {
    let said = remark.trim().strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")).map(str::trim);
    let with_words = |begin| {
        said.and_then(|said| said.strip_prefix(begin)).is_some_and(|rest: &str| !rest.trim().is_empty())
    };
    with_words("run:") || with_words("not run:")
}

/// Complains about crates that the map does not name.
pub fn check_crate_map(sources: &[Source], crates: &[Crate], findings: &mut Findings) {
    let Some(map) = sources.iter().find(|source| source.path == MAP) else {
        findings.errors.push(format!("{MAP} is missing"));
        return;
    };
    for package in crates {
        let written =
            [format!("`{}`", package.name), format!("`{}/`", package.name), format!("[{}]", package.name)];
        if !written.iter().any(|form| map.text.contains(form.as_str())) {
            findings.errors.push(format!("{MAP} does not name the crate `{}`", package.name));
        }
    }
}

/// The relative links of a document with their line numbers. Code blocks hold none.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            let link = rest.split([')', ' ']).next().unwrap_or_default();
            if !link.is_empty() && !link.contains("://") && !link.starts_with("mailto:") {
                found.push((index + 1, link.to_owned()));
            }
        }
    }
    found
}

fn has_anchor(sources: &[Source], path: &Path, anchor: &str) -> bool {
    let Some(source) = sources.iter().find(|source| Path::new(&source.path) == path) else { return true };
    // Only documents have headings; a line number in a source file is not checked.
    !source.is_markdown()
        || source.text.lines().filter(|line| line.starts_with('#')).any(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).eq(anchor.chars())
        })
}

fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                parts.pop();
            }
            Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts
}
