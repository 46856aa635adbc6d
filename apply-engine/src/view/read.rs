//! Merged file content.
//!
//! A read is first planned (which layer has which bytes, under short locks) and then copied without any lock.
//! Invariant of a plan: its segments cover the asked range without gap or overlap, in order.

use super::{Layers, ViewError};
use crate::delta::{Delta, ObjectDelta, ObjectState};
use crate::extents::Source;
use ids::{Lsn, Oid};
use std::ops::{ControlFlow, Range};

/// Where the bytes of a segment are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentSource {
    /// In the log from here on.
    Log(Lsn),
    /// They are zeros that no block holds, or that were only reserved.
    Zeros,
    /// In the base at the same offset; zeros where the base ends earlier.
    Base,
}

/// A range of a file that comes from one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First byte.
    pub offset: u64,
    /// Length, never 0.
    pub len_bytes: u64,
    /// Where the bytes are.
    pub source: SegmentSource,
}

/// First step of a search for data or a hole; each further one looks at twice as much.
const SEEK_STEP_BYTES: u64 = 1 << 20;

impl Layers {
    /// Length of a file, looking at the base only if no Delta knows it.
    ///
    /// # Errors
    /// When it does not exist, or the base cannot be read.
    pub fn size(&self, oid: Oid) -> Result<u64, ViewError> {
        let found = self.walk(|delta| match delta.object(oid) {
            Some(object) if object.state == ObjectState::Dead => {
                ControlFlow::Break(Err(ViewError::NoObject(oid)))
            }
            Some(object) => match object.attrs.size {
                Some(size) => ControlFlow::Break(Ok(size)),
                None => ControlFlow::Continue(()),
            },
            None => ControlFlow::Continue(()),
        });
        match found {
            Some(answer) => answer,
            None => self.base.attributes(oid).map(|a| a.size).map_err(Layers::base_error(oid)),
        }
    }

    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// When the file does not exist, or the base or the log cannot be read.
    pub fn read(&self, oid: Oid, offset: u64, buf: &mut [u8]) -> Result<usize, ViewError> {
        if !self.is_touched(oid) {
            return self.base.read_at(oid, offset, buf).map_err(Layers::base_error(oid));
        }
        let size = self.size(oid)?;
        let len = (buf.len() as u64).min(size.saturating_sub(offset));
        for segment in self.plan(oid, offset..offset + len) {
            let start = (segment.offset - offset) as usize;
            let part = &mut buf[start..start + segment.len_bytes as usize];
            match segment.source {
                SegmentSource::Log(lsn) => self.log.copy_out(lsn, part)?,
                SegmentSource::Zeros => part.fill(0),
                SegmentSource::Base => {
                    let got =
                        self.base.read_at(oid, segment.offset, part).map_err(Layers::base_error(oid))?;
                    part[got..].fill(0);
                }
            }
        }
        Ok(len as usize)
    }

    /// Which layer has which bytes of `range`. Does not look at the file's length.
    pub fn plan(&self, oid: Oid, range: Range<u64>) -> Vec<Segment> {
        let mut known = Vec::new();
        let mut open = vec![range];
        open.retain(|range| !range.is_empty());
        self.walk(|delta| {
            open = std::mem::take(&mut open)
                .into_iter()
                .flat_map(|range| resolve(delta, oid, range, &mut known))
                .collect();
            if open.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        known.extend(open.into_iter().map(|range| segment(range, SegmentSource::Base)));
        known.sort_unstable_by_key(|segment| segment.offset);
        known
    }

    /// First byte of data at or past `offset` and before the end of the file; `None` when there is none.
    /// Reserved blocks without data count as holes, as they do on ext4 and xfs.
    ///
    /// # Errors
    /// When the file does not exist, or the base cannot be read.
    pub fn seek_data(&self, oid: Oid, offset: u64) -> Result<Option<u64>, ViewError> {
        self.seek(oid, offset, |segment| match segment.source {
            SegmentSource::Log(_) => Ok(Some(segment.offset)),
            SegmentSource::Zeros => Ok(None),
            SegmentSource::Base => {
                let found = self.base.seek_data(oid, segment.offset).map_err(Layers::base_error(oid))?;
                Ok(found.filter(|at| *at < segment.offset + segment.len_bytes))
            }
        })
    }

    /// First byte at or past `offset` that is in a hole, the end of the file being one; `None` when `offset`
    /// is at or past the end.
    ///
    /// # Errors
    /// When the file does not exist, or the base cannot be read.
    pub fn seek_hole(&self, oid: Oid, offset: u64) -> Result<Option<u64>, ViewError> {
        let size = self.size(oid)?;
        if offset >= size {
            return Ok(None);
        }
        let found = self.seek(oid, offset, |segment| match segment.source {
            SegmentSource::Log(_) => Ok(None),
            SegmentSource::Zeros => Ok(Some(segment.offset)),
            SegmentSource::Base => {
                let found = self.base.seek_hole(oid, segment.offset).map_err(Layers::base_error(oid))?;
                let hole = found.unwrap_or(segment.offset);
                Ok((hole < segment.offset + segment.len_bytes).then_some(hole))
            }
        })?;
        Ok(Some(found.unwrap_or(size)))
    }

    /// Have all bytes of a range room already: blocks in the base, or a record that was admitted with its needs? Then
    /// writing there needs none but what describes it.
    ///
    /// # Errors
    /// When the file does not exist, or the base cannot be read.
    pub fn is_allocated(&self, oid: Oid, range: Range<u64>) -> Result<bool, ViewError> {
        let mut open = vec![range];
        open.retain(|range| !range.is_empty());
        let found = self.walk(|delta| {
            let Some(object) = delta.object(oid) else { return ControlFlow::Continue(()) };
            if object.state == ObjectState::Dead {
                return ControlFlow::Break(Err(ViewError::NoObject(oid)));
            }
            match without_allocated(object, &open) {
                Some(rest) if rest.is_empty() => ControlFlow::Break(Ok(true)),
                Some(rest) => {
                    open = rest;
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Break(Ok(false)),
            }
        });
        if let Some(answer) = found {
            return answer;
        }
        for range in open {
            if !self.base.is_allocated(oid, range).map_err(Layers::base_error(oid))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn seek(
        &self,
        oid: Oid,
        offset: u64,
        mut look: impl FnMut(Segment) -> Result<Option<u64>, ViewError>,
    ) -> Result<Option<u64>, ViewError> {
        let size = self.size(oid)?;
        let (mut at, mut step_bytes) = (offset, SEEK_STEP_BYTES);
        while at < size {
            let end = at.saturating_add(step_bytes).min(size);
            for segment in self.plan(oid, at..end) {
                if let Some(found) = look(segment)? {
                    return Ok(Some(found));
                }
            }
            at = end;
            step_bytes = step_bytes.saturating_mul(2);
        }
        Ok(None)
    }
}

fn segment(range: Range<u64>, source: SegmentSource) -> Segment {
    Segment { offset: range.start, len_bytes: range.end - range.start, source }
}

/// Adds to `known` what `delta` has of `range`, and returns the parts that lie below it.
fn resolve(delta: &Delta, oid: Oid, range: Range<u64>, known: &mut Vec<Segment>) -> Vec<Range<u64>> {
    let Some(object) = delta.object(oid) else { return vec![range] };
    let mut below = Vec::new();
    let mut gap = |gap: Range<u64>, known: &mut Vec<Segment>| {
        let valid_end = gap.end.min(object.base_valid_below).max(gap.start);
        if gap.start < valid_end {
            below.push(gap.start..valid_end);
        }
        if valid_end < gap.end {
            known.push(segment(valid_end..gap.end, SegmentSource::Zeros));
        }
    };
    let mut at = range.start;
    for extent in object.extents.within(range.clone()) {
        gap(at..extent.offset, known);
        let source = match extent.source {
            Source::Log(lsn) => SegmentSource::Log(lsn),
            Source::Hole | Source::Zero => SegmentSource::Zeros,
        };
        known.push(segment(extent.offset..extent.end(), source));
        at = extent.end();
    }
    gap(at..range.end, known);
    below
}

/// The parts of `ranges` whose room is decided below `object`; `None` when a part has none for certain.
fn without_allocated(object: &ObjectDelta, ranges: &[Range<u64>]) -> Option<Vec<Range<u64>>> {
    let mut below = Vec::new();
    for gap in ranges.iter().flat_map(|range| object.allocated.gaps_in(range.clone())) {
        let mut at = gap.start;
        for extent in object.extents.within(gap.clone()) {
            if extent.source == Source::Hole {
                return None;
            }
            below.extend((at < extent.offset).then_some(at..extent.offset));
            at = extent.end();
        }
        below.extend((at < gap.end).then_some(at..gap.end));
    }
    below.iter().all(|range| range.end <= object.base_valid_below).then_some(below)
}
