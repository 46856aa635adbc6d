//! The record header: its bytes, and the chained CRC.
//!
//! The payload's own CRC is computed by the thread that copies it, in parallel; chaining it costs the sealing
//! thread one CRC over one cache line. Rejected: one CRC over header and payload, which would make the one
//! sealing thread read every payload again.
//!
//! Invariant: `decode(encode(h)) == h`, and the header's bytes are all covered by the chained CRC.

use crate::format::{HEADER_BYTES, RECORD_MAGIC, RECORD_VERSION, header};
use ids::{ChainCrc, Epoch, LogPoint, Lsn, VolumeId};

/// What a record is. The log itself gives no other meaning to payloads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// The user's bytes.
    Data = 1,
    /// Fills the ring to its end, so that the next payload is contiguous. Its payload is not covered by a CRC.
    Pad = 2,
    /// A slot that was reserved and given up. Its payload is not covered by a CRC.
    Noop = 3,
    /// The first record of an epoch.
    Epoch = 4,
}

impl RecordKind {
    /// All kinds.
    pub const ALL: [RecordKind; 4] = [RecordKind::Data, RecordKind::Pad, RecordKind::Noop, RecordKind::Epoch];

    pub(crate) fn from_byte(byte: u8) -> Option<RecordKind> {
        RecordKind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether the payload means anything and is covered by the payload CRC.
    pub fn has_payload(self) -> bool {
        matches!(self, RecordKind::Data | RecordKind::Epoch)
    }
}

/// A record header as it is on the media.
pub(crate) type HeaderBytes = [u8; HEADER_BYTES];

/// A decoded header; `kind` and `version` may still be unknown ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub version: u16,
    pub kind: u8,
    pub lsn: Lsn,
    pub epoch: Epoch,
    pub payload_len: u32,
    pub payload_crc: u32,
    pub chain_crc: ChainCrc,
}

/// CRC-32C (Castagnoli).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of a payload that comes in pieces.
#[derive(Default)]
pub(crate) struct PayloadCrc {
    crc: u32,
    rest: Option<crc_fast::Digest>,
    started: bool,
}

impl PayloadCrc {
    pub(crate) fn add(&mut self, piece: &[u8]) {
        if !self.started {
            // Most payloads come in one piece, for which the one-shot function is much quicker.
            self.crc = crc32c(piece);
            self.started = true;
            return;
        }
        // A CRC state is the finished value with the final inversion taken back.
        let first = u64::from(!self.crc);
        let digest = self.rest.get_or_insert_with(|| {
            crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, first)
        });
        digest.update(piece);
    }

    pub(crate) fn finish(&self) -> u32 {
        self.rest.as_ref().map_or(self.crc, |digest| digest.finalize() as u32)
    }
}

/// The chain's seed: what stands for the record before the first one.
pub(crate) fn chain_seed(volume: VolumeId) -> ChainCrc {
    ChainCrc(crc32c(&volume.0))
}

/// Where an empty log of `volume` begins.
pub(crate) fn origin(volume: VolumeId) -> LogPoint {
    LogPoint { lsn: Lsn::ZERO, crc: chain_seed(volume) }
}

/// The header of a record that follows `previous`, complete with its chained CRC.
pub(crate) fn encode(
    kind: RecordKind,
    lsn: Lsn,
    epoch: Epoch,
    payload_len: u32,
    payload_crc: u32,
    previous: ChainCrc,
) -> (HeaderBytes, ChainCrc) {
    let mut bytes = [0; HEADER_BYTES];
    put(&mut bytes, header::MAGIC, &RECORD_MAGIC.to_le_bytes());
    put(&mut bytes, header::VERSION, &RECORD_VERSION.to_le_bytes());
    bytes[header::KIND] = kind as u8;
    put(&mut bytes, header::LSN, &lsn.0.to_le_bytes());
    put(&mut bytes, header::EPOCH, &epoch.0.to_le_bytes());
    put(&mut bytes, header::PAYLOAD_LEN, &payload_len.to_le_bytes());
    put(&mut bytes, header::PAYLOAD_CRC, &payload_crc.to_le_bytes());
    put(&mut bytes, header::CHAIN_CRC, &previous.0.to_le_bytes());
    let crc = crc32c(&bytes);
    put(&mut bytes, header::CHAIN_CRC, &crc.to_le_bytes());
    (bytes, ChainCrc(crc))
}

/// The header in `bytes`; `None` when the magic is not there.
pub(crate) fn decode(bytes: &HeaderBytes) -> Option<Header> {
    (u32_at(bytes, header::MAGIC) == RECORD_MAGIC).then(|| Header {
        version: u16::from_le_bytes([bytes[header::VERSION], bytes[header::VERSION + 1]]),
        kind: bytes[header::KIND],
        lsn: Lsn(u64_at(bytes, header::LSN)),
        epoch: Epoch(u64_at(bytes, header::EPOCH)),
        payload_len: u32_at(bytes, header::PAYLOAD_LEN),
        payload_crc: u32_at(bytes, header::PAYLOAD_CRC),
        chain_crc: ChainCrc(u32_at(bytes, header::CHAIN_CRC)),
    })
}

/// What the chained CRC of `bytes` must be if they follow `previous`.
pub(crate) fn expected_chain_crc(bytes: &HeaderBytes, previous: ChainCrc) -> ChainCrc {
    let mut seeded = *bytes;
    put(&mut seeded, header::CHAIN_CRC, &previous.0.to_le_bytes());
    ChainCrc(crc32c(&seeded))
}

pub(crate) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn volume() -> VolumeId {
        VolumeId([7; 16])
    }

    proptest! {
        #[test]
        fn crcs_agree_with_another_implementation(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5)) {
            let mut crc = PayloadCrc::default();
            pieces.iter().for_each(|piece| crc.add(piece));
            prop_assert_eq!(crc.finish(), crc32c::crc32c(&pieces.concat()));
        }

        #[test]
        fn headers_round_trip(lsn in any::<u64>(), epoch in any::<u64>(), len in any::<u32>(), crc in any::<u32>(), previous in any::<u32>(), kind in 0..4usize) {
            let kind = RecordKind::ALL[kind];
            let (bytes, chain) = encode(kind, Lsn(lsn), Epoch(epoch), len, crc, ChainCrc(previous));
            let header = decode(&bytes).unwrap();
            prop_assert_eq!(header.kind, kind as u8);
            prop_assert_eq!((header.lsn, header.epoch), (Lsn(lsn), Epoch(epoch)));
            prop_assert_eq!((header.payload_len, header.payload_crc, header.chain_crc), (len, crc, chain));
            prop_assert_eq!(expected_chain_crc(&bytes, ChainCrc(previous)), chain);
        }

        /// No byte of the header can change unnoticed.
        #[test]
        fn the_chained_crc_covers_every_bit(bit in 0..HEADER_BYTES * 8) {
            let (mut bytes, _) = encode(RecordKind::Data, Lsn(64), Epoch(1), 5, 9, chain_seed(volume()));
            bytes[bit / 8] ^= 1 << (bit % 8);
            let continues = decode(&bytes).is_some_and(|h| h.chain_crc == expected_chain_crc(&bytes, chain_seed(volume())));
            prop_assert!(!continues);
        }
    }

    #[test]
    fn the_chain_depends_on_the_volume() {
        assert_ne!(chain_seed(volume()), chain_seed(VolumeId([8; 16])));
        assert_eq!(crc32c(b"123456789"), 0xE306_9283, "CRC-32C's check value");
    }
}
