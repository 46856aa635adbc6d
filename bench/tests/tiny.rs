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
