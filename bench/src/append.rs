//! What an append costs beside a bare loop that copies the same bytes and makes them durable with the same
//! instructions on the same memory. One thread; turns alternate; medians of the turns are compared.
//!
//! Written back: cache lines are written back as on persistent memory. Fence only: the emulated log, which
//! survives the process. The peer copies as many bytes as the record has, header included.

use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::median;
use anyhow::Result;
use ids::VolumeId;
use nvlog::region::MappedRegion;
use nvlog::{FormatOptions, Log, Region, Stored, format};
use std::time::Instant;

const CAPACITY_BYTES: u64 = 64 << 20;
const SIZES_BYTES: [usize; 6] = [64, 256, 1024, 4096, 16384, 65536];
const TOUCH_BYTES: usize = 512 << 10;
const MAX_TURN_APPENDS: usize = 2000;
const BAR: Bar = Bar::RatioAtMost(1.4);

/// Measures every size.
pub fn measure(scale: &Scale, report: &mut Report) -> Result<()> {
    for written_back in [true, false] {
        for size_bytes in SIZES_BYTES {
            report.add(one(written_back, size_bytes, scale)?);
        }
    }
    Ok(())
}

fn region(written_back: bool) -> Result<MappedRegion> {
    let len_bytes = format::RING_OFFSET_BYTES + CAPACITY_BYTES;
    Ok(match written_back {
        true => MappedRegion::anonymous_written_back(len_bytes)?,
        false => MappedRegion::anonymous(len_bytes)?,
    })
}

fn one(written_back: bool, size_bytes: usize, scale: &Scale) -> Result<Row> {
    let options =
        FormatOptions { volume: VolumeId([1; 16]), capacity_bytes: CAPACITY_BYTES, overwrite: false };
    let log = Log::format(Box::new(region(written_back)?), options)?;
    let bare = region(written_back)?;
    let payload = vec![0x5A_u8; size_bytes];
    let record = vec![0x5A_u8; format::record_bytes(size_bytes as u64) as usize];
    let count = (scale.append_turn_bytes / size_bytes).clamp(1, MAX_TURN_APPENDS);
    touch(&log, &bare, scale.touch_times)?;
    let (mut appends, mut records, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
    let mut position = 0;
    for turn in 0..=scale.append_turns {
        let measured = [
            append(&log, &payload, count)?,
            copy(&bare, &record, count, &mut position)?,
            copy(&bare, &payload, count, &mut position)?,
        ];
        if turn > 0 {
            appends.push(measured[0]);
            records.push(measured[1]);
            payloads.push(measured[2]);
        }
    }
    let [ours, record_ns, payload_ns] = [appends, records, payloads].map(median);
    let persist = if written_back { "written back" } else { "fence only" };
    Ok(Row::new("append", format!("append + persist {size_bytes} B, {persist}"), Unit::Ns, ours)
        .against("copy + persist", record_ns)
        .bar(BAR)
        .detail("bare_payload_ns", payload_ns)
        .detail("ratio_to_payload", ours / payload_ns))
}

/// Writes every page once: what the kernel does at a first touch is nobody's merit.
fn touch(log: &Log, bare: &dyn Region, times: u64) -> Result<()> {
    let bytes = vec![0; TOUCH_BYTES];
    for _ in 0..times * CAPACITY_BYTES / TOUCH_BYTES as u64 {
        append(log, &bytes, 1)?;
    }
    for position in (0..times.min(1) * bare.len_bytes() / TOUCH_BYTES as u64).map(|n| n * TOUCH_BYTES as u64)
    {
        bare.store(position, &[&bytes], &mut |_| {});
    }
    Ok(())
}

/// Nanoseconds per append, each made durable before the next.
fn append(log: &Log, payload: &[u8], count: usize) -> Result<f64> {
    let begin = Instant::now();
    for _ in 0..count {
        log.reserve(payload.len())?.publish(&[payload]);
        log.seal_and_persist()?;
    }
    let nanoseconds = begin.elapsed().as_nanos() as f64 / count as f64;
    log.advance_tail(log.end())?;
    log.set_space_floor(log.end().lsn);
    Ok(nanoseconds)
}

/// Nanoseconds per copy of `bytes`, each made durable before the next, through a ring of the same length.
fn copy(region: &dyn Region, bytes: &[u8], count: usize, position: &mut u64) -> Result<f64> {
    let begin = Instant::now();
    for _ in 0..count {
        if *position + bytes.len() as u64 > region.len_bytes() {
            *position = 0;
        }
        if region.store(*position, &[bytes], &mut |_| {}) == Stored::Volatile {
            region.persist(*position, bytes.len() as u64)?;
        }
        *position += bytes.len() as u64;
    }
    Ok(begin.elapsed().as_nanos() as f64 / count as f64)
}
