//! Commands that prose, tables and the program's own messages name: each is one that the program takes.
//!
//! A command begins with `twinfiler` behind a backquote (or, in messages, an apostrophe) and ends with the next one. Words
//! in capitals and what a message puts in stand for values. What may be left out in prose are arguments, never the
//! right name of one.

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use filer::cli::Arguments;
use std::path::{Path, PathBuf};

/// Takes the place of words that stand for something. It is a name, a file, an id and a number.
const ANYTHING: &str = "00112233445566778899001122334455";

/// Commands of which a message says all that has to be typed.
const WHOLE: &[&str] = &["takeover", "switchover", "resync", "verify", "consistency-point", "split"];

/// Why the program would not take these words after its name. In a `message`, what an operator is told to type is whole.
fn refused(command: &str, in_message: bool) -> Option<String> {
    let is_name = |word: &str| word.chars().all(|c| c.is_ascii_uppercase() || matches!(c, '_' | '-'));
    let words = command
        .split_whitespace()
        .filter(|word| !matches!(*word, "…" | "..."))
        .map(|word| if is_name(word) && !word.starts_with('-') { ANYTHING } else { word });
    let error = Arguments::try_parse_from(words).err()?;
    let lacks_value =
        matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if value.is_empty());
    let subcommand = command.split_whitespace().nth(1).unwrap_or_default();
    match error.kind() {
        ErrorKind::MissingRequiredArgument if in_message && WHOLE.contains(&subcommand) => {
            Some(error.to_string())
        }
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => None,
        ErrorKind::InvalidValue if lacks_value => None,
        _ => Some(error.to_string()),
    }
}

/// The commands between `quote`s, with the number of their line.
fn commands_in(text: &str, quotes: &[char]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for quote in quotes {
        let start = format!("{quote}twinfiler ");
        for (at, _) in text.match_indices(&start) {
            let rest = &text[at + quote.len_utf8()..];
            if let Some(end) = rest.find(*quote) {
                found.push((text[..at].lines().count().max(1), rest[..end].to_owned()));
            }
        }
    }
    found
}

fn without_comments(source: &str) -> String {
    let lines = source.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// A message as it is shown: lines that go on are one, and what is put in is a value.
fn message(source: &str) -> String {
    let mut text = String::new();
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        match line.strip_suffix('\\') {
            Some(begun) if lines.peek().is_some() => {
                text += begun;
                let next = lines.next().unwrap_or_default();
                text += next.trim_start();
            }
            _ => text += line,
        }
        text.push('\n');
    }
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let Some((inside, behind)) = after.split_once('}') else { break };
        let is_value = inside.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '?'));
        shown += before;
        shown += if is_value { "VALUE" } else { "{" };
        rest = if is_value { behind } else { after };
    }
    shown + rest
}

fn files_below(directory: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let fits = path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted));
        if path.is_dir() {
            files_below(&path, extensions, found);
        } else if fits {
            found.push(path);
        }
    }
}

#[test]
fn commands_in_prose_and_messages_are_ones_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    files_below(&root.join("docs"), &["md"], &mut documents);
    files_below(&root.join("contrib"), &["md", "service", "toml"], &mut documents);
    let mut sources = Vec::new();
    const PROOF: [&str; 5] = ["bench", "simulation", "soft-roce-ci", "xtask", "fuzz"];
    for package in std::fs::read_dir(&root).unwrap().flatten() {
        let is_product = !PROOF.iter().any(|proof| package.file_name() == *proof);
        if is_product && package.path().join("Cargo.toml").exists() {
            files_below(&package.path().join("src"), &["rs"], &mut sources);
        }
    }
    let (mut wrong, mut count) = (Vec::new(), 0);
    let mut check = |path: &Path, text: &str, quotes: &[char], in_message: bool| {
        for (line, command) in commands_in(text, quotes) {
            count += 1;
            if let Some(why) = refused(&command, in_message) {
                wrong.push(format!("{}:{line}: `{command}`: {why}", path.display()));
            }
        }
    };
    for path in documents {
        check(&path, &std::fs::read_to_string(&path).unwrap(), &['`'], false);
    }
    for path in sources {
        let source = std::fs::read_to_string(&path).unwrap();
        check(&path, &message(&without_comments(&source)), &['`', '\''], true);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 60, "only {count} commands were found");
}

#[test]
fn a_wrong_command_is_told_from_a_short_one() {
    for good in [
        "twinfiler status --json",
        "twinfiler takeover VOLUME --force",
        "twinfiler takeover --force",
        "twinfiler split",
        "twinfiler init --adopt",
        "twinfiler init --volume-id ID --capacity …",
    ] {
        assert_eq!(refused(good, false), None, "{good}");
    }
    assert!(refused("twinfiler takeover --force", true).is_some(), "that is not all that has to be typed");
    for wrong in [
        "twinfiler statis",
        "twinfiler takeover VOLUME --froce",
        "twinfiler split drop NODE",
        "twinfiler log check",
    ] {
        assert!(refused(wrong, false).is_some(), "{wrong}");
    }
    let source = "\"see `twinfiler \\\n      split show {}`, or 'twinfiler split discard {name} --yes'\"";
    let commands: Vec<String> =
        commands_in(&message(source), &['`', '\'']).into_iter().map(|(_, command)| command).collect();
    assert_eq!(commands, ["twinfiler split show VALUE", "twinfiler split discard VALUE --yes"]);
}
