//! What may stand only once in a file, and places that may not lie in each other.
//!
//! Paths are compared as they are written: where links lead is looked at on the machine (`cli::preflight`).

use super::section::Section;
use std::path::{Path, PathBuf};

/// In a base: what is ours.
const HIDDEN_NAME: &str = ".twinfiler";
/// In there: what is kept aside.
const SALVAGE_NAME: &str = "salvage";

/// See the module.
#[derive(Default)]
pub(super) struct Claims {
    values: Vec<(&'static str, String, usize)>,
    trees: Vec<(&'static str, PathBuf, usize)>,
    /// As its table is called in errors, the directory, and the line.
    salvages: Vec<(String, PathBuf, usize)>,
}

/// What a base is called here.
pub const BASE_KIND: &str = "base directory";

/// Whether what is kept in `salvage` would be lost or hidden with `tree`, or `tree` with it. A base's own directory for it is
/// taken from no base.
pub fn salvage_is_endangered(salvage: &Path, kind: &str, tree: &Path) -> bool {
    let is_bases_own = kind == BASE_KIND && salvage.starts_with(tree.join(HIDDEN_NAME).join(SALVAGE_NAME));
    overlaps(salvage, tree) && !is_bases_own
}

/// Whether one of the two lies in the other, or they are the same.
pub fn overlaps(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

impl Claims {
    pub(super) fn claim(
        &mut self,
        section: &Section<'_, '_>,
        kind: &'static str,
        value: String,
        line: usize,
    ) {
        if let Some(first) = self.line_of(kind, &value) {
            section.problem(
                line,
                format!("the {kind} {value} is used twice"),
                format!("line {first} has it already: give one of them another"),
            );
        }
        self.values.push((kind, value, line));
    }

    pub(super) fn line_of(&self, kind: &str, value: &str) -> Option<usize> {
        self.values.iter().find(|(k, v, _)| *k == kind && v == value).map(|(.., line)| *line)
    }

    pub(super) fn claim_tree(
        &mut self,
        section: &Section<'_, '_>,
        kind: &'static str,
        path: &Path,
        line: usize,
    ) {
        let clash = self.trees.iter().find(|(_, other, _)| overlaps(path, other));
        if let Some((other_kind, other, first)) = clash {
            let relation = if path == other { "is also" } else { "overlaps with" };
            section.problem(
                line,
                format!("the {kind} {} {relation} the {other_kind} {}", path.display(), other.display()),
                format!("line {first} uses it: choose paths that do not lie in each other"),
            );
        }
        self.trees.push((kind, path.to_owned(), line));
    }

    /// What is kept in `path` must outlive every tree; they are known at the end of the file.
    pub(super) fn claim_salvage(&mut self, section: &Section<'_, '_>, path: PathBuf, line: usize) {
        self.salvages.push((section.title().to_owned(), path, line));
    }

    /// Looks at what was claimed so. All trees are known.
    pub(super) fn check_salvages(&self, file: &Section<'_, '_>) {
        for (title, path, line) in &self.salvages {
            let clash = self.trees.iter().find(|(kind, tree, _)| salvage_is_endangered(path, kind, tree));
            if let Some((kind, tree, first)) = clash {
                let relation = if path == tree { "is also" } else { "overlaps with" };
                file.problem_of(
                    title,
                    *line,
                    format!("`salvage`: {} {relation} the {kind} {}", path.display(), tree.display()),
                    format!(
                        "line {first} uses it, and what is kept must be lost with no tree and hidden by no mount: choose a \
                         directory elsewhere, or leave `salvage` away: then it is `{HIDDEN_NAME}/{SALVAGE_NAME}` in `base`"
                    ),
                );
            }
        }
    }
}
