//! Every row of the tables of failures and of operations is held by a test that exists.
//!
//! The last column of each table in these documents names tests in backquotes: a function by its path's last part
//! (`…` stands for a beginning or an end that is left out), a module of tests, a source file, or after "guests:" also
//! a scenario. A row that says "the same" is held by the tests of the row above. What can go wrong: that a named test
//! exists does not show that it holds what the row says; only its reader can tell.

use super::{Findings, Source};
use std::path::Path;

/// The documents.
const TABLES: [&str; 2] = ["docs/failures.md", "docs/operations.md"];
/// Where scenarios are named.
const SCENARIOS: &str = "soft-roce-ci/src/";
/// What a row says whose tests are those of the row above.
const SAME: &str = "the same";

/// Complains about rows that name no test, or one that is nowhere.
pub fn check(sources: &[Source], findings: &mut Findings) {
    for path in TABLES {
        match sources.iter().find(|source| source.path == path) {
            Some(table) => check_table(table, sources, findings),
            None => findings.errors.push(format!("{path} is missing")),
        }
    }
}

fn check_table(table: &Source, sources: &[Source], findings: &mut Findings) {
    let rust: Vec<&Source> = sources.iter().filter(|source| source.is_rust()).collect();
    for (index, line) in table.text.lines().enumerate() {
        let Some(tests) = last_cell(line) else { continue };
        let at = format!("{}:{}", table.path, index + 1);
        let (functions, scenarios) = tests.split_once("guests:").unwrap_or((tests, ""));
        let named = names(functions).filter(|name| !is_crate(sources, name));
        let (mut count, mut missing) = (0, Vec::new());
        for name in named {
            count += 1;
            if !is_test(&rust, name) {
                missing.push(name);
            }
        }
        for name in names(scenarios) {
            count += 1;
            if !is_scenario(&rust, name) && !is_test(&rust, name) {
                missing.push(name);
            }
        }
        if count == 0 && !tests.starts_with(SAME) {
            findings.errors.push(format!("{at}: this row names no test"));
        }
        findings.errors.extend(missing.iter().map(|name| format!("{at}: there is no test `{name}`")));
    }
}

/// The last cell of a row of a table; none for its head, the line below that, and other lines.
fn last_cell(line: &str) -> Option<&str> {
    let cell = line.strip_prefix('|')?.trim_end().strip_suffix('|')?.rsplit('|').next()?.trim();
    let is_rule = !cell.is_empty() && cell.chars().all(|c| matches!(c, '-' | ':'));
    (cell != "test" && !is_rule).then_some(cell)
}

/// What stands in backquotes.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_crate(sources: &[Source], name: &str) -> bool {
    let manifest = format!("{name}/Cargo.toml");
    sources.iter().any(|source| source.path == manifest)
}

fn is_scenario(rust: &[&Source], name: &str) -> bool {
    let quoted = format!("\"{name}\"");
    rust.iter().any(|source| source.path.starts_with(SCENARIOS) && source.text.contains(&quoted))
}

fn is_test(rust: &[&Source], name: &str) -> bool {
    if name.contains('/') {
        return rust.iter().any(|source| source.path == name);
    }
    let mut parts = name.rsplit("::");
    let last = parts.next().unwrap_or(name);
    if last == "tests" {
        let module = parts.next().unwrap_or_default();
        return rust.iter().any(|source| {
            let path = Path::new(&source.path);
            path.iter().any(|part| part == module) || path.file_stem().is_some_and(|stem| stem == module)
        });
    }
    let function = if let Some(end) = last.strip_prefix('…') {
        format!("{end}(")
    } else if let Some(begin) = last.strip_suffix('…') {
        format!("fn {begin}")
    } else {
        format!("fn {last}(")
    };
    // A name that is left out to nothing would be found everywhere.
    last.chars().any(char::is_alphanumeric)
        && rust
            .iter()
            .any(|source| source.text.match_indices(&function).any(|(at, _)| in_fn(&source.text, at)))
}

/// True if the line of this place defines a function.
fn in_fn(text: &str, at: usize) -> bool {
    let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let end = text[at..].find('\n').map_or(text.len(), |len| at + len);
    text[begin..end].trim_start().trim_start_matches("pub ").starts_with("fn ")
}
