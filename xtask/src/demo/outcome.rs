//! What a demo found, for people and for machines.

use super::Arguments;
use super::takeover::Watched;
use crate::load::fleet::Fleet;
use crate::tree::Comparison;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// Quantiles that are shown.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// More findings than this are only counted.
const MAX_LINES: usize = 20;

/// Width of the longest bar of the histogram, in characters.
const BAR_WIDTH: u64 = 40;

/// See the module.
pub struct Outcome {
    filesystem: &'static str,
    transport: String,
    seed: u64,
    acknowledgement: Value,
    /// Latencies of 4 KiB writes before the kill, in nanoseconds.
    pub latency: Option<Histogram<u64>>,
    /// Operations acknowledged when the primary was killed.
    pub acknowledged_before_kill: u64,
    /// Operations acknowledged by each load in all.
    pub per_load: Vec<(String, u64)>,
    /// Things compared by content.
    pub checked: u64,
    /// What was promised and is not there.
    pub lost: Vec<String>,
    /// Errors that clients must not see.
    pub errors: Vec<String>,
    /// How the takeover went.
    pub takeover: Option<Watched>,
    /// From the restart of the killed node until the pair was mirrored.
    pub rejoin: Option<Duration>,
    /// Both local trees compared.
    pub trees: Option<Comparison>,
    /// How to use and stop the pair, when it was left running.
    pub hint: String,
}

impl Outcome {
    /// Nothing found yet.
    pub fn new(arguments: &Arguments, acknowledgement: Value) -> Self {
        Outcome {
            filesystem: arguments.fs.name(),
            transport: arguments.transport.clone(),
            seed: arguments.seed,
            acknowledgement,
            latency: None,
            acknowledged_before_kill: 0,
            per_load: Vec::new(),
            checked: 0,
            lost: Vec::new(),
            errors: Vec::new(),
            takeover: None,
            rejoin: None,
            trees: None,
            hint: String::new(),
        }
    }

    /// Takes over what the loads have found so far.
    pub fn record_findings(&mut self, fleet: &Fleet) {
        self.checked = fleet.checked();
        self.lost = fleet.lost();
        self.errors = fleet.errors();
    }

    /// True while nothing was found wrong.
    pub fn passed_so_far(&self) -> bool {
        self.lost.is_empty() && self.errors.is_empty()
    }

    /// True when everything was done and nothing was found wrong.
    pub fn passed(&self) -> bool {
        let equal =
            self.trees.as_ref().is_some_and(|trees| trees.differences.is_empty() && trees.entries > 1);
        self.passed_so_far() && equal && self.takeover.is_some() && self.rejoin.is_some() && self.checked > 0
    }

    fn acknowledged(&self) -> u64 {
        self.per_load.iter().map(|(_, count)| count).sum::<u64>().max(self.acknowledged_before_kill)
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let latency = self.latency.as_ref().map(|histogram| {
            let mut quantiles: serde_json::Map<String, Value> = QUANTILES
                .iter()
                .map(|(name, q)| ((*name).to_owned(), json!(micros(histogram.value_at_quantile(*q)))))
                .collect();
            quantiles.insert("max".to_owned(), json!(micros(histogram.max())));
            quantiles.insert("count".to_owned(), json!(histogram.len()));
            Value::Object(quantiles)
        });
        let takeover = self.takeover.map(|watched| {
            json!({
                "outage_ms": watched.outage.as_secs_f64() * 1e3,
                "detection_ms": watched.steps.detection_us as f64 / 1e3,
                "fencing_ms": watched.steps.fencing_us as f64 / 1e3,
                "witness_ms": watched.steps.witness_us as f64 / 1e3,
                "first_served_ms": watched.steps.first_served_us as f64 / 1e3,
            })
        });
        let trees = self.trees.as_ref().map(|trees| {
            json!({
                "equal": trees.differences.is_empty(),
                "entries": trees.entries,
                "bytes": trees.bytes,
                "differences": trees.differences,
            })
        });
        json!({
            "passed": self.passed(),
            "filesystem": self.filesystem,
            "transport": self.transport,
            "seed": self.seed,
            "acknowledgement": self.acknowledgement,
            "acknowledged_operations": self.acknowledged(),
            "acknowledged_before_kill": self.acknowledged_before_kill,
            "per_load": self.per_load.iter().map(|(name, count)| json!({"load": name, "operations": count})).collect::<Vec<_>>(),
            "checked": self.checked,
            "lost": self.lost.len(),
            "lost_details": self.lost,
            "client_errors": self.errors,
            "write_4k_latency_us": latency,
            "takeover": takeover,
            "rejoin_ms": self.rejoin.map(|rejoin| rejoin.as_secs_f64() * 1e3),
            "trees": trees,
        })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail, so the results below are dropped.
        if let Some(histogram) = &self.latency {
            text.push_str(&histogram_text(histogram));
        }
        if let Some(Watched { outage, steps }) = self.takeover {
            let ms = |us: u64| us as f64 / 1e3;
            let _ = writeln!(
                text,
                "\ntakeover: {:.0} ms without service, measured by a client; node b's account, from node a's last word:",
                outage.as_secs_f64() * 1e3
            );
            for (name, us) in [
                ("detection", steps.detection_us),
                ("fencing", steps.fencing_us),
                ("witness", steps.witness_us),
                ("first served", steps.first_served_us),
            ] {
                let _ = writeln!(text, "  {name:<13} {:>8.1} ms", ms(us));
            }
        }
        if let Some(rejoin) = self.rejoin {
            let _ = writeln!(
                text,
                "rejoin: mirrored again {:.1} s after node a was started",
                rejoin.as_secs_f64()
            );
        }
        let _ = writeln!(text, "\nacknowledged operations: {}", self.acknowledged());
        for (name, count) in &self.per_load {
            let _ = writeln!(text, "  {count:>9}  {name}");
        }
        let _ = writeln!(text, "checked by content: {}; lost: {}", self.checked, self.lost.len());
        for line in self.lost.iter().chain(&self.errors).take(MAX_LINES) {
            let _ = writeln!(text, "  {line}");
        }
        if let Some(trees) = &self.trees {
            let equal = if trees.differences.is_empty() { "equal" } else { "DIFFERENT" };
            let _ = writeln!(text, "local trees: {} names, {} bytes, {equal}", trees.entries, trees.bytes);
            for line in &trees.differences {
                let _ = writeln!(text, "  {line}");
            }
        }
        let _ = writeln!(text, "{}", if self.passed() { "PASSED: nothing was lost" } else { "FAILED" });
        text
    }
}

fn histogram_text(histogram: &Histogram<u64>) -> String {
    let mut text = format!(
        "\n4 KiB writes through the mount, durable on both nodes ({} of them), µs:\n",
        histogram.len()
    );
    let micros = |nanos: u64| nanos as f64 / 1000.0;
    for (name, quantile) in QUANTILES {
        let _ = write!(text, "  {name} {:.0}", micros(histogram.value_at_quantile(quantile)));
    }
    let _ = writeln!(text, "  max {:.0}", micros(histogram.max()));
    // Buckets that double: from 8 µs on.
    let mut buckets: Vec<(u64, u64)> = Vec::new();
    for value in histogram.iter_log(8_000, 2.0) {
        buckets.push((value.value_iterated_to(), value.count_since_last_iteration()));
    }
    let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    for (limit, count) in buckets.into_iter().skip_while(|(_, count)| *count == 0) {
        let width = (count * BAR_WIDTH).div_ceil(most);
        let _ = writeln!(text, "  < {:>9.0} {count:>8} {}", micros(limit), "#".repeat(width as usize));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::control::Takeover;
    use crate::cluster::disk::Filesystem;

    fn complete() -> Outcome {
        let arguments = Arguments {
            json: true,
            keep: false,
            fs: Filesystem::Ext4,
            transport: "tcp".to_owned(),
            seconds: 1,
            seed: 1,
            program: None,
        };
        let mut outcome = Outcome::new(&arguments, json!(null));
        let mut histogram = Histogram::new(3).unwrap();
        (1..1000u64).for_each(|value| histogram.record(value * 1000).unwrap());
        outcome.latency = Some(histogram);
        outcome.checked = 10;
        outcome.takeover = Some(Watched { outage: Duration::from_millis(300), steps: Takeover::default() });
        outcome.rejoin = Some(Duration::from_secs(1));
        outcome.trees = Some(Comparison { entries: 10, bytes: 100, differences: Vec::new() });
        outcome
    }

    #[test]
    fn only_a_complete_and_faultless_demo_passes() {
        type Spoil = fn(&mut Outcome);
        assert!(complete().passed());
        let spoils: [Spoil; 6] = [
            |outcome| outcome.lost.push("something".to_owned()),
            |outcome| outcome.errors.push("something".to_owned()),
            |outcome| outcome.trees = None,
            |outcome| {
                outcome.trees = Some(Comparison { entries: 10, bytes: 1, differences: vec!["x".to_owned()] })
            },
            |outcome| outcome.takeover = None,
            |outcome| outcome.checked = 0,
        ];
        for spoil in spoils {
            let mut outcome = complete();
            spoil(&mut outcome);
            assert!(!outcome.passed());
            assert!(outcome.to_text().contains("FAILED"));
            assert_eq!(outcome.to_json()["passed"], false);
        }
    }

    #[test]
    fn the_histogram_shows_every_write_once() {
        let text = complete().to_text();
        assert!(text.contains("p50 500"), "{text}");
        let counted: u64 = text
            .lines()
            .filter(|line| line.trim_start().starts_with('<'))
            .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
            .sum();
        assert_eq!(counted, 999);
    }
}
