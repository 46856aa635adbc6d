//! The node takes clocks, threads, locks and channels from the crate `runtime` and from nowhere else: what goes
//! around it, a simulation of the pair can neither delay nor order nor repeat.

use super::{Findings, Source, code};

/// Where the rule holds. Tests may use real threads.
const HELD: &[&str] = &["node/src/", "commit/src/", "volume/src/"];

/// What the runtime stands for.
const FORBIDDEN: &[&str] = &[
    "std::thread",
    "thread_rng",
    "SystemTime",
    "crossbeam",
    "parking_lot",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::sync::mpsc",
    "Timestamp::now",
    "std::time::Instant",
];

/// Checks one file.
pub fn check(source: &Source, findings: &mut Findings) {
    let held = HELD.iter().any(|prefix| source.path.starts_with(prefix));
    if !held || source.path.contains("tests") {
        return;
    }
    let code = code::blank_prose(&source.text);
    for (index, line) in code.lines().enumerate() {
        if line.trim() == "#[cfg(test)]" {
            return;
        }
        for name in FORBIDDEN.iter().filter(|name| line.contains(*name)) {
            findings.errors.push(format!(
                "{}:{}: {name} goes around the crate runtime, so no simulation can own it",
                source.path,
                index + 1
            ));
        }
        if line.starts_with("use std::time::{") && line.contains("Instant") {
            findings.errors.push(format!(
                "{}:{}: take Instant from the crate runtime",
                source.path,
                index + 1
            ));
        }
    }
}
