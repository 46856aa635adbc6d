//! From SIGKILL of the primary, under load, to the first operation that its partner serves: with default timers,
//! real processes, and the roles changing each time.
//!
//! Two clocks: the node's own (status, step by step), and a client's wall clock from the signal to the return of a
//! durable write on the other mount.

use crate::cluster::{Cluster, is_mounted};
use crate::disk::Place;
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::median;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const LOG_BYTES: u64 = 64 << 20;
const WRITERS: usize = 2;
/// Load before the kill: log and Deltas hold something, and a node that was just started trusts the witness, for which
/// it has to have told the same for two seconds.
const LOAD_TIME: Duration = Duration::from_millis(2200);
const SERVED_BAR: Bar = Bar::AtMost(250e6);
const MEDIAN_BAR: Bar = Bar::AtMost(150e6);
const P99_BAR: Bar = Bar::AtMost(300e6);

#[derive(Default)]
struct Measured {
    wall_ns: Vec<f64>,
    served_ns: Vec<f64>,
    detection_us: Vec<f64>,
    fencing_us: Vec<f64>,
    witness_us: Vec<f64>,
    first_served_us: Vec<f64>,
}

/// Kills again and again.
pub fn measure(scale: &Scale, program: &Path, place: &Place, report: &mut Report) -> Result<()> {
    let mut cluster = Cluster::start(program, place.path(), LOG_BYTES)?;
    let mut measured = Measured::default();
    for round in 0..scale.takeovers {
        let primary = cluster.wait_mirrored()?;
        let load = Load::start(&cluster.files(primary).mount(), round)?;
        std::thread::sleep(LOAD_TIME);
        once(&mut cluster, primary, &mut measured)?;
        let last = |values: &[f64]| values.last().copied().unwrap_or(f64::NAN) / 1e6;
        eprintln!("takeover {round}: {:.1} ms in all", last(&measured.wall_ns));
        drop(load);
        cluster.start_node(primary)?;
    }
    let kills = measured.wall_ns.len();
    let worst = |values: &[f64]| values.iter().copied().fold(f64::NAN, f64::max);
    let row =
        |what: &str, value, bar| Row::new("takeover", format!("{what} of {kills}"), Unit::Ns, value).bar(bar);
    let wall = median(measured.wall_ns.clone());
    report.add(row("takeover, SIGKILL to first write by a client, median", wall, MEDIAN_BAR));
    report.add(
        row("takeover, SIGKILL to first write by a client, p99", p99(&measured.wall_ns), P99_BAR)
            .detail("worst_ns", worst(&measured.wall_ns)),
    );
    report.add(
        row("takeover, detection to first served operation, worst", worst(&measured.served_ns), SERVED_BAR)
            .detail("median_ns", median(measured.served_ns))
            .detail("median_detection_us", median(measured.detection_us))
            .detail("median_fencing_us", median(measured.fencing_us))
            .detail("median_witness_us", median(measured.witness_us))
            .detail("median_first_served_us", median(measured.first_served_us)),
    );
    Ok(())
}

/// The smallest value that at least 99 of 100 do not exceed.
fn p99(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * 99).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn once(cluster: &mut Cluster, primary: usize, measured: &mut Measured) -> Result<()> {
    let partner = 1 - primary;
    let epoch = cluster.files(partner).status()?.epoch;
    let mount = cluster.files(partner).mount();
    let killed = Instant::now();
    cluster.kill(primary);
    let wall = cluster.wait("the partner to serve", || {
        let path = mount.join("first");
        // Before the mount is there, the path leads to the directory below it.
        (is_mounted(&mount) && write_once(&path).is_ok()).then(|| killed.elapsed())
    })?;
    let timing = cluster.wait("the partner to tell of its takeover", || {
        let timing = cluster.files(partner).status().ok()?.last_takeover?;
        (timing.epoch > epoch).then_some(timing)
    })?;
    measured.wall_ns.push(wall.as_nanos() as f64);
    let after_detection_us = timing.fencing_us + timing.witness_us + timing.first_served_us;
    measured.served_ns.push(after_detection_us as f64 * 1e3);
    measured.detection_us.push(timing.detection_us as f64);
    measured.fencing_us.push(timing.fencing_us as f64);
    measured.witness_us.push(timing.witness_us as f64);
    measured.first_served_us.push(timing.first_served_us as f64);
    Ok(())
}

fn write_once(path: &Path) -> std::io::Result<()> {
    File::create(path)?.write_all(b"served")
}

/// Threads that write until their mount dies.
struct Load(Vec<std::thread::JoinHandle<()>>);

impl Load {
    fn start(mount: &Path, round: usize) -> Result<Load> {
        let writers = (0..WRITERS).map(|writer| {
            let mut file = File::create(mount.join(format!("load-{round}-{writer}")))?;
            Ok(std::thread::spawn(move || while file.write_all(&[7; 4096]).is_ok() {}))
        });
        Ok(Load(writers.collect::<Result<_>>().context("cannot start the load")?))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for writer in self.0.drain(..) {
            // It ended with its mount.
            let _ = writer.join();
        }
    }
}
