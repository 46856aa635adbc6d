//! Whether commits come back to their pace: from a cold start, after a pause, and after others had the processors.
//!
//! One link and nothing else, because a place where a thread waits learns from all its waits. What a stretch took is
//! compared with the best of its link; while others have the processors it is shown and not judged.

use crate::commit::{MirroredCommit, Partner};
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::median;
use anyhow::{Context, Result};
use rdma_transport::TransportKind;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const SIZES_BYTES: [usize; 2] = [256, 4096];
const CAPACITY_BYTES: u64 = 64 << 20;
/// Commits between two trims: half a ring at most.
const TRIMMED_AFTER: usize = 100;
const BAR: Bar = Bar::RatioAtMost(1.3);

/// The stretches of each link and size.
pub fn measure(scale: &Scale, report: &mut Report) -> Result<()> {
    for (transport, name) in [(TransportKind::Tcp, "tcp"), (TransportKind::Shm, "shm")] {
        for size_bytes in SIZES_BYTES {
            stretches(scale, transport, name, size_bytes, report)?;
        }
    }
    Ok(())
}

fn stretches(
    scale: &Scale,
    transport: TransportKind,
    name: &str,
    size_bytes: usize,
    report: &mut Report,
) -> Result<()> {
    let commits = MirroredCommit::start(Partner::Over(transport), CAPACITY_BYTES)?;
    let payload = vec![0x5A; size_bytes];
    let stretch = || -> Result<_> {
        // From the first one on: nothing warms up.
        let (begun, mut times) = (Instant::now(), Vec::new());
        while begun.elapsed() < scale.stretch_time {
            for _ in 0..TRIMMED_AFTER {
                let begun = Instant::now();
                commits.commit(&payload)?;
                times.push(begun.elapsed().as_nanos() as f64);
            }
            commits.trim()?;
        }
        Ok(median(times))
    };
    let cold = stretch()?;
    std::thread::sleep(scale.stretch_pause);
    let paused = stretch()?;
    let busy = Busy::start()?;
    std::thread::sleep(scale.stretch_pause);
    let disturbed = stretch()?;
    drop(busy);
    let free = stretch()?;
    let best = cold.min(paused).min(free);
    let judged = [("from a cold start", cold), ("after a pause", paused), ("after a busy time", free)];
    let unjudged = [("while others have the processors", disturbed)];
    for (index, (when, p50)) in judged.into_iter().chain(unjudged).enumerate() {
        let what = format!("mirrored commit over {name}, {size_bytes} B, p50 {when}");
        let row = Row::new("pace", what, Unit::Ns, p50).against("the best stretch", best);
        report.add(if index < judged.len() { row.bar(BAR) } else { row });
    }
    Ok(())
}

/// A process for each processor that does nothing but run.
struct Busy(Vec<Child>);

impl Busy {
    fn start() -> Result<Busy> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let mut busy = Busy(Vec::new());
        for _ in 0..count {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            busy.0.push(command.spawn().context("sh")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // It ends itself never; that it is gone already is as good.
            let _ = process.kill().and_then(|()| process.wait());
        }
    }
}
