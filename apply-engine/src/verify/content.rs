//! What a range of a file holds, as a number that two nodes share whatever is a hole on either.
//!
//! A base may have allocated what is a hole on the other node (it preallocates, it was copied by another program, a
//! resync compared it equal), and both read as zeros. So only blocks that hold something else count, each with where it
//! stands; the length of the file is among its attributes. Holes are not read: a file of a terabyte of nothing takes no
//! longer than an empty one.
//!
//! What can go wrong: it cannot be read ([`ResyncError::Read`]).

use ids::Oid;

use super::object::Digest;
use super::part::PIECE_BYTES;
use crate::holes::next_data;
use crate::resync::ResyncError;
use crate::resync::site::Site;

/// What is looked at as one. Blocks begin at multiples of it, whatever a range begins with.
const BLOCK_BYTES: u64 = 4096;

/// See [`content`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::verify) struct Content {
    /// `None`: nothing but zeros.
    pub digest: Option<u64>,
    /// What was read for it.
    pub read_bytes: u64,
}

thread_local! {
    /// What is read of a file: one buffer for each thread that reads.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// A range of a file of at most [`PIECE_BYTES`].
pub(super) fn content(
    site: &impl Site,
    oid: Oid,
    offset: u64,
    len_bytes: u64,
) -> Result<Content, ResyncError> {
    let failed = |error| ResyncError::Read(oid, error);
    let reader = site.reader();
    let end = offset.saturating_add(len_bytes.min(PIECE_BYTES));
    let (mut hash, mut any, mut read_bytes, mut at) = (Digest::default(), false, 0, offset);
    BUFFER.with_borrow_mut(|buffer| {
        while let Some(data) = next_data(reader, oid, at, end).map_err(failed)? {
            // Whole blocks: where a hole begins is the filesystem's business.
            let from = (data.start - data.start % BLOCK_BYTES).max(at);
            let to = data.end.checked_next_multiple_of(BLOCK_BYTES).map_or(end, |to| to.min(end));
            let len = (to - from) as usize;
            buffer.resize(buffer.len().max(len), 0);
            let read = reader.read_once(oid, from, &mut buffer[..len]).map_err(failed)?;
            read_bytes += read as u64;
            let (mut block_at, mut rest) = (from, &buffer[..read]);
            while !rest.is_empty() {
                let until_next = (BLOCK_BYTES - block_at % BLOCK_BYTES) as usize;
                let (block, more) = rest.split_at(until_next.min(rest.len()));
                if !is_zero(block) {
                    hash.number(block_at);
                    hash.bytes(block);
                    any = true;
                }
                (block_at, rest) = (block_at + block.len() as u64, more);
            }
            at = to;
        }
        Ok(Content { digest: any.then(|| hash.end()), read_bytes })
    })
}

fn is_zero(block: &[u8]) -> bool {
    // What is not zero shows that at its beginning, as a rule.
    let (head, tail) = block.split_at(block.len().min(16));
    head.iter().all(|byte| *byte == 0) && tail.iter().fold(0, |all, byte| all | byte) == 0
}
