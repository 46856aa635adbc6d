//! TLS 1.3 between machines: both sides prove an Ed25519 key that the other has in its configuration.
//!
//! No certificates and no authorities: raw public keys (RFC 7250), pinned. One cipher suite and one key exchange
//! (AES-128-GCM, X25519), so nothing can be negotiated down. No resumption, no tickets, no early data: a recorded
//! handshake is worth nothing.
//!
//! `opening` drives rustls through the handshake in a buffer of fixed length; then `record` takes the
//! keys over and protects records itself, as a kernel does with kTLS: one copy less, nothing allocated for a
//! record, and the two directions can be used by different threads. kTLS itself was not chosen because Debian
//! does not load its module by itself and containers cannot; a fallback would have been needed all the same.
//!
//! What can go wrong: a key that is not the expected one, or no TLS at all ([`TlsError`]); each ends the opening
//! before anything but a few kilobytes and half a millisecond was spent.

mod config;
mod crowd;
mod keys;
mod opening;
mod record;
mod stream;
#[cfg(test)]
mod tests;

pub use config::{Accepts, Purpose, client_config, server_config, server_name};
pub use crowd::{Source, who_gives_way};
pub use keys::{DoorKeys, KeyError, LinkKeys, PrivateKey, PublicKey, open_secret};
pub use opening::TlsError;
pub(crate) use opening::{Opened, Opening, Progress};
pub(crate) use record::RecordError;
pub(crate) use record::{LARGEST_RECORD_BYTES, Opener, PAYLOAD_BYTES, Sealer, record_bytes, sealed_bytes};
pub(crate) use stream::{Incoming, Outgoing, ReceiveError, Stream};
