//! Positions in the endless log, epochs, and the history that says which epoch wrote which part.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Every record starts and ends at a multiple of this.
pub const RECORD_ALIGN_BYTES: u64 = 64;

/// Log sequence number: a byte position in the endless log. Ring offset = LSN mod capacity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Where every log begins.
    pub const ZERO: Lsn = Lsn(0);

    /// The position `bytes` further on.
    pub fn plus(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }

    /// Bytes from `earlier` to here; 0 when `earlier` is not earlier.
    pub fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One period of one primary. At most one node acknowledges in an epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The CRC-32C of a record, seeded with that of the record before it: it names the whole prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ChainCrc(pub u32);

/// Names a log prefix exactly: where it ends, and the chained CRC of its last record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct LogPoint {
    /// One past the last byte of the prefix.
    pub lsn: Lsn,
    /// CRC of the last record of the prefix (the volume's chain seed for the empty prefix).
    pub crc: ChainCrc,
}

impl fmt::Display for LogPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08x}", self.lsn, self.crc.0)
    }
}

/// An epoch and where its records begin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// LSN of its first record.
    pub first_lsn: Lsn,
}

/// An entry that would break the order of an epoch history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("epoch {} at LSN {} cannot follow epoch {} at LSN {}", .new.epoch, .new.first_lsn, .last.epoch, .last.first_lsn)]
pub struct HistoryError {
    /// The entry that was refused.
    pub new: EpochStart,
    /// The last entry of the history.
    pub last: EpochStart,
}

/// Which epoch wrote which part of a log; epochs ascend strictly, positions never descend. Also when another node tells
/// it: one that does not is refused where it is decoded.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<EpochStart>")]
pub struct EpochHistory(Vec<EpochStart>);

impl TryFrom<Vec<EpochStart>> for EpochHistory {
    type Error = HistoryError;
    fn try_from(entries: Vec<EpochStart>) -> Result<EpochHistory, HistoryError> {
        EpochHistory::new(entries)
    }
}

impl EpochHistory {
    /// Entries kept; older ones are dropped, for they only matter to a partner that has been away that long.
    pub const MAX_ENTRIES: usize = 64;

    /// Checks the order of `entries`.
    pub fn new(entries: Vec<EpochStart>) -> Result<EpochHistory, HistoryError> {
        let mut history = EpochHistory::default();
        for entry in entries {
            history.push(entry)?;
        }
        Ok(history)
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    /// The newest entry.
    pub fn last(&self) -> Option<EpochStart> {
        self.0.last().copied()
    }

    /// Adds the newest entry. An empty epoch before it (same first LSN) stays: it happened.
    pub fn push(&mut self, new: EpochStart) -> Result<(), HistoryError> {
        if let Some(last) = self.last()
            && (new.epoch <= last.epoch || new.first_lsn < last.first_lsn)
        {
            return Err(HistoryError { new, last });
        }
        if self.0.len() == Self::MAX_ENTRIES {
            self.0.remove(0);
        }
        self.0.push(new);
        Ok(())
    }

    /// Forgets epochs that begin at or after `end`, as truncating the log there does.
    pub fn truncate(&mut self, end: Lsn) {
        self.0.retain(|entry| entry.first_lsn < end);
    }

    /// The end of the common prefix of two logs, given where each ends: each epoch has one writer, so up to
    /// the end of the last epoch that both histories hold at the same position the logs are the same.
    /// `None` when they share no epoch.
    pub fn common_end(&self, end: Lsn, other: &EpochHistory, other_end: Lsn) -> Option<Lsn> {
        let shared = self.0.iter().rev().find(|entry| other.0.contains(entry))?;
        Some(self.end_of(*shared, end).min(other.end_of(*shared, other_end)))
    }

    fn end_of(&self, entry: EpochStart, end: Lsn) -> Lsn {
        self.0.iter().find(|later| later.epoch > entry.epoch).map_or(end, |later| later.first_lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(u64, u64)]) -> EpochHistory {
        let entries = entries.iter().map(|&(e, l)| EpochStart { epoch: Epoch(e), first_lsn: Lsn(l) });
        EpochHistory::new(entries.collect()).unwrap()
    }

    #[test]
    fn the_order_is_checked() {
        let mut h = history(&[(1, 0), (2, 64)]);
        assert!(h.push(EpochStart { epoch: Epoch(2), first_lsn: Lsn(128) }).is_err());
        assert!(h.push(EpochStart { epoch: Epoch(3), first_lsn: Lsn(0) }).is_err());
        assert!(h.push(EpochStart { epoch: Epoch(3), first_lsn: Lsn(64) }).is_ok());
    }

    #[test]
    fn a_deposed_primary_keeps_only_the_common_prefix() {
        // epoch 1 on both; the old primary wrote to 640, the partner took over at 512.
        let old = history(&[(1, 0)]);
        let new = history(&[(1, 0), (2, 512)]);
        assert_eq!(new.common_end(Lsn(1024), &old, Lsn(640)), Some(Lsn(512)));
        assert_eq!(old.common_end(Lsn(640), &new, Lsn(1024)), Some(Lsn(512)));
    }

    #[test]
    fn a_partner_that_was_behind_keeps_all_it_has() {
        let old = history(&[(1, 0)]);
        let new = history(&[(1, 0), (2, 512)]);
        assert_eq!(new.common_end(Lsn(1024), &old, Lsn(256)), Some(Lsn(256)));
    }

    #[test]
    fn split_histories_meet_where_they_parted() {
        let a = history(&[(1, 0), (2, 512)]);
        let b = history(&[(1, 0), (3, 448)]);
        assert_eq!(a.common_end(Lsn(1024), &b, Lsn(2048)), Some(Lsn(448)));
        assert_eq!(history(&[(5, 0)]).common_end(Lsn(64), &b, Lsn(2048)), None);
    }

    #[test]
    fn truncation_forgets_later_epochs() {
        let mut h = history(&[(1, 0), (2, 512), (3, 1024)]);
        h.truncate(Lsn(1024));
        assert_eq!(h, history(&[(1, 0), (2, 512)]));
    }
}
