//! Maps by OID with a hash that costs one multiplication.

use ids::Oid;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by OID.
pub type OidMap<T> = HashMap<Oid, T, BuildHasherDefault<OidHasher>>;

/// OIDs are given by this program in ascending order: one multiplication spreads them well enough, and no
/// client can choose them to collide. SipHash costs as much as the rest of absorbing a small write.
#[derive(Clone, Copy, Debug, Default)]
pub struct OidHasher(u64);

impl Hasher for OidHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // 2^64 divided by the golden ratio (Knuth's multiplicative hashing).
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
