//! 4 KiB writes at random places of one file, whose latency is measured.
//!
//! Each block's content follows from its number and how often it was written, so that an old version is told
//! from the newest one. A block whose write was interrupted holds the old or the new version, nothing between.

use super::{Checked, Load};
use crate::random::{Random, content};
use hdrhistogram::Histogram;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The size of a write.
pub const BLOCK_BYTES: usize = 4096;

/// How many blocks the file has.
const BLOCKS: u64 = 4096;

/// Writes of one step.
const WRITES_PER_STEP: u64 = 8;

/// Latencies above this count as this.
const MAX_LATENCY: Duration = Duration::from_secs(60);

/// Latencies of acknowledged writes, in nanoseconds.
#[derive(Clone)]
pub struct Latencies(Arc<Mutex<Histogram<u64>>>);

impl Latencies {
    /// An empty histogram with three significant digits.
    pub fn new() -> io::Result<Self> {
        let highest = u64::try_from(MAX_LATENCY.as_nanos()).map_err(io::Error::other)?;
        let histogram = Histogram::new_with_bounds(1, highest, 3).map_err(io::Error::other)?;
        Ok(Latencies(Arc::new(Mutex::new(histogram))))
    }

    fn record(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos);
    }

    /// The histogram so far.
    pub fn snapshot(&self) -> Histogram<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See the module.
pub struct Blocks {
    random: Random,
    versions: Vec<u32>,
    in_doubt: Option<usize>,
    file: Option<File>,
    latencies: Latencies,
    pause: Duration,
}

impl Blocks {
    /// A load that records how long its writes take. `pause` between steps keeps it from being a flood.
    pub fn new(random: Random, latencies: Latencies, pause: Duration) -> Self {
        let versions = vec![0; BLOCKS as usize];
        Blocks { random, versions, in_doubt: None, file: None, latencies, pause }
    }
}

fn block(number: usize, version: u32) -> Vec<u8> {
    match version {
        0 => vec![0; BLOCK_BYTES], // never written: a hole
        _ => content((number as u64) << 32 | u64::from(version), BLOCK_BYTES),
    }
}

impl Load for Blocks {
    fn name(&self) -> String {
        "4 KiB overwrites".to_owned()
    }

    fn arrive(&mut self, mount: &Path) -> io::Result<Checked> {
        let path = mount.join("blocks.bin");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let len = file.metadata()?.len() as usize;
        let mut checked = Checked::default();
        let mut buffer = vec![0; BLOCK_BYTES];
        for (number, version) in self.versions.iter_mut().enumerate() {
            buffer.fill(0);
            let start = number * BLOCK_BYTES;
            if start < len {
                file.read_exact_at(&mut buffer[..BLOCK_BYTES.min(len - start)], start as u64)?;
            }
            checked.compared += 1;
            if buffer == block(number, *version) {
                continue;
            }
            if self.in_doubt == Some(number) && buffer == block(number, *version + 1) {
                *version += 1;
                continue;
            }
            let older = (0..*version).rev().find(|older| buffer == block(number, *older));
            let what = older.map_or("something else".to_owned(), |older| format!("version {older}"));
            checked
                .lost
                .push(format!("blocks.bin: block {number} holds {what} instead of version {version}"));
        }
        self.in_doubt = None;
        self.file = Some(file);
        Ok(checked)
    }

    fn step(&mut self, _mount: &Path) -> io::Result<u64> {
        let file = self.file.as_ref().ok_or_else(|| io::Error::other("not arrived"))?;
        for _ in 0..WRITES_PER_STEP {
            let number = self.random.index(self.versions.len());
            let next = block(number, self.versions[number] + 1);
            let started = Instant::now();
            let written = file.write_at(&next, (number * BLOCK_BYTES) as u64);
            self.latencies.record(started.elapsed());
            match written {
                Ok(BLOCK_BYTES) => self.versions[number] += 1,
                other => {
                    self.in_doubt = Some(number);
                    self.file = None;
                    return Err(other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                }
            }
        }
        if !self.pause.is_zero() {
            std::thread::sleep(self.pause);
        }
        Ok(WRITES_PER_STEP)
    }
}
