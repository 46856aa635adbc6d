//! Keys or no keys: one rule for the whole file.
//!
//! With `node.private_key` every partner and the witness must be named by their public keys. Without, nothing may
//! leave this machine, unless the file says `plaintext = true`: who can reach the port then can pose as the partner,
//! write into the log and read everything. A file that is silent about it is refused, because a forgotten key would
//! look like a working pair.

use super::section::{Located, Section};
use rdma_transport::tls::PublicKey;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What `[node]` says about keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Doors {
    pub private_key: Option<PathBuf>,
    pub plaintext: bool,
    /// `[node]` could be read: without it nothing more is complained of.
    known: bool,
}

impl Doors {
    /// Reads the keys of `[node]`.
    pub fn of_node(section: &mut Section<'_, '_>) -> Doors {
        let private_key = section.optional::<PathBuf>("private_key");
        let plaintext = section.optional::<bool>("plaintext");
        if let (Some(_), Some(Located { value: true, line })) = (&private_key, plaintext) {
            section.problem(
                line,
                "`plaintext` beside `private_key`",
                "delete `plaintext`: with keys nothing travels in the clear",
            );
        }
        Doors {
            private_key: private_key.map(|located| located.value),
            plaintext: plaintext.is_some_and(|located| located.value),
            known: true,
        }
    }

    /// Nothing protects what goes to this address in the clear, and nobody has said that this is meant.
    pub fn is_open_to_network(&self, address: SocketAddr) -> bool {
        self.known && !self.plaintext && !address.ip().is_loopback()
    }

    /// An address that others are reached at, or reach this node at.
    pub fn check_address(&self, section: &Section<'_, '_>, line: usize, what: &str, address: SocketAddr) {
        if self.private_key.is_none() && self.is_open_to_network(address) {
            section.problem(
                line,
                format!("{what}: {address} is reached over a network, and this node has no keys"),
                "make a key with `twinfiler keygen` and name it as `private_key` in [node] (docs/security.md), or write \
                 `plaintext = true` there: then everybody in that network can read and change everything",
            );
        }
    }

    /// The `public_key` of somebody whom this node talks to.
    pub fn key(&self, section: &mut Section<'_, '_>) -> Option<PublicKey> {
        let written = section.has("public_key");
        let key = section.optional::<PublicKey>("public_key");
        match (self.known, &self.private_key, &key) {
            (true, Some(_), None) if !written => section.problem(
                section.line(),
                "`public_key` is missing",
                "run `twinfiler keygen` there and write the line that it prints: `public_key = \"ed25519:...\"`",
            ),
            (true, None, Some(key)) => section.problem(
                key.line,
                "`public_key` without a `private_key` in [node]",
                "make this node's key with `twinfiler keygen` and name it in [node], or delete this line",
            ),
            _ => {}
        }
        key.map(|located| located.value)
    }
}
