//! The records of TLS 1.3 (RFC 8446, section 5) behind the handshake, one direction each: [`Sealer`], [`Opener`].
//!
//! ```text
//!  0 type 23   1 version 0x0303   3 length u16 (big endian)   5 AES-128-GCM of: payload, inner type   tag [16]
//! ```
//!
//! Invariants: a nonce is used once, for the sequence number grows with every record and the key is renewed
//! ([`RECORDS_PER_KEY`]) long before what the cipher bears; nothing that was not authenticated is given out; an
//! opener that has refused a record refuses all that follow. Nothing is allocated for a record.

use super::opening::TlsError;
use parking_lot::Mutex;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};
use std::ops::Range;
use std::sync::Arc;

/// The most that one record carries.
pub(crate) const PAYLOAD_BYTES: usize = 16 << 10;
pub(super) const HEAD_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// What a record is longer than its payload: head, inner type, tag.
pub(crate) const OVERHEAD_BYTES: usize = HEAD_BYTES + 1 + TAG_BYTES;
/// The longest record that is taken.
pub(crate) const LARGEST_RECORD_BYTES: usize = PAYLOAD_BYTES + OVERHEAD_BYTES;
/// RFC 8446, section 5.5, allows AES-GCM 2^24.5 full records; half a TiB is far below.
const RECORDS_PER_KEY: u64 = 1 << 23;

const APPLICATION_DATA: u8 = 23;
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
/// key_update, one byte long, the peer's own key need not change.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const CLOSE_NOTIFY: u8 = 0;

/// What makes the next key of either direction.
pub(super) enum Rekey {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Rekey {
    fn sending(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Rekey::Client(kernel) => kernel.update_tx_secret(),
            Rekey::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    fn receiving(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Rekey::Client(kernel) => kernel.update_rx_secret(),
            Rekey::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

/// Both directions of a connection whose handshake is done.
pub(super) fn pair(secrets: ExtractedSecrets, rekey: Rekey) -> Result<(Sealer, Opener), TlsError> {
    let rekey = Arc::new(Mutex::new(rekey));
    let sealer =
        Sealer { key: Key::of(secrets.tx)?, rekey: Arc::clone(&rekey), records_per_key: RECORDS_PER_KEY };
    Ok((sealer, Opener { key: Key::of(secrets.rx)?, rekey, refused: false }))
}

/// A key and how often it was used.
struct Key {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Key {
    fn of((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Key, TlsError> {
        let other = || TlsError::Handshake("another cipher than AES-128-GCM".to_owned());
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { return Err(other()) };
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).map_err(|_| other())?;
        let iv = iv.as_ref().try_into().map_err(|_| other())?;
        Ok(Key { key: LessSafeKey::new(key), iv, sequence })
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// The room that [`Sealer::seal_into`] wants.
pub(crate) const fn sealed_bytes(len_bytes: usize) -> usize {
    len_bytes + 2 * OVERHEAD_BYTES + KEY_UPDATE.len()
}

fn head(inner_bytes: usize) -> [u8; HEAD_BYTES] {
    let [high, low] = (inner_bytes as u16).to_be_bytes();
    [APPLICATION_DATA, 3, 3, high, low]
}

/// Makes records of what this side says.
pub(crate) struct Sealer {
    key: Key,
    rekey: Arc<Mutex<Rekey>>,
    records_per_key: u64,
}

impl Sealer {
    /// Puts one record into `place` whose `len_bytes` of payload (at most [`PAYLOAD_BYTES`]) `fill` writes, and now and
    /// then one that renews the key before it; gives their length. `place` has [`sealed_bytes`] at least.
    pub fn seal_into(&mut self, place: &mut [u8], len_bytes: usize, fill: impl FnOnce(&mut [u8])) -> usize {
        let mut at = 0;
        if self.key.sequence >= self.records_per_key {
            at = self.put(HANDSHAKE, place, KEY_UPDATE.len(), |payload| payload.copy_from_slice(&KEY_UPDATE));
            let renewed = self.rekey.lock().sending();
            self.key = renewed
                .map_err(|error| TlsError::Handshake(error.to_string()))
                .and_then(Key::of)
                .expect("a TLS 1.3 connection has a next key of the same cipher");
        }
        at + self.put(APPLICATION_DATA, &mut place[at..], len_bytes, fill)
    }

    /// Appends `bytes` to `out` as records.
    pub fn seal_all(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for payload in bytes.chunks(PAYLOAD_BYTES) {
            let start = out.len();
            out.resize(start + sealed_bytes(payload.len()), 0);
            let len =
                self.seal_into(&mut out[start..], payload.len(), |place| place.copy_from_slice(payload));
            out.truncate(start + len);
        }
    }

    fn put(&mut self, kind: u8, place: &mut [u8], len_bytes: usize, fill: impl FnOnce(&mut [u8])) -> usize {
        assert!(len_bytes <= PAYLOAD_BYTES, "one record holds {PAYLOAD_BYTES} bytes");
        let inner_bytes = len_bytes + 1 + TAG_BYTES;
        let head = head(inner_bytes);
        let record = &mut place[..HEAD_BYTES + inner_bytes];
        record[..HEAD_BYTES].copy_from_slice(&head);
        let (inner, tag_place) = record[HEAD_BYTES..].split_at_mut(len_bytes + 1);
        fill(&mut inner[..len_bytes]);
        inner[len_bytes] = kind;
        let nonce = self.key.nonce();
        let tag = self.key.key.seal_in_place_separate_tag(nonce, Aad::from(head), inner);
        tag_place.copy_from_slice(tag.expect("a record is far shorter than what the cipher takes").as_ref());
        record.len()
    }

    #[cfg(test)]
    pub(super) fn renew_after(&mut self, records: u64) {
        self.records_per_key = records;
    }

    /// For tests of what a peer may say: a record of any kind.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn seal_kind(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + payload.len() + OVERHEAD_BYTES, 0);
        self.put(kind, &mut out[start..], payload.len(), |place| place.copy_from_slice(payload));
    }
}

/// Why no further record is taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The peer said that it ends.
    #[error("the peer closed its TLS connection")]
    Closed,
    /// The peer said why it ends: an alert's number (RFC 8446, section 6).
    #[error("the peer ended its TLS connection (alert {0})")]
    Alert(u8),
    /// It is not what the peer sealed, or the peer breaks the protocol.
    #[error("{0}")]
    Broken(&'static str),
}

/// Takes the peer's records apart.
pub(crate) struct Opener {
    key: Key,
    rekey: Arc<Mutex<Rekey>>,
    refused: bool,
}

/// How long the record is that starts with `head`.
pub(crate) fn record_bytes(head: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some([kind, major, minor, high, low]) = head.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let len = HEAD_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    let fits = (OVERHEAD_BYTES..=LARGEST_RECORD_BYTES).contains(&len);
    if (*kind, *major, *minor) != (APPLICATION_DATA, 3, 3) || !fits {
        return Err(RecordError::Broken("no TLS record where one should start"));
    }
    Ok(Some(len))
}

impl Opener {
    /// Opens the record at `buffer[record]` and puts its payload to `buffer[to..]`, not behind its own start; gives
    /// the payload's length, which may be zero.
    pub fn open(&mut self, buffer: &mut [u8], to: usize, record: Range<usize>) -> Result<usize, RecordError> {
        let opened = if self.refused {
            Err(RecordError::Broken("a record behind one that was refused"))
        } else {
            self.open_one(buffer, to, record)
        };
        self.refused = opened.is_err();
        opened
    }

    fn open_one(&mut self, buffer: &mut [u8], to: usize, record: Range<usize>) -> Result<usize, RecordError> {
        assert!(to <= record.start && record_bytes(&buffer[record.clone()]) == Ok(Some(record.len())));
        let head: [u8; HEAD_BYTES] = crate::handshake::array_at(buffer, record.start);
        let (nonce, sealed_at) = (self.key.nonce(), record.start + HEAD_BYTES - to);
        let within = &mut buffer[to..record.end];
        let inner = self
            .key
            .key
            .open_within(nonce, Aad::from(head), within, sealed_at..)
            .map_err(|_| RecordError::Broken("a TLS record that the peer did not seal"))?;
        // The inner type is the last byte that is not zero (padding).
        let kind_at =
            inner.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Broken("an empty TLS record"))?;
        let payload = &inner[..kind_at];
        match inner[kind_at] {
            APPLICATION_DATA => Ok(payload.len()),
            ALERT => Err(match payload {
                [_, CLOSE_NOTIFY] => RecordError::Closed,
                [_, number] => RecordError::Alert(*number),
                _ => RecordError::Broken("an alert that is none"),
            }),
            HANDSHAKE if payload == KEY_UPDATE => {
                let renewed = self.rekey.lock().receiving();
                let key = renewed.map_err(|error| TlsError::Handshake(error.to_string())).and_then(Key::of);
                self.key = key.map_err(|_| RecordError::Broken("no next key"))?;
                Ok(0)
            }
            _ => Err(RecordError::Broken("a TLS message that has no place here")),
        }
    }
}
