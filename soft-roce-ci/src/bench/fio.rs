//! fio's job: append 4 KiB and fsync, again and again.

use crate::lab::Guest;
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

/// The longest that a file gets.
const FILE_MIB: u32 = 48;
const SLACK: Duration = Duration::from_secs(60);

/// What one turn came to.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Turn {
    /// Appends that were synced.
    pub operations: f64,
    /// Their times, all together.
    pub spent_ns: f64,
    /// Of that the writes without the fsyncs.
    pub writing_ns: f64,
    /// The 99th percentile of write and of fsync, added up.
    pub p99_ns: f64,
}

/// Appends to a new file for so long.
pub fn append(guest: &Guest, directory: &str, name: &str, time: Duration) -> Result<Turn> {
    let (job, runtime) = (format!("--filename={directory}/{name}"), format!("--runtime={}", time.as_secs()));
    let size = format!("--size={FILE_MIB}m");
    let argv = [
        "fio",
        "--name=append",
        &job,
        "--rw=write",
        "--bs=4k",
        "--ioengine=sync",
        "--fsync=1",
        "--fallocate=none",
        "--create_on_open=1",
        &size,
        &runtime,
        "--output-format=json",
        "--unlink=1",
    ];
    let said = guest.run(&argv, time + SLACK)?.ok().context("fio failed")?;
    parse(&said).with_context(|| format!("fio printed something else: {said}"))
}

fn parse(text: &str) -> Option<Turn> {
    // Warnings may come before the report.
    let report: Value = serde_json::from_str(text.get(text.find('{')?..)?).ok()?;
    let job = report.get("jobs")?.get(0)?;
    let number = |pointer: &str| job.pointer(pointer).and_then(Value::as_f64);
    let operations = number("/write/total_ios")?;
    let (write, sync) = (number("/write/lat_ns/mean")?, number("/sync/lat_ns/mean")?);
    let p99 = |what: &str| number(&format!("/{what}/percentile/99.000000"));
    Some(Turn {
        operations,
        spent_ns: operations * (write + sync),
        writing_ns: operations * write,
        p99_ns: p99("write/clat_ns")? + p99("sync/lat_ns")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let text = r#"fio: a warning
{"jobs":[{"write":{"total_ios":10,"lat_ns":{"mean":1000.0},"clat_ns":{"percentile":{"99.000000":2000}}},
"sync":{"total_ios":10,"lat_ns":{"mean":500.0,"percentile":{"99.000000":700}}}}]}"#;
        assert_eq!(
            parse(text),
            Some(Turn { operations: 10.0, spent_ns: 15_000.0, writing_ns: 10_000.0, p99_ns: 2700.0 })
        );
        assert_eq!(parse("nothing"), None);
    }
}
