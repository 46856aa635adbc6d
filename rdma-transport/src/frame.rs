//! What travels on a tcp data channel: 32-byte heads, each of a range of log bytes that follow it, or of an
//! acknowledgement.
//!
//! ```text
//!  0 magic u32   4 chain crc u32   8 from u64   16 to u64   24 check u64
//! ```
//!
//! The check is there against a lost position in the stream and against what TCP's checksum lets through; the
//! log bytes have their own chain of CRCs. A head that is well formed can still be a lie: [`check_range`] holds
//! it against what may come next.

use crate::handshake::{array_at, u64_at};
use ids::{ChainCrc, LogPoint, Lsn};

pub(crate) const HEAD_BYTES: usize = 32;

const DATA_MAGIC: u32 = u32::from_le_bytes(*b"TwDa");
const ACK_MAGIC: u32 = u32::from_le_bytes(*b"TwAk");

/// One head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    /// `to.lsn - from` log bytes follow.
    Data { from: Lsn, to: LogPoint },
    /// Everything before this is durable at the sender of the frame.
    Ack { durable: LogPoint },
}

impl Frame {
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let (magic, from, to) = match self {
            Frame::Data { from, to } => (DATA_MAGIC, *from, *to),
            Frame::Ack { durable } => (ACK_MAGIC, Lsn::ZERO, *durable),
        };
        let mut out = [0; HEAD_BYTES];
        out[..4].copy_from_slice(&magic.to_le_bytes());
        out[4..8].copy_from_slice(&to.crc.0.to_le_bytes());
        out[8..16].copy_from_slice(&from.0.to_le_bytes());
        out[16..24].copy_from_slice(&to.lsn.0.to_le_bytes());
        let check = check_of(&out);
        out[24..].copy_from_slice(&check.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Frame, String> {
        if u64_at(bytes, 24) != check_of(bytes) {
            return Err("a frame's head does not match its check".into());
        }
        let to =
            LogPoint { lsn: Lsn(u64_at(bytes, 16)), crc: ChainCrc(u32::from_le_bytes(array_at(bytes, 4))) };
        match u32::from_le_bytes(array_at(bytes, 0)) {
            DATA_MAGIC => Ok(Frame::Data { from: Lsn(u64_at(bytes, 8)), to }),
            ACK_MAGIC => Ok(Frame::Ack { durable: to }),
            other => Err(format!("unknown frame {other:#010x}")),
        }
    }
}

/// Mixes the first three words (the finalizer of SplitMix64, Steele et al. 2014).
fn check_of(head: &[u8; HEAD_BYTES]) -> u64 {
    (0..3).fold(0x9e37_79b9_7f4a_7c15, |sum: u64, word| {
        let mut z = sum.rotate_left(23) ^ u64_at(head, word * 8);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Length of the range `[from, to)` when it continues at `expected` and fits the ring.
pub(crate) fn check_range(expected: Lsn, from: Lsn, to: Lsn, capacity_bytes: u64) -> Result<u64, String> {
    if from != expected {
        return Err(format!("log bytes from LSN {from} where {expected} comes next"));
    }
    match to.0.checked_sub(from.0) {
        Some(len) if len <= capacity_bytes => Ok(len),
        _ => Err(format!(
            "range [{from}, {to}) goes back or is longer than the ring of {capacity_bytes} bytes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn heads_round_trip(from: u64, to: u64, crc: u32) {
            let to = LogPoint { lsn: Lsn(to), crc: ChainCrc(crc) };
            for frame in [Frame::Data { from: Lsn(from), to }, Frame::Ack { durable: to }] {
                prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: [u8; HEAD_BYTES]) {
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
            }
        }

        /// One changed byte never passes as another frame.
        #[test]
        fn a_changed_byte_is_noticed(from: u64, to: u64, at in 0..HEAD_BYTES, flip in 1..=255u8) {
            let frame = Frame::Data { from: Lsn(from), to: LogPoint { lsn: Lsn(to), crc: ChainCrc(1) } };
            let mut bytes = frame.encode();
            bytes[at] ^= flip;
            prop_assert!(Frame::decode(&bytes).is_err());
        }

        /// What passes lies inside the ring and continues.
        #[test]
        fn ranges_that_pass_fit(expected: u64, from: u64, to: u64, same: bool, capacity in 1..1u64 << 40) {
            let from = if same { expected } else { from };
            if let Ok(len) = check_range(Lsn(expected), Lsn(from), Lsn(to), capacity) {
                prop_assert!(from == expected && to >= from && len == to - from && len <= capacity);
            }
        }
    }

    #[test]
    fn lies_are_named() {
        assert!(check_range(Lsn(64), Lsn(128), Lsn(192), 1024).unwrap_err().contains("64 comes next"));
        assert!(check_range(Lsn(64), Lsn(64), Lsn(0), 1024).is_err());
        assert!(check_range(Lsn(64), Lsn(64), Lsn(64 + 1025), 1024).is_err());
        assert!(check_range(Lsn(64), Lsn(64), Lsn(u64::MAX), 1024).is_err());
        assert_eq!(check_range(Lsn(64), Lsn(64), Lsn(64 + 1024), 1024), Ok(1024));
    }
}
