//! `cargo xtask test --long`: what takes hours. Most bugs that were left lay beyond what CI has time for, so it goes before
//! a release and before a change of the log, the engine, or the pair is called done.

use super::{install, runner};
use crate::steps::{Counts, Report};
use crate::workspace::Workspace;
use crate::{fuzz, sim, soak};
use anyhow::{Result, bail};

/// Cases of each property.
const CASES: u32 = 10_000;
/// Seeds of the simulation, which nobody ran before.
const SIMULATED_PAIRS: u64 = 2000;
/// Seconds for each fuzz target.
const FUZZ_SECONDS: u64 = 300;
/// Faults of all kinds that one pair after the other goes through.
const FAULTS: u64 = 100;

/// Runs all of it; a failing part ends nothing but itself.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut report = Report::default();
    if report.step("install what is missing", || install(workspace)) {
        report.counted(&format!("{CASES} cases of each property"), || runner::properties(workspace, CASES));
        report.counted("tests that take long", || runner::long_tests(workspace));
        report.counted("simulated pairs that nobody ran before", || {
            sim::run_unknown(workspace, SIMULATED_PAIRS)
        });
        report.counted("fuzzing", || {
            Ok(Counts { passed: fuzz::run_short(workspace, FUZZ_SECONDS)?, failed: 0 })
        });
        report.counted("soak with faults of all kinds", || {
            let program = workspace.build_daemon(false)?;
            let arguments = soak::Arguments::unattended(&program, 0, Some(FAULTS));
            Ok(Counts { passed: soak::perform(workspace, &arguments)?.rounds(), failed: 0 })
        });
    }
    println!("{}", report.summary());
    if !report.all_passed() {
        bail!("something failed; all output is in {}", workspace.log_dir().display());
    }
    Ok(())
}
