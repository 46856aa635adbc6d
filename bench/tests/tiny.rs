//! The benches that need neither root nor a mount still run, and their JSON says what it should. The others run
//! in `cargo xtask test`.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_benches_without_a_mount_run_on_tiny_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_twinfiler-bench"))
        .args(["--tiny", "--only", "append,tcp,shm", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let of = |part: &str| rows.iter().filter(|row| row["part"] == part).count();
    assert_eq!((of("append"), of("tcp"), of("shm")), (12, 12, 6));
    for row in rows {
        let (ours, peer) = (row["ours"].as_f64().unwrap(), row["peer"].as_f64().unwrap());
        assert!(ours > 0.0 && peer > 0.0, "{row}");
    }
    assert_eq!(report["tiny"], true);
}

#[test]
fn the_commit_path_can_be_profiled_with_and_without_a_partner() {
    for partner in ["none", "shm", "tcp"] {
        let output = Command::new(env!("CARGO_BIN_EXE_twinfiler-bench"))
            .args(["profile", "--partner", partner, "--size", "65536", "--count", "600"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("600 commits of 65536 B: "));
    }
}

#[test]
fn rows_of_the_guests_are_judged_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, json) = (dir.path().join("rows.json"), dir.path().join("report.json"));
    let row = r#"[{"part":"writes","what":"a write","unit":"ns","ours":3e6,"peer":2e7,"against":"another",
        "ratio":null,"bar":{"ratio_at_most":0.1},"reached":null,"details":{}}]"#;
    std::fs::write(&rows, row).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinfiler-bench"));
    command.arg("--json").arg(&json).arg("table").arg(&rows).args(["--note", "in two guests"]);
    let output = command.output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && table.contains("| NO"), "{table}");
    assert!(table.contains("in two guests"), "{table}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["rows"][0]["reached"], false);
}
