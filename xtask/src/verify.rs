//! `cargo xtask verify` only reads: formatting, clippy with warnings denied over every feature set, documentation,
//! dependencies, tidy. `cargo xtask fix` writes what can be written by itself.

use crate::steps::Report;
use crate::tidy;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The crate `simulation` turns on features of others that no program may have which serves: cargo would build those
/// with them in the same command.
pub const WITHOUT_SIMULATION: [&str; 2] = ["--exclude", "simulation"];

/// Runs all checks, each of them even if one before it failed.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut report = Report::default();
    steps(workspace, &mut report)?;
    println!("{}", report.summary());
    if !report.all_passed() {
        bail!("not everything is as it must be; `cargo xtask fix` repairs formatting and what clippy can");
    }
    Ok(())
}

/// The checks as steps of a report.
pub fn steps(workspace: &Workspace, report: &mut Report) -> Result<()> {
    report.step("format", || workspace.run_cargo("fmt", &["fmt", "--all", "--check"]).map(drop));
    for (name, flags) in feature_sets(&workspace.metadata()?) {
        let mut arguments = vec!["clippy", "--workspace", "--all-targets", "--quiet"];
        if name != "all-features" {
            arguments.extend(WITHOUT_SIMULATION);
        }
        arguments.extend(flags);
        arguments.extend(["--", "--deny", "warnings"]);
        report.step(&format!("clippy ({name})"), || {
            workspace.run_cargo(&format!("clippy-{name}"), &arguments).map(drop)
        });
    }
    report.step("documentation", || {
        let packages = ["--workspace", WITHOUT_SIMULATION[0], WITHOUT_SIMULATION[1]];
        document(workspace, "doc", &packages)?;
        document(workspace, "doc-simulation", &["--package", "simulation"])
    });
    report.step("fuzz targets", || crate::fuzz::check(workspace));
    report.step("filer builds without RDMA", || without_rdma(workspace));
    report.step("dependencies", || crate::dependencies::run(workspace));
    report.step("tidy", || tidy::run(workspace));
    Ok(())
}

fn document(workspace: &Workspace, name: &str, packages: &[&str]) -> Result<()> {
    let mut command = workspace.cargo(&["doc", "--no-deps", "--quiet"]);
    command.args(packages).env("RUSTDOCFLAGS", "--deny warnings");
    crate::steps::run(&workspace.log_dir(), name, &mut command, crate::workspace::CARGO_LIMIT).map(drop)
}

/// What the RDMA library's bindings bring into a build: they want cmake and libclang.
const RDMA_CRATES: [&str; 3] = ["rdma-mummy-sys", "bindgen", "cmake"];

/// Without default features the daemon's build must want neither cmake nor libclang.
fn without_rdma(workspace: &Workspace) -> Result<()> {
    let tree = |flags: &[&str]| {
        let arguments = ["tree", "--package", "filer", "--edges", "normal,build", "--prefix", "none"];
        let output = workspace.cargo(&[&arguments, flags].concat()).output().context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        }
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if rdma_crates(&tree(&[])?).is_empty() {
        bail!("the default build of filer has no RDMA library: is its feature `verbs` still on?");
    }
    let found = rdma_crates(&tree(&["--no-default-features"])?);
    if found.is_empty() {
        return Ok(());
    }
    bail!("filer without default features still builds {}", found.join(", "))
}

fn rdma_crates(tree: &str) -> Vec<&'static str> {
    let names = || tree.lines().filter_map(|line| line.split_whitespace().next());
    RDMA_CRATES.into_iter().filter(|name| names().any(|found| found == *name)).collect()
}

/// The feature sets that must each be free of warnings: one when no crate has features.
fn feature_sets(metadata: &Value) -> Vec<(&'static str, Vec<&'static str>)> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let any =
        packages.iter().any(|package| package["features"].as_object().is_some_and(|set| !set.is_empty()));
    let mut sets = vec![("default", vec![])];
    if any {
        sets.push(("no-features", vec!["--no-default-features"]));
        sets.push(("all-features", vec!["--all-features"]));
    }
    sets
}

/// Formats, and lets clippy repair what it can.
pub fn fix(workspace: &Workspace) -> Result<()> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
    workspace.run_cargo("clippy-fix", &arguments)?;
    workspace.run_cargo("fmt-fix", &["fmt", "--all"]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn crates_of_rdma_are_found_in_a_tree() {
        let tree = "filer v0.1.0 (/x)\nlibc v0.2.1\nrdma-mummy-sys v0.2.6\ncmake v0.1.50 (*)\n";
        assert_eq!(rdma_crates(tree), ["rdma-mummy-sys", "cmake"]);
        assert!(rdma_crates("filer v0.1.0\nrdma-transport v0.1.0\n").is_empty());
    }

    #[test]
    fn feature_sets_are_tried_only_when_there_are_features() {
        assert_eq!(feature_sets(&json!({"packages": [{"features": {}}]})).len(), 1);
        assert_eq!(
            feature_sets(&json!({"packages": [{"features": {}}, {"features": {"canary": []}}]})).len(),
            3
        );
    }
}
