//! Whether answers are compressed: when it is configured, or when both disks wait for the link.
//!
//! The receiver knows how long it waited for answers and how long its own disk took, and each answer says how long the
//! source worked on it; what is left of the waiting is the link's. When that is more than either disk's share over a
//! window of content, the receiver asks for packed answers. A source whose answers do not become shorter packs only
//! one in [`PROBE`] of them, because content that is compressed already costs time and gains nothing.
//!
//! What can go wrong: a wrong guess, which costs processor time or link time and nothing else.

use super::wire::{Answer, Tag};
use config::Compress;
use std::time::Duration;

/// Content after which the receiver judges.
const WINDOW_BYTES: u64 = 8 << 20;
/// An answer that stays longer than this part of itself was not worth packing.
const WORTH: f64 = 0.9;
/// While nothing is gained, so many answers go plain before one is tried again.
const PROBE: u32 = 16;

/// What the receiver wants, as far as it has judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Plain,
    Pack,
}

/// The source's side.
#[derive(Debug)]
pub(super) struct Packing {
    config: Compress,
    wish: Wish,
    plain_left: u32,
    on: bool,
}

impl Packing {
    pub fn new(config: Compress) -> Packing {
        Packing { config, wish: Wish::Plain, plain_left: 0, on: false }
    }

    pub fn wished(&mut self, wish: Wish) {
        self.wish = wish;
    }

    /// Whether the last answer that was long enough was packed.
    pub fn is_on(&self) -> bool {
        self.on
    }

    pub fn encode(&mut self, answer: &Answer, tag: Tag) -> Vec<u8> {
        let wanted = match self.config {
            Compress::Always => true,
            Compress::Never => false,
            Compress::Auto => self.wish == Wish::Pack,
        };
        if !wanted || !matches!(answer, Answer::Pieces { .. } | Answer::Chunk { .. }) {
            self.on &= wanted;
            return answer.encode(tag);
        }
        if self.plain_left > 0 {
            self.plain_left -= 1;
            return answer.encode(tag);
        }
        let (bytes, plain_len) = answer.encode_packed(tag);
        self.on = bytes.len() < plain_len;
        if bytes.len() as f64 > plain_len as f64 * WORTH && plain_len >= super::wire::MIN_PACKED_BYTES {
            self.plain_left = PROBE;
        }
        bytes
    }
}

/// The receiver's side.
#[derive(Debug, Default)]
pub(super) struct Judge {
    bytes: u64,
    waited: Duration,
    source: Duration,
    own: Duration,
    packs: bool,
}

impl Judge {
    /// One answer: how much content it was about, how long it was waited for, how long the source worked on it, and
    /// how long this node's disk took with what came before.
    pub fn answer(&mut self, bytes: u64, waited: Duration, source: Duration, own: Duration) {
        self.bytes += bytes;
        self.waited += waited;
        self.source += source;
        self.own += own;
        if self.bytes >= WINDOW_BYTES {
            let link = self.waited.saturating_sub(self.source);
            // Once packed, the link may be fast because of that: stay, as long as the link takes any part worth
            // telling.
            let disks = self.source.max(self.own);
            self.packs = link > disks || (self.packs && link > disks / 10);
            *self = Judge { packs: self.packs, ..Judge::default() };
        }
    }

    pub fn packs(&self) -> bool {
        self.packs
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::PieceAnswer;
    use super::*;

    const TAG: Tag = Tag { session: 1, number: 1 };
    const MS: Duration = Duration::from_millis(1);

    fn answer(bytes: Vec<u8>) -> Answer {
        Answer::Pieces { pieces: vec![PieceAnswer::Bytes(bytes)], took_us: 0 }
    }

    #[test]
    fn a_link_slower_than_the_disks_is_packed_and_a_fast_one_is_not() {
        let mut judge = Judge::default();
        for _ in 0..40 {
            judge.answer(256 << 10, MS, MS, MS);
        }
        assert!(!judge.packs(), "the source's disk takes all of the time");
        for _ in 0..40 {
            judge.answer(256 << 10, 40 * MS, 2 * MS, 2 * MS);
        }
        assert!(judge.packs(), "the link takes nearly all of it");
        for _ in 0..40 {
            judge.answer(256 << 10, 5 * MS, 4 * MS, 2 * MS);
        }
        assert!(judge.packs(), "a link that packing makes faster stays packed");
        for _ in 0..40 {
            judge.answer(256 << 10, 4 * MS, 4 * MS, 2 * MS);
        }
        assert!(!judge.packs());
    }

    #[test]
    fn what_does_not_become_shorter_is_tried_only_now_and_then() {
        let mut state = 9_u64;
        let mut noise = || {
            let next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            };
            answer(std::iter::repeat_with(next).take(64 << 10).collect())
        };
        let mut packing = Packing::new(Compress::Always);
        packing.encode(&noise(), TAG);
        assert!(!packing.is_on() && packing.plain_left == PROBE);
        let dull = answer(vec![3; 64 << 10]);
        for _ in 0..PROBE {
            assert!(packing.encode(&dull, TAG).len() > 64 << 10, "not tried again yet");
        }
        assert!(packing.encode(&dull, TAG).len() < 1 << 10 && packing.is_on());
        let mut never = Packing::new(Compress::Never);
        never.wished(Wish::Pack);
        assert!(never.encode(&dull, TAG).len() > 64 << 10);
        let mut auto = Packing::new(Compress::Auto);
        assert!(auto.encode(&dull, TAG).len() > 64 << 10);
        auto.wished(Wish::Pack);
        assert!(auto.encode(&dull, TAG).len() < 1 << 10);
    }
}
