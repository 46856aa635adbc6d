//! Comparing trees: how fast objects are read and digested beside a plain sequential read of the same files, and what
//! the digests of consistency points cost beside applying.
//!
//! Reading: files are written and flushed once; before each turn their pages are dropped (`posix_fadvise`), and the order
//! changes from round to round. The peer reads each file from its beginning with 1 MiB at a time and does nothing with it,
//! as `dd` to nowhere does. One side of a pair is measured: both sides do the same at the same time.
//!
//! Digests: the same consistency point is timed in its three parts, applying, digesting and flushing, as a node does
//! them one after the other; the ratio is with digests to without.

use crate::disk::Place;
use crate::operations::{create_file, write_file};
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use anyhow::{Result, bail};
use apply_engine::verify::{self, Key};
use apply_engine::{Base, Delta, Oid, Vanished, apply};
use ids::VolumeId;
use nvlog::{FormatOptions, Log, format};
use rustix::fs::Advice;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

const VOLUME: VolumeId = VolumeId([11; 16]);
/// What verify must reach of a plain read.
const READ_BAR: Bar = Bar::RatioAtLeast(0.8);
/// What a consistency point may take with digests, beside one without.
const DIGEST_BAR: Bar = Bar::RatioAtMost(1.05);
/// One read of the plain reader.
const READ_BYTES: usize = 1 << 20;
/// Length of a file that is read.
const FILE_BYTES: u64 = 16 << 20;
/// Length of a small file that is applied.
const SMALL_BYTES: usize = 4 << 10;
/// Parts as a node asks for them.
const PART_OBJECTS: usize = 8192;
const PART_BYTES: u64 = 64 << 20;
/// The first OID.
const FIRST_OID: u64 = 100;

/// Measures both.
pub fn measure(scale: &Scale, place: &Place, report: &mut Report) -> Result<()> {
    reading(scale, place, report)?;
    digests(scale, place, report)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect()
}

fn reading(scale: &Scale, place: &Place, report: &mut Report) -> Result<()> {
    let tree = place.path().join("read");
    std::fs::create_dir(&tree)?;
    let file_bytes = FILE_BYTES.min(scale.apply_bytes);
    let count = scale.apply_bytes / file_bytes;
    let data = pattern(file_bytes as usize);
    let paths: Vec<_> = (0..count).map(|number| tree.join(format!("file-{number:04}"))).collect();
    for path in &paths {
        std::fs::write(path, &data)?;
    }
    let (base, _) = Base::adopt(&tree, VOLUME)?;
    base.sync()?;
    let (mut best, mut best_peer) = (Duration::MAX, Duration::MAX);
    for round in 0..=scale.apply_rounds {
        let ours = || -> Result<Duration> {
            drop_pages(&paths)?;
            std::thread::sleep(scale.apply_pause / 4);
            let begun = Instant::now();
            let (mut at, mut read_bytes) = (Some(Key::FIRST), 0);
            while let Some(from) = at {
                let part = verify::part(&base, from, PART_OBJECTS, PART_BYTES)?;
                read_bytes += part.read_bytes;
                at = part.next;
            }
            match read_bytes == count * file_bytes {
                true => Ok(begun.elapsed()),
                false => bail!("{read_bytes} bytes were compared instead of {}", count * file_bytes),
            }
        };
        let peer = || -> Result<Duration> {
            drop_pages(&paths)?;
            std::thread::sleep(scale.apply_pause / 4);
            let begun = Instant::now();
            let mut buffer = vec![0; READ_BYTES];
            for path in &paths {
                let mut file = File::open(path)?;
                while file.read(&mut buffer)? > 0 {}
            }
            Ok(begun.elapsed())
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
    let bytes = (count * file_bytes) as f64;
    let [ours, peer] = [best, best_peer].map(|took| bytes / took.as_secs_f64());
    let what = format!("verify {} MiB, cold", (count * file_bytes) >> 20);
    let against = format!("sequential read, {}", place.name());
    report.add(Row::new("verify", what, Unit::BytesPerSecond, ours).against(against, peer).bar(READ_BAR));
    Ok(())
}

/// The next reads come from the disk.
fn drop_pages(paths: &[impl AsRef<Path>]) -> Result<()> {
    for path in paths {
        let file = File::open(path)?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// What one consistency point took.
#[derive(Clone, Copy)]
struct Took {
    without: Duration,
    digest: Duration,
}

fn digests(scale: &Scale, place: &Place, report: &mut Report) -> Result<()> {
    let small_files = (scale.mail_files * 2) as u64;
    let shapes: [(String, u64, usize); 2] = [
        (format!("{small_files} new files of 4 KiB"), small_files, SMALL_BYTES),
        (format!("{} MiB of sequential data", scale.apply_bytes >> 20), 1, scale.apply_bytes as usize),
    ];
    for (at, (what, files, len)) in shapes.into_iter().enumerate() {
        let tree = place.path().join(format!("digest-{at}"));
        std::fs::create_dir(&tree)?;
        let base = Base::create(&tree, VOLUME)?;
        let capacity_bytes = (scale.apply_bytes * 5 / 4).max(files * 16 * SMALL_BYTES as u64);
        let region = nvlog::region::anonymous(capacity_bytes + format::RING_OFFSET_BYTES)?;
        let log = Log::format(region, FormatOptions { volume: VOLUME, capacity_bytes, overwrite: false })?;
        let mut rounds = Vec::new();
        for round in 0..=scale.apply_rounds as u64 {
            std::thread::sleep(scale.apply_pause / 4);
            let took = point(&base, &log, FIRST_OID + round * files, files, len)?;
            eprintln!("  round {round}: {:.1?}, digests {:.1?}", took.without, took.digest);
            if round > 0 {
                rounds.push(took);
            }
        }
        rounds.sort_unstable_by_key(|took| took.without);
        let middle = rounds[rounds.len() / 2];
        let ours = (middle.without + middle.digest).as_nanos() as f64;
        let against = format!("without digests, {}", place.name());
        let row = Row::new("verify", format!("consistency point, {what}"), Unit::Ns, ours);
        report.add(row.against(against, middle.without.as_nanos() as f64).bar(DIGEST_BAR));
    }
    Ok(())
}

/// Logs new files, and times their way to the disk.
fn point(base: &Base, log: &Log, first_oid: u64, files: u64, len: usize) -> Result<Took> {
    let data = pattern(len.min(READ_BYTES));
    let from = log.end();
    let mut delta = Delta::new(from.lsn, Vanished::Forget);
    for oid in first_oid..first_oid + files {
        create_file(log, Oid(oid), &format!("file-{oid}"), |at, operation| delta.absorb(at, operation))?;
        for offset in (0..len as u64).step_by(data.len()) {
            write_file(log, Oid(oid), offset, &data, |at, operation| delta.absorb(at, operation))?;
        }
    }
    log.persist(from.lsn, log.end().lsn)?;
    rustix::fs::syncfs(File::open(base.path())?)?;
    let begun = Instant::now();
    apply(base, log, &delta)?;
    let applied = begun.elapsed();
    let begun = Instant::now();
    let digests = verify::applied(base, &delta);
    let digest = begun.elapsed();
    if digests.objects.is_empty() || digests.end != delta.end() {
        bail!("no digests of {files} files");
    }
    let begun = Instant::now();
    base.sync()?;
    let without = applied + begun.elapsed();
    log.advance_tail(log.end())?;
    log.set_space_floor(log.end().lsn);
    Ok(Took { without, digest })
}
