//! The transport's own tests, those that need an RDMA device, in a guest that has one.

use crate::lab::{self, Side, Spec};
use crate::scenario::{Context, Scenario};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub const SCENARIO: Scenario = Scenario {
    name: "transport",
    about: "the transport's tests over Soft-RoCE: conformance, fencing in the NIC, lost links, a port that goes down",
    machines,
    run,
};

/// All tests of one file.
const LIMIT: Duration = Duration::from_secs(180);

/// Tells the tests that there is a device, and which network interface below it they may take down.
const PROMISES: [&str; 2] = ["TWINFILER_RDMA=1", "TWINFILER_RDMA_INTERFACE=eth0"];

/// What the one test says that needs a machine without a device.
const FOR_MACHINES_WITHOUT: &str = "this machine has an RDMA device";

fn machines() -> Spec {
    Spec { only_a: true, ..Spec::default() }
}

fn run(run: &Context) -> Result<()> {
    let tests = build()?;
    let lab = run.lab(&machines())?;
    for test in tests {
        let name = test.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Beside the harness's own file, so that a build that goes on meanwhile does not change it.
        let place = lab.harness().with_file_name(&name);
        lab::place(&test, &place)?;
        let place = place.to_str().context("the path of a test is not UTF-8")?;
        let mut argv = vec!["env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
        argv.extend(PROMISES);
        // One after the other: a test that takes the port down would disturb its neighbours.
        argv.extend([place, "--test-threads=1", "--nocapture"]);
        let finished = lab.guest(Side::A).run(&argv, LIMIT)?;
        let said = format!("{}{}", finished.stdout, finished.stderr);
        run.note(&format!("{name}.out"), &said)?;
        finished.ok()?;
        let left_out = |line: &str| line.contains("SKIPPED") && !line.contains(FOR_MACHINES_WITHOUT);
        if said.contains(" 0 passed") || said.lines().any(left_out) {
            bail!("tests were left out:\n{said}");
        }
    }
    Ok(())
}

/// Lets cargo build the tests, and gives their files.
fn build() -> Result<Vec<PathBuf>> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("this crate is in no workspace")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--quiet", "--package", "rdma-transport", "--no-run"])
        .args(["--test", "link", "--test", "verbs", "--message-format", "json", "--target-dir"])
        .arg(lab::target_directory()?)
        .current_dir(workspace)
        .output()
        .context("cannot start cargo, which builds the transport's tests")?;
    if !output.status.success() {
        bail!("cargo cannot build the transport's tests:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tests: Vec<PathBuf> =
        messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect();
    if tests.len() != 2 {
        bail!("cargo should have built two tests and names {tests:?}");
    }
    Ok(tests)
}
