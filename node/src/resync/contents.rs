//! The receiver's side: contents of files, piece by piece, with several questions under way.

use super::error::ReceiveError;
use super::receive::Receive;
use super::wire::{Answer, MAX_ASKED, MAX_CONTENT_BYTES, MAX_ITEMS, Piece, PieceAnswer, Question};
use apply_engine::resync::{self, Capture, FileMap, MAX_PIECE_BYTES, ResyncError};
use ids::Oid;
use runtime::{Instant, planted};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Receive {
    /// Makes the contents of these files the source's.
    pub(super) fn contents(&self, files: &[&Capture]) -> Result<(), ReceiveError> {
        let base = &self.shared.base;
        files.iter().try_for_each(|file| resync::shrink_file(base, file))?;
        let mut todo: VecDeque<(Oid, u64)> = files.iter().map(|file| (file.oid, 0)).collect();
        while !todo.is_empty() {
            let asked: Vec<(Oid, u64)> = todo.iter().copied().collect();
            let maps = self.ask_one(&Question::Maps { files: asked.clone() }, |answer| match answer {
                Answer::Maps { maps } if !maps.is_empty() && maps.len() <= asked.len() => Some(maps),
                _ => None,
            })?;
            let mut pieces = Vec::new();
            let last = maps.len() - 1;
            for (number, map) in maps.into_iter().enumerate() {
                let Some((oid, from)) = todo.pop_front() else { return Err(ReceiveError::Answer) };
                let own_size = resync::data_map(base, oid, 0, 0)?.size;
                let mut at = from;
                let is_all = map.end >= map.size;
                for (offset, len_bytes, is_data) in in_order(&map) {
                    let end = offset.checked_add(len_bytes).filter(|end| match is_data || !is_all {
                        true => *end <= map.end,
                        false => *end <= i64::MAX as u64,
                    });
                    let (Some(end), true) = (end, offset >= at) else { return Err(ReceiveError::Answer) };
                    hole(base, oid, at, offset.min(map.end), own_size)?;
                    match is_data {
                        true => pieces.push(Range { oid, at: offset, end, own_size }),
                        false => resync::reserve(base, oid, offset, len_bytes)?,
                    }
                    at = end;
                }
                hole(base, oid, at, map.end, own_size)?;
                if map.end < map.size {
                    // Only the last one may go on: the next map is another file's.
                    if map.end <= from || number < last {
                        return Err(ReceiveError::Answer);
                    }
                    todo.push_front((oid, map.end));
                }
            }
            self.exchange(pieces)?;
        }
        for file in files {
            resync::finish_file(base, file)?;
        }
        Ok(())
    }

    /// Fetches what differs of these ranges, with several questions under way.
    fn exchange(&self, ranges: Vec<Range>) -> Result<(), ReceiveError> {
        let mut pieces = ranges.into_iter().flat_map(Range::pieces).peekable();
        let mut asked: VecDeque<Vec<Piece>> = VecDeque::new();
        let mut judge = self.judge.borrow_mut();
        let mut own = Instant::now();
        loop {
            while asked.len() < MAX_ASKED && pieces.peek().is_some() {
                let (mut batch, mut bytes): (Vec<Piece>, u64) = (Vec::new(), 0);
                while let Some((piece, own)) = pieces.next_if(|(piece, _)| {
                    bytes + piece.len_bytes <= MAX_CONTENT_BYTES && batch.len() < MAX_ITEMS
                }) {
                    bytes += piece.len_bytes;
                    let digest = match own {
                        true => {
                            let own = resync::read(
                                &self.shared.base,
                                piece.oid,
                                piece.offset,
                                piece.len_bytes as usize,
                            )?;
                            (own.len() as u64 == piece.len_bytes).then(|| resync::digest(&own))
                        }
                        false => None,
                    };
                    batch.push(Piece { digest, ..piece });
                }
                self.send(&Question::Pieces { pieces: batch.clone(), pack: judge.packs() })?;
                asked.push_back(batch);
            }
            let Some(batch) = asked.pop_front() else { return Ok(()) };
            let own_took = own.elapsed();
            let waiting = Instant::now();
            let Answer::Pieces { pieces: answers, took_us } = self.answer()? else {
                return Err(ReceiveError::Answer);
            };
            let looked_at = batch.iter().map(|piece| piece.len_bytes).sum();
            judge.answer(looked_at, waiting.elapsed(), Duration::from_micros(took_us), own_took);
            own = Instant::now();
            if answers.len() != batch.len() {
                return Err(ReceiveError::Answer);
            }
            for (piece, answer) in batch.iter().zip(answers) {
                match answer {
                    PieceAnswer::Same if piece.digest.is_some() => {}
                    PieceAnswer::Bytes(bytes) if bytes.len() as u64 <= piece.len_bytes => {
                        resync::write(&self.shared.base, piece.oid, piece.offset, &bytes)?;
                        self.shared.resync.received_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                    _ => return Err(ReceiveError::Answer),
                }
                self.shared.resync.done(0, piece.len_bytes);
            }
        }
    }
}

/// A range with data at the source.
struct Range {
    oid: Oid,
    at: u64,
    end: u64,
    /// Length of the file here.
    own_size: u64,
}

impl Range {
    /// In pieces, each with whether there is something here to compare it with.
    fn pieces(self) -> impl Iterator<Item = (Piece, bool)> {
        let Range { oid, mut at, mut end, own_size } = self;
        end -= u64::from(planted!(ResyncCursorOffByOne));
        std::iter::from_fn(move || {
            (at < end).then(|| {
                // Cut at the same places every time, whatever a range begins with.
                let len_bytes = (MAX_PIECE_BYTES - at % MAX_PIECE_BYTES).min(end - at);
                let piece = Piece { oid, offset: at, len_bytes, digest: None };
                at += len_bytes;
                (piece, own_size >= at)
            })
        })
    }
}

/// Offset and length of the ranges of both kinds, and whether it is data.
fn in_order(map: &FileMap) -> Vec<(u64, u64, bool)> {
    let data = map.data.iter().map(|&(offset, len_bytes)| (offset, len_bytes, true));
    let reserved = map.reserved.iter().map(|&(offset, len_bytes)| (offset, len_bytes, false));
    let mut ranges: Vec<_> = data.chain(reserved).collect();
    ranges.sort_unstable();
    ranges
}

/// A range that is a hole at the source; past the end here there is nothing to do.
fn hole(base: &apply_engine::Base, oid: Oid, from: u64, to: u64, own_size: u64) -> Result<(), ResyncError> {
    match from < to.min(own_size) {
        true => resync::punch(base, oid, from, to.min(own_size) - from),
        false => Ok(()),
    }
}
