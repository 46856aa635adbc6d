//! The scenarios of `soft-roce-ci`: two virtual machines with Soft-RoCE and NVDIMMs, power cuts, cut links.
//!
//! The harness runs as a program of its own; this part builds it, shows its line for each scenario, and counts them.
//! What can go wrong: this machine cannot run guests at all. That is a failure, said loudly, with the way around it.

use crate::packages;
use crate::steps::{self, Counts, Report, Shown};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What `--without-guests` leaves out.
pub const LEFT_OUT: &str = "the guests (--without-guests): RDMA, fencing in the NIC, power cuts and persistent memory \
                            were NOT tested";

/// Longest time of all scenarios, downloads of the guests' kernel included.
const LIMIT: Duration = Duration::from_secs(2400);

/// How the harness says that no guest can run here.
const CANNOT_RUN: i32 = 3;

/// Installs, builds and runs.
pub fn steps(workspace: &Workspace, report: &mut Report, program: &Path) {
    let mut harness: Option<PathBuf> = None;
    report.step("install and build what runs guests", || {
        packages::ensure(packages::GUESTS, &workspace.log_dir())?;
        harness = Some(workspace.build("soft-roce-ci", "soft-roce-ci", false)?);
        Ok(())
    });
    if let Some(harness) = harness {
        report.counted("scenarios in two guests with Soft-RoCE", || run(workspace, &harness, program));
    }
}

fn run(workspace: &Workspace, harness: &Path, program: &Path) -> Result<Counts> {
    let logs = workspace.log_dir();
    let mut command = Command::new(harness);
    command.current_dir(workspace.root()).args(["run", "all", "--program"]).arg(program);
    command.arg("--logs").arg(logs.join("guests"));
    let shown = steps::run_shown(&logs, "guests", &mut command, LIMIT, |line| println!("          {line}"))?;
    judge(&shown)
}

fn judge(shown: &Shown) -> Result<Counts> {
    if shown.code == Some(CANNOT_RUN) {
        bail!(
            "GUESTS CANNOT RUN ON THIS MACHINE, so RDMA, fencing and power cuts were not tested.\n{}\n\
             Repair what is told above, or leave them out knowingly: cargo xtask test --without-guests",
            steps::tail(&shown.complaints)
        );
    }
    let output = std::fs::read_to_string(&shown.output)
        .with_context(|| format!("cannot read {}", shown.output.display()))?;
    let counts = summary(&output);
    match (counts, shown.code) {
        (Some(counts), Some(0)) if counts.failed == 0 && counts.passed > 0 => Ok(counts),
        (Some(counts), _) if counts.failed > 0 => {
            println!("{}", steps::tail(&shown.complaints));
            Ok(counts)
        }
        (_, code) => bail!(
            "the harness ended with {} and no clear result\n{}",
            code.map_or("a signal".to_owned(), |code| format!("code {code}")),
            steps::tail(&shown.complaints)
        ),
    }
}

/// Reads "12 passed, 0 failed", the harness's last line of that form.
fn summary(output: &str) -> Option<Counts> {
    output.lines().rev().find_map(|line| {
        let (passed, failed) = line.trim().strip_suffix(" failed")?.split_once(" passed, ")?;
        let last = |text: &str| text.split_whitespace().next_back()?.parse().ok();
        Some(Counts { passed: last(passed)?, failed: last(failed)? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(code: Option<i32>, output: &str, complaints: &str) -> (tempfile::TempDir, Shown) {
        let dir = tempfile::tempdir().unwrap();
        let (out, err) = (dir.path().join("out"), dir.path().join("err"));
        std::fs::write(&out, output).unwrap();
        std::fs::write(&err, complaints).unwrap();
        (dir, Shown { code, output: out, complaints: err })
    }

    #[test]
    fn scenarios_are_counted() {
        let (_dir, good) = shown(Some(0), "ok  fencing  12.0s\n12 passed, 0 failed\n", "");
        assert_eq!(judge(&good).unwrap(), Counts { passed: 12, failed: 0 });
        let (_dir, bad) = shown(Some(1), "FAILED  fencing\n11 passed, 1 failed\n", "lost a record");
        assert_eq!(judge(&bad).unwrap(), Counts { passed: 11, failed: 1 });
    }

    #[test]
    fn what_is_not_clear_is_a_failure() {
        for (code, output) in [
            (Some(0), ""),
            (None, "3 passed, 0 failed\n"),
            (Some(1), "3 passed, 0 failed\n"),
            (Some(0), "0 passed, 0 failed\n"),
        ] {
            let (_dir, unclear) = shown(code, output, "why");
            let error = judge(&unclear).unwrap_err().to_string();
            assert!(error.contains("no clear result") && error.contains("why"), "{error}");
        }
    }

    #[test]
    fn a_machine_without_guests_fails_loudly_and_says_how_to_go_on() {
        let (_dir, none) = shown(Some(CANNOT_RUN), "", "no /dev/kvm and no emulator");
        let error = judge(&none).unwrap_err().to_string();
        for words in ["GUESTS CANNOT RUN", "no emulator", "--without-guests"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
