//! Which crate may use which: the arrows of the design, held against cargo's own view of the workspace.

use super::Findings;
use serde_json::Value;
use std::collections::BTreeSet;

/// Each crate with the crates of ours that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    // Ground.
    ("ids", &[]),
    ("scheduler", &[]),
    ("runtime", &["scheduler"]),
    // Storage.
    ("nvlog", &["ids"]),
    ("apply-engine", &["ids", "nvlog"]),
    // Pairing.
    ("pair", &["ids"]),
    ("rdma-transport", &["ids"]),
    ("witness", &["ids", "pair", "rdma-transport"]),
    // What is told and configured.
    ("admin-api", &["ids", "pair", "rdma-transport", "runtime"]),
    ("config", &["ids", "nvlog", "pair", "rdma-transport", "witness"]),
    // Service.
    ("commit", &["ids", "runtime", "nvlog", "apply-engine", "rdma-transport", "admin-api"]),
    ("volume", &["ids", "runtime", "nvlog", "apply-engine", "commit"]),
    // What a change of roles does to the machine around.
    ("hooks", &["ids", "admin-api", "config"]),
    // Doors.
    ("fuse-door", &["ids", "runtime", "apply-engine", "commit", "volume"]),
    // Node.
    ("node", NODE),
    ("filer", FILER),
    // Proof.
    ("simulation", SIMULATION),
    ("bench", &["ids", "runtime", "nvlog", "apply-engine", "rdma-transport", "admin-api", "commit"]),
    ("soft-roce-ci", &[]),
    ("xtask", &[]),
];

const NODE: &[&str] = &[
    "ids",
    "runtime",
    "nvlog",
    "apply-engine",
    "pair",
    "rdma-transport",
    "witness",
    "admin-api",
    "config",
    "commit",
    "volume",
    "fuse-door",
    "hooks",
];

const FILER: &[&str] = &[
    "ids",
    "runtime",
    "nvlog",
    "apply-engine",
    "rdma-transport",
    "witness",
    "admin-api",
    "config",
    "fuse-door",
    "hooks",
    "node",
];

const SIMULATION: &[&str] = &[
    "ids",
    "scheduler",
    "runtime",
    "nvlog",
    "apply-engine",
    "pair",
    "rdma-transport",
    "witness",
    "admin-api",
    "config",
    "commit",
    "volume",
    "node",
];

/// For tests of a crate only: nvlog's simulated region and emulated log carry other crates' tests.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    ("rdma-transport", &["nvlog"]),
    ("pair", &["nvlog"]),
    ("volume", &["admin-api", "rdma-transport"]),
    ("fuse-door", &["nvlog", "admin-api", "rdma-transport"]),
];

/// One crate of the workspace and the crates of ours that it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crate {
    /// Its name.
    pub name: String,
    uses: Vec<String>,
    uses_in_tests: Vec<String>,
}

/// Reads the crates out of what `cargo metadata --no-deps` says.
pub fn crates(metadata: &Value) -> Vec<Crate> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let ours = |package: &Value, in_tests: bool| {
        let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
        dependencies
            .iter()
            .filter(|dependency| (dependency["kind"] == "dev") == in_tests)
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|name| names.contains(name))
            .map(str::to_owned)
            .collect()
    };
    packages
        .iter()
        .filter_map(|package| {
            let name = package["name"].as_str()?.to_owned();
            Some(Crate { name, uses: ours(package, false), uses_in_tests: ours(package, true) })
        })
        .collect()
}

/// Complains about every arrow that is not in the design.
pub fn check(crates: &[Crate], findings: &mut Findings) {
    for package in crates {
        let name = package.name.as_str();
        let Some(allowed) = entry(ALLOWED, name) else {
            findings
                .errors
                .push(format!("crate {name} has no place in the design (tidy/arrows.rs lists them)"));
            continue;
        };
        let in_tests = entry(ALLOWED_IN_TESTS, name).unwrap_or_default();
        for used in package.uses.iter().filter(|used| !allowed.contains(&used.as_str())) {
            findings.errors.push(format!("crate {name} must not use {used}"));
        }
        let wrong = |used: &&String| !allowed.contains(&used.as_str()) && !in_tests.contains(&used.as_str());
        for used in package.uses_in_tests.iter().filter(|used| *used != name).filter(wrong) {
            findings.errors.push(format!("the tests of crate {name} must not use {used}"));
        }
    }
}

fn entry(table: &'static [(&str, &[&str])], name: &str) -> Option<&'static [&'static str]> {
    table.iter().find(|(known, _)| *known == name).map(|(_, allowed)| *allowed)
}
