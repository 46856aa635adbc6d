//! Which bytes of a file a Delta has replaced, and by what.
//!
//! Invariants of [`ExtentMap`]: extents are not empty, do not overlap, and are kept by start; inserting one
//! replaces whatever it covers, so only the last writer of a byte is known. Nothing is merged: the bytes of
//! neighbouring writes are not neighbours in the log. Cost of an insert: O(log n) plus the extents it covers,
//! each of which was paid for when it was inserted.
//!
//! What can go wrong: nothing here; callers have checked that offset + length fits in an `i64`.

use ids::Lsn;
use std::collections::BTreeMap;
use std::ops::Range;

/// Where the bytes of an extent come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The log, from this position on, without a gap.
    Log(Lsn),
    /// Zeros, and no blocks (a punched hole).
    Hole,
    /// Zeros, with blocks reserved (a zeroed range).
    Zero,
}

impl Source {
    /// The source of what starts `bytes` further on.
    fn plus(self, bytes: u64) -> Source {
        match self {
            Source::Log(lsn) => Source::Log(lsn.plus(bytes)),
            other => other,
        }
    }
}

/// A range of a file and its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Length, never 0.
    pub len_bytes: u64,
    /// Where the bytes are.
    pub source: Source,
}

impl Extent {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.len_bytes
    }

    fn clipped(self, range: &Range<u64>) -> Extent {
        let start = self.offset.max(range.start);
        let end = self.end().min(range.end);
        Extent { offset: start, len_bytes: end - start, source: self.source.plus(start - self.offset) }
    }
}

/// The replaced ranges of one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExtentMap {
    by_start: BTreeMap<u64, (u64, Source)>,
    data_bytes: u64,
}

impl ExtentMap {
    /// Whether nothing is replaced.
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// How many extents.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Bytes whose source is the log: what applying must write.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// All extents in order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.by_start.iter().map(|(&offset, &(len_bytes, source))| Extent { offset, len_bytes, source })
    }

    /// The parts of extents that lie in `range`, in order, clipped to it.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        let before = self.by_start.range(..range.start).next_back().map(|(&start, _)| start);
        self.by_start
            .range(before.unwrap_or(range.start)..range.end.max(range.start))
            .map(|(&offset, &(len_bytes, source))| Extent { offset, len_bytes, source })
            .filter(move |extent| extent.end() > range.start)
            .map({
                let range = range.clone();
                move |extent| extent.clipped(&range)
            })
    }

    /// Replaces a range by `extent`; nothing for an empty one.
    pub fn insert(&mut self, extent: Extent) {
        if extent.len_bytes == 0 {
            return;
        }
        self.remove(extent.offset..extent.end());
        self.put(extent);
    }

    /// Forgets what is known of `range`.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some((&start, &(len_bytes, source))) = self.by_start.range(..range.start).next_back() {
            let old = Extent { offset: start, len_bytes, source };
            if old.end() > range.start {
                self.take(start);
                self.put(old.clipped(&(0..range.start)));
                if old.end() > range.end {
                    self.put(old.clipped(&(range.end..u64::MAX)));
                    return;
                }
            }
        }
        while let Some((&start, &(len_bytes, source))) = self.by_start.range(range.clone()).next() {
            self.take(start);
            let old = Extent { offset: start, len_bytes, source };
            if old.end() > range.end {
                self.put(old.clipped(&(range.end..u64::MAX)));
                return;
            }
        }
    }

    fn put(&mut self, extent: Extent) {
        if let Source::Log(_) = extent.source {
            self.data_bytes += extent.len_bytes;
        }
        self.by_start.insert(extent.offset, (extent.len_bytes, extent.source));
    }

    fn take(&mut self, start: u64) {
        if let Some((len_bytes, Source::Log(_))) = self.by_start.remove(&start) {
            self.data_bytes -= len_bytes;
        }
    }
}

/// A set of byte ranges; neighbours are merged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeSet {
    ends_by_start: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.ends_by_start.is_empty()
    }

    /// How many ranges.
    pub fn len(&self) -> usize {
        self.ends_by_start.len()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ends_by_start.iter().map(|(&start, &end)| start..end)
    }

    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&old_start, &old_end)) = self.ends_by_start.range(..=end).next_back() {
            if old_end < start {
                break;
            }
            self.ends_by_start.remove(&old_start);
            start = start.min(old_start);
            end = end.max(old_end);
        }
        self.ends_by_start.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&old_start, &old_end)) = self.ends_by_start.range(..range.end).next_back() {
            if old_end <= range.start {
                break;
            }
            self.ends_by_start.remove(&old_start);
            if old_end > range.end {
                self.ends_by_start.insert(range.end, old_end);
            }
            if old_start < range.start {
                self.ends_by_start.insert(old_start, range.start);
                break;
            }
        }
    }

    /// The parts of a range that are in none, in order.
    pub fn gaps_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let before = self.ends_by_start.range(..=range.start).next_back().map_or(0, |(_, &end)| end);
        let mut at = before.max(range.start);
        let mut gaps = Vec::new();
        for (&start, &end) in self.ends_by_start.range(range.start..range.end.max(range.start)) {
            if start > at {
                gaps.push(at..start);
            }
            at = at.max(end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Bytes in all ranges.
    pub fn total_bytes(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }
}

#[cfg(test)]
mod tests;
