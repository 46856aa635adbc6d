//! Where a file has data, and reading it so that nobody else's working set is pushed out of memory.
//!
//! Whoever goes over whole trees (verify, resync) reads through here: holes are not read at all, however large they are,
//! and what was brought into the page cache for it alone is dropped again. Not chosen: direct reads, which some
//! filesystems refuse, and which want aligned memory.
//!
//! Invariant: what is not told as data reads as zeros. A filesystem may tell zeros as data, and two filesystems that
//! hold the same bytes may tell different ranges. What can go wrong: the object goes, or cannot be read.

use ids::Oid;
use std::io;
use std::ops::Range;

use crate::view::BaseReader;

/// The first range with data at or past `from` and before `end`; `None`: there is none, or the file ends before.
pub(crate) fn next_data(
    reader: &dyn BaseReader,
    oid: Oid,
    from: u64,
    end: u64,
) -> io::Result<Option<Range<u64>>> {
    if from >= end {
        return Ok(None);
    }
    let Some(start) = reader.seek_data(oid, from)?.filter(|start| *start < end) else { return Ok(None) };
    // No hole past it: the file became shorter just now.
    let hole = reader.seek_hole(oid, start)?.unwrap_or(start).min(end);
    Ok((hole > start).then_some(start..hole))
}

/// Reads a range of which only data is really read: the rest of `buf` is filled with zeros. Returns how much of `buf`
/// lies before the end of the file, which is `size` long.
pub(crate) fn read(
    reader: &dyn BaseReader,
    oid: Oid,
    offset: u64,
    buf: &mut [u8],
    size: u64,
) -> io::Result<usize> {
    let end = offset.saturating_add(buf.len() as u64).min(size);
    let len = end.saturating_sub(offset) as usize;
    let buf = &mut buf[..len];
    let mut at = offset;
    while at < end {
        let data = next_data(reader, oid, at, end)?.unwrap_or(end..end);
        buf[(at - offset) as usize..(data.start - offset) as usize].fill(0);
        let into = &mut buf[(data.start - offset) as usize..(data.end - offset) as usize];
        let wanted = into.len();
        let read = reader.read_once(oid, data.start, into)?;
        if read < wanted {
            // It became shorter just now.
            return Ok((data.start - offset) as usize + read);
        }
        at = data.end;
    }
    Ok(len)
}
