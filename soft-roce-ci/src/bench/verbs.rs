//! Mirrored commit and the bare loop (one process in each guest has both and lets them take turns), then perftest's
//! programs at the same sizes.

use super::Amount;
use super::perftest::{bandwidth, latency};
use super::row::Row;
use crate::lab::{Lab, Side};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

const PORT: u16 = 7000;
const LOG: &str = "/dev/dax0.0";
const START_LIMIT: Duration = Duration::from_secs(60);
const RUN_LIMIT: Duration = Duration::from_secs(300);
const SIZES_BYTES: [u32; 3] = [256, 4096, 65536];
/// The longest message with which perftest can wait for events here.
const LONGEST_WITH_EVENTS_BYTES: u32 = 4096;
/// What the streams of the bench commit.
const STREAM_BYTES: u32 = 65536;

#[derive(Deserialize)]
struct Report {
    rows: Vec<Row>,
}

/// perftest's programs, how they wait, and what a row is called that has them as its peer: they tell half of a round
/// trip with as many bytes back.
const LATENCIES: [(&str, bool, &str); 3] = [
    ("ib_send_lat", true, "two ib_send_lat -e"),
    ("ib_send_lat", false, "two ib_send_lat, polling"),
    ("ib_write_lat", false, "two ib_write_lat, polling"),
];

/// Measures and adds rows; those of the commits also when perftest fails.
pub fn measure(lab: &Lab, bench: &Path, amount: Amount, rows: &mut Vec<Row>) -> Result<()> {
    let found = commits(lab, bench, amount)?;
    rows.extend_from_slice(&found);
    let mut failures = Vec::new();
    for size in SIZES_BYTES {
        let what = format!("mirrored commit over verbs, {size} B, p50");
        let ours =
            found.iter().find(|row| row.what == what).context("the bench has other rows than these")?;
        // On Soft-RoCE perftest does not come to its end with events and messages of many packets.
        let waits = |events: bool| !events || size <= LONGEST_WITH_EVENTS_BYTES;
        for (program, events, name) in LATENCIES.into_iter().filter(|(_, events, _)| waits(*events)) {
            let one_way = match latency(lab, program, size, events, amount) {
                Ok(one_way) => one_way,
                Err(error) => {
                    failures.push(format!("{name}, {size} B: {error:#}"));
                    continue;
                }
            };
            rows.push(
                Row::time("perftest", &*what, ours.ours)
                    .against(name, 2.0 * one_way.typical_us * 1e3)
                    .detail("one_way_p99_ns", one_way.p99_us * 1e3),
            );
        }
    }
    let bytes_per_second = bandwidth(lab, STREAM_BYTES, amount)?;
    for row in rows.iter_mut().filter(|row| row.what.starts_with("mirrored commits over verbs")) {
        *row = row.clone().against("ib_write_bw", bytes_per_second);
    }
    if !failures.is_empty() {
        bail!("perftest: {}", failures.join("; "));
    }
    Ok(())
}

fn commits(lab: &Lab, bench: &Path, amount: Amount) -> Result<Vec<Row>> {
    let bench = bench.to_str().context("the path of the bench is not UTF-8")?;
    let (port, address) = (PORT.to_string(), format!("{}:{PORT}", Side::B.address()));
    let mut start = vec![bench];
    if amount == Amount::Tiny {
        start.push("--tiny");
    }
    start.extend(["peer", "verbs", "--log", LOG]);
    let listen = [start.as_slice(), &["--listen", &port]].concat();
    let connect = [start.as_slice(), &["--connect", &address]].concat();
    let partner = lab.guest(Side::B).start(&listen, Some(RUN_LIMIT))?;
    match partner.next_line(START_LIMIT)? {
        Some(line) if line == "listening" => {}
        _ => bail!("the partner does not listen: {:?}", partner.wait(START_LIMIT)?),
    }
    let said = lab.guest(Side::A).run(&connect, RUN_LIMIT)?;
    let told = said.stderr.clone();
    let text = said.ok()?;
    eprint!("{told}");
    partner.wait(START_LIMIT)?.ok().context("the partner's end failed")?;
    let line = text.lines().last().context("the bench printed nothing")?;
    Ok(serde_json::from_str::<Report>(line).context("the bench printed something else than rows")?.rows)
}
