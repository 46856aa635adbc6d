//! What pjdfstest printed, and which skipped tests the documentation lists.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Names of tests that may be skipped; a star stands for anything.
#[derive(Debug, Default)]
pub struct ExpectedSkips(Vec<String>);

impl ExpectedSkips {
    /// Reads the document.
    pub fn read(document: &Path) -> Result<Self> {
        let text = fs::read_to_string(document).with_context(|| {
            format!("{} must list the tests that are skipped, with the reasons", document.display())
        })?;
        Ok(Self::parse(&text))
    }

    /// Names are written in backquotes and hold a double colon.
    fn parse(text: &str) -> Self {
        let quoted = text.split('`').skip(1).step_by(2);
        let name = |word: &&str| word.contains("::") && !word.contains(char::is_whitespace);
        ExpectedSkips(quoted.filter(name).map(str::to_owned).collect())
    }

    /// True when the document lists this test.
    pub fn lists(&self, test: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, test))
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|left| {
            (0..=left.len()).filter(|at| left.is_char_boundary(*at)).any(|at| matches(rest, &left[at..]))
        }),
    }
}

/// What one run of pjdfstest found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// How many tests passed.
    pub passed: u64,
    /// Which failed.
    pub failed: Vec<String>,
    /// Which were skipped.
    pub skipped: Vec<String>,
}

/// Reads the output of pjdfstest: one line for each test with its name and outcome.
pub fn results(output: &str) -> Results {
    let mut results = Results::default();
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, outcome] = words[..] else { continue };
        if !name.contains("::") {
            continue;
        }
        match outcome {
            "ok" => results.passed += 1,
            "skipped" => results.skipped.push(name.to_owned()),
            "FAILED" => results.failed.push(name.to_owned()),
            _ => {}
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_tests_are_found_with_and_without_stars() {
        let skips =
            ExpectedSkips::parse("- `link::exdev_target` and `*::erofs_*`: because\n`not a test`, `word`\n");
        assert!(skips.lists("link::exdev_target") && skips.lists("open::erofs_named"));
        assert!(!skips.lists("link::exdev") && !skips.lists("open::eacces"));
    }

    #[test]
    fn outcomes_are_counted_by_name() {
        let output = "\
unlink::erofs_named                          skipped
\tRemounts (allow_remount) are not allowed in the configuration file
chmod::enotdir::block                        ok
open::etxtbsy                                FAILED
\tassertion failed
Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
";
        let expected = Results {
            passed: 1,
            failed: vec!["open::etxtbsy".to_owned()],
            skipped: vec!["unlink::erofs_named".to_owned()],
        };
        assert_eq!(results(output), expected);
    }
}
