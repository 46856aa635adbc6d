//! What an append costs beside a bare loop that copies the same bytes and makes them durable with the same
//! instructions on the same memory. One thread; the two loops alternate in short turns, so that a noisy machine
//! disturbs both alike; medians of the turns are compared.
//!
//! `cargo run --release -p nvlog --example append_ratio [ROUNDS]` prints a table and one JSON line per row.

use ids::VolumeId;
use nvlog::region::MappedRegion;
use nvlog::{FormatOptions, Log, Region, format};
use std::time::Instant;

const CAPACITY_BYTES: u64 = 64 << 20;
const SIZES_BYTES: [usize; 6] = [64, 256, 1024, 4096, 16384, 65536];
const TURN_BYTES: usize = 4 << 20;
const MAX_TURN_APPENDS: usize = 2000;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let rounds = std::env::args().nth(1).map_or(Ok(41), |text| text.parse())?;
    println!(
        "persist     size B   append ns     bare ns   ratio (bare: record bytes)   ratio (bare: payload bytes)"
    );
    for written_back in [true, false] {
        for size in SIZES_BYTES {
            measure(written_back, size, rounds)?;
        }
    }
    Ok(())
}

fn region(written_back: bool) -> Result<MappedRegion, Failure> {
    let len_bytes = format::RING_OFFSET_BYTES + CAPACITY_BYTES;
    Ok(match written_back {
        true => MappedRegion::anonymous_written_back(len_bytes)?,
        false => MappedRegion::anonymous(len_bytes)?,
    })
}

fn measure(written_back: bool, size: usize, rounds: usize) -> Result<(), Failure> {
    let options =
        FormatOptions { volume: VolumeId([1; 16]), capacity_bytes: CAPACITY_BYTES, overwrite: false };
    let log = Log::format(Box::new(region(written_back)?), options)?;
    let bare = region(written_back)?;
    let payload = vec![0x5A_u8; size];
    let record = vec![0x5A_u8; format::record_bytes(size as u64) as usize];
    let count = (TURN_BYTES / size).min(MAX_TURN_APPENDS);
    let (mut appends, mut bare_records, mut bare_payloads) = (Vec::new(), Vec::new(), Vec::new());
    let mut position = 0;
    for _ in 0..rounds {
        appends.push(append(&log, &payload, count)?);
        bare_records.push(copy(&bare, &record, count, &mut position)?);
        bare_payloads.push(copy(&bare, &payload, count, &mut position)?);
    }
    let [append_ns, record_ns, payload_ns] = [appends, bare_records, bare_payloads].map(median);
    let persist = if written_back { "write-back" } else { "fence" };
    println!(
        "{persist:<10} {size:>7} {append_ns:>11.1} {record_ns:>11.1} {:>7.2} {:>27.2}",
        append_ns / record_ns,
        append_ns / payload_ns
    );
    println!(
        "{{\"persist\":\"{persist}\",\"size_bytes\":{size},\"append_ns\":{append_ns:.1},\"bare_record_ns\":{record_ns:.1},\"bare_payload_ns\":{payload_ns:.1}}}"
    );
    Ok(())
}

/// Nanoseconds per append, each made durable before the next.
fn append(log: &Log, payload: &[u8], count: usize) -> Result<f64, Failure> {
    let begin = Instant::now();
    for _ in 0..count {
        log.reserve(payload.len())?.publish(&[payload]);
        log.seal_and_persist()?;
    }
    let nanoseconds = begin.elapsed().as_nanos() as f64 / count as f64;
    trim(log)?;
    Ok(nanoseconds)
}

fn trim(log: &Log) -> Result<(), Failure> {
    log.advance_tail(log.end())?;
    log.set_space_floor(log.end().lsn);
    Ok(())
}

/// Nanoseconds per copy of `bytes`, each made durable before the next, through a ring of the same length.
fn copy(region: &dyn Region, bytes: &[u8], count: usize, position: &mut u64) -> Result<f64, Failure> {
    let begin = Instant::now();
    for _ in 0..count {
        if *position + bytes.len() as u64 > region.len_bytes() {
            *position = 0;
        }
        if region.store(*position, &[bytes], &mut |_| {}) == nvlog::Stored::Volatile {
            region.persist(*position, bytes.len() as u64)?;
        }
        *position += bytes.len() as u64;
    }
    Ok(begin.elapsed().as_nanos() as f64 / count as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
