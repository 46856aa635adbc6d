//! What a node of the simulation or the model keeps over a crash: role state and a log that is a vector of
//! record ids.
//!
//! The log knows what it holds, never whether it should: the checks are elsewhere.

use ids::{AnswerFrom, ChainCrc, Durability, Epoch, EpochHistory, EpochStart, LogPoint, Lsn, VolumeId};
use pair::{LogSummary, PointVerdict};

pub const VOLUME: VolumeId = VolumeId([7; 16]);
pub const RECORD_BYTES: u64 = 64;

/// A record: in which epoch it was written, and a number that is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    pub epoch: Epoch,
    pub id: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Disk {
    pub state: Vec<u8>,
    pub log: Vec<Record>,
    pub history: EpochHistory,
    pub survived: bool,
    pub base_empty: bool,
}

impl Disk {
    pub fn formatted() -> Disk {
        Disk {
            state: Vec::new(),
            log: Vec::new(),
            history: EpochHistory::default(),
            survived: true,
            base_empty: true,
        }
    }

    pub fn lsn(len: usize) -> Lsn {
        Lsn(len as u64 * RECORD_BYTES)
    }

    pub fn len(lsn: Lsn) -> usize {
        (lsn.0 / RECORD_BYTES) as usize
    }

    /// The prefix of `len` records, with a chained checksum that names it.
    pub fn point(&self, len: usize) -> LogPoint {
        let crc = self.log[..len].iter().fold(17u32, |crc, record| {
            crc.rotate_left(5).wrapping_mul(31).wrapping_add((record.id * 1000 + record.epoch.0) as u32)
        });
        LogPoint { lsn: Disk::lsn(len), crc: ChainCrc(crc) }
    }

    pub fn end(&self) -> LogPoint {
        self.point(self.log.len())
    }

    pub fn summary(&self, volume: VolumeId, capacity_bytes: u64, committed: usize) -> LogSummary {
        LogSummary {
            volume,
            capacity_bytes,
            tail: self.point(0),
            end: self.end(),
            committed: Disk::lsn(committed),
            history: self.history.clone(),
            survived: self.survived,
            durability: Durability::Power,
            answer_from: AnswerFrom::Power,
            base_empty: self.base_empty,
        }
    }

    pub fn open_epoch(&mut self, epoch: Epoch, id: u64) {
        let first_lsn = Disk::lsn(self.log.len());
        self.history.push(EpochStart { epoch, first_lsn }).expect("epochs ascend");
        self.log.push(Record { epoch, id });
    }

    /// Takes in what the primary wrote behind the end.
    pub fn ingest(&mut self, records: &[Record]) {
        for record in records {
            if self.history.last().is_none_or(|last| last.epoch < record.epoch) {
                let first_lsn = Disk::lsn(self.log.len());
                self.history.push(EpochStart { epoch: record.epoch, first_lsn }).expect("epochs ascend");
            }
            self.log.push(*record);
        }
    }

    pub fn cut(&mut self, to: Lsn) {
        self.log.truncate(Disk::len(to));
        self.history.truncate(to);
    }

    /// Is the point a prefix of this log, of which `retained` records before the end are still there?
    pub fn verdict(&self, point: LogPoint, retained: usize) -> PointVerdict {
        let len = Disk::len(point.lsn);
        if len > self.log.len() || self.point(len) != point {
            PointVerdict::Differs
        } else if self.log.len() - len > retained {
            PointVerdict::TooOld
        } else {
            PointVerdict::Continues
        }
    }
}
