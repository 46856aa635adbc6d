//! Large sequential data from the log to the local filesystem, beside fio writing the same bytes there. Both
//! include `syncfs`. A Delta is built straight into a log in memory, so no mount and no client takes part.
//!
//! Virtual disks are often fast for some hundred megabytes and then held to a rate, which hits whoever writes then:
//! the order changes from round to round, there is a pause before each turn, and the best round of each counts.
//!
//! fio's time is what it says its writes took, plus our `syncfs` after it; starting it is not counted. Where it is
//! not installed, a plain loop of writes stands in, and the row says so.

use crate::disk::Place;
use crate::operations::{create_file, write_file};
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use anyhow::{Context, Result, bail};
use apply_engine::{Base, Delta, Oid, Vanished, apply};
use ids::VolumeId;
use nvlog::{FormatOptions, Log, format};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Data per record and per write, the most that the kernel sends at a time through the mount.
const WRITE_BYTES: u64 = 1 << 20;
const VOLUME: VolumeId = VolumeId([9; 16]);
const BAR: Bar = Bar::RatioAtLeast(0.85);
/// The first OID; each round takes the next one.
const FIRST_OID: u64 = 100;

/// Measures in turns and compares the best ones.
pub fn measure(scale: &Scale, place: &Place, report: &mut Report) -> Result<()> {
    let tree = place.path().join("tree");
    std::fs::create_dir(&tree)?;
    let base = Base::create(&tree, VOLUME)?;
    let capacity_bytes = scale.apply_bytes * 5 / 4;
    let region = nvlog::region::anonymous(capacity_bytes + format::RING_OFFSET_BYTES)?;
    let log = Log::format(region, FormatOptions { volume: VOLUME, capacity_bytes, overwrite: false })?;
    let data: Vec<u8> = (0..WRITE_BYTES).map(|n| (n.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
    let fio = Command::new("fio").arg("--version").output().is_ok_and(|output| output.status.success());
    let (mut best, mut best_peer) = (Duration::MAX, Duration::MAX);
    // The first round only warms up, and shows that both work.
    for round in 0..=scale.apply_rounds {
        let ours = || {
            std::thread::sleep(scale.apply_pause);
            applied(&base, &log, Oid(FIRST_OID + round as u64), scale.apply_bytes, &data)
        };
        let peer = || {
            std::thread::sleep(scale.apply_pause);
            peer_writes(&place.path().join("peer"), scale.apply_bytes, &data, fio)
        };
        let (took, peer_took) = match round % 2 {
            0 => (ours()?, peer()?),
            _ => {
                let peer_took = peer()?;
                (ours()?, peer_took)
            }
        };
        eprintln!("  round {round}: ours {took:.0?}, peer {peer_took:.0?}");
        if round > 0 {
            best = best.min(took);
            best_peer = best_peer.min(peer_took);
        }
    }
    let [ours, peer] = [best, best_peer].map(|took| scale.apply_bytes as f64 / took.as_secs_f64());
    let mib = scale.apply_bytes >> 20;
    let against = format!("{}, {}", if fio { "fio psync" } else { "plain writes" }, place.name());
    let what = format!("apply {mib} MiB of sequential data");
    report.add(Row::new("apply", what, Unit::BytesPerSecond, ours).against(against, peer).bar(BAR));
    Ok(())
}

/// Logs a new file, and times its way to the disk.
fn applied(base: &Base, log: &Log, oid: Oid, len_bytes: u64, data: &[u8]) -> Result<Duration> {
    let delta = logged(log, oid, len_bytes, data)?;
    settle(base.path())?;
    let begun = Instant::now();
    let written = apply(base, log, &delta)?;
    base.sync()?;
    let took = begun.elapsed();
    if written.written_bytes != len_bytes {
        bail!("{} bytes were applied instead of {len_bytes}", written.written_bytes);
    }
    log.advance_tail(log.end())?;
    log.set_space_floor(log.end().lsn);
    Ok(took)
}

fn peer_writes(path: &Path, len_bytes: u64, data: &[u8], fio: bool) -> Result<Duration> {
    settle(path.parent().context("a file in a directory")?)?;
    let took = match fio {
        true => fio_writes(path, len_bytes)?,
        false => plain_writes(path, len_bytes, data)?,
    };
    std::fs::remove_file(path)?;
    Ok(took)
}

/// A new file in the log, and the Delta that it makes.
fn logged(log: &Log, oid: Oid, len_bytes: u64, data: &[u8]) -> Result<Delta> {
    let from = log.end();
    let mut delta = Delta::new(from.lsn, Vanished::Forget);
    create_file(log, oid, &format!("file-{}", oid.0), |at, operation| delta.absorb(at, operation))?;
    for offset in (0..len_bytes).step_by(data.len()) {
        write_file(log, oid, offset, data, |at, operation| delta.absorb(at, operation))?;
    }
    log.persist(from.lsn, log.end().lsn)?;
    Ok(delta)
}

/// Nothing of the last turn is left to be written.
fn settle(path: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

fn plain_writes(path: &Path, len_bytes: u64, data: &[u8]) -> Result<Duration> {
    let begun = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..len_bytes / data.len() as u64 {
        file.write_all(data)?;
    }
    settle(path)?;
    Ok(begun.elapsed())
}

fn fio_writes(path: &Path, len_bytes: u64) -> Result<Duration> {
    let mut command = Command::new("fio");
    command.args([
        "--name=peer",
        "--rw=write",
        "--ioengine=psync",
        "--fallocate=none",
        "--output-format=json",
    ]);
    command.arg(format!("--bs={WRITE_BYTES}")).arg(format!("--size={len_bytes}"));
    command.arg(format!("--filename={}", path.display()));
    let output = command.output().context("cannot run fio")?;
    let begun = Instant::now();
    settle(path)?;
    let synced = begun.elapsed();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("fio: {}", String::from_utf8_lossy(&output.stderr)))?;
    let write = &report["jobs"][0]["write"];
    let (Some(runtime_ms), Some(io_bytes)) = (write["runtime"].as_u64(), write["io_bytes"].as_u64()) else {
        bail!("fio told no runtime");
    };
    if io_bytes != len_bytes {
        bail!("fio wrote {io_bytes} bytes instead of {len_bytes}");
    }
    Ok(Duration::from_millis(runtime_ms) + synced)
}
