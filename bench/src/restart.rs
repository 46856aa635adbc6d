//! A start with a full log: how long until clients are served, and where the time goes.
//!
//! Process level: a mirrored pair is killed, both nodes at once; both logs are filled with the same records up to
//! [`FULL_PERCENT`] (a running node would have taken a consistency point long before); then witness and nodes are
//! started. The clock runs from the first `twinfiler serve` to the first read of a file that is in the log only,
//! through the mount. It includes the pair finding each other. The first write is shown too.
//!
//! Library level: opening the log (recovery checks every record's chained CRC) and building the Delta from it, the
//! two things that grow with the log.

use crate::cluster::{Cluster, VOLUME_ID, is_mounted};
use crate::disk::Place;
use crate::operations::{absorb_all, create_file, write_file};
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::median;
use anyhow::{Context, Result, bail};
use apply_engine::{Delta, Oid, Vanished};
use ids::VolumeId;
use nvlog::{Log, OpenMode, RegionKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

const BAR: Bar = Bar::AtMost(2e9);
/// Small writes make many records, large ones many bytes per record.
const RECORD_BYTES: [usize; 2] = [4 << 10, 256 << 10];
/// How much of the ring is filled: as much as a running node lets its clients fill (it keeps a sixteenth).
const FULL_PERCENT: u64 = 93;
/// An OID that the short life of the volume has not given.
const OID: Oid = Oid(1 << 40);
const NAME: &str = "only-in-the-log";

/// Measures both record sizes; medians.
pub fn measure(scale: &Scale, program: &Path, place: &Place, report: &mut Report) -> Result<()> {
    for record_bytes in RECORD_BYTES {
        let mut runs = Vec::new();
        for _ in 0..scale.restarts {
            runs.push(once(scale, program, place, record_bytes)?);
        }
        let of = |value: fn(&Run) -> f64| median(runs.iter().map(value).collect());
        let log = format!("{} MiB log, {} KiB writes", scale.restart_log_bytes >> 20, record_bytes >> 10);
        let row = Row::new(
            "restart",
            format!("start with a full {log}: first read"),
            Unit::Ns,
            of(|run| run.read_ns),
        );
        report.add(row.bar(BAR).detail("records", of(|run| run.records)));
        let what = format!("start with a full {log}: first write");
        report.add(Row::new("restart", what, Unit::Ns, of(|run| run.write_ns)));
        report.add(
            Row::new(
                "restart",
                format!("open + Delta of a full {log}, library"),
                Unit::Ns,
                of(|run| run.open_ns + run.delta_ns),
            )
            .detail("open_ns", of(|run| run.open_ns))
            .detail("delta_ns", of(|run| run.delta_ns)),
        );
    }
    Ok(())
}

struct Run {
    read_ns: f64,
    write_ns: f64,
    open_ns: f64,
    delta_ns: f64,
    records: f64,
}

fn open(path: &Path) -> Result<Log> {
    let volume: VolumeId = VOLUME_ID.parse()?;
    let region = nvlog::region::open(RegionKind::Emulated, path, OpenMode::Existing)?;
    Ok(Log::open(region, Some(volume))?.0)
}

fn once(scale: &Scale, program: &Path, place: &Place, record_bytes: usize) -> Result<Run> {
    let mut cluster = Cluster::start(program, place.path(), scale.restart_log_bytes)?;
    cluster.settle()?;
    let primary = cluster.wait_mirrored()?;
    [primary, 1 - primary].into_iter().for_each(|node| cluster.kill(node));
    let ends = [0, 1].map(|node| fill(&cluster.files(node).log, record_bytes));
    let [first, second] = ends;
    if first? != second? {
        bail!("the two logs were filled differently");
    }
    let (open_ns, delta_ns, records) = library(&cluster.files(primary).log)?;

    let begun = Instant::now();
    cluster.start_node(primary)?;
    cluster.start_node(1 - primary)?;
    let mut block = vec![0; record_bytes];
    let serving = cluster.wait("a first read", || {
        (0..2).find(|node| {
            let mount = cluster.files(*node).mount();
            is_mounted(&mount)
                && std::fs::File::open(mount.join(NAME))
                    .is_ok_and(|file| file.read_exact_at(&mut block, 0).is_ok())
        })
    })?;
    let read_ns = begun.elapsed().as_nanos() as f64;
    if block != content(record_bytes) {
        bail!("the first read gave wrong bytes");
    }
    let path = cluster.files(serving).mount().join("after");
    cluster.wait("a first write", || std::fs::write(&path, b"served").ok())?;
    let write_ns = begun.elapsed().as_nanos() as f64;
    Ok(Run { read_ns, write_ns, open_ns, delta_ns, records })
}

fn content(len_bytes: usize) -> Vec<u8> {
    vec![0xC3; len_bytes]
}

/// Fills a log with one file's writes; gives its end.
fn fill(path: &Path, record_bytes: usize) -> Result<ids::LogPoint> {
    let log = open(path)?;
    let (from, data) = (log.end(), content(record_bytes));
    create_file(&log, OID, NAME, |_, _| ())?;
    let keep = log.capacity_bytes() / 100 * (100 - FULL_PERCENT);
    let mut offset = 0;
    while log.free_bytes() > keep + 2 * record_bytes as u64 {
        write_file(&log, OID, offset, &data, |_, _| ())?;
        offset += record_bytes as u64;
    }
    log.persist(from.lsn, log.end().lsn)?;
    Ok(log.end())
}

/// Nanoseconds for opening and for the Delta, and how many records there were.
fn library(path: &Path) -> Result<(f64, f64, f64)> {
    let begun = Instant::now();
    let log = open(path)?;
    let open_ns = begun.elapsed().as_nanos() as f64;
    let begun = Instant::now();
    let mut delta = Delta::new(log.tail().lsn, Vanished::Keep);
    let records = absorb_all(&log, log.tail(), log.end().lsn, &mut delta)?;
    let delta_ns = begun.elapsed().as_nanos() as f64;
    delta.object(OID).context("the Delta does not know the file")?;
    Ok((open_ns, delta_ns, records as f64))
}
