//! Every dependency that a crate names is used in it: what is left over is built, watched and trusted for nothing.
//!
//! A use is the crate's name before `::`, `;` or ` as`, outside of prose: in `src/` for a dependency of the crate, anywhere
//! in it for one of its tests. What it does not know: a crate that is only linked. There is none.

use super::{Findings, Source, code};
use serde_json::Value;

/// Checks the crates that `cargo metadata --no-deps` tells of.
pub fn check(metadata: &Value, sources: &[Source], findings: &mut Findings) {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let code: Vec<(&str, String)> = sources
        .iter()
        .filter(|source| source.is_rust())
        .map(|source| (source.path.as_str(), code::blank_prose(&source.text)))
        .collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let directory = manifest.strip_prefix(root).unwrap_or(manifest).trim_start_matches('/');
        let Some(directory) = directory.strip_suffix("Cargo.toml") else { continue };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let named = dependency["rename"].as_str().or(dependency["name"].as_str()).unwrap_or_default();
            let below = match dependency["kind"].as_str() {
                None => format!("{directory}src/"),
                Some(_) => directory.to_owned(),
            };
            let ident = named.replace('-', "_");
            if !code.iter().any(|(path, code)| path.starts_with(&below) && names(code, &ident)) {
                findings.errors.push(format!("{directory}Cargo.toml: {named} is not used in {below}"));
            }
        }
    }
}

fn names(code: &str, ident: &str) -> bool {
    code.match_indices(ident).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + ident.len()..];
        let is_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !is_word && ["::", ";", " as "].iter().any(|ends| after.starts_with(ends))
    })
}
