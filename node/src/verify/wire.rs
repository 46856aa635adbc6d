//! What the two nodes say to each other about what their trees hold, beside the pair's messages and those of a resync.
//!
//! Every message stands on its own, is at most [`MAX_MESSAGE_BYTES`] long, and may be lost: what is not answered in
//! time is not compared, and said so. What can go wrong: bytes that are no message ([`WireError`]); they are passed
//! over.

use apply_engine::verify::{Aspects, Key, Part};
use ids::{Lsn, Oid};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How each of these messages begins; none of the pair's or a resync's does.
const MAGIC: &[u8; 4] = b"TwVf";
/// Longest message.
pub(super) const MAX_MESSAGE_BYTES: usize = 320 << 10;
/// Objects in one part, and in one list of digests.
pub(super) const MAX_OBJECTS: usize = 8192;
/// File content that one part reads, about.
pub(super) const MAX_PART_BYTES: u64 = 64 << 20;
/// Objects that are described in one answer.
pub(super) const MAX_DESCRIBED: usize = 64;
/// Objects that one repair is about, at most; their words fit into what waits at the partner.
pub(super) const MAX_REPAIRED: usize = 32 * MAX_OBJECTS;
/// Bytes of names in one answer.
pub(super) const MAX_NAMES_BYTES: usize = 128 << 10;

/// What one object is like, and what it holds by name if it is a directory and that is little.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Described {
    /// `None`: it is not there, or cannot be read.
    pub aspects: Option<Aspects>,
    /// Names of a directory; `None` for what is no directory, or holds too many.
    pub names: Option<Vec<(Vec<u8>, Option<Oid>)>>,
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// (to the partner) I am about to seal: absorb nothing more before I say where.
    Pause { number: u64 },
    /// (to the primary) I do not.
    Paused { number: u64 },
    /// (to the partner) My Delta ends here; end yours here too.
    Sealed { end: Lsn },
    /// (to the primary) What I have applied looks like this.
    Applied { first: Lsn, end: Lsn, digest: u64 },
    /// (to the partner) Mine looks different: which objects were yours, from this one on?
    Name { end: Lsn, from: Oid },
    /// (to the primary) These, and the next one.
    Named { end: Lsn, objects: Vec<(Oid, u64)>, next: Option<Oid> },
    /// (to the partner) Our trees differ, in words.
    Differs { what: String },
    /// (to the partner) Our trees are known to be the same.
    Same,
    /// (to the partner) What do you hold from here on, when you stand at that LSN?
    Compare { asked: u64, at: Lsn, from: Key, max_objects: usize },
    /// (to the partner) What are these like?
    Describe { asked: u64, at: Lsn, oids: Vec<Oid> },
    /// (to the primary) This.
    Part { asked: u64, part: Part },
    /// (to the primary) This, in the order of the question.
    Descriptions { asked: u64, described: Vec<Described> },
    /// (to the primary) I do not stand there, and shall not.
    NotThere { asked: u64, why: String },
    /// (to the partner) Where do these lie in your tree?
    Locate { asked: u64, oids: Vec<Oid> },
    /// (to the primary) There.
    Located { asked: u64, paths: Vec<(Oid, Vec<u8>)> },
    /// (to the partner) Take these from me, and while `more` those of the next such words, all at once.
    Repair { oids: Vec<Oid>, more: bool },
    /// (to the partner) Has your tree blocks for these bytes of a file, after all before that LSN? A node that does not know this word, and the
    /// next one, passes it over.
    Allocated { asked: u64, at: Lsn, oid: Oid, range: Range<u64> },
    /// (to the primary) So.
    IsAllocated { asked: u64, is: bool },
}

/// Bytes that are no message of this kind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a message about the trees is damaged ({0}); it is passed over")]
pub(crate) struct WireError(String);

/// Whether these bytes are such a message.
pub(crate) fn is_about(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

impl Word {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = postcard::to_extend(self, MAGIC.to_vec()).expect("plain data always encodes");
        assert!(bytes.len() <= MAX_MESSAGE_BYTES, "built within its bounds: {} bytes", bytes.len());
        bytes
    }

    /// Reads it, and checks what whoever answers relies on.
    pub fn decode(bytes: &[u8]) -> Result<Word, WireError> {
        let body = bytes.strip_prefix(MAGIC).filter(|_| bytes.len() <= MAX_MESSAGE_BYTES);
        let body = body.ok_or_else(|| WireError(format!("{} bytes", bytes.len())))?;
        let word: Word = postcard::from_bytes(body).map_err(|error| WireError(error.to_string()))?;
        let excess = match &word {
            Word::Compare { max_objects, .. } => *max_objects > MAX_OBJECTS,
            Word::Describe { oids, .. } => oids.len() > MAX_DESCRIBED,
            Word::Locate { oids, .. } | Word::Repair { oids, .. } => oids.len() > MAX_OBJECTS,
            Word::Named { objects, .. } => objects.len() > MAX_OBJECTS,
            Word::Allocated { range, .. } => range.is_empty(),
            Word::Part { part, .. } => !part.seen.is_sorted_by(|one, other| one.0 < other.0),
            _ => false,
        };
        match excess {
            true => Err(WireError("more is asked for than one answer holds, or out of order".to_owned())),
            false => Ok(word),
        }
    }
}

/// See `fuzzing`.
#[cfg(fuzzing)]
pub(crate) fn try_message(bytes: &[u8]) {
    if let Ok(word) = Word::decode(bytes) {
        assert_eq!(Word::decode(&word.encode()), Ok(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_from_others_and_comes_back() {
        let word = Word::Compare { asked: 3, at: Lsn(64), from: Key::FIRST, max_objects: MAX_OBJECTS };
        let bytes = word.encode();
        assert!(is_about(&bytes) && !is_about(&pair::Message::Goodbye.encode()));
        assert_eq!(Word::decode(&bytes), Ok(word));
        assert!(Word::decode(&bytes[..bytes.len() - 1]).is_err() && Word::decode(b"TwRs").is_err());
        let excess = Word::Compare { asked: 3, at: Lsn(64), from: Key::FIRST, max_objects: MAX_OBJECTS + 1 };
        assert!(Word::decode(&excess.encode()).is_err());
        let nothing = Word::Allocated { asked: 3, at: Lsn(64), oid: Oid(5), range: 7..7 };
        assert!(Word::decode(&nothing.encode()).is_err());
    }

    #[test]
    fn the_longest_part_fits() {
        let seen = (0..MAX_OBJECTS as u64)
            .map(|n| (Key { oid: Oid(u64::MAX - MAX_OBJECTS as u64 + n), piece: u64::MAX }, u64::MAX));
        let part = Part { seen: seen.collect(), next: None, read_bytes: u64::MAX };
        assert!(Word::decode(&Word::Part { asked: 1, part }.encode()).is_ok());
    }
}
