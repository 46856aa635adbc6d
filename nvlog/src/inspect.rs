//! Looking at a log without touching it, however damaged it is: `twinfiler log inspect`.
//!
//! Invariants: opens read-only and takes no lock, so it works beside a running daemon (and may then see records
//! come and go); never panics on any content; reads and lists a bounded amount.
//! What can go wrong: the path cannot be read. Everything else is a finding, not an error.

use crate::format::{
    HEADER_BYTES, RECORD_MAGIC, RING_OFFSET_BYTES, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS, header,
};
use crate::record::{HeaderBytes, RecordKind, decode as decode_header, u32_at, u64_at};
use crate::recovery::{CutReason, Depth, RingBytes, Walker};
use crate::region::source::Source;
use crate::superblock::{Chosen, CopyState, Superblock, choose, decode};
use ids::{Epoch, LogPoint, Lsn};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Bounds of an inspection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InspectOptions {
    /// Records listed at most: the first half and the last half of them.
    pub max_records: usize,
}

impl Default for InspectOptions {
    fn default() -> InspectOptions {
        InspectOptions { max_records: 64 }
    }
}

/// Why a log cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot be read: {source}")]
pub struct InspectError {
    /// The path.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

/// One record, as listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListedRecord {
    /// Its first byte.
    pub lsn: Lsn,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its kind; `None` for one that is not known.
    pub kind: Option<RecordKind>,
    /// Length of its payload (or padding).
    pub payload_len: u32,
    /// Its chained CRC.
    pub crc: u32,
}

/// What the walk from the tail found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The superblock that it started from.
    pub superblock: Superblock,
    /// Number of records that continue the chain.
    pub records: u64,
    /// Of them by kind, in the order of [`RecordKind::ALL`].
    pub by_kind: [u64; RecordKind::ALL.len()],
    /// Where the chain ends.
    pub end: LogPoint,
    /// Why.
    pub cut: CutReason,
}

/// What a log looks like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspection {
    /// The path.
    pub path: PathBuf,
    /// Length of the file or device.
    pub len_bytes: u64,
    /// What each superblock copy is, in words.
    pub superblocks: [String; 2],
    /// Why no walk was possible, if it was not.
    pub refused: Option<String>,
    /// The walk along the chain.
    pub walk: Option<Walk>,
    /// Records of the walk, or, without a usable superblock, whatever looks like a record header. Bounded.
    pub listed: Vec<ListedRecord>,
    /// Headers beyond the end of the chain (or anywhere, without a superblock) that look intact. After a crash
    /// under load a few are normal.
    pub stray: u64,
    /// Places that could not be read; they were taken for zeros.
    pub unreadable: u64,
}

/// Inspects the log at `path` with the default bounds.
///
/// # Errors
/// When the path cannot be read at all.
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    inspect_with(path, InspectOptions::default())
}

/// Inspects the log at `path`.
///
/// # Errors
/// When the path cannot be read at all.
pub fn inspect_with(path: &Path, options: InspectOptions) -> Result<Inspection, InspectError> {
    let source = Source::open(path).map_err(|source| InspectError { path: path.to_owned(), source })?;
    let copies = copies_in(&source);
    let mut inspection = Inspection {
        path: path.to_owned(),
        len_bytes: source.len_bytes(),
        superblocks: [copies[0].to_string(), copies[1].to_string()],
        refused: None,
        walk: None,
        listed: Vec::new(),
        stray: 0,
        unreadable: 0,
    };
    let mut list = List::new(options.max_records);
    match usable(copies, source.len_bytes()) {
        Ok(superblock) => {
            let ring = SourceRing { source: &source, capacity_bytes: superblock.capacity_bytes };
            let walk = walk(&ring, superblock, &mut list);
            inspection.stray = count_stray(&ring, &walk);
            inspection.walk = Some(walk);
        }
        Err(why) => {
            inspection.refused = Some(why);
            inspection.stray = scan(&source, &mut list);
        }
    }
    inspection.listed = list.finish();
    inspection.unreadable = source.unreadable();
    Ok(inspection)
}

/// The superblock that the log at `path` would be opened with, or why there is none. Reads no record.
///
/// # Errors
/// When the path cannot be read at all.
pub fn superblock_of(path: &Path) -> Result<Result<Superblock, String>, InspectError> {
    let source = Source::open(path).map_err(|source| InspectError { path: path.to_owned(), source })?;
    Ok(usable(copies_in(&source), source.len_bytes()))
}

fn copies_in(source: &Source) -> [CopyState; 2] {
    SUPERBLOCK_OFFSETS.map(|offset| {
        let mut copy = [0; SUPERBLOCK_BYTES];
        source.read(offset, &mut copy);
        decode(&copy)
    })
}

fn usable(copies: [CopyState; 2], len_bytes: u64) -> Result<Superblock, String> {
    let Chosen { superblock, .. } = choose(copies).map_err(|error| error.to_string())?;
    let needs_bytes = RING_OFFSET_BYTES + superblock.capacity_bytes;
    if len_bytes < needs_bytes {
        return Err(format!("the superblock says {needs_bytes} bytes, there are {len_bytes}"));
    }
    Ok(superblock)
}

fn walk(ring: &SourceRing<'_>, superblock: Superblock, list: &mut List) -> Walk {
    let limit = superblock.tail.lsn.plus(superblock.capacity_bytes);
    let mut walker = Walker { at: superblock.tail, epoch: Epoch(0), limit };
    let mut by_kind = [0; RecordKind::ALL.len()];
    let mut records = 0;
    let cut = loop {
        match walker.step(ring, Depth::Payload) {
            Ok(link) => {
                records += 1;
                let index = RecordKind::ALL.iter().position(|kind| *kind == link.kind);
                by_kind[index.expect("every kind is among all kinds")] += 1;
                list.add(ListedRecord {
                    lsn: link.header.lsn,
                    epoch: link.header.epoch,
                    kind: Some(link.kind),
                    payload_len: link.header.payload_len,
                    crc: link.header.chain_crc.0,
                });
            }
            Err(cut) => break cut,
        }
    };
    Walk { superblock, records, by_kind, end: walker.at, cut }
}

/// Headers that carry their own LSN between the end of the chain and a full lap after the tail.
fn count_stray(ring: &SourceRing<'_>, walk: &Walk) -> u64 {
    let mut stray = 0;
    let mut lsn = walk.end.lsn;
    let limit = walk.superblock.tail.lsn.plus(walk.superblock.capacity_bytes);
    let mut bytes: HeaderBytes = [0; HEADER_BYTES];
    while lsn < limit {
        ring.copy_contiguous(lsn, &mut bytes);
        let own = u32_at(&bytes, header::MAGIC) == RECORD_MAGIC && u64_at(&bytes, header::LSN) == lsn.0;
        stray += u64::from(own);
        lsn = lsn.plus(HEADER_BYTES as u64);
    }
    stray
}

/// Lists whatever looks like a record header, for logs without a usable superblock.
fn scan(source: &Source, list: &mut List) -> u64 {
    let mut found = 0;
    let mut offset = RING_OFFSET_BYTES;
    let mut bytes: HeaderBytes = [0; HEADER_BYTES];
    while offset + HEADER_BYTES as u64 <= source.len_bytes() {
        source.read(offset, &mut bytes);
        if let Some(header) = decode_header(&bytes) {
            found += 1;
            list.add(ListedRecord {
                lsn: header.lsn,
                epoch: header.epoch,
                kind: RecordKind::from_byte(header.kind),
                payload_len: header.payload_len,
                crc: header.chain_crc.0,
            });
        }
        offset += HEADER_BYTES as u64;
    }
    found
}

/// The first and the last records of however many.
struct List {
    half: usize,
    first: Vec<ListedRecord>,
    last: std::collections::VecDeque<ListedRecord>,
}

impl List {
    fn new(max_records: usize) -> List {
        List { half: max_records.div_ceil(2), first: Vec::new(), last: std::collections::VecDeque::new() }
    }

    fn add(&mut self, record: ListedRecord) {
        if self.first.len() < self.half {
            self.first.push(record);
            return;
        }
        self.last.push_back(record);
        if self.last.len() > self.half {
            self.last.pop_front();
        }
    }

    fn finish(mut self) -> Vec<ListedRecord> {
        self.first.extend(self.last);
        self.first
    }
}

struct SourceRing<'a> {
    source: &'a Source,
    capacity_bytes: u64,
}

impl RingBytes for SourceRing<'_> {
    fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }
    fn copy_contiguous(&self, lsn: Lsn, target: &mut [u8]) {
        self.source.read(RING_OFFSET_BYTES + lsn.0 % self.capacity_bytes, target);
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "log            {} ({} bytes)", self.path.display(), self.len_bytes)?;
        writeln!(f, "superblock 0   {}", self.superblocks[0])?;
        writeln!(f, "superblock 1   {}", self.superblocks[1])?;
        if let Some(why) = &self.refused {
            writeln!(f, "not usable     {why}")?;
            writeln!(f, "headers found  {} that look like records", self.stray)?;
        }
        if let Some(walk) = &self.walk {
            walk.fmt(f)?;
            writeln!(f, "beyond the end {} intact-looking headers", self.stray)?;
        }
        if self.unreadable > 0 {
            writeln!(f, "unreadable     {} places, taken for zeros", self.unreadable)?;
        }
        if !self.listed.is_empty() {
            writeln!(f, "{:>16}  {:>8}  {:<5}  {:>9}  chained CRC", "LSN", "epoch", "kind", "payload")?;
        }
        for record in &self.listed {
            let kind = record.kind.map_or("?".to_owned(), |kind| format!("{kind:?}"));
            let ListedRecord { lsn, epoch, payload_len, crc, .. } = record;
            writeln!(f, "{:>16}  {:>8}  {kind:<5}  {payload_len:>9}  {crc:08x}", lsn.0, epoch.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let superblock = &self.superblock;
        writeln!(f, "volume         {}", superblock.volume)?;
        writeln!(f, "format         version {}", superblock.version)?;
        writeln!(f, "capacity       {} bytes", superblock.capacity_bytes)?;
        writeln!(f, "generation     {}", superblock.generation)?;
        writeln!(f, "boot id        {}", superblock.boot_id)?;
        if superblock.memory_lost {
            writeln!(
                f,
                "memory lost    yes: the log did not survive a restart of the machine, or is known to lack something"
            )?;
        }
        for entry in superblock.epoch_history.entries() {
            writeln!(f, "epoch          {} from LSN {}", entry.epoch, entry.first_lsn)?;
        }
        writeln!(f, "role state     {} bytes", superblock.role_state.len())?;
        writeln!(f, "tail           {}", superblock.tail)?;
        writeln!(f, "end            {} ({})", self.end, self.cut)?;
        let missing = match superblock.durable_end {
            promised if promised > self.end.lsn => ": records are missing that were durable once",
            _ if self.records == 0 && self.cut == CutReason::LaterLap => {
                ", and a later lap lies at the tail: the superblock is older than the ring"
            }
            _ => "",
        };
        writeln!(f, "durable up to  {} when the superblock was written{missing}", superblock.durable_end)?;
        match superblock.applying_end {
            Some(end) => writeln!(f, "applying       up to {end}")?,
            None => writeln!(f, "applying       not told: perhaps up to the end")?,
        }
        write!(f, "records        {}", self.records)?;
        for (kind, count) in RecordKind::ALL.iter().zip(self.by_kind) {
            write!(f, ", {kind:?} {count}")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests;
