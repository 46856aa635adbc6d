//! The key to the peer's ring, as this node knows it, and the private control frame that brings it.
//!
//! A key comes over the control channel, before any message that the peer sends after granting; so whoever knows
//! by a message that it may write has the key. There is no frame that takes a key back: the peer's adapter refuses
//! it, which does not depend on this node's will.

use crate::handshake::array_at;
use rustix::event::EventfdFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: u32 = u32::from_le_bytes(*b"RKEY");
const FRAME_BYTES: usize = 8;
/// Set when there is a key: every 32-bit number can be one.
const PRESENT: u64 = 1 << 32;

/// The frame that brings `key`.
pub(super) fn frame(key: u32) -> [u8; FRAME_BYTES] {
    let mut out = [0; FRAME_BYTES];
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..].copy_from_slice(&key.to_le_bytes());
    out
}

fn key_of(frame: &[u8]) -> Result<u32, String> {
    if frame.len() != FRAME_BYTES || u32::from_le_bytes(array_at(frame, 0)) != MAGIC {
        return Err("a private control frame that brings no key".into());
    }
    Ok(u32::from_le_bytes(array_at(frame, 4)))
}

/// Wakes one sleeper, from any thread.
#[derive(Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(super) fn new() -> Result<Bell, Errno> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Bell(Arc::new(fd)))
    }

    pub(super) fn ring(&self) {
        // An eventfd takes a one unless it is full, and then it wakes anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Readable once it was rung.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes it silent again.
    pub(super) fn quiet(&self) {
        // Empty when it was not rung.
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

/// The key that this node writes with.
pub(super) struct Grant {
    key: AtomicU64,
    sender: Bell,
}

impl Grant {
    /// No key yet; `sender` is rung when one comes.
    pub(super) fn new(sender: Bell) -> Grant {
        Grant { key: AtomicU64::new(0), sender }
    }

    /// Takes in a private control frame.
    pub(super) fn receive(&self, frame: &[u8]) -> Result<(), String> {
        self.key.store(PRESENT | u64::from(key_of(frame)?), Ordering::Release);
        self.sender.ring();
        Ok(())
    }

    pub(super) fn key(&self) -> Option<u32> {
        let key = self.key.load(Ordering::Acquire);
        (key & PRESENT != 0).then_some(key as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_arrive_and_anything_else_is_refused(key: u32, other in proptest::collection::vec(any::<u8>(), 0..20)) {
            let grant = Grant::new(Bell::new().unwrap());
            prop_assert_eq!(grant.key(), None);
            grant.receive(&frame(key)).unwrap();
            prop_assert_eq!(grant.key(), Some(key));
            if !other.starts_with(&MAGIC.to_le_bytes()) || other.len() != FRAME_BYTES {
                prop_assert!(grant.receive(&other).is_err());
                prop_assert_eq!(grant.key(), Some(key));
            }
        }
    }
}
