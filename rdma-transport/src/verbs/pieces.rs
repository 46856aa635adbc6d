//! How a batch of log bytes is cut into RDMA writes, and how the receiver finds the batches again.
//!
//! Each piece is one WRITE_WITH_IMM: the adapter tells the receiver how many bytes it was, and the number that it
//! carries is the log's chain CRC at the batch's end. A piece never passes the ring's end and has at most
//! [`PIECE_BYTES`]. **A piece that has exactly so many bytes, or that ends at the ring's end, is followed by another
//! of the same batch, if need be an empty one**; every other piece is the last of its batch. So the whole position
//! travels with the bytes, and nothing else does.
//!
//! Not chosen: the batch's length as the number, with the pieces before the last as plain writes. That leaves no
//! room for the CRC.

use crate::MAX_IN_FLIGHT;
use ids::{ChainCrc, LogPoint, Lsn};

/// The longest piece. Every adapter takes messages of this length.
pub(super) const PIECE_BYTES: u64 = 4 << 20;

/// One write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub offset: u64,
    pub len_bytes: u32,
    /// The last of its batch.
    pub last: bool,
}

fn is_last(offset: u64, len_bytes: u64, capacity_bytes: u64) -> bool {
    len_bytes != PIECE_BYTES && offset + len_bytes != capacity_bytes
}

/// The piece that starts at `at` of a batch that ends at `to`.
pub(super) fn cut(at: Lsn, to: Lsn, capacity_bytes: u64) -> Piece {
    let offset = at.0 % capacity_bytes;
    let len_bytes = to.since(at).min(capacity_bytes - offset).min(PIECE_BYTES);
    Piece { offset, len_bytes: len_bytes as u32, last: is_last(offset, len_bytes, capacity_bytes) }
}

/// How many pieces `[from, to)` makes.
pub(super) fn count(from: Lsn, to: Lsn, capacity_bytes: u64) -> u32 {
    let (mut at, mut count) = (from, 0);
    loop {
        let piece = cut(at, to, capacity_bytes);
        count += 1;
        if piece.last {
            return count;
        }
        at = at.plus(piece.len_bytes.into());
    }
}

/// Pieces that can be under way: each of [`MAX_IN_FLIGHT`] batches has a last one; all together are no longer than
/// the ring, so they hold so many full ones; and they pass the ring's end once.
pub(super) fn most_in_flight(capacity_bytes: u64) -> u32 {
    let full = u32::try_from(capacity_bytes / PIECE_BYTES).unwrap_or(u32::MAX / 4);
    MAX_IN_FLIGHT as u32 + full + 2
}

/// Finds the batches again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Landing {
    batch: Lsn,
    at: Lsn,
    capacity_bytes: u64,
}

impl Landing {
    pub(super) fn new(at: Lsn, capacity_bytes: u64) -> Landing {
        Landing { batch: at, at, capacity_bytes }
    }

    /// A piece has landed. The end of its batch when it was the last.
    pub(super) fn landed(&mut self, len_bytes: u32, number: u32) -> Result<Option<LogPoint>, String> {
        let len_bytes = u64::from(len_bytes);
        let offset = self.at.0 % self.capacity_bytes;
        let room = (self.capacity_bytes - offset).min(PIECE_BYTES);
        if len_bytes > room {
            return Err(format!("a write of {len_bytes} bytes at LSN {} where {room} fit", self.at));
        }
        let at = self.at.0.checked_add(len_bytes).map(Lsn).ok_or("the log's positions are at an end")?;
        if at.since(self.batch) > self.capacity_bytes || at == self.batch {
            return Err(format!("a batch from LSN {} to {at} is empty or longer than the ring", self.batch));
        }
        self.at = at;
        if !is_last(offset, len_bytes, self.capacity_bytes) {
            return Ok(None);
        }
        self.batch = at;
        Ok(Some(LogPoint { lsn: at, crc: ChainCrc(number) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rings of a few pieces, and of less than one.
    fn capacity() -> impl Strategy<Value = u64> {
        prop_oneof![64..4096u64, PIECE_BYTES - 64..PIECE_BYTES + 64, Just(PIECE_BYTES), Just(4 * PIECE_BYTES)]
            .prop_map(|bytes| bytes / 64 * 64)
    }

    /// Where things are interesting: near the ends of pieces and of the ring.
    fn length(capacity: u64) -> impl Strategy<Value = u64> {
        let near =
            move |mark: u64| (mark.saturating_sub(65).max(1)..mark + 66).prop_map(move |l| l.min(capacity));
        prop_oneof![1..=capacity, Just(capacity), near(PIECE_BYTES), near(2 * PIECE_BYTES), near(capacity)]
            .prop_map(move |len| len.clamp(1, capacity))
    }

    fn batches() -> impl Strategy<Value = (u64, u64, Vec<u64>)> {
        capacity().prop_flat_map(|capacity| {
            let lengths = proptest::collection::vec(length(capacity), 1..12);
            (Just(capacity), 0..4 * capacity, lengths)
        })
    }

    proptest! {
        /// The receiver finds the sender's batches, no piece passes the ring's end, and there are never more of
        /// them under way than there is room for.
        #[test]
        fn batches_are_found_again((capacity, start, lengths) in batches()) {
            let mut landing = Landing::new(Lsn(start), capacity);
            let mut at = Lsn(start);
            for (index, len) in lengths.into_iter().enumerate() {
                let (from, to) = (at, at.plus(len));
                let mut pieces = 0;
                loop {
                    let piece = cut(at, to, capacity);
                    prop_assert!(piece.offset + u64::from(piece.len_bytes) <= capacity);
                    prop_assert_eq!(piece.offset, at.0 % capacity);
                    at = at.plus(piece.len_bytes.into());
                    pieces += 1;
                    let found = landing.landed(piece.len_bytes, index as u32).unwrap();
                    let expected = LogPoint { lsn: to, crc: ChainCrc(index as u32) };
                    prop_assert_eq!(found, piece.last.then_some(expected));
                    if piece.last {
                        break;
                    }
                }
                prop_assert_eq!(at, to);
                prop_assert_eq!(pieces, count(from, to, capacity));
            }
        }

        /// As many batches as may be under way, of any lengths that fit the ring together, fit the bound.
        #[test]
        fn the_bound_holds((capacity, start, mut cuts) in batches()) {
            cuts.iter_mut().for_each(|cut| *cut %= capacity + 1);
            cuts.extend([0, capacity]);
            cuts.sort_unstable();
            cuts.dedup();
            let pieces: u32 = cuts
                .windows(2)
                .map(|pair| count(Lsn(start + pair[0]), Lsn(start + pair[1]), capacity))
                .sum();
            let others = MAX_IN_FLIGHT as u32 - (cuts.len() as u32 - 1);
            prop_assert!(pieces + others <= most_in_flight(capacity));
        }

        /// Whatever a peer writes, what passes lies inside the ring and is never longer than it.
        #[test]
        fn lies_are_refused(capacity in capacity(), start: u64, lens in proptest::collection::vec(any::<u32>(), 1..20)) {
            let mut landing = Landing::new(Lsn(start), capacity);
            let mut before = start;
            for len in lens {
                match landing.landed(len % (2 * PIECE_BYTES as u32), 0) {
                    Ok(Some(point)) => {
                        prop_assert!(point.lsn.0 > before && point.lsn.0 - before <= capacity);
                        before = point.lsn.0;
                    }
                    Ok(None) => {}
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}
