//! Contents of files: where they have data, bytes, holes, room that is set aside, and the end.
//!
//! A receiver makes everything a hole that is one at the source, and compares or fetches the rest piece by piece. Room
//! that `fallocate` set aside is a promise to clients, so it is set aside here too, unless there is none left. A file
//! that changes at the source meanwhile is installed as a mixture; the source knows that it changed, and it comes again.

use ids::Oid;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;

use super::ResyncError;
use super::capture::Capture;
use super::site::Site;
use crate::attributes::Attributes;
use crate::base::TreeError;
use crate::holes::{self, next_data};
use crate::remainder::tolerant::Tolerant;
use crate::tree::{Fill, LocalAttributes};
use crate::view::BaseReader;

/// Longest range that is compared or sent as one.
pub const MAX_PIECE_BYTES: u64 = 128 << 10;

/// Where a file has data.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FileMap {
    /// Length of the whole file in bytes.
    pub size: u64,
    /// Ranges with data, `(offset, length)` in bytes, ascending; everything else before `end` is a hole.
    pub data: Vec<(u64, u64)>,
    /// Ranges between and behind those, also behind the end of the file, that have blocks and are not written,
    /// `(offset, length)` in bytes, ascending.
    pub reserved: Vec<(u64, u64)>,
    /// The map is complete up to here.
    pub end: u64,
}

/// No file reaches further.
const LAST: u64 = i64::MAX as u64;

/// What files take at least on most filesystems; taking a file for sparse that is not costs a question only.
const BLOCK_BYTES: u64 = 4096;

/// 128 bits that tell two pieces of content apart.
pub fn digest(bytes: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(bytes)
}

fn unless_gone<T: Default>(oid: Oid, result: io::Result<T>) -> Result<T, ResyncError> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(T::default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        other => other.map_err(|error| ResyncError::Read(oid, error)),
    }
}

/// See [`super::data_map`].
pub(super) fn data_map(
    reader: &dyn BaseReader,
    oid: Oid,
    from: u64,
    max: usize,
) -> Result<FileMap, ResyncError> {
    let attributes = unless_gone(oid, reader.attributes(oid).map(Some))?;
    let Some(Attributes { size, blocks_bytes, .. }) = attributes else { return Ok(FileMap::default()) };
    let mut map = FileMap { size, end: from.min(size), ..FileMap::default() };
    while map.end < size && map.data.len() < max {
        let Some(data) = unless_gone(oid, next_data(reader, oid, map.end, size))? else {
            map.end = size;
            break;
        };
        map.end = data.end;
        map.data.push((data.start, data.end - data.start));
    }
    let dense = map.data == [(0, size)] && blocks_bytes <= size.next_multiple_of(BLOCK_BYTES);
    if blocks_bytes > 0 && max > 0 && !dense {
        let until = if map.end < size { map.end } else { LAST };
        let gaps = unless_gone(oid, reader.unallocated(oid, from..until.max(from)))?;
        map.reserved = without(from..until, &map.data, &gaps);
        if map.reserved.len() > max {
            map.reserved.truncate(max);
            // The rest of it comes with the next map, but for what lies behind the end of the file.
            let (offset, len_bytes) = map.reserved[max - 1];
            map.end = map.end.min(offset + len_bytes);
            map.data.retain_mut(|(offset, len_bytes)| {
                *len_bytes = (*len_bytes).min(map.end.saturating_sub(*offset));
                *len_bytes > 0
            });
        }
    }
    Ok(map)
}

/// What is left of `range` without data and without gaps, both ascending.
fn without(range: Range<u64>, data: &[(u64, u64)], gaps: &[Range<u64>]) -> Vec<(u64, u64)> {
    let data = data.iter().map(|&(offset, len_bytes)| offset..offset + len_bytes);
    let mut taken: Vec<Range<u64>> = data.chain(gaps.iter().cloned()).collect();
    taken.sort_unstable_by_key(|range| range.start);
    let (mut left, mut at) = (Vec::new(), range.start);
    taken.push(range.end..range.end);
    for taken in taken {
        if taken.start > at {
            left.push((at, taken.start - at));
        }
        at = at.max(taken.end);
    }
    left
}

fn size(reader: &dyn BaseReader, oid: Oid) -> Result<u64, ResyncError> {
    unless_gone(oid, reader.attributes(oid).map(|attributes| attributes.size))
}

/// See [`super::read`].
pub(super) fn read(
    reader: &dyn BaseReader,
    oid: Oid,
    offset: u64,
    len_bytes: usize,
) -> Result<Vec<u8>, ResyncError> {
    let mut bytes = vec![0; len_bytes];
    let size = size(reader, oid)?;
    let len = unless_gone(oid, holes::read(reader, oid, offset, &mut bytes, size))?;
    bytes.truncate(len);
    Ok(bytes)
}

/// See [`super::shrink_file`].
pub(super) fn shrink(site: &impl Site, file: &Capture) -> Result<(), ResyncError> {
    let site = Tolerant(site);
    let LocalAttributes { size, has_blocks, .. } = site.attributes(file.oid)?;
    // What is set aside behind its end goes, too; what the source has there is told with its contents.
    match size > file.size || has_blocks {
        true => Ok(site.truncate(file.oid, size.min(file.size))?),
        false => Ok(()),
    }
}

/// See [`super::punch`].
pub(super) fn punch(site: &impl Site, oid: Oid, offset: u64, len_bytes: u64) -> Result<(), ResyncError> {
    if len_bytes > 0 {
        Tolerant(site).fill(oid, offset, len_bytes, Fill::Hole)?;
    }
    Ok(())
}

/// See [`super::reserve`].
pub(super) fn reserve(site: &impl Site, oid: Oid, offset: u64, len_bytes: u64) -> Result<(), ResyncError> {
    let site = Tolerant(site);
    let (size, end) = (site.attributes(oid)?.size, offset.saturating_add(len_bytes));
    let written_end = end.min(size).max(offset);
    let full = |outcome: Result<(), TreeError>| match outcome {
        Err(error) if error.errno == Errno::NOSPC => Ok(true),
        other => other.map(|()| false),
    };
    if written_end > offset && full(site.fill(oid, offset, written_end - offset, Fill::Zero))? {
        site.fill(oid, offset, written_end - offset, Fill::Hole)?;
    }
    if end > written_end {
        let _full = full(site.fill(oid, written_end, end - written_end, Fill::Allocate))?;
    }
    Ok(())
}

/// See [`super::write`].
pub(super) fn write(site: &impl Site, oid: Oid, offset: u64, bytes: &[u8]) -> Result<(), ResyncError> {
    Ok(Tolerant(site).write_bytes(oid, offset, bytes)?)
}

/// See [`super::finish_file`].
pub(super) fn finish(site: &impl Site, file: &Capture) -> Result<(), ResyncError> {
    let site = Tolerant(site);
    if site.attributes(file.oid)?.size != file.size {
        site.truncate(file.oid, file.size)?;
    }
    // A write takes file capabilities away.
    let wanted = file.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    site.set_xattrs(file.oid, wanted)?;
    site.set_mode(file.oid, file.mode)?;
    Ok(site.set_times(file.oid, Some(file.atime), Some(file.mtime))?)
}
