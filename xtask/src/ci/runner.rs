//! The test runners: cargo-nextest where it is installed, else cargo's own; and how many tests they ran.

use crate::packages::find_program;
use crate::steps::{self, Counts};
use crate::verify::WITHOUT_SIMULATION;
use crate::workspace::{CARGO_LIMIT, Workspace};
use anyhow::{Result, bail};
use std::fs;
use std::process::Command;

/// Cases of each property.
const CASES: &str = "300";

/// Runs every unit, property and integration test of the workspace.
pub fn unit_tests(workspace: &Workspace) -> Result<Counts> {
    let (arguments, name, count): (_, _, fn(&str) -> Counts) = match has_nextest(workspace) {
        true => ([&["nextest", "run"][..], &NEXTEST].concat(), "nextest", nextest_counts),
        false => ([&["test"][..], &LIBTEST].concat(), "cargo-test", libtest_counts),
    };
    let mut command = workspace.cargo(&arguments);
    command.arg("--workspace").args(WITHOUT_SIMULATION).env("PROPTEST_CASES", CASES);
    counted_by(workspace, name, &mut command, count)
}

/// Runs the simulation's own tests, optimised: among them that it finds what is planted.
pub fn simulation_tests(workspace: &Workspace) -> Result<Counts> {
    let package = ["--release", "--package", "simulation"];
    if has_nextest(workspace) {
        let arguments = [&["nextest", "run"][..], &package, &NEXTEST].concat();
        return counted(workspace, "nextest-simulation", &arguments, nextest_counts);
    }
    let arguments = [&["test"][..], &package, &LIBTEST].concat();
    counted(workspace, "cargo-test-simulation", &arguments, libtest_counts)
}

/// Runs so many cases of each property: everything that has some, optimised, with the checks of a debug build.
pub fn properties(workspace: &Workspace, cases: u32) -> Result<Counts> {
    let mut command = long_nextest(workspace)?;
    // All but the tests that run whole nodes and virtual machines.
    command.args(["--workspace", "--lib", "--test", "codec"]).args(WITHOUT_SIMULATION);
    command.env("PROPTEST_CASES", cases.to_string());
    counted_by(workspace, "properties", &mut command, nextest_counts)
}

/// Runs the tests that are left out everywhere else, because they take an hour.
pub fn long_tests(workspace: &Workspace) -> Result<Counts> {
    let mut command = long_nextest(workspace)?;
    command.args(["--workspace", "--run-ignored", "only"]).args(WITHOUT_SIMULATION);
    counted_by(workspace, "long-tests", &mut command, nextest_counts)
}

fn long_nextest(workspace: &Workspace) -> Result<Command> {
    if !has_nextest(workspace) {
        bail!("this needs cargo-nextest: cargo install --locked cargo-nextest");
    }
    let mut command =
        workspace.cargo(&["nextest", "run", "--cargo-profile", "property", "--profile", "long"]);
    command.args(NEXTEST);
    Ok(command)
}

const NEXTEST: [&str; 5] = ["--no-fail-fast", "--status-level", "slow", "--color", "never"];
const LIBTEST: [&str; 4] = ["--no-fail-fast", "--lib", "--bins", "--tests"];

/// Runs the examples in the documentation, which nextest does not.
pub fn doc_tests(workspace: &Workspace) -> Result<Counts> {
    let arguments = [&["test", "--workspace", "--doc", "--no-fail-fast"][..], &WITHOUT_SIMULATION].concat();
    counted(workspace, "doc-test", &arguments, libtest_counts)
}

fn has_nextest(workspace: &Workspace) -> bool {
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    find_program("cargo-nextest").is_some()
        || home.is_some_and(|home| home.join("bin/cargo-nextest").is_file())
        || workspace.cargo(&["nextest", "--version"]).output().is_ok_and(|output| output.status.success())
}

fn counted(
    workspace: &Workspace,
    name: &str,
    arguments: &[&str],
    count: fn(&str) -> Counts,
) -> Result<Counts> {
    counted_by(workspace, name, &mut workspace.cargo(arguments), count)
}

fn counted_by(
    workspace: &Workspace,
    name: &str,
    command: &mut Command,
    count: fn(&str) -> Counts,
) -> Result<Counts> {
    let outcome = steps::run(&workspace.log_dir(), name, command, CARGO_LIMIT);
    let log = workspace.log_dir().join(format!("{name}.log"));
    let counts = count(&fs::read_to_string(&log).unwrap_or_default());
    match outcome {
        Err(error) if counts.failed == 0 => Err(error),
        Err(error) => {
            println!("{error:#}");
            Ok(counts)
        }
        Ok(_) if counts.failed > 0 => bail!("{name} reports failures but ended well; see {}", log.display()),
        Ok(_) => Ok(counts),
    }
}

/// Reads "Summary [ 1.2s] 29 tests run: 28 passed (1 slow), 1 failed, 0 skipped".
fn nextest_counts(output: &str) -> Counts {
    let Some(line) = output.lines().rev().find(|line| line.trim_start().starts_with("Summary [")) else {
        return Counts::default();
    };
    let tail = line.split_once("run:").map_or(line, |(_, tail)| tail);
    let sum = |words: &[&str]| words.iter().map(|word| number_before(tail, word)).sum();
    Counts { passed: sum(&["passed"]), failed: sum(&["failed", "timed out", "exec failed"]) }
}

/// Adds up "test result: ok. 5 passed; 0 failed; ...".
fn libtest_counts(output: &str) -> Counts {
    let mut counts = Counts::default();
    for line in output.lines().filter(|line| line.starts_with("test result:")) {
        counts.passed += number_before(line, "passed");
        counts.failed += number_before(line, "failed");
    }
    counts
}

fn number_before(text: &str, word: &str) -> u64 {
    let Some(at) = text.find(word) else { return 0 };
    text[..at].split_whitespace().next_back().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_summaries_are_read() {
        let text =
            "x\n     Summary [   0.609s] 31 tests run: 29 passed (1 slow), 2 failed, 3 skipped\n  FAIL a\n";
        assert_eq!(nextest_counts(text), Counts { passed: 29, failed: 2 });
        assert_eq!(
            nextest_counts("Summary [ 1s] 5 tests run: 5 passed, 0 skipped"),
            Counts { passed: 5, failed: 0 }
        );
        assert_eq!(nextest_counts("error: could not compile"), Counts::default());
    }

    #[test]
    fn libtest_summaries_are_added_up() {
        let text = "test result: ok. 5 passed; 0 failed; 1 ignored\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored\n";
        assert_eq!(libtest_counts(text), Counts { passed: 7, failed: 1 });
    }
}
