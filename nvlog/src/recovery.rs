//! Whether the bytes at a position continue the chain: one decision table for recovery, for bytes that a peer
//! has sent, for reading, and for inspection.
//!
//! Fault model: after a crash any line beyond the persisted part may hold old, new or mixed words; the medium
//! may damage anything; a peer may send anything. So every fact is read from a private copy of the bytes, and
//! nothing but the chained CRC is believed.
//!
//! Invariants: exactly one row of [`TABLE`] matches any combination of facts (a test tries them all); a fact is
//! only computed where the rows before it did not decide.
//! What can go wrong: an intact record of a newer program is refused, not cut, because cutting would lose what
//! it says.

use crate::format::{HEADER_BYTES, RECORD_VERSION, max_payload_bytes, record_bytes};
use crate::record::{Header, HeaderBytes, PayloadCrc, RecordKind, decode, expected_chain_crc};
use ids::{Epoch, LogPoint, Lsn};
use std::fmt;

/// Bytes that are checksummed at a time; they are copied out of the ring first, because a peer may be writing.
const CHECK_CHUNK_BYTES: usize = 16 * 1024;
/// Likewise for short payloads: clearing a long buffer would take longer than checksumming them.
const SHORT_CHUNK_BYTES: usize = 512;
/// A block with the head of its record.
const BLOCK_CHUNK_BYTES: usize = 4096 + 512;

/// Where the bytes of a ring come from.
pub(crate) trait RingBytes {
    /// Length of the ring.
    fn capacity_bytes(&self) -> u64;
    /// Copies bytes that do not cross the ring's end.
    fn copy_contiguous(&self, lsn: Lsn, target: &mut [u8]);
}

/// Why a walk along the chain ended where it did; the rows of the decision table that do not continue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CutReason {
    /// The walk came round to what must not be overwritten: the ring is full.
    RingFull,
    /// There is no record (never written, or scrubbed).
    NoRecord,
    /// A record of an earlier lap of the ring.
    EarlierLap,
    /// A record of a later lap of the ring: the walk began at a tail that is older than what was written.
    LaterLap,
    /// A record header that belongs at another LSN.
    OtherLsn,
    /// The header is torn, damaged, or follows another record.
    ChainBroken,
    /// An intact record of a format version that this program does not know.
    NewerVersion,
    /// An intact record of a kind that this program does not know.
    NewerKind,
    /// The length is impossible at this place.
    ImpossibleLength,
    /// The epoch is lower than that of the record before.
    EpochWentBack,
    /// The payload is torn or damaged.
    PayloadBroken,
}

impl CutReason {
    /// Whether the bytes are an intact record of a newer program: never to be cut off or overwritten.
    pub fn is_newer_program(self) -> bool {
        matches!(self, CutReason::NewerVersion | CutReason::NewerKind)
    }
}

impl fmt::Display for CutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CutReason::RingFull => "the ring is full",
            CutReason::NoRecord => "no record there",
            CutReason::EarlierLap => "a record of an earlier lap of the ring",
            CutReason::LaterLap => "a record of a later lap of the ring",
            CutReason::OtherLsn => "a record header that belongs at another LSN",
            CutReason::ChainBroken => "the header is torn, damaged or follows another record",
            CutReason::NewerVersion => "an intact record of a newer format version",
            CutReason::NewerKind => "an intact record of a kind that only a newer program knows",
            CutReason::ImpossibleLength => "the length is impossible there",
            CutReason::EpochWentBack => "the epoch is lower than before",
            CutReason::PayloadBroken => "the payload is torn or damaged",
        })
    }
}

/// Which record a header says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Here,
    EarlierLap,
    LaterLap,
    Elsewhere,
}

/// All that the decision depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Facts {
    room: bool,
    magic: bool,
    place: Place,
    chain: bool,
    version: bool,
    kind: bool,
    length: bool,
    epoch: bool,
    payload: bool,
}

/// One row: what the facts must be (`None`: any), and where that leads (`None`: the record continues).
struct Row {
    room: Option<bool>,
    magic: Option<bool>,
    place: Option<Place>,
    chain: Option<bool>,
    version: Option<bool>,
    kind: Option<bool>,
    length: Option<bool>,
    epoch: Option<bool>,
    payload: Option<bool>,
    cut: Option<CutReason>,
}

/// A row that says nothing; the table's rows fill it in.
const ANY: Row = Row {
    room: None,
    magic: None,
    place: None,
    chain: None,
    version: None,
    kind: None,
    length: None,
    epoch: None,
    payload: None,
    cut: None,
};
const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);
const HERE: Option<Place> = Some(Place::Here);
const ROOM: Row = Row { room: YES, ..ANY };
const MAGIC: Row = Row { magic: YES, ..ROOM };
const PLACED: Row = Row { place: HERE, ..MAGIC };
const CHAINED: Row = Row { chain: YES, ..PLACED };
const KNOWN: Row = Row { version: YES, ..CHAINED };
const MEANT: Row = Row { kind: YES, ..KNOWN };
const FITTING: Row = Row { length: YES, ..MEANT };
const ORDERED: Row = Row { epoch: YES, ..FITTING };

const TABLE: [Row; 12] = [
    Row { room: NO, cut: Some(CutReason::RingFull), ..ANY },
    Row { magic: NO, cut: Some(CutReason::NoRecord), ..ROOM },
    Row { place: Some(Place::EarlierLap), cut: Some(CutReason::EarlierLap), ..MAGIC },
    Row { place: Some(Place::LaterLap), cut: Some(CutReason::LaterLap), ..MAGIC },
    Row { place: Some(Place::Elsewhere), cut: Some(CutReason::OtherLsn), ..MAGIC },
    Row { chain: NO, cut: Some(CutReason::ChainBroken), ..PLACED },
    Row { version: NO, cut: Some(CutReason::NewerVersion), ..CHAINED },
    Row { kind: NO, cut: Some(CutReason::NewerKind), ..KNOWN },
    Row { length: NO, cut: Some(CutReason::ImpossibleLength), ..MEANT },
    Row { epoch: NO, cut: Some(CutReason::EpochWentBack), ..FITTING },
    Row { payload: NO, cut: Some(CutReason::PayloadBroken), ..ORDERED },
    Row { payload: YES, cut: None, ..ORDERED },
];

impl Row {
    fn matches(&self, facts: &Facts) -> bool {
        let fits = |wanted: Option<bool>, fact: bool| wanted.is_none_or(|wanted| wanted == fact);
        fits(self.room, facts.room)
            && fits(self.magic, facts.magic)
            && self.place.is_none_or(|place| place == facts.place)
            && fits(self.chain, facts.chain)
            && fits(self.version, facts.version)
            && fits(self.kind, facts.kind)
            && fits(self.length, facts.length)
            && fits(self.epoch, facts.epoch)
            && fits(self.payload, facts.payload)
    }
}

fn decide(facts: &Facts) -> Option<CutReason> {
    let row = TABLE.iter().find(|row| row.matches(facts));
    row.expect("the table is exhaustive, a test tries every combination").cut
}

/// How much of a record is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Depth {
    /// The header and its chained CRC.
    Header,
    /// The payload's CRC as well.
    Payload,
}

/// A record that continues the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub header: Header,
    pub kind: RecordKind,
    pub after: LogPoint,
}

/// Where a walk along the chain stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Walker {
    /// End of what was accepted.
    pub at: LogPoint,
    /// Epoch of the last accepted record.
    pub epoch: Epoch,
    /// What must not be passed: the oldest position that is needed, one lap on.
    pub limit: Lsn,
}

impl Walker {
    /// Judges the record at the walker's position, and steps over it when it continues the chain.
    pub(crate) fn step(&mut self, ring: &impl RingBytes, depth: Depth) -> Result<Link, CutReason> {
        let (facts, header) = self.facts(ring, depth);
        if let Some(cut) = decide(&facts) {
            return Err(cut);
        }
        let invariant = "a record that continues has a header of a known kind";
        let header = header.expect(invariant);
        let kind = RecordKind::from_byte(header.kind).expect(invariant);
        let lsn = header.lsn.plus(record_bytes(u64::from(header.payload_len)));
        self.at = LogPoint { lsn, crc: header.chain_crc };
        self.epoch = header.epoch;
        Ok(Link { header, kind, after: self.at })
    }

    /// The facts, each computed only if those before it leave the decision open.
    fn facts(&self, ring: &impl RingBytes, depth: Depth) -> (Facts, Option<Header>) {
        let mut facts = Facts {
            room: self.at.lsn.plus(HEADER_BYTES as u64) <= self.limit,
            magic: false,
            place: Place::Here,
            chain: false,
            version: false,
            kind: false,
            length: false,
            epoch: false,
            payload: false,
        };
        if !facts.room {
            return (facts, None);
        }
        let mut bytes: HeaderBytes = [0; HEADER_BYTES];
        ring.copy_contiguous(self.at.lsn, &mut bytes);
        let Some(header) = decode(&bytes) else { return (facts, None) };
        facts.magic = true;
        facts.place = self.place(header.lsn, ring.capacity_bytes());
        facts.chain =
            facts.place == Place::Here && expected_chain_crc(&bytes, self.at.crc) == header.chain_crc;
        if !facts.chain {
            return (facts, Some(header));
        }
        let kind = RecordKind::from_byte(header.kind);
        facts.version = header.version == RECORD_VERSION;
        facts.kind = kind.is_some();
        facts.length = kind.is_some_and(|kind| self.length_fits(&header, kind, ring.capacity_bytes()));
        facts.epoch = header.epoch >= self.epoch;
        if facts.version && facts.kind && facts.length && facts.epoch {
            let covered = depth == Depth::Payload && kind.is_some_and(RecordKind::has_payload);
            facts.payload = !covered || payload_crc(ring, &header) == header.payload_crc;
        }
        (facts, Some(header))
    }

    fn place(&self, lsn: Lsn, capacity_bytes: u64) -> Place {
        if lsn == self.at.lsn {
            Place::Here
        } else if lsn < self.at.lsn && self.at.lsn.since(lsn).is_multiple_of(capacity_bytes) {
            Place::EarlierLap
        } else if lsn > self.at.lsn && lsn.since(self.at.lsn).is_multiple_of(capacity_bytes) {
            Place::LaterLap
        } else {
            Place::Elsewhere
        }
    }

    /// A payload is no longer than the limit and contiguous, a pad reaches the ring's end exactly, and nothing
    /// goes past what must not be overwritten.
    fn length_fits(&self, header: &Header, kind: RecordKind, capacity_bytes: u64) -> bool {
        let total = record_bytes(u64::from(header.payload_len));
        let to_ring_end = capacity_bytes - header.lsn.0 % capacity_bytes;
        let shape = match kind {
            RecordKind::Pad => total == to_ring_end,
            _ => total <= to_ring_end && u64::from(header.payload_len) <= max_payload_bytes(capacity_bytes),
        };
        shape && header.lsn.plus(total) <= self.limit
    }
}

fn payload_crc(ring: &impl RingBytes, header: &Header) -> u32 {
    let len = header.payload_len as usize;
    if len <= SHORT_CHUNK_BYTES {
        payload_crc_in::<SHORT_CHUNK_BYTES>(ring, header)
    } else if len <= BLOCK_CHUNK_BYTES {
        payload_crc_in::<BLOCK_CHUNK_BYTES>(ring, header)
    } else {
        payload_crc_in::<CHECK_CHUNK_BYTES>(ring, header)
    }
}

fn payload_crc_in<const CHUNK_BYTES: usize>(ring: &impl RingBytes, header: &Header) -> u32 {
    let mut chunk = [0; CHUNK_BYTES];
    let mut crc = PayloadCrc::default();
    let mut lsn = header.lsn.plus(HEADER_BYTES as u64);
    let mut left = header.payload_len as usize;
    while left > 0 {
        let piece = &mut chunk[..left.min(CHUNK_BYTES)];
        ring.copy_contiguous(lsn, piece);
        crc.add(piece);
        lsn = lsn.plus(piece.len() as u64);
        left -= piece.len();
    }
    crc.finish()
}

/// How the superblock was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SuperblockHealth {
    /// Both copies are valid.
    BothValid,
    /// One copy could not be used; it has been written anew from the other.
    OneBad {
        /// Which copy, 0 or 1.
        copy: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// How it was seen that a log lacks records that it once held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Lost {
    /// The memory is volatile, and the machine was restarted since.
    #[error("the log's memory did not survive a restart of the machine")]
    Restart,
    /// The superblock promises durable records that are not there.
    #[error(
        "the log was durable up to {durable_end} and ends at {end} ({cut}): its medium is damaged, or an older copy \
         of a part of it was brought back"
    )]
    EndsEarly {
        /// As the superblock says.
        durable_end: Lsn,
        /// Where the walk ended.
        end: Lsn,
        /// Why.
        cut: CutReason,
    },
    /// Where the log begins lies what was written a lap later.
    #[error(
        "the log begins at {tail}, and a record of a later lap lies there: an older superblock was brought back"
    )]
    LaterLap {
        /// Where the superblock says that it begins.
        tail: Lsn,
    },
    /// A log of the previous format, which wrote its copies in turns: the one that is bad may be the newer one.
    #[error(
        "one copy of the superblock is damaged, and a log of format version 1 does not tell whether that was the \
         newer one"
    )]
    OlderCopy,
}

/// What opening a log found and did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveryReport {
    /// Where the walk began.
    pub tail: LogPoint,
    /// End of the recovered prefix.
    pub end: LogPoint,
    /// Records in it, pads included.
    pub records: u64,
    /// Why it ends there.
    pub cut: CutReason,
    /// Headers beyond the cut that were invalidated, so that they can never continue the chain again. Some
    /// after a crash under load are normal.
    pub scrubbed: u64,
    /// State of the superblock's copies.
    pub superblock: SuperblockHealth,
    /// Acknowledged records may be missing, so this node must not take over by itself. Stays set until the owner
    /// clears it in the superblock.
    pub memory_lost: bool,
    /// How this opening saw that; `None` when an earlier one did, or the owner.
    pub lost: Option<Lost>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_facts() -> Vec<Facts> {
        let mut all = Vec::new();
        for bits in 0..1u32 << 8 {
            for place in [Place::Here, Place::EarlierLap, Place::LaterLap, Place::Elsewhere] {
                let bit = |n: u32| bits & (1 << n) != 0;
                all.push(Facts {
                    room: bit(0),
                    magic: bit(1),
                    place,
                    chain: bit(2),
                    version: bit(3),
                    kind: bit(4),
                    length: bit(5),
                    epoch: bit(6),
                    payload: bit(7),
                });
            }
        }
        all
    }

    #[test]
    fn exactly_one_row_decides_every_combination_of_facts() {
        let mut used = [0; TABLE.len()];
        for facts in all_facts() {
            let rows: Vec<usize> = (0..TABLE.len()).filter(|row| TABLE[*row].matches(&facts)).collect();
            assert_eq!(rows.len(), 1, "{facts:?} is decided by rows {rows:?}");
            used[rows[0]] += 1;
        }
        assert!(used.iter().all(|count| *count > 0), "a row that nothing reaches: {used:?}");
    }

    #[test]
    fn only_a_record_that_is_right_in_every_respect_continues() {
        let accepted: Vec<Facts> = all_facts().into_iter().filter(|facts| decide(facts).is_none()).collect();
        assert_eq!(accepted.len(), 1);
        let good = accepted[0];
        assert!(good.room && good.magic && good.chain && good.version && good.kind);
        assert!(good.length && good.epoch && good.payload && good.place == Place::Here);
    }

    #[test]
    fn an_unchained_record_is_never_taken_for_one_of_a_newer_program() {
        for facts in all_facts() {
            if decide(&facts).is_some_and(CutReason::is_newer_program) {
                assert!(facts.chain && facts.place == Place::Here);
            }
        }
    }
}
