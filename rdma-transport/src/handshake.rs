//! The opening messages of a channel: who calls whom, for which volume, and the answer.
//!
//! ```text
//! preamble, 192 bytes                            answer, 96 bytes
//!   0  magic "TWINFLNK"                            0  magic "TWINFANS"
//!   8  version u16                                 8  version u16
//!  10  channel kind u8, 5 bytes zero              10  code u16 (0: accepted), 4 bytes zero
//!  16  session id [16]                            16  number u64 (what the code needs)
//!  32  volume id [16]                             24  text: length u8, up to 63 bytes
//!  48  capacity u64                               88  8 bytes zero
//!  56  8 bytes zero
//!  64  caller's name: length u8, 63 bytes
//! 128  called name: length u8, 63 bytes
//! ```
//!
//! Everything is little endian and of fixed length, so a stranger can neither make the reader allocate nor wait
//! for more. The first ten bytes and the answer keep their meaning in every future version: that is how two
//! versions tell each other that they differ.

use crate::Refusal;
use ids::{NodeName, VolumeId};
use std::io::Read;

/// Version of everything that travels between two nodes of this crate.
pub const PROTOCOL_VERSION: u16 = 1;

pub(crate) const PREAMBLE_BYTES: usize = 192;
pub(crate) const ANSWER_BYTES: usize = 96;
/// What every version starts with: magic and version.
pub(crate) const PREFIX_BYTES: usize = 10;

const PREAMBLE_MAGIC: &[u8; 8] = b"TWINFLNK";
const ANSWER_MAGIC: &[u8; 8] = b"TWINFANS";
const NAME_BYTES: usize = 64;

/// One link, of all links between two nodes: chosen at random by the side that connects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    pub(crate) fn random() -> std::io::Result<SessionId> {
        let mut id = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
        Ok(SessionId(id))
    }
}

/// What a channel carries. A tcp link is the first three; shm and verbs need one socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChannelKind {
    Control = 1,
    /// Log bytes of the side that connected, and the acknowledgements back.
    FromConnector = 2,
    /// Log bytes of the side that listens.
    FromListener = 3,
    /// Control messages, after the descriptors of the shared memory.
    Shared = 4,
    /// Control messages, after the addresses of the queue pairs.
    Verbs = 5,
}

/// Who calls whom for what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Preamble {
    pub kind: ChannelKind,
    pub session: SessionId,
    pub volume: VolumeId,
    pub capacity_bytes: u64,
    pub from: NodeName,
    pub to: NodeName,
}

/// Checks what every version of the preamble starts with.
pub(crate) fn check_prefix(prefix: &[u8; PREFIX_BYTES]) -> Result<(), Refusal> {
    if prefix[..8] != PREAMBLE_MAGIC[..] {
        return Err(Refusal::Malformed);
    }
    if u16_at(prefix, 8) != PROTOCOL_VERSION {
        return Err(Refusal::Version { theirs: PROTOCOL_VERSION });
    }
    Ok(())
}

impl Preamble {
    pub(crate) fn encode(&self) -> [u8; PREAMBLE_BYTES] {
        let mut out = [0; PREAMBLE_BYTES];
        out[..8].copy_from_slice(PREAMBLE_MAGIC);
        out[8..10].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        out[10] = self.kind as u8;
        out[16..32].copy_from_slice(&self.session.0);
        out[32..48].copy_from_slice(&self.volume.0);
        out[48..56].copy_from_slice(&self.capacity_bytes.to_le_bytes());
        put_text(&mut out[64..128], self.from.as_str());
        put_text(&mut out[128..192], self.to.as_str());
        out
    }

    pub(crate) fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Preamble, Refusal> {
        check_prefix(&array_at(bytes, 0))?;
        let kind = match bytes[10] {
            1 => ChannelKind::Control,
            2 => ChannelKind::FromConnector,
            3 => ChannelKind::FromListener,
            4 => ChannelKind::Shared,
            5 => ChannelKind::Verbs,
            _ => return Err(Refusal::WrongChannel),
        };
        let name = |at: usize| {
            let text = get_text(&bytes[at..at + NAME_BYTES]).ok_or(Refusal::Malformed)?;
            text.parse::<NodeName>().map_err(|_| Refusal::Malformed)
        };
        Ok(Preamble {
            kind,
            session: SessionId(array_at(bytes, 16)),
            volume: VolumeId(array_at(bytes, 32)),
            capacity_bytes: u64_at(bytes, 48),
            from: name(64)?,
            to: name(128)?,
        })
    }
}

/// Encodes what the listener answers.
pub(crate) fn encode_answer(answer: &Result<(), Refusal>) -> [u8; ANSWER_BYTES] {
    let (code, number, text) = match answer {
        Ok(()) => (0u16, 0, ""),
        Err(Refusal::Version { theirs }) => (1, u64::from(*theirs), ""),
        Err(Refusal::UnknownVolume) => (2, 0, ""),
        Err(Refusal::WrongNode { expected }) => (3, 0, expected.as_str()),
        Err(Refusal::NotMe { actual }) => (4, 0, actual.as_str()),
        Err(Refusal::Capacity { theirs_bytes }) => (5, *theirs_bytes, ""),
        Err(Refusal::WrongChannel) => (6, 0, ""),
        Err(Refusal::Malformed) => (7, 0, ""),
        Err(Refusal::Busy) => (8, 0, ""),
    };
    let mut out = [0; ANSWER_BYTES];
    out[..8].copy_from_slice(ANSWER_MAGIC);
    out[8..10].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    out[10..12].copy_from_slice(&code.to_le_bytes());
    out[16..24].copy_from_slice(&number.to_le_bytes());
    put_text(&mut out[24..88], text);
    out
}

/// Decodes the listener's answer; `None` when it is no answer at all.
pub(crate) fn decode_answer(bytes: &[u8; ANSWER_BYTES]) -> Option<Result<(), Refusal>> {
    if bytes[..8] != ANSWER_MAGIC[..] {
        return None;
    }
    let number = u64_at(bytes, 16);
    let text = || get_text(&bytes[24..88]).map(str::to_owned);
    Some(Err(match u16_at(bytes, 10) {
        0 => return Some(Ok(())),
        1 => Refusal::Version { theirs: u16_at(bytes, 8) },
        2 => Refusal::UnknownVolume,
        3 => Refusal::WrongNode { expected: text()? },
        4 => Refusal::NotMe { actual: text()? },
        5 => Refusal::Capacity { theirs_bytes: number },
        6 => Refusal::WrongChannel,
        7 => Refusal::Malformed,
        8 => Refusal::Busy,
        _ => return None,
    }))
}

fn put_text(out: &mut [u8], text: &str) {
    let len = text.len().min(out.len() - 1);
    out[0] = len as u8;
    out[1..1 + len].copy_from_slice(&text.as_bytes()[..len]);
}

fn get_text(bytes: &[u8]) -> Option<&str> {
    let len = usize::from(*bytes.first()?);
    std::str::from_utf8(bytes.get(1..1 + len)?).ok()
}

pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn preamble() -> Preamble {
        Preamble {
            kind: ChannelKind::FromListener,
            session: SessionId([7; 16]),
            volume: VolumeId([9; 16]),
            capacity_bytes: 1 << 20,
            from: "a".parse().unwrap(),
            to: "x".repeat(63).parse().unwrap(),
        }
    }

    #[test]
    fn opening_messages_round_trip() {
        assert_eq!(Preamble::decode(&preamble().encode()), Ok(preamble()));
        let refusals = [
            Refusal::Version { theirs: PROTOCOL_VERSION },
            Refusal::UnknownVolume,
            Refusal::WrongNode { expected: "b".into() },
            Refusal::NotMe { actual: "x".repeat(63) },
            Refusal::Capacity { theirs_bytes: 77 },
            Refusal::WrongChannel,
            Refusal::Malformed,
            Refusal::Busy,
        ];
        for refusal in refusals {
            assert_eq!(decode_answer(&encode_answer(&Err(refusal.clone()))), Some(Err(refusal)));
        }
        assert_eq!(decode_answer(&encode_answer(&Ok(()))), Some(Ok(())));
    }

    #[test]
    fn another_version_is_told_apart_from_garbage() {
        let mut bytes = preamble().encode();
        bytes[8] = 2;
        assert_eq!(Preamble::decode(&bytes), Err(Refusal::Version { theirs: PROTOCOL_VERSION }));
        bytes[0] = b'G';
        assert_eq!(Preamble::decode(&bytes), Err(Refusal::Malformed));
    }

    proptest! {
        /// Whatever a stranger sends behind a good start is decoded or refused.
        #[test]
        fn any_preamble_is_decoded_or_refused(mut bytes in prop::array::uniform32(any::<[u8; 6]>()), keep in any::<bool>()) {
            let mut flat = [0u8; PREAMBLE_BYTES];
            flat.copy_from_slice(bytes.as_flattened_mut());
            if keep {
                flat[..16].copy_from_slice(&preamble().encode()[..16]);
            }
            if let Ok(decoded) = Preamble::decode(&flat) {
                prop_assert_eq!(Preamble::decode(&decoded.encode()), Ok(decoded));
            }
        }

        #[test]
        fn any_answer_is_decoded_or_refused(mut bytes in prop::array::uniform32(any::<[u8; 3]>())) {
            let mut flat = [0u8; ANSWER_BYTES];
            flat.copy_from_slice(bytes.as_flattened_mut());
            flat[..8].copy_from_slice(ANSWER_MAGIC);
            flat[11] = 0;
            let _ = decode_answer(&flat);
        }
    }
}
