//! Running other programs quietly: all output goes to a file, whose end is shown when the program fails.
//!
//! Every program has a time limit and its own process group, so that Ctrl-C in the terminal reaches us alone and
//! we end the group in order. A [`Report`] collects what passed and what failed and prints one line for each.

use crate::interrupt;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How many of a failed program's last lines are shown.
const TAIL_LINES: usize = 40;

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Runs a program to its end; its whole output is in the returned file.
pub fn run(log_dir: &Path, name: &str, command: &mut Command, limit: Duration) -> Result<PathBuf> {
    let path = log_file(log_dir, name)?;
    let output = File::options().append(true).open(&path)?;
    command.stdout(output.try_clone()?).stderr(output);
    let status = supervise(name, command, limit, || ())?;
    match status {
        Some(status) if status.success() => Ok(path),
        Some(status) => bail!("{name}: {status}\n{}", tail(&path)),
        None => bail!("{name}: stopped after {limit:.0?}, its limit\n{}", tail(&path)),
    }
}

/// What became of a program whose output was shown.
pub struct Shown {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub output: PathBuf,
    /// What it complained about.
    pub complaints: PathBuf,
}

/// Runs a program that tells its steps on standard output: `show` gets each line as it comes. Its standard error
/// goes to a file of its own.
///
/// # Errors
/// It could not be started, ran longer than `limit`, or we were interrupted. A failure of its own is no error.
pub fn run_shown(
    log_dir: &Path,
    name: &str,
    command: &mut Command,
    limit: Duration,
    show: impl FnMut(&str),
) -> Result<Shown> {
    let output = log_file(log_dir, name)?;
    let complaints = log_file(log_dir, &format!("{name}-stderr"))?;
    command.stdout(File::options().append(true).open(&output)?);
    command.stderr(File::options().append(true).open(&complaints)?);
    let mut lines = Lines { file: File::open(&output)?, partial: Vec::new(), show };
    let status = supervise(name, command, limit, || lines.forward())?;
    lines.forward();
    match status {
        Some(status) => Ok(Shown { code: status.code(), output, complaints }),
        None => bail!("{name}: stopped after {limit:.0?}, its limit\n{}", tail(&complaints)),
    }
}

fn log_file(log_dir: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(log_dir).with_context(|| format!("cannot create {}", log_dir.display()))?;
    let path = log_dir.join(format!("{name}.log"));
    File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Waits for a program in a process group of its own; `None` when it had to be stopped at its limit.
fn supervise(
    name: &str,
    command: &mut Command,
    limit: Duration,
    mut look: impl FnMut(),
) -> Result<Option<ExitStatus>> {
    let child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("{name}: cannot start {:?}", command.get_program()))?;
    let mut group = Group(Some(child));
    interrupt::poll(limit, POLL, || {
        look();
        group.finished()
    })
}

/// Lines of a file that grows.
struct Lines<F> {
    file: File,
    partial: Vec<u8>,
    show: F,
}

impl<F: FnMut(&str)> Lines<F> {
    fn forward(&mut self) {
        // What cannot be read now is in the file for whoever looks later.
        let _ = self.file.read_to_end(&mut self.partial);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            (self.show)(String::from_utf8_lossy(&line).trim_end());
        }
    }
}

/// A process group that does not outlive us.
struct Group(Option<Child>);

impl Group {
    fn finished(&mut self) -> Option<ExitStatus> {
        let status = self.0.as_mut()?.try_wait().ok().flatten()?;
        self.0 = None;
        Some(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            kill_group(&child);
            // The kill above was sent; waiting only reaps.
            let _ = child.wait();
        }
    }
}

/// SIGKILL to the group that a child started by us leads.
pub fn kill_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // It may be gone already, which is what we want.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// The end of a log file, for people.
pub fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    format!("--- last lines of {} ---\n{}", path.display(), shown.join("\n"))
}

/// What passed, what failed, and how long each took.
#[derive(Default)]
pub struct Report {
    passed: u64,
    failed: u64,
    timings: Vec<(String, Duration)>,
    left_out: Vec<String>,
}

impl Report {
    /// Runs one step, prints its outcome and time, and counts it as one test.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> bool {
        self.counted(name, || work().map(|()| Counts { passed: 1, failed: 0 }))
    }

    /// Runs a step that is several tests by itself. An error counts as one failure.
    pub fn counted(&mut self, name: &str, work: impl FnOnce() -> Result<Counts>) -> bool {
        if interrupt::requested() {
            return false;
        }
        let started = Instant::now();
        let outcome = work();
        let took = started.elapsed();
        self.timings.push((name.to_owned(), took));
        match outcome {
            Ok(counts) => {
                self.passed += counts.passed;
                self.failed += counts.failed;
                let word = if counts.failed == 0 { "ok" } else { "FAILED" };
                println!("{word:>8}  {name}  ({}, {took:.1?})", counts.describe());
                counts.failed == 0
            }
            Err(error) => {
                self.failed += 1;
                println!("  FAILED  {name}  ({took:.1?})\n{error:#}");
                false
            }
        }
    }

    /// Says, now and in the summary, what was not tested.
    pub fn left_out(&mut self, what: &str) {
        println!(" SKIPPED  {what}");
        self.left_out.push(what.to_owned());
    }

    /// The timings of all steps, slowest first, and the line that CI reads.
    pub fn summary(&self) -> String {
        let mut timings = self.timings.clone();
        timings.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        let mut text = String::from("slowest steps:\n");
        for (name, took) in timings.iter().take(12) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "  {:>8.1}s  {name}", took.as_secs_f64());
        }
        for what in &self.left_out {
            // Likewise.
            let _ = writeln!(text, "NOT TESTED: {what}");
        }
        let _ = write!(text, "{} passed, {} failed", self.passed, self.failed);
        text
    }

    /// True when nothing failed and something ran.
    pub fn all_passed(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// How many tests a step stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
}

impl Counts {
    fn describe(self) -> String {
        match (self.passed, self.failed) {
            (1, 0) => "1 check".to_owned(),
            (passed, 0) => format!("{passed} checks"),
            (passed, failed) => format!("{passed} passed, {failed} failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_shows_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the cause >&2; exit 3"]);
        let error = run(dir.path(), "step", &mut command, Duration::from_secs(10)).unwrap_err();
        assert!(format!("{error:#}").contains("the cause"), "{error:#}");
    }

    #[test]
    fn a_program_is_stopped_at_its_limit_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 100 & wait"]);
        let started = Instant::now();
        let error = run(dir.path(), "step", &mut command, Duration::from_millis(100)).unwrap_err();
        assert!(format!("{error:#}").contains("its limit"), "{error:#}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn lines_are_shown_as_they_come_and_complaints_are_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; sleep 0.2; echo two; echo oops >&2; exit 3"]);
        let mut seen = Vec::new();
        let shown = run_shown(dir.path(), "step", &mut command, Duration::from_secs(10), |line| {
            seen.push(line.to_owned());
        })
        .unwrap();
        assert_eq!((seen, shown.code), (vec!["one".to_owned(), "two".to_owned()], Some(3)));
        assert!(tail(&shown.complaints).contains("oops"));
        assert_eq!(fs::read_to_string(&shown.output).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn the_summary_counts_everything_and_an_error_is_a_failure() {
        let mut report = Report::default();
        report.counted("tests", || Ok(Counts { passed: 41, failed: 0 }));
        report.step("one", || Ok(()));
        assert!(report.all_passed());
        report.step("two", || bail!("broken"));
        assert!(!report.all_passed());
        report.left_out("the guests");
        let summary = report.summary();
        assert!(summary.ends_with("NOT TESTED: the guests\n42 passed, 1 failed"), "{summary}");
    }
}
