//! What the two sides of a resync say to each other, beside the pair's messages on the same control channel.
//!
//! The receiver asks, the source answers each question once and in order; a receiver has at most
//! [`MAX_ASKED`] questions open, and no message is longer than [`MAX_MESSAGE_BYTES`], so what is on the way is bounded
//! and the pair's heartbeats never wait long. Every message carries the number of its session and of its question:
//! answers to an older session are not taken, and one that is lost, comes twice or too early ends the session.
//!
//! The receiver drives: it asks for descriptions and contents of the objects that it names, so the source keeps no list
//! of what differs, and both need memory for what is under way only. No answer takes the source much longer than
//! [`STEP`]: whatever goes over a whole tree is asked for in steps.
//!
//! What can go wrong: bytes that are no message ([`WireError`]); the session ends then, not the link.

use super::progress::Told;
use apply_engine::ObjectKind;
use apply_engine::resync::{FileMap, MAX_PARTS, ObjectLabel, Part};
use ids::{EpochHistory, LogPoint, Lsn, Oid};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Version of these messages and of the rules behind them.
pub(super) const VERSION: u16 = 5;
/// How each of these messages begins; none of the pair's does.
const MAGIC: &[u8; 4] = b"TwRs";
const HEAD_BYTES: usize = 13;
const QUESTION: u8 = b'Q';
const ANSWER: u8 = b'A';
const TOLD: u8 = b'T';
/// Enough for most messages without content.
const SHORT_BYTES: usize = 4 << 10;
/// Longest message.
pub(super) const MAX_MESSAGE_BYTES: usize = 320 << 10;
/// Questions without an answer at a time.
pub(super) const MAX_ASKED: usize = 4;
/// Content in one answer.
pub(super) const MAX_CONTENT_BYTES: u64 = 256 << 10;
/// Objects, files or pieces in one message.
pub(super) const MAX_ITEMS: usize = 1024;
/// Data ranges of all files in one answer.
pub(super) const MAX_MAP_RANGES: usize = 8192;
/// How long a source works on one step of something that goes over all labels.
pub(super) const STEP: Duration = Duration::from_secs(1);
/// Answers shorter than this are not worth packing.
pub(super) const MIN_PACKED_BYTES: usize = 4 << 10;
/// Fast; content goes through here at the speed of a disk.
const ZSTD_LEVEL: i32 = 1;
/// Bytes of a survey in one answer.
pub(super) const MAX_CHUNK_BYTES: usize = 256 << 10;
/// OIDs whose labels are compared as one.
pub(super) const RANGE_OIDS: u64 = 4096;
/// Ranges, or objects that are described, in one message.
pub(super) const MAX_RANGES: usize = 4096;

/// A range of a file of the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Piece {
    pub oid: Oid,
    pub offset: u64,
    pub len_bytes: u64,
    /// What the receiver has there, if it has anything.
    pub digest: Option<u128>,
}

/// What the source says of one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum PieceAnswer {
    /// The receiver has it.
    Same,
    /// These bytes; fewer than asked for where the file has become shorter.
    Bytes(#[serde(with = "plain_bytes")] Vec<u8>),
}

/// Bytes as one copy: serde takes a `Vec<u8>` for a list and goes through it byte by byte. On the wire it is the same.
mod plain_bytes {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_bytes(Bytes)
    }
}

/// From the receiver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// Begins a session: this is how my log was.
    Begin {
        version: u16,
        history: EpochHistory,
        end: Lsn,
        /// It holds everything that it ever held. Otherwise my labels mean nothing.
        survived: bool,
    },
    /// Digests of ranges from this one on.
    Digests { from: u64 },
    /// Labels of one range, from an OID on.
    Labels { range: u64, from: Oid },
    /// Describe these objects, and those of the next such question while `more`, as of one moment.
    Describe { oids: Vec<Oid>, more: bool },
    /// A part of what a directory holds that is told in parts.
    Entries { directory: Oid, part: Part },
    /// How many of these objects there are, how much room their contents take, and how much that is without holes.
    Weigh { oids: Vec<Oid> },
    /// What these objects are: many of them are to be installed, and what another object has the OID of makes way first.
    Identities { oids: Vec<Oid> },
    /// Which objects changed since this was last asked, or since the session began. In the last round nothing changes
    /// from here on until `Finish`.
    Changed { last: bool },
    /// The next part of the answer to `Describe`, `Entries` or `Changed`.
    More,
    /// One more step of summing up all labels, or those that changed since they were.
    Sum,
    /// I am busy with my own disk, and still here.
    Patience,
    /// Where these files have data, from an offset on.
    Maps { files: Vec<(Oid, u64)> },
    /// Contents, packed if the link is what both wait for.
    Pieces { pieces: Vec<Piece>, pack: bool },
    /// What must hold now.
    Finish,
}

/// From the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Labels with an LSN before this one mean the same on both sides.
    Begun { trusted_below: Lsn },
    /// Number and digest of ranges that hold objects; and where to go on.
    Digests { ranges: Vec<(u64, u128)>, next: Option<u64> },
    /// Labels; and where to go on.
    Labels { labels: Vec<ObjectLabel>, next: Option<Oid> },
    /// Heard.
    Noted,
    /// So many objects are described, so many changed, or so many names are in that part.
    Surveyed { objects: u64 },
    /// So many objects are there; on disk, and by what there is to read, their contents take so much.
    Weighed { objects: u64, allocated_bytes: u64, content_bytes: u64 },
    /// Kind and generation, in the order of the question; `None`: there is no such object.
    Identities { known: Vec<Option<(ObjectKind, u64)>> },
    /// All labels are summed up as of now, or there is more to do.
    Summed { done: bool },
    /// A part of what was asked for: [`apply_engine::resync::Surveyed`], OIDs, or [`apply_engine::resync::Entry`], one after
    /// the other.
    Chunk {
        #[serde(with = "plain_bytes")]
        bytes: Vec<u8>,
        last: bool,
    },
    /// In the order of the question; a shorter list means: ask again for the rest.
    Maps { maps: Vec<FileMap> },
    /// In the order of the question. The source worked on it for so long, waits for its clients' sake included.
    Pieces { pieces: Vec<PieceAnswer>, took_us: u64 },
    /// Your tree is mine at this point of the log, if it holds these labels.
    Finished(Finished),
    /// The session is over.
    Refused { why: String },
    /// Another answer, compressed by zstd.
    Packed {
        #[serde(with = "plain_bytes")]
        bytes: Vec<u8>,
    },
}

/// What a receiver must have, and where its log goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Finished {
    /// Where both logs meet from now on.
    pub point: LogPoint,
    /// Which epoch wrote what before.
    pub history: EpochHistory,
    /// No OID from here on was ever given.
    pub next_oid: Oid,
    /// Number of objects.
    pub objects: u64,
    /// Sum of the digests of their labels.
    pub digest: u128,
}

/// Bytes that are no message of a resync.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a message of the resync is damaged ({0}); it is tried again")]
pub(super) struct WireError(String);

/// Which question of which session, or its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub session: u32,
    /// Counted from 1, and over again at the end.
    pub number: u32,
}

/// A message, as far as it is looked at before it reaches its session.
pub(super) struct Envelope {
    pub tag: Tag,
    /// From a receiver to a source.
    pub is_question: bool,
    /// How far the receiver is; nobody answers, and it may be lost.
    pub is_told: bool,
}

/// What kind of message of a resync these bytes are, if they are one.
pub(super) fn envelope(bytes: &[u8]) -> Option<Envelope> {
    let head = bytes.get(..HEAD_BYTES)?;
    let number = |at: usize| Some(u32::from_le_bytes(head[at..at + 4].try_into().ok()?));
    let tag = Tag { session: number(5)?, number: number(9)? };
    (head.starts_with(MAGIC)).then_some(Envelope {
        tag,
        is_question: head[4] == QUESTION,
        is_told: head[4] == TOLD,
    })
}

/// `content_bytes`: what the message carries of files, and is long by.
fn encode(kind: u8, tag: Tag, message: &impl Serialize, content_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content_bytes + SHORT_BYTES);
    bytes.extend(MAGIC);
    bytes.push(kind);
    bytes.extend(tag.session.to_le_bytes());
    bytes.extend(tag.number.to_le_bytes());
    let bytes = postcard::to_extend(message, bytes).expect("plain data always encodes");
    assert!(
        bytes.len() <= MAX_MESSAGE_BYTES,
        "messages are built within their bounds: {} bytes",
        bytes.len()
    );
    bytes
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    let body = bytes.get(HEAD_BYTES..).filter(|_| bytes.len() <= MAX_MESSAGE_BYTES);
    let body = body.ok_or_else(|| WireError(format!("{} bytes", bytes.len())))?;
    postcard::from_bytes(body).map_err(|error| WireError(error.to_string()))
}

/// How far a receiver is, for its source.
pub(super) fn encode_told(session: u32, told: &Told) -> Vec<u8> {
    encode(TOLD, Tag { session, number: 0 }, told, 0)
}

/// What [`encode_told`] has made. `None`: not that.
pub(super) fn decode_told(bytes: &[u8]) -> Option<Told> {
    decode(bytes).ok()
}

impl Question {
    pub fn encode(&self, tag: Tag) -> Vec<u8> {
        encode(QUESTION, tag, self, 0)
    }

    /// Reads it, and checks what a source relies on.
    pub fn decode(bytes: &[u8]) -> Result<Question, WireError> {
        let question: Question = decode(bytes)?;
        let excess = match &question {
            Question::Describe { oids, .. } => oids.len() > MAX_RANGES,
            Question::Entries { part, .. } => part.of > MAX_PARTS || part.number >= part.of,
            Question::Weigh { oids } | Question::Identities { oids } => oids.len() > MAX_RANGES,
            Question::Maps { files } => files.len() > MAX_ITEMS,
            Question::Pieces { pieces, .. } => {
                let asked = pieces.iter().try_fold(0_u64, |sum, piece| sum.checked_add(piece.len_bytes));
                pieces.len() > MAX_ITEMS || asked.is_none_or(|asked| asked > MAX_CONTENT_BYTES)
            }
            _ => false,
        };
        match excess {
            true => Err(WireError("more is asked for than one answer holds".to_owned())),
            false => Ok(question),
        }
    }
}

impl Answer {
    pub fn encode(&self, tag: Tag) -> Vec<u8> {
        let content = |piece: &PieceAnswer| match piece {
            PieceAnswer::Bytes(bytes) => bytes.len(),
            PieceAnswer::Same => 0,
        };
        let content_bytes = match self {
            Answer::Pieces { pieces, .. } => pieces.iter().map(content).sum(),
            Answer::Chunk { bytes, .. } | Answer::Packed { bytes } => bytes.len(),
            _ => 0,
        };
        encode(ANSWER, tag, self, content_bytes)
    }

    /// Compressed, if that makes it shorter; and how long it would be otherwise.
    pub fn encode_packed(&self, tag: Tag) -> (Vec<u8>, usize) {
        let plain = self.encode(tag);
        let plain_len = plain.len();
        if plain_len < MIN_PACKED_BYTES {
            return (plain, plain_len);
        }
        match zstd::bulk::compress(&plain[HEAD_BYTES..], ZSTD_LEVEL) {
            Ok(bytes) if bytes.len() + 2 * HEAD_BYTES < plain_len => {
                (Answer::Packed { bytes }.encode(tag), plain_len)
            }
            _ => (plain, plain_len),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Answer, WireError> {
        match decode(bytes)? {
            Answer::Packed { bytes } => {
                // Never more than a message holds, whatever the packed bytes would become.
                let plain = zstd::bulk::decompress(&bytes, MAX_MESSAGE_BYTES)
                    .map_err(|error| WireError(format!("packed bytes: {error}")))?;
                match postcard::from_bytes(&plain).map_err(|error| WireError(error.to_string()))? {
                    Answer::Packed { .. } => Err(WireError("packed twice".to_owned())),
                    answer => Ok(answer),
                }
            }
            answer => Ok(answer),
        }
    }
}

/// See `fuzzing`. A longer answer than a message may have been packed.
#[cfg(fuzzing)]
pub(crate) fn try_messages(bytes: &[u8]) {
    let tag = Tag { session: 1, number: 2 };
    if let Ok(question) = Question::decode(bytes) {
        assert_eq!(Question::decode(&question.encode(tag)), Ok(question));
    }
    if let Ok(answer) = Answer::decode(bytes)
        && postcard::to_allocvec(&answer).is_ok_and(|body| HEAD_BYTES + body.len() <= MAX_MESSAGE_BYTES)
    {
        assert_eq!(Answer::decode(&answer.encode(tag)).as_ref(), Ok(&answer));
        assert_eq!(Answer::decode(&answer.encode_packed(tag).0), Ok(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ids::{Epoch, EpochStart};

    fn tag(session: u32) -> Tag {
        Tag { session, number: 9 }
    }

    #[test]
    fn a_message_is_told_from_the_pairs_and_comes_back() {
        let question = Question::Changed { last: true };
        let bytes = question.encode(tag(7));
        assert!(envelope(&bytes).is_some_and(|envelope| envelope.tag == tag(7) && envelope.is_question));
        assert_eq!(Question::decode(&bytes), Ok(question));
        let told = Told { round: 7, eta_s: Some(9), ..Told::default() };
        let bytes = encode_told(7, &told);
        assert!(envelope(&bytes).is_some_and(|envelope| envelope.is_told && !envelope.is_question));
        assert_eq!(decode_told(&bytes), Some(told));
        let answer = Answer::Noted.encode(tag(u32::MAX));
        assert!(
            envelope(&answer).is_some_and(|envelope| envelope.tag == tag(u32::MAX) && !envelope.is_question)
        );
        assert!(envelope(&pair::Message::Goodbye.encode()).is_none());
        assert!(envelope(&bytes[..5]).is_none());
    }

    /// A receiver stores the history that it is told: one out of order could never be read again.
    #[test]
    fn a_history_out_of_order_is_no_message() {
        let entry = |epoch, lsn| EpochStart { epoch: Epoch(epoch), first_lsn: Lsn(lsn) };
        let begin = |entries: &[EpochStart]| {
            let body = (0_u8, VERSION, entries, Lsn(64), true);
            Question::decode(&encode(QUESTION, tag(1), &body, 0))
        };
        assert!(matches!(begin(&[entry(1, 0), entry(2, 64)]), Ok(Question::Begin { end: Lsn(64), .. })));
        assert!(begin(&[entry(2, 0), entry(2, 64)]).is_err());
        assert!(begin(&[entry(1, 64), entry(2, 0)]).is_err());
    }

    #[test]
    fn bytes_lie_on_the_wire_as_a_list_of_bytes_does() {
        let content: Vec<u8> = (0..=255).collect();
        let answer = postcard::to_stdvec(&PieceAnswer::Bytes(content.clone())).unwrap();
        assert_eq!(answer, postcard::to_stdvec(&(1_u8, content)).unwrap());
    }

    #[test]
    fn what_would_need_more_than_one_answer_is_refused() {
        let piece = |len_bytes| Piece { oid: Oid(2), offset: 0, len_bytes, digest: None };
        let asked =
            |pieces: Vec<Piece>| Question::decode(&Question::Pieces { pieces, pack: false }.encode(tag(1)));
        assert!(asked(vec![piece(MAX_CONTENT_BYTES)]).is_ok());
        assert!(asked(vec![piece(MAX_CONTENT_BYTES), piece(1)]).is_err());
        assert!(asked(vec![piece(u64::MAX), piece(2)]).is_err());
        assert!(Question::decode(&[0; 8]).is_err());
        assert!(Answer::decode(&Question::Finish.encode(tag(1))[..HEAD_BYTES]).is_err());
    }

    #[test]
    fn packed_answers_come_back_and_can_not_become_large() {
        let pieces = |bytes: Vec<u8>| Answer::Pieces { pieces: vec![PieceAnswer::Bytes(bytes)], took_us: 7 };
        let dull = pieces(vec![7; MAX_CONTENT_BYTES as usize]);
        let packed = dull.encode_packed(tag(3)).0;
        assert!(packed.len() < 1000, "{} bytes", packed.len());
        assert_eq!(Answer::decode(&packed), Ok(dull));
        // What does not become shorter travels as it is.
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let noise = pieces(noise.take(100_000).collect());
        assert_eq!(noise.encode_packed(tag(3)).0, noise.encode(tag(3)));
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], ZSTD_LEVEL).unwrap();
        let refused = Answer::decode(&Answer::Packed { bytes: bomb }.encode(tag(3)));
        assert!(refused.is_err(), "64 MiB out of a few KiB");
        let twice = Answer::Packed { bytes: zstd::bulk::compress(&packed[HEAD_BYTES..], 1).unwrap() };
        assert!(Answer::decode(&twice.encode(tag(3))).is_err());
        assert!(Answer::decode(&Answer::Packed { bytes: vec![1; 100] }.encode(tag(3))).is_err());
    }

    proptest::proptest! {
        /// A damaged message is another message or none; it never ends the process, nor grows without bound.
        #[test]
        fn damaged_messages_are_told_and_do_no_harm(
            at: proptest::sample::Index, bit in 0..8_u8, cut: proptest::sample::Index, packed: bool
        ) {
            let pieces = vec![PieceAnswer::Same, PieceAnswer::Bytes(b"content ".repeat(2000))];
            let answer = Answer::Pieces { pieces, took_us: 9 };
            let mut bytes = if packed { answer.encode_packed(tag(5)).0 } else { answer.encode(tag(5)) };
            let at = HEAD_BYTES + at.index(bytes.len() - HEAD_BYTES);
            bytes[at] ^= 1 << bit;
            let _told = Answer::decode(&bytes);
            let _told = Question::decode(&bytes);
            let cut = cut.index(bytes.len());
            proptest::prop_assert!(Answer::decode(&bytes[..cut]).is_err() || cut > HEAD_BYTES);
        }
    }
}
