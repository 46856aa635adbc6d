//! Rules about any text file: how long it may be, what it must open with, which words it may not hold.

use super::{Findings, Source};

/// A source file of this many lines fails.
const HARD_LIMIT_LINES: usize = 800;

/// A source file of this many lines is worth splitting.
const SOFT_LIMIT_LINES: usize = 400;

/// Marks of unfinished work. Written in two halves, so that this file does not break its own rule.
const UNFINISHED: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("todo", "!(")];

/// What is written in one word. Found in any case.
const TWO_WORDS: &str = concat!("can", " not");

/// Hosts of package registries: what is built must not depend on where somebody gets packages from.
const REGISTRY_HOSTS: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("deb.debian", ".org"),
    concat!("pypi", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("static.rust-lang", ".org"),
];

/// Directories that exist only on somebody's machine.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Files that programs write and that follow their rules.
const GENERATED: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];

/// Checks one file.
pub fn check(source: &Source, findings: &mut Findings) {
    if GENERATED.contains(&source.path.as_str()) {
        return;
    }
    let path = &source.path;
    if source.is_rust() {
        let lines = source.text.lines().count();
        if lines >= HARD_LIMIT_LINES {
            findings.errors.push(format!("{path}: {lines} lines; split it, {HARD_LIMIT_LINES} is the limit"));
        } else if lines > SOFT_LIMIT_LINES {
            findings
                .warnings
                .push(format!("{path}: {lines} lines; more than {SOFT_LIMIT_LINES}, consider splitting"));
        }
        // Cargo would take a file that several test programs share for one of them.
        if path.ends_with("/mod.rs") && !path.ends_with("tests/common/mod.rs") {
            findings.errors.push(format!("{path}: a module's file stands beside its folder, under its name"));
        }
        if !opens_with_module_doc(&source.text) {
            findings.errors.push(format!("{path}: must open with `//!`: what it is for, what can go wrong"));
        }
    }
    for (index, line) in source.text.lines().enumerate() {
        let mut complain = |what: &str| findings.errors.push(format!("{path}:{}: {what}", index + 1));
        if line.ends_with([' ', '\t']) && !source.is_markdown() {
            complain("white space at the end of the line");
        }
        if line.contains('\t') && tabs_are_wrong(path) {
            complain("a tab");
        }
        if line.to_ascii_lowercase().contains(TWO_WORDS) {
            complain("write it in one word: cannot");
        }
        for word in UNFINISHED.iter().filter(|word| contains_word(line, word)) {
            complain(&format!("{word}: finish it or write down why it stays"));
        }
        for host in REGISTRY_HOSTS.iter().filter(|host| line.contains(*host)) {
            complain(&format!("{host}: name no package registry"));
        }
        for dir in MACHINE_PATHS.iter().filter(|dir| starts_a_path(line, dir)) {
            complain(&format!("{dir}: a path of one machine"));
        }
    }
    if !source.text.is_empty() && !path.ends_with(".txt") && !source.text.ends_with('\n') {
        findings.errors.push(format!("{path}: does not end with a newline"));
    }
}

fn opens_with_module_doc(text: &str) -> bool {
    // A shebang or an inner attribute may come first, nothing else.
    text.lines()
        .find(|line| !line.is_empty() && !line.starts_with("#!"))
        .is_some_and(|line| line.starts_with("//!"))
}

fn tabs_are_wrong(path: &str) -> bool {
    [".rs", ".toml", ".md", ".yml", ".yaml", ".sh"].iter().any(|ending| path.ends_with(ending))
}

/// True when `word` stands in the line by itself.
fn contains_word(line: &str, word: &str) -> bool {
    let part_of_word = |neighbour: Option<char>| neighbour.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        !part_of_word(line[..at].chars().next_back()) && !part_of_word(line[at + word.len()..].chars().next())
    })
}

/// True when an absolute path in the line begins with `dir`.
fn starts_a_path(line: &str, dir: &str) -> bool {
    line.match_indices(dir).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '}' | '>' | '~'))
    })
}
